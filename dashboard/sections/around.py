"""Loss and risk around the step at which an alert began, live as long as the run is there."""

from ...analyzer.risk import SIGNAL as RISK
from ...storage.base import Store
from ...storage.records import Alert
from ...storage.results import SeriesData
from ..figures.lines import mark_lines
from ..figures.loss import loss_figure
from ..figures.risk import risk_figure
from ..figures.style import Figure
from ..reading import MAX_POINTS, run_wide
from ..updates import Updates
from .following import RunSection

LOSS_GRAPH, RISK_GRAPH = "around-loss", "around-risk"
HEIGHT = 240
_LEAST, _BEFORE, _AFTER = 100, 2, 4
"""Steps that the evidence counts as at least, and how many times its length is shown before and after the alert's first step."""


def window(alert: Alert) -> tuple[int, int]:
    """Return the first step that is shown, and the first that is not."""
    earliest = min((piece.steps[0] for piece in alert.evidence if piece.steps), default=alert.first_step)
    length = max(_LEAST, alert.first_step - earliest)
    return max(0, alert.first_step - _BEFORE * length), alert.first_step + _AFTER * length + 1


class Around(RunSection):
    """Two charts over a window of steps. They are drawn anew while the run is in the window, and then rest."""

    def __init__(self, store: Store, alert: Alert) -> None:
        super().__init__(store, store.run(alert.run_id))
        self._alert = alert
        self._start, self._stop = window(alert)

    def paint(self) -> Updates:
        """Return both charts."""
        self.catch_up()
        loss = loss_figure(self._line("loss"), [self._alert])
        risk = risk_figure(self._line(RISK))
        if risk["data"]:
            risk["layout"]["shapes"] = mark_lines([self._alert])
        return {LOSS_GRAPH: {"figure": self._sized(loss)}, RISK_GRAPH: {"figure": risk}}

    def advance(self) -> Updates:
        """Return them again where steps of the window were written."""
        return self.paint() if self.news() and self._changed_from < self._stop else {}

    def _sized(self, figure: Figure) -> Figure:
        figure["layout"]["height"] = HEIGHT
        return figure

    def _line(self, signal: str) -> SeriesData | None:
        series = run_wide(self.store, self.run.id, signal)
        return self.store.read(series, start=self._start, stop=self._stop, max_points=MAX_POINTS)[0] if series else None
