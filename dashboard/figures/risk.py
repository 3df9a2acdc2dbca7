"""The risk of a run."""

from ...storage.results import SeriesData
from .lines import alert_trace, event_trace, line_traces, mark_axis, nonfinite_trace, span
from .style import ACCENT, Figure, axis, empty, layout, step_axis

TITLE = "Risk"

HEIGHT = 160


def risk_figure(data: SeriesData | None) -> Figure:
    """Draw the risk over steps, always on an axis from 0 to 100.

    What trouble this picture lets you recognise: a run that is on its way to fail, while its loss still falls.

    Args:
        data: the series ``risk``: told where it changes, so it holds from one point to the next.
    """
    if data is None or not len(data.steps):
        return empty("No risk was told for this run yet.", height=HEIGHT)
    lines = line_traces(data, "risk", ACCENT)
    for line in lines:
        line["line"] = {**line["line"], "shape": "hv"}
        line |= {"fill": "tozeroy", "fillcolor": "rgba(139,92,246,.16)"}
    y = axis("risk, 0 to 100", range=[0, 102], tickvals=[0, 50, 100], fixedrange=True)
    traces = [nonfinite_trace([data]), alert_trace(()), event_trace(()), *lines]
    return {"data": traces, "layout": layout(step_axis(span(data)), y, height=HEIGHT, yaxis2=mark_axis())}
