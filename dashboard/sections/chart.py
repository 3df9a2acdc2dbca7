"""A chart of lines that grows point by point."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dash import Patch

from ...storage.base import Store
from ...storage.records import Alert, Event, Run, Series
from ...storage.results import SeriesData
from ..figures.adjust import adjusted, below_note, fit, in_window, smooth_traces
from ..figures.lines import ALERTS, EVENTS, FIRST_LINE, NONFINITE, alert_trace, below_zero, event_trace, mark_lines, nonfinite_trace
from ..figures.style import Figure, plain, plain_list
from ..reading import MAX_POINTS, through_window
from ..smoothing import Average, Smooth, smoothed, warm_up
from ..tables import points_table
from ..updates import Updates
from .following import Marks, RunSection

Draw = Callable[[Sequence[SeriesData], Sequence[Alert], Sequence[Event]], Figure]


class Chart(RunSection):
    """A figure of line traces that is extended by patches, and drawn anew when a segment begins or it has grown long.

    Args:
        graph: Id of the ``dcc.Graph``.
        series: Returns the series to draw; asked again as long as it returns none.
        draw: The figure function.
        marks: Alerts and events on the chart; None for neither.
        scale: What a stored value is multiplied with before it is drawn.
        plain: Whether the reader may smooth it and choose the scale of its y axis.
    """

    def __init__(
        self,
        store: Store,
        run: Run,
        graph: str,
        series: Callable[[], list[Series]],
        draw: Draw,
        marks: Marks | None,
        scale: float = 1.0,
        *,
        plain: bool = True,
    ) -> None:
        super().__init__(store, run)
        self._graph, self._find, self._draw, self._marks, self._scale = graph, series, draw, marks, scale
        self._plain = plain
        self._series: list[Series] = []
        self._last: dict[int, int] = {}  # series id -> last step drawn
        self._trace: dict[int, int] = {}  # series id -> its newest trace
        self._smooth: dict[int, tuple[int, Average]] = {}  # series id -> the smoothed trace of its newest, and its average
        self._reach: list[float] | None = None  # the y axis where it does not follow by itself
        self._log = self._noted = False
        self._mode = "lines"
        self._drawn_segment = 0
        self._room = 0

    def paint(self) -> Updates:
        """Draw the whole figure, decimated."""
        self.catch_up()
        if self._marks is not None:
            self._marks.refresh()
        self._series = self._find()
        limit = max(200, MAX_POINTS // max(1, len(self._series)))
        data = through_window(self.store, self._series, self.lens.window, limit)
        alerts, events = (self._marks.alerts, self._marks.events) if self._marks is not None else ((), ())
        self._remember(data)
        figure = self._draw(data, alerts, events)
        if self.lens.window is not None and self._series and not self._trace:
            return {self._graph: {"figure": in_window({**figure, "data": []}, self.lens.window, measured=True)}}
        lines = self._smoothed(data) if figure["data"] else []
        smooth = smooth_traces(figure["data"][FIRST_LINE:], lines, self._scale) if lines else []
        adjusted(figure, self.lens, smooth, scalable=self._plain, whole=not any(one.decimated for one in data))
        self._note_axis(figure)
        return {self._graph: {"figure": figure}}

    def advance(self) -> Updates:
        """Append the points that were written since."""
        news = self.news() and not self.lens.is_past(self._changed_from)
        remarked = self._marks is not None and self._marks.refresh()
        if news and (self._segment != self._drawn_segment or not self._trace or self._room <= 0):
            return self.paint()
        patch, used = Patch(), False
        if remarked and self._marks is not None and self._trace:
            patch["data"][ALERTS] = alert_trace(self._marks.alerts)
            patch["data"][EVENTS] = event_trace(self._marks.events)
            patch["layout"]["shapes"] = mark_lines(self._marks.alerts, self._marks.events)
            used = True
        if news:
            used = self._append(patch) or used
        return {self._graph: {"figure": patch}} if used else {}

    def table(self) -> Iterator[str]:
        """Yield the points of what is drawn, all of them, as CSV."""
        return points_table(self.store, self.run, self._find(), self.lens.window)

    def _append(self, patch: Patch) -> bool:
        earliest = min(self._last.values()) + 1
        drawn = [one for one in self._series if one.id in self._last]
        fresh = self.store.read(drawn, start=earliest, stop=self.lens.stop, segment=self._segment)
        odd: list[SeriesData] = []
        added: list[float] = []
        for series, data in zip(drawn, fresh, strict=True):
            pairs = [
                (int(step), self._scale * float(value))
                for step, value in zip(data.steps, data.values, strict=True)
                if step > self._last[series.id]
            ]
            if not pairs:
                continue
            steps, values = [step for step, _ in pairs], [value for _, value in pairs]
            trace = patch["data"][self._trace[series.id]]
            _extend(trace, steps, values)
            trace["mode"] = self._mode
            if series.id in self._smooth:
                number, average = self._smooth[series.id]
                smooth = [self._scale * average.add(step, value / self._scale) for step, value in pairs]
                _extend(patch["data"][number], steps, smooth)
            self._last[series.id] = steps[-1]
            self._room -= len(steps)
            added += values
            if not all(math.isfinite(value) for value in values):
                odd.append(SeriesData(series.key, [self._segment] * len(steps), steps, values))
            if self._log:
                self._mark(patch, below_zero([(step, value) for step, value in pairs if value <= 0 and math.isfinite(value)]))
        if odd:
            self._mark(patch, nonfinite_trace(odd))
        self._follow_axis(patch, added)
        return bool(added)

    def _mark(self, patch: Patch, marks: dict[str, Any]) -> None:
        if not marks["x"]:
            return
        for name in ("x", "y", "text"):
            patch["data"][NONFINITE][name].extend(marks[name])
        for name in ("symbol", "color"):
            patch["data"][NONFINITE]["marker"][name].extend(marks["marker"][name])

    def _note_axis(self, figure: Figure) -> None:
        """Remember the axis of a window: unlike that of the whole run it does not follow new points by itself."""
        y = figure["layout"].get("yaxis", {})
        self._log = y.get("type") == "log"
        self._reach = y.get("range") if self.lens.window is not None and y.get("autorange") is False else None
        self._noted = bool(figure["layout"].get("annotations"))
        self._mode = "lines+markers" if any(line.get("mode") == "lines+markers" for line in figure["data"]) else "lines"

    def _follow_axis(self, patch: Patch, added: Sequence[float]) -> None:
        known = [plain(value) for value in added]
        if self._log and not self._noted and any(value is not None and value <= 0 for value in known):
            patch["layout"]["annotations"] = [below_note()]
            self._noted = True
        new = fit(known, self._log) if self._reach is not None else None
        if new is None or self._reach is None or (self._reach[0] <= new[0] and new[1] <= self._reach[1]):
            return
        self._reach = [min(self._reach[0], new[0]), max(self._reach[1], new[1])]
        patch["layout"]["yaxis"]["range"] = self._reach

    def _smoothed(self, data: Sequence[SeriesData]) -> list[Smooth | None]:
        """Return the smoothed line of each line drawn; none where the reader wants none."""
        steps = self.lens.smoothing
        if not steps or not self._plain:
            return []
        start = warm_up(self.lens.start, steps)
        limit = max(100, MAX_POINTS // 4 // max(1, len(self._series)))
        found = self.store.envelopes(self._series, start=start, stop=self.lens.stop, max_points=limit, means=True)
        lines: list[Smooth | None] = []
        place = FIRST_LINE + sum(len({int(one) for one in points.segments}) for points in data)
        for series, points, envelope in zip(self._series, data, found, strict=True):
            by_segment = {line.segment: line for line in smoothed(envelope, steps, self.lens.start)}
            for segment in sorted({int(one) for one in points.segments}):
                line = by_segment.get(segment)
                lines.append(line)
                if line is not None:
                    self._smooth[series.id] = (place, line.average)
                    place += 1
        return lines

    def _remember(self, data: Sequence[SeriesData]) -> None:
        self._last.clear()
        self._trace.clear()
        self._smooth.clear()
        trace = FIRST_LINE - 1
        self._drawn_segment = self._segment
        for series, points in zip(self._series, data, strict=True):
            if len(points.steps):
                trace += len({int(segment) for segment in points.segments})
                self._last[series.id] = int(points.steps[-1])
                self._trace[series.id] = trace
        # A short line is soon drawn anew, so that its axes suit what it has become.
        self._room = min(MAX_POINTS, max(16, 2 * sum(len(points.steps) for points in data)))


def _extend(trace: Any, steps: Sequence[int], values: Sequence[float]) -> None:
    trace["x"].extend(steps)
    trace["y"].extend(plain_list(values))
