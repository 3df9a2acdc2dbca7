"""The series around an alert's first step."""

import math
from textwrap import wrap
from typing import Any

from ...storage.records import Alert, Evidence
from ...storage.results import SeriesData
from ..signals import Scale, SignalInfo
from .lines import alert_trace, event_trace, line_traces, mark_axis, mark_lines, nonfinite_trace, span
from .style import MUTED, SERIES, SEVERITY_COLOURS, Figure, axis, empty, layout, log_axis, step_axis, text

RECOGNISE = "Lets you see what the rule saw: the series around the alert, what is usual for it, and what it was held against."
HEIGHT = 240

_AXIS_LETTERS = 26
"""Letters of an axis title that fit beside a chart of this height."""
_FAR = 3.0
"""A line further from the values than this many times their spread would flatten them, and is not drawn."""


def evidence_figure(data: SeriesData, info: SignalInfo, evidence: Evidence, alert: Alert) -> Figure:
    """Draw one series around an alert, with its baseline and threshold.

    What trouble this picture lets you recognise: whether the alert was right, and what the series did after it.

    Args:
        data: the points to draw; those of the evidence itself, or more around them.
    """
    if not len(data.steps):
        return empty("The values of this alert are no longer in the store.", height=HEIGHT)
    name = text(info.title if data.key.head < 0 else f"{info.title}, head {data.key.head}")
    finite = [float(value) for value in data.values if math.isfinite(value)]
    log = info.scale is Scale.LOG and any(value > 0 for value in finite)
    levels = [("usual", evidence.baseline, MUTED), ("threshold", evidence.threshold, SEVERITY_COLOURS[alert.severity])]
    lines = [
        _level(label, value, data, colour)
        for label, value, colour in levels
        if value is not None and math.isfinite(value) and near(value, finite, log=log)
    ]
    traces = [nonfinite_trace([data]), alert_trace([alert]), event_trace(()), *line_traces(data, name, SERIES), *lines]
    title = "<br>".join(text(line) for line in wrap(info.unit or info.title, _AXIS_LETTERS))  # the card's heading names the signal
    y = log_axis(title, [*finite, *(line["y"][0] for line in lines)]) if log else axis(title)
    return {
        "data": traces,
        "layout": layout(step_axis(span(data)), y, height=HEIGHT, yaxis2=mark_axis(), shapes=mark_lines([alert])),
    }


def near(value: float, finite: list[float], *, log: bool) -> bool:
    """Return whether a level is close enough to the values to be drawn beside them."""
    if not finite or (log and value <= 0):
        return False
    known = [math.log10(one) for one in finite if one > 0] if log else finite
    at, low, high = math.log10(value) if log else value, min(known), max(known)
    reach = _FAR * max(high - low, 1.0 if log else abs(high) / 2)
    return low - reach <= at <= high + reach


def _level(label: str, value: float, data: SeriesData, colour: str) -> dict[str, Any]:
    """Return a level line over the whole width, named at its right end."""
    return {
        "type": "scatter",
        "mode": "lines+text",
        "x": [int(min(data.steps)), int(max(data.steps))],
        "y": [value, value],
        "text": ["", label],
        "textposition": "top left",
        "textfont": {"size": 11},
        "line": {"color": colour, "width": 1.2, "dash": "dash"},
        "hovertemplate": f"{label} <b>%{{y:.5g}}</b><extra></extra>",
    }
