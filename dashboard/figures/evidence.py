"""The evidence of an alert: the series on which its rule judged, as it was when it fired."""

from typing import Any

from ...storage.records import Alert, Evidence
from ...storage.results import SeriesData
from ..signals import Scale, describe
from .lines import alert_trace, event_trace, line_traces, mark_axis, mark_lines, nonfinite_trace, span
from .style import MUTED, SEVERITY_COLOURS, Figure, axis, empty, layout, log_axis, step_axis, text

RECOGNISE = "Lets you judge for yourself: what was measured up to the alert, where the threshold was, and what was usual before."
HEIGHT = 260


def evidence_figure(evidence: Evidence, alert: Alert) -> Figure:
    """Draw a series of an alert's evidence with its threshold, its usual level, and the step at which the alert began.

    What trouble this picture lets you recognise: whether the series really left its past, or the rule was too quick.
    """
    if not evidence.steps:
        return empty("The rule kept no points of this series.", height=HEIGHT)
    info = describe(evidence.key.signal)
    data = SeriesData(evidence.key, [alert.segment] * len(evidence.steps), evidence.steps, evidence.values)
    lines = line_traces(data, text(info.title))
    for line in lines:
        line |= {"mode": "lines+markers", "name": info.title, "marker": {**line["marker"], "size": 4}}
    ends = [min(evidence.steps[0], alert.first_step), max(evidence.steps[-1], alert.first_step)]
    levels = [
        _level(ends, evidence.threshold, "threshold", SEVERITY_COLOURS[alert.severity], "dash"),
        _level(ends, evidence.baseline, "usual", MUTED, "dot"),
    ]
    traces = [nonfinite_trace([data]), alert_trace([alert]), event_trace(()), *lines, *(level for level in levels if level)]
    known = [value for value in (*evidence.values, evidence.threshold, evidence.baseline) if value is not None]
    y = log_axis(text(info.axis_title), known) if info.scale is Scale.LOG else axis(text(info.axis_title))
    return {
        "data": traces,
        "layout": layout(step_axis(span(data)), y, height=HEIGHT, yaxis2=mark_axis(), shapes=mark_lines([alert])),
    }


def _level(ends: list[int], value: float | None, name: str, colour: str, dash: str) -> dict[str, Any] | None:
    """Return a horizontal line with its name and value written at its left end; None where there is no finite value."""
    if value is None or not abs(value) < float("inf"):
        return None
    return {
        "type": "scatter",
        "mode": "lines+text",
        "name": name,
        "x": ends if ends[0] < ends[1] else [ends[0] - 1, ends[1] + 1],
        "y": [value, value],
        "line": {"color": colour, "width": 1.4, "dash": dash},
        "text": [f"{name} {value:.4g}", ""],
        "textposition": "top right",
        "textfont": {"size": 11},
        "hovertemplate": f"{name} <b>{value:.5g}</b><extra></extra>",
        "cliponaxis": False,
    }
