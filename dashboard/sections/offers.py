"""What the lists of the inbox offer: runs, projects, rules and causes that have alerts, with how many."""

import time
from collections.abc import Mapping

from ...analyzer.diagnosis import patterns
from ...storage.base import Store, Tally
from ...storage.errors import UnknownRunError
from ..pages.inbox import options
from ..sieve import Sieve
from ..updates import Updates

_EVERY = 60.0
"""Seconds from one count to the next: counting takes longest where there are many alerts, and hardly anybody looks."""
_MOST = 200
_TALLIES: Mapping[str, tuple[Tally, ...]] = {
    "run": ("run", "run_name"),
    "project": ("project",),
    "rule": ("rule",),
    "cause": ("cause",),
}
"""Part of the sieve -> what it is counted by."""


class Offers:
    """The options of the lists: under each part of the sieve what there is under its other parts, most first."""

    subject = ""

    def __init__(self, store: Store, sieve: Sieve) -> None:
        self._store, self._sieve = store, sieve
        self._counted_at = float("-inf")

    def paint(self) -> Updates:
        """Return all options."""
        self._counted_at = time.monotonic()
        return {f"inbox-{part}": {"children": options(self._sieve, part, self._counted(part))} for part in _TALLIES}

    def advance(self) -> Updates:
        """Return them again, if the last time is long ago."""
        return self.paint() if time.monotonic() - self._counted_at >= _EVERY else {}

    def tick(self) -> Updates:
        """Return nothing: they say nothing about time."""
        return {}

    def _counted(self, part: str) -> dict[str, tuple[str, int]]:
        found = self._store.tally_alerts(self._sieve.without(part).alerts(), _TALLIES[part], limit=_MOST)
        titles = {pattern.name: pattern.title for pattern in patterns()} if part == "cause" else {}
        counted = {
            values[0]: (titles.get(values[0], values[-1] or values[0]), count) for values, count in found.items() if values[0]
        }
        if (chosen := getattr(self._sieve, part)) and chosen not in counted:
            counted[chosen] = (self._name(chosen) if part == "run" else chosen, 0)
        return counted

    def _name(self, run_id: str) -> str:
        try:
            return self._store.run(run_id).name
        except UnknownRunError:
            return run_id
