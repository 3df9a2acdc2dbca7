"""The live list of runs."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...storage.base import Store
from ..letters import letter_list
from ..listing import COLUMNS, Group, Item, arranged, choices, narrowed, ordered, page_of
from ..pages.overview import count_words, nothing_matches, nothing_yet
from ..pages.run_table import Line, Row, group_line, run_line, table
from ..paths import RunsView
from ..roster import Figures, Listed, roster_of
from ..trouble import trouble_list, troubles_of_store
from ..updates import Updates
from ..vitals import vitals

PAGE = 50
"""Lines on a page."""


class Overview:
    """A page of the list of runs. The whole table is sent when lines came, went or changed places, else the lines that changed.

    All runs are at hand in the roster, to be searched and sorted; of those on the page alone the newest values and courses are
    read, of all that match where the list is sorted by such a value.
    """

    subject = ""

    def __init__(self, store: Store, view: RunsView = RunsView()) -> None:  # noqa: B008 - frozen
        self._url, self._view = store.url, view
        self._roster = roster_of(store)
        self._column = next((column for column in COLUMNS if column.name == view.sort), None)
        self._figures: dict[str, Figures] = {}
        self._courses: dict[str, Sequence[float]] = {}
        self._lines: dict[str, Line] = {}  # by their ids, as they were sent last
        self._frame: tuple[Any, ...] | None = None
        self._sent = 0

    @property
    def shown(self) -> tuple[str, ...]:
        """Ids of the runs on the table, from the top."""
        return tuple(line["run"] for line in self._lines.values() if "run" in line)

    def paint(self) -> Updates:
        """Return the whole list."""
        self._frame = None
        return self.advance()

    def advance(self) -> Updates:
        """Return what changed in the store since."""
        return self._updates(self._roster.look(), read=True)

    def tick(self) -> Updates:
        """Return the lines in whose words time has passed."""
        return self._updates(self._roster.last(), read=False)

    def _updates(self, listed: Sequence[Listed], *, read: bool) -> Updates:
        now, view = time.time(), self._view
        found = narrowed(listed, view, now)
        if read and self._column is not None and self._column.measured:
            self._figures |= self._roster.measure([one.run for one in found])
        items = arranged(ordered(found, self._column, view, self._figures, now), view, now)
        pages = max(1, -(-len(items) // PAGE))
        page = min(view.page, pages)
        shown = page_of(items, page, PAGE)
        if read or self._frame is None:
            self._measure(shown)
        lines = {line["id"]: line for line in (self._line(item, now) for item in shown)}
        frame = (tuple((name, line.get("closed")) for name, line in lines.items()), len(items), bool(listed))
        updates = self._around(listed, found, now)
        if frame != self._frame:
            first, last = (page - 1) * PAGE + 1, min(page * PAGE, len(items))
            words = f"{first:,}–{last:,} of {len(items):,} {'lines' if view.group else 'runs'}"
            whole = table(list(lines.values()), replace(view, page=page), pages, words) if lines else None
            updates |= {"runs-table": {"data": whole}, "runs-empty": {"children": self._empty(listed, now) if not lines else None}}
        elif changed := [line for name, line in lines.items() if line != self._lines[name]]:
            self._sent += 1  # the same lines may have to be sent again, after the whole table was
            updates |= {"runs-changed": {"data": {"number": self._sent, "lines": changed}}}
        self._frame, self._lines = frame, lines
        return updates

    def _around(self, listed: Sequence[Listed], found: Sequence[Listed], now: float) -> dict[str, Mapping[str, Any]]:
        """Return what stands around the table: how many runs there are, what the filters offer, what troubles the store."""
        offered = choices(listed, self._view, now)
        troubles = [*trouble_list(troubles_of_store(self._url), with_run=True), *letter_list(self._roster.letters)]
        return {
            "runs-count": {"children": count_words(len(found), len(listed), self._view)},
            "filter-state": {"options": offered["states"]},
            "filter-project": {"options": offered["projects"]},
            "filter-tag": {"options": offered["tags"]},
            "overview-troubles": {"children": troubles},
        }

    def _empty(self, listed: Sequence[Listed], now: float) -> Any:
        if not listed:
            return nothing_yet(self._url)
        return nothing_matches(self._view, lambda wider: len(narrowed(listed, wider, now)))

    def _measure(self, shown: Sequence[Item]) -> None:
        runs = [item.run for item in shown if isinstance(item, Listed)]
        self._figures |= self._roster.measure(runs)
        self._courses |= self._roster.courses(runs)

    def _line(self, item: Item, now: float) -> Line:
        if isinstance(item, Group):
            return group_line(item, self._view)
        run = item.run
        heard = max(run.heartbeat_at, run.created_at)
        state = vitals(run, now)
        end = now if state.running else run.ended_at or heard
        figures, losses = self._figures.get(run.id, Figures()), self._courses.get(run.id, ())
        row = Row(run, state, max(0.0, now - heard), max(0.0, end - run.created_at), item.alerts, figures, losses)
        return run_line(row, self._view)
