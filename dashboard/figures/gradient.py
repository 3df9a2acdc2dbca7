"""The gradient norm."""

from collections.abc import Sequence

from ...storage.records import Alert, Event
from ...storage.results import SeriesData
from .lines import alert_trace, event_trace, line_traces, mark_axis, mark_lines, nonfinite_trace, span
from .style import SECOND, SERIES, Figure, axis, empty, layout, log_axis, step_axis

TITLE = "Gradient norm"
RECOGNISE = (
    "Lets you see exploding or vanishing gradients, and spikes that clipping hides from the loss; a norm that is cut at every step "
    "is too large for good."
)


def gradient_figure(
    data: SeriesData | None,
    alerts: Sequence[Alert] = (),
    events: Sequence[Event] = (),
    *,
    clipped: SeriesData | None = None,
    log: bool = True,
) -> Figure:
    """Draw the norm of all gradients before clipping and after it, on a logarithmic axis.

    What trouble this picture lets you recognise: gradients that explode or vanish, single bad batches as lone spikes, and clipping
    that cuts every step instead of the rare one.

    Args:
        clipped: The norm after clipping; None where nothing clips.
    """
    if data is None or not len(data.steps):
        return empty("No gradient norm yet. It is measured when <b>watch()</b> is given the optimizer.")
    both = [data] if clipped is None or not len(clipped.steps) else [data, clipped]
    traces = [nonfinite_trace(both), alert_trace(alerts), event_trace(events)]
    for trace in traces:
        trace["showlegend"] = False
    for one, name, colour in zip(both, ("before clipping", "after clipping"), (SERIES, SECOND), strict=False):
        lines = line_traces(one, name, colour)
        traces += [{**line, "showlegend": number == 0} for number, line in enumerate(lines)]
    name = "L2 norm"
    values = [value for one in both for value in one.values]
    y = log_axis(name, values) if log else axis(name)
    legend = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
    shapes, several = mark_lines(alerts, events), len(both) > 1
    look = layout(step_axis(span(*both)), y, yaxis2=mark_axis(), shapes=shapes, legend=legend, showlegend=several)
    return {"data": traces, "layout": look}
