"""A chart of lines that grows point by point."""

import math
from collections.abc import Callable, Sequence

from dash import Patch

from ...storage.base import Store
from ...storage.records import Alert, Event, Run, Series
from ...storage.results import SeriesData
from ..figures.lines import ALERTS, EVENTS, FIRST_LINE, NONFINITE, alert_trace, event_trace, mark_lines, nonfinite_trace
from ..figures.style import Figure, plain_list
from ..live import Updates
from ..reading import MAX_POINTS
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
    ) -> None:
        super().__init__(store, run)
        self._graph, self._find, self._draw, self._marks, self._scale = graph, series, draw, marks, scale
        self._series: list[Series] = []
        self._last: dict[int, int] = {}  # series id -> last step drawn
        self._trace: dict[int, int] = {}  # series id -> its newest trace
        self._drawn_segment = 0
        self._room = 0

    def paint(self) -> Updates:
        """Draw the whole figure, decimated."""
        self.catch_up()
        if self._marks is not None:
            self._marks.refresh()
        self._series = self._find()
        data = self.store.read(self._series, max_points=max(200, MAX_POINTS // max(1, len(self._series))))
        alerts, events = (self._marks.alerts, self._marks.events) if self._marks is not None else ((), ())
        self._remember(data)
        return {self._graph: {"figure": self._draw(data, alerts, events)}}

    def advance(self) -> Updates:
        """Append the points that were written since."""
        news = self.news()
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

    def _append(self, patch: Patch) -> bool:
        earliest = min(self._last.values()) + 1
        fresh = self.store.read([one for one in self._series if one.id in self._last], start=earliest, segment=self._segment)
        odd: list[SeriesData] = []
        appended = False
        for series, data in zip((one for one in self._series if one.id in self._last), fresh, strict=True):
            pairs = [
                (int(step), self._scale * float(value))
                for step, value in zip(data.steps, data.values, strict=True)
                if step > self._last[series.id]
            ]
            if not pairs:
                continue
            steps, values = [step for step, _ in pairs], [value for _, value in pairs]
            trace = patch["data"][self._trace[series.id]]
            trace["x"].extend(steps)
            trace["y"].extend(plain_list(values))
            trace["mode"] = "lines"
            self._last[series.id] = steps[-1]
            self._room -= len(steps)
            appended = True
            if not all(math.isfinite(value) for value in values):
                odd.append(SeriesData(series.key, [self._segment] * len(steps), steps, values))
        if odd:
            marks = nonfinite_trace(odd)
            for name in ("x", "y", "text"):
                patch["data"][NONFINITE][name].extend(marks[name])
            for name in ("symbol", "color"):
                patch["data"][NONFINITE]["marker"][name].extend(marks["marker"][name])
        return appended

    def _remember(self, data: Sequence[SeriesData]) -> None:
        self._last.clear()
        self._trace.clear()
        trace = FIRST_LINE - 1
        self._drawn_segment = self._segment
        for series, points in zip(self._series, data, strict=True):
            if len(points.steps):
                trace += len({int(segment) for segment in points.segments})
                self._last[series.id] = int(points.steps[-1])
                self._trace[series.id] = trace
        # A short line is soon drawn anew, so that its axes suit what it has become.
        self._room = min(MAX_POINTS, max(16, 2 * sum(len(points.steps) for points in data)))
