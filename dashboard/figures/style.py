"""The look that all figures share: colours with meaning, axes, and values as JSON can carry them.

Figures are plain dictionaries ``{"data": [...], "layout": {...}}``, the form in which plotly draws them in the browser;
``plotly.graph_objects.Figure(figure)`` accepts each of them. Building ``Figure`` objects here would cost a quarter of a second of
imports before the first page, and 0.3 s for every large heatmap.

Colours are mid-tones that keep a contrast of 3:1 on white and on the dark card; text and grid take the page's own colours by CSS.
"""

import html
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from ...storage.records import Severity

Figure = dict[str, Any]
"""A plotly figure as plain data: ``{"data": [...], "layout": {...}}``."""

SERIES = "#3b82f6"
SECOND = "#0d9488"
ACCENT = "#8b5cf6"
MUTED = "#7c8aa0"
ACTED = "#0f9d6e"
"""What foreshock did to the run: neither an alarm nor a measurement."""
SEVERITY_COLOURS: dict[Severity, str] = {
    Severity.INFO: "#64748b",
    Severity.WARNING: "#d97706",
    Severity.CRITICAL: "#e11d48",
}
SEVERITY_SYMBOLS: dict[Severity, str] = {Severity.INFO: "circle", Severity.WARNING: "triangle-up", Severity.CRITICAL: "diamond"}

TROUBLE_SCALE: list[list[Any]] = [
    [0.0, "#16243f"],
    [0.2, "#27447a"],
    [0.4, "#3f6a9c"],
    [0.6, "#8391a0"],
    [0.8, "#dfa54a"],
    [1.0, "#ffe66d"],
]
"""Calm is deep blue, trouble is bright yellow: lightness rises all the way, so that it also reads without colour vision."""

BOTH_WAYS_SCALE: list[list[Any]] = [
    [0.0, "#d9f7ff"],
    [0.12, "#7fd0ee"],
    [0.3, "#3b7fb0"],
    [0.5, "#16243f"],
    [0.7, "#8a6a3a"],
    [0.88, "#dfa54a"],
    [1.0, "#ffe66d"],
]
"""For what is calm at 0: bright ice below it, bright yellow above, which eyes that confuse red and green tell apart."""

_FONT = "Inter, system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def plain(value: float, digits: int = 5) -> float | None:
    """Return ``value`` with a few significant digits, or None where it is not finite (JSON has no NaN)."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def plain_list(values: Iterable[float]) -> list[float | None]:
    """Return all values as ``plain`` does."""
    return [plain(float(value)) for value in values]


def plain_rows(values: npt.NDArray[np.float64], digits: int = 4) -> list[list[float | None]]:
    """Return a matrix as ``plain`` does each of its values: 0.2 microseconds a value."""
    known = np.isfinite(values)
    size = np.abs(values, out=np.ones_like(values), where=known & (values != 0))
    usual = known & (size > 1e-15) & (size < 1e15)
    places = np.where(usual, digits - 1 - np.floor(np.log10(size)), 0.0)
    # Multiplied and divided by whole powers of ten below 10**22, which are exact: the result is the decimal that is meant.
    up, down = 10.0 ** np.maximum(places, 0), 10.0 ** np.maximum(-places, 0)
    shown = (np.round(np.where(usual, values, 0.0) * up / down) * down / up).astype(object)
    shown[~usual] = [plain(float(value), digits) for value in values[~usual]]
    rows: list[list[float | None]] = shown.tolist()
    return rows


def text(value: object) -> str:
    """Return ``value`` as text that plotly shows letter by letter: it would read tags in names as markup."""
    return html.escape(str(value), quote=False)


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Return an axis with the shared look."""
    return {
        "title": {"text": title, "standoff": 8, "font": {"size": 12}},
        "showgrid": True,
        "gridcolor": "rgba(124,138,160,.18)",
        "zeroline": False,
        "showline": False,
        "ticks": "",
        "ticklabelstandoff": 4,
        "automargin": True,
        "tickfont": {"size": 11},
        **more,
    }


def log_axis(title: str, values: Iterable[float]) -> dict[str, Any]:
    """Return a logarithmic y axis for these values: powers of ten where there are several, else also what lies between them."""
    positive = [float(value) for value in values if 0 < value < math.inf]
    low, high = (math.log10(min(positive)), math.log10(max(positive))) if positive else (0.0, 0.0)
    if high - low >= 1.5:
        return axis(title, type="log", dtick=max(1, round((high - low) / 6)), exponentformat="power")
    # Two decades more on either side: the page may be open while the values grow.
    powers = range(math.floor(low) - 2, math.ceil(high) + 3)
    ticks = [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]
    return axis(title, type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])


def step_axis(steps: int | None = None, **more: Any) -> dict[str, Any]:
    """Return the x axis of every figure over time; ``steps`` is how many it spans, where there are few."""
    few = {"dtick": 1} if steps is not None and steps < 8 else {"nticks": 9}
    return axis("training step", tickformat=",d", tickangle=0, **few, **more)


def colour_bar(title: str, **more: Any) -> dict[str, Any]:
    """Return a horizontal colour bar above the plot: on a narrow screen one beside it would take a third of the width."""
    return {
        "orientation": "h",
        "x": 0,
        "xanchor": "left",
        "xpad": 0,
        "y": 1,
        "yanchor": "bottom",
        "ypad": 4,
        "len": 0.9,
        "thickness": 8,
        "outlinewidth": 0,
        "ticks": "",
        "tickfont": {"size": 11},
        "title": {"text": title, "side": "top", "font": {"size": 11}},
        **more,
    }


BAR_MARGIN = {"l": 8, "r": 12, "t": 0, "b": 8}
"""Margins of a figure with a colour bar above its plot, which makes room for itself."""


def layout(x: dict[str, Any], y: dict[str, Any], *, height: int = 280, **more: Any) -> dict[str, Any]:
    """Return the shared layout. ``uirevision`` keeps the reader's zoom when data arrives."""
    return {
        "height": height,
        "margin": {"l": 8, "r": 12, "t": 14, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": _FONT, "size": 12, "color": "#64748b"},
        "showlegend": False,
        "hovermode": "closest",
        "hoverlabel": {"font": {"family": _FONT, "size": 12}, "align": "left"},
        "uirevision": "kept",
        "xaxis": x,
        "yaxis": y,
        **more,
    }


def empty(message: str, *, height: int = 280) -> Figure:
    """Return a figure that says in words why there is nothing to draw, and what would change that."""
    hidden = {"visible": False, "fixedrange": True, "range": [0, 1]}
    note = {
        "text": message,
        "showarrow": False,
        "x": 0.5,
        "y": 0.5,
        "xref": "paper",
        "yref": "paper",
        "font": {"size": 13},
        "align": "center",
    }
    return {"data": [], "layout": layout(dict(hidden), dict(hidden), height=height, annotations=[note])}
