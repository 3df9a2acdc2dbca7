"""Parts of every figure that draws values over steps: lines by segment, marks for non-finite values, alerts and events.

The order of traces is fixed so that a live page can extend them by number: first the marks (``NONFINITE``, ``ALERTS``, ``EVENTS``),
then one line a segment from ``FIRST_LINE`` on.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ...storage.records import Alert, Event, Severity
from ...storage.results import SeriesData
from .style import ACTED, MUTED, SERIES, SEVERITY_COLOURS, SEVERITY_SYMBOLS, plain_list, text

NONFINITE, ALERTS, EVENTS, FIRST_LINE = 0, 1, 2, 3

BELOW = 0.02
"""Height of the marks for what a logarithmic axis has no place for."""
_EDGE = 0.97
_ALERT_HEIGHT = 0.86
_EVENT_HEIGHT = 0.03
INTERVENTION = "intervention"
"""The kind of event by which an intervention is told."""


def kind_symbol(value: float) -> str:
    """Return the mark of a non-finite value: a cross for NaN, arrows for the infinities."""
    if math.isnan(value):
        return "x"
    return "triangle-up" if value > 0 else "triangle-down"


def kind_name(value: float) -> str:
    """Return what a non-finite value is called."""
    if math.isnan(value):
        return "NaN"
    return "+infinity" if value > 0 else "−infinity"


def by_segment(data: SeriesData) -> Iterator[tuple[int, list[int], list[float]]]:
    """Yield (segment, steps, values) for each segment of a series, in order."""
    start = 0
    segments = data.segments
    for end in range(1, len(segments) + 1):
        if end == len(segments) or segments[end] != segments[start]:
            yield int(segments[start]), [int(s) for s in data.steps[start:end]], [float(v) for v in data.values[start:end]]
            start = end


def span(*series: SeriesData) -> int:
    """Return how many steps lie between the first and the last point of some series that have points."""
    return int(max(max(data.steps) for data in series) - min(min(data.steps) for data in series))


def line_traces(data: SeriesData, name: str, colour: str = SERIES) -> list[dict[str, Any]]:
    """Return one line per segment, so that a resumed run is never joined to where it was broken off."""
    traces = []
    for segment, steps, values in by_segment(data):
        label = name if segment == 0 else f"{name}, after restart {segment}"
        traces.append(
            {
                "type": "scatter",
                "mode": "lines" if len(steps) > 1 else "markers",
                "name": label,
                "x": steps,
                "y": plain_list(values),
                "line": {"color": colour, "width": 1.6},
                "marker": {"color": colour, "size": 6},
                "connectgaps": False,
                "hovertemplate": f"step %{{x:,}}<br>{text(label)} <b>%{{y:.5g}}</b><extra></extra>",
            }
        )
    return traces


def marks(
    steps: Sequence[int], height: float, symbols: list[str], colours: list[str], texts: list[str], size: int | list[int]
) -> dict[str, Any]:
    """Return a trace of marks at a fixed height of the plot, whatever the y axis shows."""
    return {
        "type": "scatter",
        "mode": "markers",
        "x": list(steps),
        "y": [height] * len(steps),
        "yaxis": "y2",
        "marker": {"symbol": symbols, "color": colours, "size": size, "line": {"width": 0}},
        "text": texts,
        "hovertemplate": "%{text}<extra></extra>",
        "cliponaxis": False,
    }


def nonfinite_trace(series: Iterable[SeriesData]) -> dict[str, Any]:
    """Return the marks at the top edge where a value was NaN or infinite: a line would hide exactly these."""
    steps, values = [], []
    for data in series:
        for step, value in zip(data.steps, data.values, strict=True):
            if not math.isfinite(value):
                steps.append(int(step))
                values.append(float(value))
    texts = [f"step {step:,}: {kind_name(value)}" for step, value in zip(steps, values, strict=True)]
    colour = SEVERITY_COLOURS[Severity.CRITICAL]
    return marks(steps, _EDGE, [kind_symbol(value) for value in values], [colour] * len(steps), texts, 9)


def below_zero(points: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """Return the marks at the bottom edge for (step, value) that are zero or negative, on a logarithmic axis."""
    texts = [f"step {step:,}: {value:.5g}, which has no place on a log axis" for step, value in points]
    symbols = ["triangle-down-open"] * len(points)
    return marks([step for step, _ in points], BELOW, symbols, [MUTED] * len(points), texts, 9)


def alert_trace(alerts: Sequence[Alert]) -> dict[str, Any]:
    """Return a mark at each alert's first step; shape and colour tell the severity, hovering tells the message.

    Severe ones are drawn last, over those that they would be hidden by.
    """
    texts = []
    alerts = sorted(alerts, key=lambda alert: alert.severity.rank)
    for alert in alerts:
        where = f" · {text(alert.module)}" if alert.module else ""
        texts.append(f"<b>{alert.severity.value}</b> · step {alert.first_step:,}{where}<br>{wrapped(alert.message)}")
    symbols = [SEVERITY_SYMBOLS[alert.severity] for alert in alerts]
    colours = [SEVERITY_COLOURS[alert.severity] for alert in alerts]
    return marks([alert.first_step for alert in alerts], _ALERT_HEIGHT, symbols, colours, texts, 12)


def event_trace(events: Sequence[Event]) -> dict[str, Any]:
    """Return a mark at the bottom edge for each event: a square for what happened to the run, a star for an intervention."""
    texts = [f"<b>{text(event.kind)}</b> · step {event.step:,}<br>{wrapped(event.message)}" for event in events]
    acted = [is_intervention(event) for event in events]
    symbols = ["star" if one else "square" for one in acted]
    sizes = [13 if one else 8 for one in acted]
    return marks([event.step for event in events], _EVENT_HEIGHT, symbols, [ACTED if one else MUTED for one in acted], texts, sizes)


def mark_lines(alerts: Sequence[Alert], events: Sequence[Event] = (), limit: int = 60) -> list[dict[str, Any]]:
    """Return a vertical line at each alert's first step, dotted, and at each intervention, whole (the first ``limit`` each)."""
    acted = [event for event in events if is_intervention(event)]
    return [
        *(_upright(alert.first_step, _ALERT_HEIGHT, SEVERITY_COLOURS[alert.severity], "dot") for alert in alerts[:limit]),
        *(_upright(event.step, 1.0, ACTED, "solid") for event in acted[:limit]),
    ]


def is_intervention(event: Event) -> bool:
    """Return whether foreshock did this to the run, rather than saw it happen."""
    return event.kind == INTERVENTION


def _upright(step: int, height: float, colour: str, dash: str) -> dict[str, Any]:
    return {
        "type": "line",
        "x0": step,
        "x1": step,
        "yref": "paper",
        "y0": 0,
        "y1": height,
        "line": {"color": colour, "width": 1, "dash": dash},
        "opacity": 0.6,
        "layer": "below",
    }


def mark_axis() -> dict[str, Any]:
    """Return the hidden second y axis (0 to 1) on which marks keep their height."""
    return {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True}


def wrapped(message: str, width: int = 64, lines: int = 6) -> str:
    """Return a message broken into short lines for a hover label."""
    import textwrap

    return "<br>".join(text(line) for line in textwrap.wrap(message, width, max_lines=lines, placeholder=" …"))
