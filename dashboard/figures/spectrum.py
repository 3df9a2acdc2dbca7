"""The singular values of a layer's weight: over time, and at one step."""

import math
from typing import Any

from ...storage.records import Histogram
from ..grid import Grid
from .style import BAR_MARGIN, MUTED, SERIES, TROUBLE_SCALE, Figure, axis, colour_bar, empty, layout, plain, plain_list, step_axis

TITLE = "Spectrum of the weight over time"
RECOGNISE = (
    "A bulk that sinks away from the top: one singular value outgrows all others. Healthy layers keep a broad bulk in place."
)
AT_TITLE = "Spectrum at one step"
AT_RECOGNISE = "A single bar far right of the bulk is a weight that has become nearly rank one; the line shows where it began."
HEIGHT = 300

_TICKS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)


def spectrum_figure(grid: Grid | None, low: float = -3.0, high: float = 0.0, *, why_empty: str = "") -> Figure:
    """Draw the share of singular values in each bin of size (rows) over steps (columns).

    What trouble this picture lets you recognise: one singular value leaves the others behind, and the bulk sinks.

    Args:
        grid: Shares of shape (bins, columns), each column adding up to 1.
        low, high: Range of the bins, in powers of ten of sigma_i / sigma_1.
    """
    if grid is None or not grid.columns:
        return empty(why_empty, height=HEIGHT)
    bins = len(grid.cells)
    width = (high - low) / bins
    heat: dict[str, Any] = {
        "type": "heatmap",
        "x0": grid.first_centre,
        "dx": grid.width,
        "y0": low + width / 2,
        "dy": width,
        # Square roots: one value of sixty-four must not drown beside a bulk of all others.
        "z": [[plain(math.sqrt(value), 3) if value == value else None for value in row] for row in grid.cells.tolist()],
        "text": [[plain(100.0 * value, 3) for value in row] for row in grid.cells.tolist()],
        "zmin": 0,
        "colorscale": TROUBLE_SCALE,
        "colorbar": colour_bar("share of the singular values", tickvals=_ROOTS, ticktext=_SHARES),
        "hoverongaps": False,
        "hovertemplate": "step %{x:,.0f}<br><b>%{text} %</b> of the singular values<extra></extra>",
    }
    x = step_axis(grid.columns * grid.width, showgrid=False)
    return {"data": [heat], "layout": layout(x, _sizes(low, showgrid=False), height=HEIGHT, margin=BAR_MARGIN)}


_SHARES = ("0 %", "1 %", "5 %", "10 %", "25 %", "50 %", "100 %")
_ROOTS = [math.sqrt(float(words[:-2]) / 100.0) for words in _SHARES]


def spectrum_at_figure(first: Histogram | None, chosen: Histogram | None, *, why_empty: str = "") -> Figure:
    """Draw how many singular values have which size at one step, and at the first sample for comparison.

    What trouble this picture lets you recognise: a weight that has become nearly rank one, and how far that is from its beginning.
    """
    if chosen is None or not any(chosen.counts):
        return empty(why_empty, height=HEIGHT)
    centres, share = _bars(chosen)
    bars = {
        "type": "bar",
        "name": "at this step",
        "x": centres,
        "y": share,
        "marker": {"color": SERIES},
        "hovertemplate": "σ / σ₁ about %{customdata}<br><b>%{y:.1f} %</b> of the singular values<extra></extra>",
        "customdata": [f"{10**centre:.2g}" for centre in centres],
    }
    traces = [bars]
    if first is not None and any(first.counts) and first != chosen:
        at, began = _bars(first)
        line = {"color": MUTED, "width": 1.6, "shape": "hvh"}
        traces.append({"type": "scatter", "mode": "lines", "name": "first sample", "x": at, "y": began, "line": line})
    legend = {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom", "font": {"size": 11}}
    more = {"bargap": 0.05, "showlegend": len(traces) > 1, "legend": legend}
    x, y = _sizes(chosen.low, title="σ / σ₁"), axis("% of the singular values")
    return {"data": traces, "layout": layout(x, y, height=HEIGHT, **more)}


def _bars(histogram: Histogram) -> tuple[list[float], list[float | None]]:
    width = (histogram.high - histogram.low) / len(histogram.counts)
    whole = sum(histogram.counts)
    centres = [round(histogram.low + (number + 0.5) * width, 6) for number in range(len(histogram.counts))]
    return centres, plain_list(100.0 * count / whole for count in histogram.counts)


def _sizes(low: float, title: str = "σ / σ₁", **more: Any) -> dict[str, Any]:
    ticks = [tick for tick in _TICKS if math.log10(tick) >= low]
    return axis(title, tickvals=[math.log10(tick) for tick in ticks], ticktext=[f"{tick:g}" for tick in ticks], **more)
