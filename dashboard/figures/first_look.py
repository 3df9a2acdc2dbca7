"""The lines of a figure as a picture that needs no script: shown until plotly, a megabyte and a half, has come and drawn them."""

import base64
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .lines import FIRST_LINE
from .style import Figure

_SIDE = 1000
_PAD = 0.056
"""Plotly's own room above and below the values of an axis, as a share of what they span."""

Points = list[tuple[float, float]]


def first_look(figure: Figure) -> str:
    """Return the lines of a figure over steps as the address of an SVG that holds all of it; ``""`` where there are none.

    It is stretched over the area in which plotly draws, and leaves out axes, words and marks.
    """
    lines = list(_lines(figure))
    x = _range(figure["layout"]["xaxis"], (point[0] for _, parts in lines for part in parts for point in part), 0.0)
    y = _range(figure["layout"]["yaxis"], (point[1] for _, parts in lines for part in parts for point in part), _PAD)
    if not lines or x is None or y is None:
        return ""
    paths = "".join(
        f'<path d="{_path(parts, x, y)}" stroke="{colour}" vector-effect="non-scaling-stroke"/>' for colour, parts in lines
    )
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_SIDE} {_SIDE}" preserveAspectRatio="none" fill="none" '
        f'stroke-width="1.6" stroke-linejoin="round">{paths}</svg>'
    )
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def _lines(figure: Figure) -> Iterator[tuple[str, list[Points]]]:
    """Yield (colour, parts) of each line; a part ends where a value is missing. On a logarithmic axis y is the power of ten."""
    log = figure["layout"].get("yaxis", {}).get("type") == "log"
    for trace in figure["data"][FIRST_LINE:]:
        if "lines" not in trace.get("mode", ""):
            continue
        parts: list[Points] = [[]]
        for step, value in zip(trace["x"], trace["y"], strict=True):
            if value is None or (log and value <= 0):
                parts.append([])
            else:
                parts[-1].append((step, math.log10(value) if log else value))
        yield trace["line"]["color"], [part for part in parts if part]


def _range(axis: dict[str, Any], values: Iterable[float], pad: float) -> tuple[float, float] | None:
    """Return what an axis shows: as it is set, else what its values span; None where floats cannot tell its ends apart."""
    if axis.get("range") is not None:
        low, high = map(float, axis["range"])
    elif known := list(values):
        low, high = min(known), max(known)
        room = pad * (high - low) if high > low else 1.0
        low, high = low - room, high + room
    else:
        return None
    return (low, high) if 0.0 < high - low < math.inf else None


def _path(parts: Sequence[Points], x: tuple[float, float], y: tuple[float, float]) -> str:
    """Return an SVG path in whole numbers, 0 to ``_SIDE``; what lies outside of the ranges lies outside of the picture, not far."""

    def place(point: tuple[float, float]) -> str:
        across, up = (point[0] - x[0]) / (x[1] - x[0]), (point[1] - y[0]) / (y[1] - y[0])
        return f"{round(_SIDE * _near(across))} {round(_SIDE * (1 - _near(up)))}"

    return "".join("M" + "L".join(place(point) for point in part) for part in parts)


def _near(share: float) -> float:
    return max(-_SIDE, min(_SIDE, share))
