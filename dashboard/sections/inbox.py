"""The inbox, live: a page of the alerts that its sieve lets through."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...storage.base import Store
from ...storage.errors import UnknownRunError
from ...storage.records import Severity, Silence
from ...storage.results import AlertLine
from ..pages.inbox import counts_of, nothing, pager, row_id, row_of, rows_of, silence_list
from ..sieve import Sieve
from ..updates import Updates
from ..vitals import ago

PAGE = 50
"""Alerts on a page: more would take a phone seconds to build."""


class Inbox:
    """A page of alerts; a row is sent again only when what it says has changed, the list when alerts came, went or moved.

    What is read is bounded by the page, and by counts that the store makes.
    """

    subject = ""

    def __init__(self, store: Store, sieve: Sieve) -> None:
        self._said: dict[str, tuple[AlertLine, str]] = {}
        self._store, self._sieve = store, sieve
        self._lines: Sequence[AlertLine] = ()
        self._groups: Mapping[str, Mapping[Severity, int]] | None = None
        self._tally: Mapping[tuple[str, ...], int] = {}
        self._total, self._ever = 0, False
        self._silences: Sequence[Silence] = ()
        self._names: dict[str, str] = {}
        self._shown: tuple[object, ...] | None = None
        self._version = 0

    def paint(self) -> Updates:
        """Return the whole list."""
        self._shown = None
        return self.advance()

    def advance(self) -> Updates:
        """Return what changed."""
        self._read()
        return self._updates()

    def tick(self) -> Updates:
        """Return the rows in whose words time has passed."""
        return self._updates()

    def _read(self) -> None:
        query = self._sieve.alerts()
        # Of any state, so that the head can say what is open whatever the list shows.
        self._tally = self._store.tally_alerts(replace(self._sieve, state="all").alerts(), ["state", "severity"])
        self._total = sum(count for (state, _), count in self._tally.items() if state in query.states)
        pages = max(1, -(-self._total // PAGE))
        offset = (min(self._sieve.page, pages) - 1) * PAGE
        self._lines = self._store.find_alerts(query, by_run=self._sieve.by_run, limit=PAGE, offset=offset)
        self._groups = None
        if self._sieve.by_run:
            groups: dict[str, dict[Severity, int]] = {}
            for (run_id, severity), count in self._store.tally_alerts(query, ["run", "severity"]).items():
                groups.setdefault(run_id, {})[Severity(severity)] = count
            self._groups = groups
        if not self._lines:
            self._ever = bool(self._store.find_alerts(Sieve(state="all").alerts(), limit=1))
        self._silences = self._store.silences(active_at=time.time())
        self._name()

    def _name(self) -> None:
        """Learn the names of the runs that silences are about."""
        for run_id in {each.run_id for each in self._silences}:
            if run_id and run_id not in self._names:
                try:
                    self._names[run_id] = self._store.run(run_id).name
                except UnknownRunError:
                    self._names[run_id] = run_id[:8]

    def _updates(self) -> Updates:
        now = time.time()
        updates: dict[str, dict[str, Any]] = {
            "inbox-counts": {"children": counts_of(self._total, self._tally, self._sieve)},
            "inbox-pager": {"children": pager(self._sieve, len(self._lines), self._total, PAGE)},
            "inbox-silences": {"children": silence_list(self._silences, self._names)},
            "page-title": {"data": self._title()},
        }
        ids = tuple(line.alert.id for line in self._lines)
        said = {line.alert.id: (line, ago(now - line.alert.created_at)) for line in self._lines}
        shown = (ids, self._groups, self._ever)
        if shown == self._shown and ids:
            changed = [line for line in self._lines if self._said.get(line.alert.id) != said[line.alert.id]]
            for line in changed:
                updates[row_id(line.alert.id)] = {"children": row_of(line, now, self._version, with_run=self._groups is None)}
        else:
            self._version += self._shown is not None
            whole = rows_of(self._lines, now, self._groups, self._version) if ids else nothing(self._sieve, self._ever)
            updates["inbox-list"] = {"children": whole}
        self._shown, self._said = shown, said
        return updates

    def _title(self) -> str:
        worst = [severity for severity in reversed(Severity) if self._tally.get(("firing", severity.value))]
        return f"{self._tally['firing', worst[0].value]:,} {worst[0].value} · Alerts" if worst else "Alerts"
