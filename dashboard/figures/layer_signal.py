"""One signal of one layer over time."""

from collections.abc import Sequence

from ...storage.records import Alert
from ...storage.results import SeriesData
from ..signals import Scale, SignalInfo
from .lines import alert_trace, event_trace, line_traces, mark_axis, mark_lines, nonfinite_trace, span
from .style import SERIES, Figure, axis, empty, layout, log_axis, step_axis, text

RECOGNISE = "Lets you see when this layer left its own past behaviour, and whether all of its heads did."
HEIGHT = 360


def layer_signal_figure(series: Sequence[SeriesData], info: SignalInfo, module: str, alerts: Sequence[Alert] = ()) -> Figure:
    """Draw a signal of one layer over steps; one line per attention head where it is measured by head.

    What trouble this picture lets you recognise: when this layer left its own past behaviour, and whether all heads did.

    Args:
        series: The layer's series of this signal, one per head and rank.
        alerts: Alerts of this layer.
    """
    drawn = [data for data in series if len(data.steps)]
    if not drawn:
        return empty(f"<b>{text(info.title)}</b> is not measured for this layer.", height=HEIGHT)
    traces = [nonfinite_trace(drawn), alert_trace(alerts), event_trace(())]
    for data in drawn:
        name = info.title if data.key.head < 0 else f"head {data.key.head}"
        lines = line_traces(data, name, SERIES)
        if len(drawn) > 1:
            for line in lines:
                line["opacity"] = 0.75
                line["line"] = {**line["line"], "width": 1.2}
        traces.extend(lines)
    if info.scale is Scale.LOG:
        y = log_axis(text(info.axis_title), [value for data in drawn for value in data.values])
    elif info.scale is Scale.UNIT:
        y = axis(text(info.title), range=[-0.03, 1.03])
    else:
        y = axis(text(info.axis_title))
    return {
        "data": traces,
        "layout": layout(step_axis(span(*drawn)), y, height=HEIGHT, yaxis2=mark_axis(), shapes=mark_lines(alerts)),
    }
