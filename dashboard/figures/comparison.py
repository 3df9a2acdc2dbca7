"""Several runs laid over each other.

A run keeps its letter, colour and dash in every chart. The colours are six that stay apart for every kind of colour vision, with a
contrast of 3:1 on both cards (a test holds them to it); with four dashes they make twelve pairs, and each line bears its letter.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from ...storage.records import Severity
from ..comparing import LETTERS, Course
from .lines import kind_name, kind_symbol, mark_axis, marks
from .style import MUTED, SEVERITY_COLOURS, Figure, axis, empty, layout, log_axis, plain_list, step_axis, text

COLOURS = ("#008ae6", "#999917", "#9900ff", "#008033", "#b27481", "#796399")
DASHES = ("solid", "dash", "dot", "dashdot")
_STROKES = {"solid": "", "dash": "9 4", "dot": "2 4", "dashdot": "9 3 2 3"}

HEIGHT, LOW = 400, 280

_UNITS = ((2 * 86400.0, 86400.0, "days"), (2 * 3600.0, 3600.0, "hours"), (120.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))
_EDGE = 0.97


@dataclass(frozen=True, slots=True)
class Drawn:
    """A run in a chart: its place in the comparison, its name, and its course."""

    place: int
    name: str
    course: Course


def style_of(place: int) -> tuple[str, str]:
    """Return colour and dash of the run at a place, from 0."""
    return COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)]


def swatch(place: int) -> str:
    """Return a piece of a run's line as an SVG image, as a data URL."""
    colour, dash = style_of(place)
    image = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 34 10" width="34" height="10">'
        f'<line x1="1" y1="5" x2="33" y2="5" stroke="{colour}" stroke-width="2.6" stroke-dasharray="{_STROKES[dash]}"/></svg>'
    )
    return "data:image/svg+xml," + quote(image)


def overlay_figure(
    drawn: Sequence[Drawn], title: str, *, over: str = "step", log: bool = False, height: int = HEIGHT, zero: bool = False
) -> Figure:
    """Draw a signal of several runs over one axis.

    What trouble this picture lets you recognise: the run that leaves the others, and where on the way it does.

    Args:
        title: Of the y axis.
        over: ``step``, ``time`` or ``share``, as the courses have it.
        zero: Draw the line of no difference.
    """
    seen = [one for one in drawn if len(one.course)]
    if not seen:
        return empty("None of these runs has it" + (" with times of its steps." if over == "time" else "."), height=height)
    scale, x = _across(seen, over)
    traces = [_nonfinite(seen, scale), *(_line(one, scale, x["title"]["text"], len(seen)) for one in drawn)]
    y = log_axis(title, (value for one in seen for value in one.course.values)) if log else axis(title)
    lines = [{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0, "y1": 0, "line": {"color": MUTED, "width": 1}}]
    return {"data": traces, "layout": layout(x, y, height=height, yaxis2=mark_axis(), shapes=lines if zero else [])}


def _across(seen: Sequence[Drawn], over: str) -> tuple[float, dict[str, Any]]:
    """Return what the x values are divided by, and the x axis."""
    longest = max(float(one.course.x.max()) for one in seen)
    if over == "time":
        _, divisor, unit = next(each for each in _UNITS if longest >= each[0])
        return divisor, axis(f"{unit} since the first step", nticks=9)
    if over == "share":
        return 1.0, axis("% of the run", nticks=9)
    return 1.0, step_axis(int(longest - min(float(one.course.x.min()) for one in seen)))


def _line(one: Drawn, scale: float, across: str, count: int) -> dict[str, Any]:
    colour, dash = style_of(one.place)
    x, y = _with_gaps(one.course, scale)
    letter = LETTERS[one.place]
    words = [""] * len(x)
    if at := [index for index, value in enumerate(y) if value is not None]:
        # The letters stand one after the other, so that they do not cover each other where the lines end together.
        words[at[int((len(at) - 1) * (1 - 0.06 * (1 + one.place % max(count, 1))))]] = letter
    return {
        "type": "scatter",
        "mode": "lines+text" if len(x) > 1 else "markers+text",
        "name": text(one.name),
        "x": x,
        "y": y,
        "text": words,
        "textposition": "top center",
        "textfont": {"color": colour, "size": 14},
        "line": {"color": colour, "width": 1.8, "dash": dash},
        "marker": {"color": colour, "size": 7},
        "connectgaps": False,
        "hovertemplate": f"<b>{letter}</b> {text(one.name)}<br>{across} %{{x:,.6~g}}<br><b>%{{y:.5g}}</b><extra></extra>",
    }


def _with_gaps(course: Course, scale: float) -> tuple[list[float | None], list[float | None]]:
    """Return the points of a line, broken off where a segment begins."""
    breaks = np.flatnonzero(course.began)
    x: list[float | None] = list(np.insert(course.x / scale, breaks, np.nan).tolist())
    y = plain_list(np.insert(course.values, breaks, np.nan))
    return [None if value is None or math.isnan(value) else float(f"{value:.9g}") for value in x], y


def _nonfinite(seen: Sequence[Drawn], scale: float) -> dict[str, Any]:
    """Return the marks at the top edge where a value was NaN or infinite."""
    places, symbols, colours, words = [], [], [], []
    for one in seen:
        for at in np.flatnonzero(~np.isfinite(one.course.values)).tolist():
            value = float(one.course.values[at])
            places.append(float(f"{one.course.x[at] / scale:.9g}"))
            symbols.append(kind_symbol(value))
            colours.append(SEVERITY_COLOURS[Severity.CRITICAL])
            words.append(f"<b>{LETTERS[one.place]}</b> {text(one.name)}: {kind_name(value)}")
    return marks(places, _EDGE, symbols, colours, words, 9)  # type: ignore[arg-type]  # a time need not be whole
