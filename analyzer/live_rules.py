"""The rules of a run that is training, kept up with what people change in the store while it trains."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..storage.base import Store
from ..storage.errors import StoreError
from ..storage.records import RuleVersion, Run
from .rule_layers import Refused, RuleLayers, described
from .rules import RuleError, RuleSet

EVERY = 2.0
"""Seconds between two looks into the store: one small query each, more only after a change."""


@dataclass(frozen=True, slots=True)
class RulesChanged:
    """Rules that hold from now on, and what to say of them: ``message`` is empty where nothing is different for this run."""

    rules: RuleSet
    message: str
    data: dict[str, Any]


class LiveRules:
    """Looks for changes on the thread that talks to the store, and hands them over on the one that judges. Never raises.

    Args:
        given: the package's rules with what the run was given.
        run: whose project and id say which changes concern it.
        fault: told of every version that cannot be used, once each, and of a store that fails in an unknown way.
    """

    def __init__(self, given: RuleSet, run: Run, *, fault: Callable[[str, Exception], None]) -> None:
        self._run, self._fault = run, fault
        self._layers = RuleLayers.over(given, (), default=given)
        self._revision = ""
        self._look_at = float("-inf")
        self._found: Sequence[RuleVersion] | None = None
        self._told: set[str] = set()

    @property
    def rules(self) -> RuleSet:
        """The rules in force."""
        return self._layers.rules

    def look(self, store: Store) -> None:
        """Look whether anything was changed, if it is time. What was found waits for ``take``."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + EVERY
        try:
            revision = store.rules_revision()
            if revision != self._revision:
                self._found = store.rule_overrides(project=self._run.project, run_id=self._run.id)
                self._revision = revision
        except StoreError:
            return  # whoever writes to it says so; the rules stay as they are
        except Exception as error:  # noqa: BLE001 - the law: never raise into training
            self._fault("rules", error)

    def take(self) -> RulesChanged | None:
        """Return what was found since the last call; None where nothing was."""
        found, self._found = self._found, None
        if found is None:
            return None
        before = self._layers
        given, default = before.given, before.default
        self._layers = layers = RuleLayers.over(given, found, default=default, before=before.rules)
        for refused in layers.refused:
            self._tell(refused)
        lines = described(before.rules, layers.rules)
        known = {version.id for version in before.versions}
        fresh = [version for version in layers.applied if version.id not in known]
        authors = list(dict.fromkeys(version.created_by for version in fresh if version.created_by))
        by = f" by {', '.join(authors)}" if authors else ""
        message = f"Rules changed in the store{by}: {'; '.join(lines)}." if lines else ""
        told = [{"rule": each.rule, "version": each.version, "by": each.created_by, "comment": each.comment} for each in fresh]
        return RulesChanged(layers.rules, message, {"changes": lines, "versions": told})

    def _tell(self, refused: Refused) -> None:
        version = refused.version
        if version.id in self._told:
            return
        self._told.add(version.id)
        by = f" by {version.created_by}" if version.created_by else ""
        reason = f"version {version.version}{by} cannot be used, and the rule stays as it is: {refused.reason}"
        self._fault(f"rule {version.rule}", RuleError([(version.rule, "", reason)]))
