"""The rules that judge a run, and how often each fired."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ...analyzer.rule_layers import GIVEN, RuleLayers, flat, in_force
from ...storage.base import Store
from ...storage.records import Alert, Run
from .content import Ruled
from .texts import cut


def rules_in_force(store: Store, run: Run, alerts: Sequence[Alert]) -> tuple[list[Ruled], str]:
    """Return the rules with how often each fired, those that fired first; and a sentence about where this is known from.

    Raises:
        StoreError: the store cannot be read.
    """
    fired = Counter(alert.rule for alert in alerts)
    layers = in_force(store, run)
    changes = layers.rules.differences(layers.default)
    rows = [
        Ruled(
            rule.title,
            rule.name,
            rule.severity.value,
            ", ".join(dict.fromkeys(name for names in rule.signals.values() for name in names)),
            fired[rule.name],
            _changed(changes.get(rule.name, {})),
        )
        for rule in (layers.rules[name] for name in layers.rules)
    ]
    unknown = [name for name in fired if name not in set(layers.rules)]
    rows += [Ruled(cut(name), cut(name), "", "", fired[name], "a rule that is not known here") for name in unknown]
    rows.sort(key=lambda row: -row.fired)
    return rows, _note(run, layers, len(changes))


def _note(run: Run, layers: RuleLayers, changed: int) -> str:
    if not isinstance(run.meta.get(GIVEN), Mapping):
        first = "This run did not record its rules"
        return f"{first}; these are foreshock's defaults{' with what was changed in the store' if changed else ''}."
    if not changed:
        return "The run is judged by foreshock's defaults."
    stored, given = any(layers.applied), bool(run.meta[GIVEN])
    where = "by both script and store" if stored and given else "in the store" if stored else "in foreshock.toml or by the script"
    return f"The run is judged by foreshock's defaults with {changed} changed, {where}."


def _changed(change: Mapping[str, Any]) -> str:
    return cut(", ".join(f"{path.removeprefix('parameters.')} = {value}" for path, value in flat(change).items()))
