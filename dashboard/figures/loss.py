"""The loss."""

from collections.abc import Sequence

from ...storage.records import Alert, Event
from ...storage.results import SeriesData
from .lines import alert_trace, event_trace, line_traces, mark_axis, mark_lines, nonfinite_trace, span
from .style import Figure, axis, empty, layout, log_axis, step_axis

TITLE = "Loss"
RECOGNISE = "Lets you see a loss that turns upwards or jumps, and whether the alerts came before it did."

HEIGHT = 380


def loss_figure(
    data: SeriesData | None, alerts: Sequence[Alert] = (), events: Sequence[Event] = (), *, log: bool = False
) -> Figure:
    """Draw the loss over steps with the alerts and events on it.

    What trouble this picture lets you recognise: a loss that turns upwards, jumps, sticks or becomes NaN, and how long before
    that the first alert came. Segments of a resumed run are lines of their own; non-finite values are marks at the top edge.
    """
    if data is None or not len(data.steps):
        return empty("No loss yet. It appears with the first <b>monitor.step(loss)</b>.", height=HEIGHT)
    traces = [nonfinite_trace([data]), alert_trace(alerts), event_trace(events), *line_traces(data, "loss")]
    y = log_axis("loss (log scale)", data.values) if log else axis("loss")
    return {
        "data": traces,
        "layout": layout(step_axis(span(data)), y, height=HEIGHT, yaxis2=mark_axis(), shapes=mark_lines(alerts, events)),
    }
