"""The gradient norm."""

from collections.abc import Sequence

from ...storage.records import Alert, Event
from ...storage.results import SeriesData
from .lines import alert_trace, event_trace, line_traces, mark_axis, mark_lines, nonfinite_trace, span
from .style import Figure, axis, empty, layout, log_axis, step_axis

TITLE = "Gradient norm"
RECOGNISE = "Lets you see exploding or vanishing gradients, and spikes that clipping hides from the loss."


def gradient_figure(
    data: SeriesData | None, alerts: Sequence[Alert] = (), events: Sequence[Event] = (), *, log: bool = True
) -> Figure:
    """Draw the norm of all gradients before clipping, on a logarithmic axis.

    What trouble this picture lets you recognise: gradients that explode or vanish, and single bad batches as lone spikes.
    """
    if data is None or not len(data.steps):
        return empty("No gradient norm yet. It is measured when <b>watch()</b> is given the optimizer.")
    traces = [nonfinite_trace([data]), alert_trace(alerts), event_trace(events), *line_traces(data, "gradient norm")]
    name = "L2 norm before clipping"
    y = log_axis(name, data.values) if log else axis(name)
    return {"data": traces, "layout": layout(step_axis(span(data)), y, yaxis2=mark_axis(), shapes=mark_lines(alerts, events))}
