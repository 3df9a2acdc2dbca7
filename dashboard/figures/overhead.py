"""What the monitor itself costs."""

from dataclasses import replace

from ...storage.results import SeriesData
from .lines import alert_trace, event_trace, line_traces, mark_axis, nonfinite_trace, span
from .style import SECOND, Figure, axis, empty, layout, step_axis

TITLE = "Cost of monitoring"
RECOGNISE = "Lets you see a monitor that slows the training down; the dashed line is the default budget of 1 %."

BUDGET_PERCENT = 1.0


def overhead_figure(data: SeriesData | None) -> Figure:
    """Draw the monitor's share of step time in percent.

    What trouble this picture lets you recognise: measuring that costs more than it may, and since when.

    Args:
        data: ``monitor.overhead``, a share of step time (0.01 is one percent).
    """
    if data is None or not len(data.steps):
        return empty("Not measured yet. It follows the first sampled steps.", height=200)
    percent = replace(data, values=[100 * float(value) for value in data.values])
    traces = [nonfinite_trace([percent]), alert_trace(()), event_trace(()), *line_traces(percent, "cost, %", SECOND)]
    budget = {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": BUDGET_PERCENT,
        "y1": BUDGET_PERCENT,
        "line": {"color": "#7c8aa0", "width": 1, "dash": "dash"},
        "layer": "below",
    }
    y = axis("% of step time", autorangeoptions={"include": [0, 1.5 * BUDGET_PERCENT]})
    return {"data": traces, "layout": layout(step_axis(span(data)), y, height=200, yaxis2=mark_axis(), shapes=[budget])}
