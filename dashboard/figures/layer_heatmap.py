"""A signal of all layers over time."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..grid import Floats, Grid
from ..names import related, short_names
from ..signals import Scale, SignalInfo, Trouble
from .lines import kind_name, kind_symbol
from .style import BAR_MARGIN, BOTH_WAYS_SCALE, TROUBLE_SCALE, Figure, axis, colour_bar, empty, layout, plain_rows, step_axis, text

CELLS, ODD = 0, 1

_MAX_LABELS = 42


def layer_heatmap_figure(grid: Grid | None, modules: Sequence[str], info: SignalInfo, chosen: str = "") -> Figure:
    """Draw a signal as a picture of layers (rows) by steps (columns); brighter is more worrying.

    What trouble this picture lets you recognise: which layer left its usual range first, and whether its neighbours followed.
    Cells that were not finite carry a cross (NaN) or an arrow (infinity).

    Args:
        grid: Cells of shape (layers, columns).
        modules: Names of the rows, in the order of the model. Kept in ``layout.meta.modules`` to find the row that was clicked.
        chosen: The layer whose row is framed; where it has none, those of its parts.
    """
    if grid is None or not grid.columns or not modules:
        return empty(f"<b>{text(info.title)}</b> has not been measured yet.<br>It appears with the first sampled step.", height=340)
    names = [text(name or "(whole model)") for name in modules]
    heat: dict[str, Any] = {
        "type": "heatmap",
        "x0": grid.first_centre,
        "dx": grid.width,
        "y": names,
        **cell_rows(grid.cells, info),
        "colorscale": BOTH_WAYS_SCALE if info.trouble is Trouble.AWAY else TROUBLE_SCALE,
        "reversescale": info.trouble is Trouble.LOW,
        "colorbar": scale_bar(grid, info),
        "hoverongaps": False,
        "hovertemplate": hover_template(info),
    }
    heat["zmin"], heat["zmax"] = colour_range(grid, info)
    labels = short_names([name or "(whole model)" for name in modules])
    every = math.ceil(len(names) / _MAX_LABELS)
    shown = list(range(0, len(names), every))
    y = axis(
        "layer",
        autorange="reversed",
        type="category",
        tickvals=[names[index] for index in shown],
        ticktext=[text(labels[index]) for index in shown],
        showgrid=False,
        fixedrange=len(names) < 30,
    )
    height = min(900, max(280, 150 + 21 * len(names)))
    x = step_axis(grid.columns * grid.width, showgrid=False)
    more = {"meta": {"modules": list(modules)}, "shapes": chosen_frame(modules, chosen), "margin": BAR_MARGIN}
    return {"data": [heat, odd_trace(grid, names)], "layout": layout(x, y, height=height, **more)}


def cell_rows(cells: Floats, info: SignalInfo) -> dict[str, list[list[Any]]]:
    """Return cells as the trace's ``z``; on a logarithmic scale powers of ten, with the values themselves as ``text``."""
    if info.scale is not Scale.LOG:
        return {"z": plain_rows(cells)}
    positive = cells > 0
    powers = np.log10(cells, out=np.full_like(cells, np.nan), where=positive)
    return {"z": plain_rows(powers), "text": plain_rows(cells)}


def colour_range(grid: Grid, info: SignalInfo) -> tuple[float, float]:
    """Return the values at the ends of the colours (on a logarithmic scale powers of ten), no narrower than the signal's span."""
    if info.scale is Scale.UNIT:
        return 0.0, 1.0
    finite = grid.cells[np.isfinite(grid.cells)]
    if info.scale is Scale.LOG:
        finite = np.log10(finite[finite > 0])
    if not finite.size:
        return (-info.span if info.trouble is Trouble.AWAY else 0.0), info.span
    low, high = float(finite.min()), float(finite.max())
    if info.trouble is Trouble.AWAY:
        reach = max(-low, high, info.span)
        return -reach, reach
    low = low if info.scale is Scale.LOG else min(0.0, low)
    return low, max(high, low + info.span)


def hover_template(info: SignalInfo) -> str:
    """Return what hovering a cell says."""
    value = "%{text}" if info.scale is Scale.LOG else "%{z:.4g}"
    return f"<b>%{{y}}</b><br>step %{{x:,.0f}}<br>{text(info.title)} <b>{value}</b><extra></extra>"


def chosen_frame(modules: Sequence[str], chosen: str) -> list[dict[str, Any]]:
    """Return frames around the rows of the chosen layer (of its parts, or of what it is a part of)."""
    rows = [list(modules).index(module) for module in related(chosen, modules)]
    line = {"color": "#e2e8f0", "width": 1.5}
    return [{"type": "rect", "xref": "paper", "x0": 0, "x1": 1, "y0": row - 0.5, "y1": row + 0.5, "line": line} for row in rows]


def odd_trace(grid: Grid, names: Sequence[str], limit: int = 2000) -> dict[str, Any]:
    """Return marks on the cells that were not finite (the first ``limit``)."""
    cells = grid.odd[:limit]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [grid.first_centre + cell.column * grid.width for cell in cells],
        "y": [names[cell.row] for cell in cells],
        "marker": {"symbol": [kind_symbol(cell.value) for cell in cells], "color": "#ff5c7a", "size": 8},
        "text": [kind_name(cell.value) if math.isinf(cell.value) else "not a finite number" for cell in cells],
        "hovertemplate": "step %{x:,.0f}<br><b>%{text}</b><extra></extra>",
    }


def scale_bar(grid: Grid, info: SignalInfo) -> dict[str, Any]:
    """Return the colour bar, on a logarithmic scale with the values themselves at its ticks."""
    bar = colour_bar(text(info.axis_title))
    if info.scale is Scale.LOG:
        powers = _powers(*colour_range(grid, info))
        bar |= {"tickvals": powers, "ticktext": [f"{10**power:.3g}" for power in powers]}
    return bar


def _powers(low: float, high: float) -> list[float]:
    """Return three to seven positions between two powers of ten, whole ones where the range is wide."""
    if high - low >= 2:
        step = math.ceil((high - low) / 6)
        return [float(power) for power in range(math.floor(low), math.ceil(high) + 1, step)]
    return [low + (high - low) * part / 4 for part in range(5)]
