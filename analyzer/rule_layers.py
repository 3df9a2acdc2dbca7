"""The rules in force, in layers: the package's < what the run was given < what people changed in the store.

A layer is laid over those below it key by key. Of the store's, what holds for all runs lies lowest, then what holds for the
run's project, then what holds for this very run.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..storage import Store
from ..storage.records import RuleVersion, Run
from .rules import Rule, RuleError, RuleSet

GIVEN = "rules"
"""Key in a run's ``meta``: what it was given, in foreshock.toml or ``rules=``, as tables by rule name."""

Origin = str | RuleVersion
"""Where a value comes from: ``"default"``, ``"file"`` (foreshock.toml or ``rules=``), or the version that says so."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A version that cannot be used, and why. It is left out."""

    version: RuleVersion
    reason: str


@dataclass(frozen=True, slots=True)
class RuleLayers:
    """The layers, and what comes of them.

    Attributes:
        given: the package's rules with what the run was given.
        versions: the store's, the weakest scope first, as ``Store.rule_overrides`` has them.
        rules: those in force.
        refused: versions that are left out.
        unknown: what the run was given that cannot be used here, in words (rules of a plug-in that is not installed).
    """

    default: RuleSet
    given: RuleSet
    versions: tuple[RuleVersion, ...]
    rules: RuleSet
    refused: tuple[Refused, ...] = ()
    unknown: tuple[str, ...] = ()

    @classmethod
    def over(
        cls,
        given: RuleSet,
        versions: Sequence[RuleVersion],
        *,
        default: RuleSet | None = None,
        before: RuleSet | None = None,
        unknown: Sequence[str] = (),
    ) -> "RuleLayers":
        """Lay versions over what a run was given. Never raises: one that cannot be used is left out, and told.

        Args:
            before: rules that were in force; a rule whose newest change cannot be used stays as it is there.
        """
        rules, refused = given, list[Refused]()
        for version in versions:
            try:
                rules = laid(rules, version)
            except RuleError as error:
                refused.append(Refused(version, str(error)))
        if before is not None and (kept := {each.version.rule for each in refused} & before.tables.keys()):
            rules = rules.replaced({name: before.tables[name] for name in kept})
        default = default if default is not None else RuleSet.default()
        return cls(default, given, tuple(versions), rules, tuple(refused), tuple(unknown))

    @property
    def applied(self) -> Iterator[RuleVersion]:
        """The versions that change something and can be used, the strongest last."""
        refused = {each.version.id for each in self.refused}
        return (version for version in self.versions if version.changes and version.id not in refused)

    def origin(self, rule: str, path: str) -> Origin:
        """Return where the value of a rule's field comes from."""
        for version in reversed(list(self.applied)):
            if version.rule == rule and path in flat(version.changes):
                return version
        missing = object()
        below = flat(self.default.tables.get(rule, {})).get(path, missing)
        return "default" if flat(self.given.tables.get(rule, {})).get(path, missing) == below else "file"

    def below(self, rule: str, scope: tuple[str, str]) -> Rule | None:
        """Return a rule as it would be without what was changed in this scope and in stronger ones; None where there is none."""
        rules = self.given
        for version in self.applied:
            if strength(version.scope) < strength(scope):
                rules = laid(rules, version)
        return rules.get(rule)

    def seen(self, rule: str, scope: tuple[str, str]) -> RuleVersion | None:
        """Return the newest version of a rule in a scope; None where it was never changed there."""
        return next((each for each in self.versions if (each.rule, each.scope) == (rule, scope)), None)


def laid(rules: RuleSet, version: RuleVersion) -> RuleSet:
    """Return rules with a version laid over them.

    Raises:
        RuleError: it cannot be used.
    """
    return rules.merged({version.rule: version.changes}) if version.changes else rules


def strength(scope: tuple[str, str]) -> int:
    """Return how strong a scope is: 0 for all runs, 1 for a project, 2 for one run."""
    project, run_id = scope
    return 2 if run_id else 1 if project else 0


def in_force(
    store: Store, run: Run | None = None, *, project: str = "", given: RuleSet | None = None, stored: bool = True
) -> RuleLayers:
    """Return the layers that hold for a run; without one, those for any run of a project, or of none, that was given nothing.

    Args:
        given: instead of what the run itself was given.
        stored: whether what was changed in the store counts.

    Raises:
        StoreError: the store cannot be read.
    """
    default = RuleSet.default()
    unknown: tuple[str, ...] = ()
    if given is None:
        given, unknown = _given_to(run, default)
    scope = {"project": run.project, "run_id": run.id} if run is not None else {"project": project}
    versions = store.rule_overrides(**scope) if stored else []
    return RuleLayers.over(given, versions, default=default, unknown=unknown)


def _given_to(run: Run | None, default: RuleSet) -> tuple[RuleSet, tuple[str, ...]]:
    tables = run.meta.get(GIVEN) if run is not None else None
    rules, unknown = default, list[str]()
    for name, changes in tables.items() if isinstance(tables, Mapping) else ():
        try:
            rules = rules.merged({name: changes})
        except RuleError as error:
            unknown.append(str(error))
    return rules, tuple(unknown)


def flat(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return changes by path: ``{"parameters": {"z": 9}}`` is ``{"parameters.z": 9}``."""
    found: dict[str, Any] = {}
    for key, value in changes.items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{name}": each for name, each in value.items()}
        else:
            found[key] = value
    return found


def nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Undo ``flat``."""
    found: dict[str, Any] = {}
    for path, value in fields.items():
        key, dot, name = path.partition(".")
        if dot:
            found.setdefault(key, {})[name] = value
        else:
            found[key] = value
    return found


def value_of(rule: Rule, path: str) -> Any:
    """Return the value of a field, with the defaults that hold where nothing was said.

    Raises:
        AttributeError, KeyError: the rule has no such field.
    """
    key, dot, name = path.partition(".")
    found = getattr(rule, key)
    return found[name] if dot else found


def described(before: RuleSet, after: RuleSet) -> list[str]:
    """Say what differs between two sets of rules, a line a rule: ``loss_spike: parameters.z 8 -> 9``."""
    lines = []
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name), after.get(name)
        if old is None or new is None:
            lines.append(f"{name}: {'gone' if new is None else 'new'}")
            continue
        paths = dict.fromkeys([*flat(before.tables[name]), *flat(after.tables[name])])
        changed = [
            f"{path} {shown(value_of(old, path))} -> {shown(value_of(new, path))}"
            for path in paths
            if value_of(old, path) != value_of(new, path)
        ]
        if changed:
            lines.append(f"{name}: {', '.join(changed)}")
    return lines


def shown(value: Any) -> str:
    """Write a field's value as people read it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(shown, value)) if isinstance(value, (list, tuple)) else str(value)
