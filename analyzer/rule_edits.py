"""Changing a rule: what a new version holds, and whether it can be used. The page and the command line both go through here."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..storage import Store
from ..storage.records import RuleVersion
from .rule_layers import RuleLayers, flat, laid, nested, shown, strength, value_of
from .rules import RuleError

Scope = tuple[str, str]
"""Project and run; both empty for all runs of the store."""


def revised(layers: RuleLayers, rule: str, scope: Scope, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that a rule's next version in a scope holds: what differs there now, with ``fields`` laid over it.

    What equals that which lies below is left out: it would differ from nothing.

    Args:
        fields: new values by path, such as ``{"parameters.z": 9, "enabled": False}``.

    Raises:
        RuleError: they cannot be used; it names field, what was given and what is allowed.
    """
    seen = layers.seen(rule, scope)
    wanted = {**(flat(seen.changes) if seen is not None else {}), **fields}
    below = layers.below(rule, scope)
    if below is None:
        changes = nested(wanted)
    else:
        tried = layers.given.merged({rule: nested(wanted)})[rule] if rule in layers.given else None
        differing = {
            path: value for path, value in wanted.items() if tried is None or value_of(tried, path) != value_of(below, path)
        }
        changes = nested(differing)
    trying(layers, rule, scope, changes)
    return changes


def trying(layers: RuleLayers, rule: str, scope: Scope, changes: Mapping[str, Any]) -> RuleLayers:
    """Return the layers as they would be with these changes of a rule in a scope.

    Raises:
        RuleError: they cannot be used, or what a stronger scope says could not be any more.
    """
    version = RuleVersion("being tried", rule, dict(changes), *scope)
    if changes:
        alone = layers.given
        for each in layers.applied:
            if strength(each.scope) < strength(scope) and each.rule == rule:
                alone = laid(alone, each)
        laid(alone, version)
    others = [each for each in layers.versions if (each.rule, each.scope) != (rule, scope)]
    versions = sorted([*others, version], key=lambda each: (strength(each.scope), each.rule))
    found = RuleLayers.over(layers.given, versions, default=layers.default)
    known = {each.version.id for each in layers.refused}
    if broken := [each for each in found.refused if each.version.id not in known]:
        who = [f"what was changed {words(each.version.scope)} could not be used any more: {each.reason}" for each in broken]
        raise RuleError([(rule, "", reason) for reason in who])
    return found


def save(store: Store, version: RuleVersion, layers: RuleLayers) -> RuleVersion:
    """Save a version over the one that ``layers`` know.

    Raises:
        RuleConflictError: somebody else saved one meanwhile.
        StoreError: see ``Store.save_rule``.
    """
    seen = layers.seen(version.rule, version.scope)
    return store.save_rule(replace(version, version=0), seen=seen.version if seen is not None else 0)


def overruled(layers: RuleLayers, saved: RuleVersion) -> list[str]:
    """Say which fields of a version do not hold in the end, because a stronger scope says otherwise."""
    said = []
    for path in flat(saved.changes):
        origin = layers.origin(saved.rule, path)
        if isinstance(origin, RuleVersion) and strength(origin.scope) > strength(saved.scope):
            said.append(f"{path} stays {shown(value_of(layers.rules[saved.rule], path))} {words(origin.scope)}")
    return said


def words(scope: Scope) -> str:
    """Say for what a change holds."""
    project, run_id = scope
    return f"for this run ({run_id[:8]})" if run_id else f"for the project {project}" if project else "for all runs"


def summary(version: RuleVersion) -> str:
    """Say what a version holds."""
    return ", ".join(f"{path} = {shown(value)}" for path, value in flat(version.changes).items()) or "nothing changed here"
