"""The rules that judged a run, as far as is known."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ...analyzer.rules import RuleSet
from ...storage.records import Alert, Run
from .content import Ruled
from .facts import RULES
from .texts import cut


def rules_in_force(run: Run, alerts: Sequence[Alert]) -> tuple[list[Ruled], str]:
    """Return the rules with how often each fired, those that fired first; and a sentence about where this is known from."""
    fired = Counter(alert.rule for alert in alerts)
    recorded = run.meta.get(RULES)
    changes: Mapping[str, Any] = recorded if isinstance(recorded, Mapping) else {}
    known = RuleSet.default()
    rows = [
        Ruled(
            rule.title,
            rule.name,
            rule.severity.value,
            ", ".join(dict.fromkeys(name for names in rule.signals.values() for name in names)),
            fired[rule.name],
            _changed(changes.get(rule.name)),
        )
        for rule in (known[name] for name in known)
    ]
    others = [name for name in dict.fromkeys([*changes, *fired]) if name not in set(known)]
    rows += [
        Ruled(cut(name), cut(name), "", "", fired[name], _changed(changes.get(name)) or "a rule of its own") for name in others
    ]
    rows.sort(key=lambda row: -row.fired)
    return rows, _note(recorded, changes)


def _note(recorded: Any, changes: Mapping[str, Any]) -> str:
    if not isinstance(recorded, Mapping):
        return "This run did not record its rules; these are foreshock's defaults, and those whose alerts are in the store."
    if not changes:
        return "The run was judged by foreshock's defaults."
    return f"The run was judged by foreshock's defaults with {len(changes)} changed, as its training process recorded."


def _changed(change: Any) -> str:
    if not isinstance(change, Mapping) or not change:
        return ""
    parameters = change.get("parameters")
    flat = {**change, **parameters} if isinstance(parameters, Mapping) else change
    return cut(", ".join(f"{name} = {value}" for name, value in flat.items() if name != "parameters"))
