"""Signals over steps as lines, one a head, a part, a rank or a signal, with the levels to compare them with."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...storage.results import SeriesData
from ..pictures import Picture
from ..signals import Scale, SignalInfo, describe
from .lines import alert_trace, event_trace, line_traces, mark_axis, nonfinite_trace, span
from .style import ACCENT, MUTED, SECOND, SERIES, Figure, axis, empty, layout, log_axis, step_axis, text

HEIGHT = 250
_COLOURS = (SERIES, "#c2660a", SECOND, "#be185d", ACCENT, "#64748b")
_MOST_NAMED = len(_COLOURS)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a picture: its points, what it is called, and whether the reader has chosen it among its likes."""

    data: SeriesData
    name: str
    chosen: bool = False


def signal_lines_figure(picture: Picture, lines: Sequence[Line], *, why_empty: str = "") -> Figure:
    """Draw a picture's lines; where one is chosen, the others stand back.

    What trouble this picture lets you recognise: ``picture.recognise`` says it.

    Args:
        lines: In the order in which a live page extends them. Few of them are told apart by colour and a legend, many are alike.
        why_empty: What to say where there is nothing to draw, as plotly's markup.
    """
    drawn = [line for line in lines if len(line.data.steps)]
    if not drawn:
        return empty(why_empty, height=HEIGHT)
    traces = [nonfinite_trace([line.data for line in drawn]), alert_trace(()), event_trace(())]
    for trace in traces:
        trace["showlegend"] = False
    drawn = _few_names(drawn)
    names = list(dict.fromkeys(line.name for line in drawn))
    named = 1 < len(names) <= _MOST_NAMED and not any(line.chosen for line in drawn)
    for line in drawn:
        first = named and line is next(one for one in drawn if one.name == line.name)
        traces.extend(_traces(line, _COLOURS[names.index(line.name)] if named else SERIES, drawn, named=named, first=first))
    info = describe(picture.signals[0])
    more: dict[str, Any] = {"shapes": _levels(picture), "annotations": _words(picture, info)}
    if named:
        more |= {"showlegend": True, "legend": _LEGEND}
    y = _axis(picture, info, [value for line in drawn for value in line.data.values])
    x = step_axis(span(*(line.data for line in drawn)))
    return {"data": traces, "layout": layout(x, y, height=HEIGHT, yaxis2=mark_axis(), **more)}


def _few_names(lines: Sequence[Line]) -> list[Line]:
    """Return lines that are told apart by their signals alone where they have too many names for a legend."""
    if len({line.name for line in lines}) <= _MOST_NAMED or len({line.data.key.signal for line in lines}) == 1:
        return list(lines)
    return [replace(line, name=describe(line.data.key.signal).title) for line in lines]


_LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom", "font": {"size": 11}}


def _traces(line: Line, colour: str, drawn: Sequence[Line], *, named: bool, first: bool) -> list[dict[str, Any]]:
    """Return a line's traces, one a segment; of those of one name the first stands in the legend."""
    traces = line_traces(line.data, line.name, ACCENT if line.chosen else colour)
    back = any(other.chosen for other in drawn) and not line.chosen
    for number, trace in enumerate(traces):
        trace |= {"showlegend": first and number == 0, "legendgroup": text(line.name), "name": text(trace["name"])}
        if len(drawn) > 1 and not named:
            trace["opacity"] = 0.3 if back else 1.0 if line.chosen else 0.75
            trace["line"] = {**trace["line"], "width": 2.2 if line.chosen else 1.2}
    return traces


def _axis(picture: Picture, info: SignalInfo, values: Sequence[float]) -> dict[str, Any]:
    title = text(picture.unit or info.unit or info.title)
    if info.scale is Scale.LOG and any(value > 0 for value in values):
        return log_axis(title, [*values, *(value for value, _ in picture.lines)])  # the levels are in sight too
    if info.scale is Scale.UNIT and all(not value > 1.0 for value in values):
        return axis(title, range=[-0.03, 1.03])
    return axis(title, exponentformat="power")


def _levels(picture: Picture) -> list[dict[str, Any]]:
    line = {"color": MUTED, "width": 1, "dash": "dash"}
    common = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "line": line, "layer": "below"}
    return [{**common, "y0": value, "y1": value} for value, _ in picture.lines]


def _words(picture: Picture, info: SignalInfo) -> list[dict[str, Any]]:
    told = dict.fromkeys((words for _, words in picture.lines if words != "0"), None)
    at = {words: value for value, words in reversed(picture.lines)}
    place = {words: math.log10(at[words]) if info.scale is Scale.LOG and at[words] > 0 else at[words] for words in told}
    return [
        {
            "text": words,
            "showarrow": False,
            "xref": "paper",
            "x": 1,
            "xanchor": "right",
            "y": place[words],
            "yanchor": "bottom",
            "font": {"size": 10.5},
        }
        for words in told
    ]
