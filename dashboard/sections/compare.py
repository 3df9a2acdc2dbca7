"""The comparison of runs, live: its table in words, and its charts."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from dash import Patch

from ...analyzer.risk import SIGNAL as RISK
from ...storage.base import Store
from ...storage.errors import UnknownRunError
from ...storage.records import AlertState, Run
from ...storage.results import SeriesData
from ..comparing import MOST_POINTS, NOTHING, Course, configuration, course, differences, signals_of
from ..figures.comparison import Drawn
from ..figures.style import Figure
from ..pages.compare import Facts, compare_table, notes, settings_table
from ..reading import COSTS, OPEN_STATES, cost_of, is_open, newest_of, run_wide, shown_alerts
from ..signals import describe, offered
from ..updates import Updates
from ..vitals import vitals

_CHOICES_EVERY = 10.0
"""Seconds after which signals that are new are offered."""

Read = Callable[[Run, int], SeriesData | None]
"""Takes a run and how many points to return; returns a series of it, or None where it has none."""


class CompareTable:
    """What a comparison says in words: a row a run, what their configurations differ in, which of them are gone."""

    subject = ""

    def __init__(self, store: Store, run_ids: Sequence[str], baseline: str) -> None:
        self._store, self._ids, self._baseline = store, list(run_ids), baseline
        self._seen: tuple[Any, ...] = ()
        self._facts: list[Facts] = []

    def paint(self) -> Updates:
        """Return every part."""
        return self.advance()

    def advance(self) -> Updates:
        """Return every part as it is now."""
        runs = {run.id: run for run in self._store.runs(ids=self._ids)}
        alerts = self._store.alert_counts(list(AlertState), run_ids=self._ids)
        standing = self._store.alert_counts(OPEN_STATES, run_ids=self._ids)
        seen = (runs, alerts, standing)
        if seen == self._seen:  # somebody else was written to
            return self.tick()
        self._seen = seen
        ids = list(runs)
        values = newest_of(self._store, ids, ("loss", RISK, *COSTS))
        rates = self._store.step_rates(ids)
        self._facts = [self._read(runs[run_id], values.get(run_id, {}), rates.get(run_id)) for run_id in ids]
        return self.tick()

    def tick(self) -> Updates:
        """Return every part as it reads now, from what was read last."""
        now = time.time()
        facts = {one.run.id: one for one in self._facts}
        places = [(place, facts[run_id]) for place, run_id in enumerate(self._ids) if run_id in facts]
        rows = [(place, one, vitals(one.run, now)) for place, one in places]
        gone = [run_id for run_id in self._ids if run_id not in facts]
        lettered = [(place, one.run) for place, one in places]
        return {
            "compare-table": {"children": compare_table(rows, self._baseline, now)},
            "compare-settings": {"children": settings_table(lettered, configuration([run for _, run in lettered]))},
            "compare-gone": {"children": notes(gone)},
        }

    def _read(self, run: Run, values: dict[str, float], rate: float | None) -> Facts:
        alerts = shown_alerts(self._store, run)
        lowest = None
        for found in self._store.envelopes(run_wide(self._store, run.id, "loss"), max_points=1):
            finite = [float(value) for value in found.minimum if value == value]
            lowest = min(finite, default=None)
        standing = [alert for alert in alerts if is_open(alert)]
        first = min(alerts, key=lambda alert: (alert.created_at, alert.first_step), default=None)
        return Facts(run, values.get("loss"), lowest, values.get(RISK), cost_of(values), rate, tuple(standing), first)


class Overlay:
    """A chart of several runs. A run that was written to is read again, and only the traces that it changed are sent.

    Args:
        graph: Id of the ``dcc.Graph``.
        read: Returns a run's series.
        axis: What it is drawn over: ``step``, ``time`` or ``share``.
        draw: The figure function.
        baseline: Id of the run whose course is subtracted from the others'; empty for none.
    """

    subject = ""

    def __init__(
        self,
        store: Store,
        run_ids: Sequence[str],
        graph: str,
        read: Read,
        axis: str,
        draw: Callable[[Sequence[Drawn]], Figure],
        baseline: str = "",
    ) -> None:
        self._store, self._ids, self._graph = store, list(run_ids), graph
        self._series, self._axis, self._draw, self._baseline = read, axis, draw, baseline
        self._cursors: dict[str, int] = {}
        self._names: dict[str, str] = {}
        self._courses: dict[str, Course] = {}
        self._figure: Figure = {}

    def paint(self) -> Updates:
        """Draw the whole figure."""
        self._look()
        self._figure = self._drawn()
        return {self._graph: {"figure": self._figure}}

    def advance(self) -> Updates:
        """Draw those runs anew that were written to."""
        if not self._look():
            return {}
        before, self._figure = self._figure, self._drawn()
        if len(before["data"]) != len(self._figure["data"]):
            return {self._graph: {"figure": self._figure}}
        patch, used = Patch(), False
        for place, (old, new) in enumerate(zip(before["data"], self._figure["data"], strict=True)):
            if old != new:
                patch["data"][place], used = new, True
        for name, value in self._figure["layout"].items():
            if before["layout"].get(name) != value:
                patch["layout"][name], used = value, True
        return {self._graph: {"figure": patch}} if used else {}

    def tick(self) -> Updates:
        """Return nothing: a chart says nothing about time."""
        return {}

    def _look(self) -> bool:
        """Read the runs that were written to; return whether any was."""
        changed = False
        for run_id in self._ids:
            try:
                changes = self._store.changes(run_id, self._cursors.get(run_id, 0))
                if run_id in self._cursors and not changes.ranges:
                    continue
                run = self._store.run(run_id)
                data = self._series(run, MOST_POINTS // len(self._ids))
                self._courses[run_id] = course(self._store, run, data, self._axis)
                self._names[run_id], self._cursors[run_id] = run.name or run_id[:8], changes.cursor
            except UnknownRunError:  # it was deleted while the page was open
                if not len(self._courses.get(run_id, NOTHING)):
                    continue
                self._courses[run_id] = NOTHING
            changed = True
        return changed

    def _drawn(self) -> Figure:
        courses = [self._courses.get(run_id, NOTHING) for run_id in self._ids]
        if self._baseline in self._ids:
            baseline = self._ids.index(self._baseline)
            courses = differences(courses, baseline)
            courses[baseline] = NOTHING
        names = [self._names.get(run_id, run_id[:8]) for run_id in self._ids]
        return self._draw([Drawn(place, *one) for place, one in enumerate(zip(names, courses, strict=True))])


class CompareChoices:
    """Which signals and layers of the runs can be laid over each other.

    Args:
        signal, module: What is chosen.
    """

    subject = ""

    def __init__(self, store: Store, run_ids: Sequence[str], signal: str, module: str) -> None:
        self._store, self._ids, self._signal, self._module = store, list(run_ids), signal, module
        self._asked = 0.0

    def paint(self) -> Updates:
        """Return the choices."""
        self._asked = time.monotonic()
        found = signals_of(self._store, self._store.runs(ids=self._ids))
        names = offered(set(found) - {"loss"})
        modules = [module for module in found.get(self._signal, ()) if module]
        signals = [{"label": describe(name).title, "value": name} for name in names]
        layers: list[dict[str, Any]] = [{"label": module, "value": module} for module in modules]
        module = self._module if self._module in modules or not modules else modules[0]
        for chosen, options in ((self._signal, signals), (module, layers)):
            if chosen and all(option["value"] != chosen for option in options):
                options.append({"label": chosen, "value": chosen})
        return {
            "compare-signal": {"options": signals},
            "compare-module": {"options": layers, "disabled": not modules, "value": module if modules else None},
        }

    def advance(self) -> Updates:
        """Return the choices as they are now, and not more often than every few seconds."""
        return self.paint() if time.monotonic() - self._asked > _CHOICES_EVERY else {}

    def tick(self) -> Updates:
        """Return nothing: choices say nothing about time."""
        return {}
