"""How a layer's tokens lean along its main direction, over time."""

import math
from typing import Any

from ..grid import Grid
from .style import BAR_MARGIN, TROUBLE_SCALE, Figure, axis, colour_bar, empty, layout, plain, step_axis

TITLE = "Distribution of spectral alignment"
RECOGNISE = (
    "Healthy: one band around 0, as many tokens on either side. Trouble: the band splits off or wanders to one side; the layer has "
    "become one-signed."
)

HEIGHT = 360

_TICKS = (-100, -30, -10, -3, -1, 0, 1, 3, 10, 30, 100)


def alignment_distribution_figure(grid: Grid | None, low: float = -1.0, high: float = 1.0) -> Figure:
    """Draw the share of tokens in each bin of alignment (rows) over steps (columns).

    What trouble this picture lets you recognise: sign collapse. The mass of tokens moves to one side of 0 and stays there, after
    which updates along that direction add up instead of cancelling (arXiv 2510.04202).

    Args:
        grid: Shares of shape (bins, columns), each column adding up to 1.
        low, high: Range of the bins, in ``asinh(sqrt(d_in) * alignment)``: labels undo the asinh, so that they count in multiples
            of what a randomly directed token has.
    """
    if grid is None or not grid.columns:
        return empty("No distribution for this layer yet.<br>It is measured for linear layers, on sampled steps.", height=HEIGHT)
    bins = len(grid.cells)
    width = (high - low) / bins
    heat: dict[str, Any] = {
        "type": "heatmap",
        "x0": grid.first_centre,
        "dx": grid.width,
        "y0": low + width / 2,
        "dy": width,
        "z": share_rows(grid),
        "zmin": 0,
        "colorscale": TROUBLE_SCALE,
        "colorbar": colour_bar("share of tokens", tickformat=".0%"),
        "hoverongaps": False,
        "hovertemplate": "step %{x:,.0f}<br><b>%{z:.1%}</b> of the tokens<extra></extra>",
    }
    ticks = [tick for tick in _TICKS if low <= math.asinh(tick) <= high]
    y = axis(
        "alignment (× a random direction)",
        tickvals=[math.asinh(tick) for tick in ticks],
        ticktext=[f"{tick:+d}" if tick else "0" for tick in ticks],
        showgrid=False,
    )
    zero = {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": 0,
        "y1": 0,
        "line": {"color": "#94a3b8", "width": 1, "dash": "dot"},
    }
    x = step_axis(grid.columns * grid.width, showgrid=False)
    return {"data": [heat], "layout": layout(x, y, height=HEIGHT, margin=BAR_MARGIN, shapes=[zero])}


def share_rows(grid: Grid) -> list[list[float | None]]:
    """Return the cells as the trace's ``z``."""
    return [[plain(value, 3) for value in row] for row in grid.cells.tolist()]
