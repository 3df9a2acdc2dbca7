"""The bias of attention's correction term, with the confidence band of its mean."""

from typing import Any

from ...storage.records import SeriesKey
from ...storage.results import SeriesData
from ..banding import SAMPLES, Band
from .lines import alert_trace, by_segment, event_trace, mark_axis, nonfinite_trace, span
from .style import ACCENT, MUTED, SERIES, Figure, axis, empty, layout, plain_list, step_axis, text

TITLE = "Delta's bias"
RECOGNISE = (
    "While the band holds 0, rounding errors cancel. A band that leaves 0 for good is an error of one sign: it adds up in W_q, "
    "step after step."
)
HEIGHT = 300


def delta_bias_figure(found: Band | None, name: str = "", *, why_empty: str = "") -> Figure:
    """Draw each sample's mean error of delta, their mean over the last 16 samples, and the 95 % band of that.

    What trouble this picture lets you recognise: rounding errors of one sign, which add up (arXiv 2510.04212).

    Args:
        name: The head, in words.
    """
    if found is None:
        return empty(why_empty, height=HEIGHT)
    data = SeriesData(SeriesKey(name), found.segments.tolist(), found.steps.tolist(), found.values.tolist())
    traces = [nonfinite_trace([data]), alert_trace(()), event_trace(())]
    for trace in traces:
        trace["showlegend"] = False
    samples = {"color": MUTED, "size": 4, "opacity": 0.6}
    hover = "step %{x:,}<br>one sample <b>%{y:.3g}</b><extra></extra>"
    dots = {"name": "one sample", "x": data.steps, "y": plain_list(found.values), "marker": samples, "hovertemplate": hover}
    traces.append({"type": "scatter", "mode": "markers", **dots})
    place = 0
    for _, steps, _ in by_segment(data):
        low, high, mean = (plain_list(each[place : place + len(steps)]) for each in (found.low, found.high, found.mean))
        traces += _with_band(steps, low, high, mean, name, shown=place == 0)
        place += len(steps)
    line = {"color": SERIES, "width": 1, "dash": "dot"}
    zero = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0, "y1": 0, "line": line}
    legend = {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom", "font": {"size": 11}}
    more = {"shapes": [zero], "showlegend": True, "legend": legend, "yaxis2": mark_axis()}
    y = axis("delta in low precision − in float32", exponentformat="power")
    return {"data": traces, "layout": layout(step_axis(span(data)), y, height=HEIGHT, **more)}


def _with_band(
    steps: list[int], low: list[float | None], high: list[float | None], mean: list[float | None], head: str, *, shown: bool
) -> list[dict[str, Any]]:
    """Return a segment's mean and its band; one segment stands in the legend for all."""
    edge: dict[str, Any] = {"type": "scatter", "mode": "lines", "x": steps, "line": {"width": 0}, "hoverinfo": "skip"}
    hover = f"step %{{x:,}}<br>mean of {SAMPLES} samples <b>%{{y:.3g}}</b><extra>{text(head)}</extra>"
    line = {"color": ACCENT, "width": 1.8}
    band = {"fill": "tonexty", "fillcolor": "rgba(139,92,246,.22)", "name": "its 95 % band", "showlegend": shown}
    told = {"name": f"mean of the last {SAMPLES}", "showlegend": shown}
    return [
        {**edge, "y": low, "name": "lower end", "showlegend": False},
        {**edge, "y": high, **band},
        {"type": "scatter", "mode": "lines", "x": steps, "y": mean, "line": line, "hovertemplate": hover, **told},
    ]
