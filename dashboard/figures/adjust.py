"""A figure of lines as the reader wants to look at it: on a logarithmic or linear axis, in a window of steps, smoothed.

Works on any figure whose traces stand in the order of ``lines``. Smoothed lines come after all others.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from ..lens import Lens
from ..smoothing import Smooth
from .lines import BELOW, FIRST_LINE, NONFINITE, below_zero
from .style import Figure, axis, empty, log_axis, plain, plain_list, step_axis

RAW_POINTS = 400
"""Points of a window up to which each is drawn as a small mark of its own."""
FAINT = 0.3
"""Opacity of a line behind its smoothed one."""

_NARROW = 0.6
"""Decades below which plotly finds the better ticks of a logarithmic axis whose ends are known."""
_LOG_WORDS = " (log scale)"
_NOTE = "▽ zero or below: no place on a log axis"


def adjusted(
    figure: Figure, lens: Lens, smooth: Sequence[dict[str, Any]] = (), *, scalable: bool = True, whole: bool = True
) -> Figure:
    """Return a figure as a lens shows it.

    Args:
        figure: Changed in place. Its points are those of the window, and their neighbours outside of it.
        smooth: Smoothed lines that come on top.
        scalable: Whether its y axis may be logarithmic or linear as the reader chooses.
        whole: Whether every point of the window is in it.
    """
    if not figure["data"]:
        return figure
    if scalable:
        _scale(figure, lens.log)
    figure["layout"]["yaxis"].setdefault("fixedrange", True)  # the drag chooses steps; the axis fits what they hold
    if whole and lens.window is not None:
        _mark_points(figure)
    figure["data"].extend(smooth)
    if lens.window is not None:
        _zoom(figure, lens.window)
    return figure


def in_window(figure: Figure, window: tuple[int, int] | None, measured: bool) -> Figure:
    """Return a figure over steps that shows the steps of a window only; one that says so where those hold nothing.

    Args:
        figure: Changed in place.
        window: First and last step; None for all.
        measured: Whether there is anything in other steps.
    """
    if window is None or not (measured or figure["data"]):
        return figure
    if not figure["data"]:
        said = f"Nothing was measured from step {window[0]:,} to {window[1]:,}."
        figure = empty(said, height=figure["layout"]["height"])
        figure["layout"]["xaxis"] = step_axis()
    layout = figure["layout"]
    few = {"dtick": 1} if window[1] - window[0] < 8 else {"nticks": 6}
    x = {name: value for name, value in layout["xaxis"].items() if name not in ("dtick", "nticks")}
    layout["xaxis"] = {**x, **few, "range": list(window), "autorange": False}
    # Another revision: what the reader dragged is forgotten, the window is the server's word now.
    layout["uirevision"] = f"{window[0]}-{window[1]}"
    return figure


def fit(values: Iterable[float | None], log: bool) -> list[float] | None:
    """Return the range of a y axis that holds these values with a little room; None where there are none to hold."""
    known = [value for value in values if value is not None and (value > 0 or not log)]
    if not known:
        return None
    low, high = min(known), max(known)
    if log:
        low, high = math.log10(low), math.log10(high)
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    ends = (plain(low - room, 9), plain(high + room, 9))
    return [end for end in ends if end is not None] if None not in ends else None


def smooth_traces(lines: Sequence[dict[str, Any]], smooth: Sequence[Smooth | None], scale: float = 1.0) -> list[dict[str, Any]]:
    """Return a smoothed line for each line that has one, and let that one fade.

    Args:
        lines: Traces, changed in place.
        smooth: One for each of them.
        scale: What the values are multiplied with.
    """
    traces = []
    for line, one in zip(lines, smooth, strict=True):
        if one is None:
            continue
        label = f"{line['name']}, smoothed"
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": label,
                "x": one.steps,
                "y": plain_list(scale * value for value in one.values),
                "line": {"color": line["line"]["color"], "width": 2},
                "connectgaps": False,
                "hovertemplate": line["hovertemplate"].replace("<b>", "smoothed <b>", 1),
            }
        )
        line["opacity"] = FAINT
    return traces


def _scale(figure: Figure, log: bool | None) -> None:
    y = figure["layout"]["yaxis"]
    logarithmic = y.get("type") == "log" if log is None else log
    if log is not None and logarithmic != (y.get("type") == "log"):
        title = y["title"]["text"].removesuffix(_LOG_WORDS)
        values = (value for value in _drawn(figure) if value is not None)
        figure["layout"]["yaxis"] = log_axis(title + _LOG_WORDS, values) if logarithmic else axis(title)
    figure["layout"]["meta"] = {**figure["layout"].get("meta", {}), "scale": "log" if logarithmic else "linear"}
    if logarithmic:
        _mark_below(figure)


def _mark_below(figure: Figure) -> None:
    """Mark at the bottom edge what a logarithmic axis has no place for."""
    marks, any_below = figure["data"][NONFINITE], False
    for line in figure["data"][FIRST_LINE:]:
        below = [(step, value) for step, value in zip(line["x"], line["y"], strict=True) if value is not None and value <= 0]
        extra = below_zero(below)
        any_below = any_below or bool(below)
        for name in ("x", "y", "text"):
            marks[name].extend(extra[name])
        for name in ("symbol", "color"):
            marks["marker"][name].extend(extra["marker"][name])
    if any_below:
        figure["layout"]["annotations"] = [*figure["layout"].get("annotations", ()), below_note()]


def below_note() -> dict[str, Any]:
    """Return the words about marks at the bottom edge."""
    return {
        "text": _NOTE,
        "showarrow": False,
        "xref": "paper",
        "x": 1,
        "xanchor": "right",
        "yref": "paper",
        "y": BELOW,
        "yanchor": "bottom",
        "yshift": 7,
        "font": {"size": 11},
    }


def _drawn(figure: Figure, window: tuple[int, int] | None = None) -> Iterable[float | None]:
    for line in figure["data"][FIRST_LINE:]:
        if window is None:
            yield from line["y"]
        else:
            yield from (value for step, value in zip(line["x"], line["y"], strict=True) if window[0] <= step <= window[1])


def _mark_points(figure: Figure) -> None:
    """Mark each point of lines that have few."""
    lines = figure["data"][FIRST_LINE:]
    if sum(len(line["x"]) for line in lines) <= RAW_POINTS:
        for line in lines:
            line["mode"] = "lines+markers" if len(line["x"]) > 1 else "markers"
            line["marker"] = {**line["marker"], "size": 4}


def _zoom(figure: Figure, window: tuple[int, int]) -> None:
    in_window(figure, window, measured=True)
    y = figure["layout"]["yaxis"]
    log = y.get("type") == "log"
    if not log and {"tickvals", "autorangeoptions"} & y.keys():
        return  # an axis with a meaning of its own
    reach = fit(_drawn(figure, window), log) or fit(_drawn(figure), log)
    if reach is None:
        return
    if log and reach[1] - reach[0] < _NARROW:
        y = {name: value for name, value in y.items() if name not in ("tickvals", "ticktext", "dtick")}
    figure["layout"]["yaxis"] = {**y, "range": reach, "autorange": False}
