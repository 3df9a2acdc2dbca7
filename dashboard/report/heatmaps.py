"""The heatmaps of a report: which signals tell most of this run, and pictures of them whose size is bounded."""

from collections.abc import Sequence

import numpy as np

from ...analyzer.wording import number, step_number
from ...storage.base import Store
from ...storage.records import Alert, Run
from ..figures.layer_heatmap import layer_heatmap_figure
from ..grid import MAX_COLUMNS, Grid, worry
from ..names import shorten
from ..reading import LayerPoints, is_open, layer_grid, layer_points
from ..signals import FIRST_SIGNAL, SECOND_SIGNAL, SignalInfo, describe
from .content import Chart, Picture
from .wanted import Wanted

USUAL = (FIRST_SIGNAL, SECOND_SIGNAL, "attention.max_logit", "gradient.module_norm")
"""Signals that are drawn where the alerts leave room."""
MOST_USUAL = 4
MOST_ROWS = 600
MOST_CELLS = 60_000
"""A heatmap has at most so many layers, and so many cells; with many layers its columns grow wider."""
_LEAST_COLUMNS = 60
_MOST_LETTERS = 80


def telling_signals(alerts: Sequence[Alert], measured: set[str]) -> list[str]:
    """Return the signals that tell most of a run: those on which its alerts rest, the most pressing first, then the usual ones."""
    ordered = sorted(alerts, key=lambda alert: (not is_open(alert), -alert.severity.rank, alert.first_step))
    named = [evidence.key.signal for alert in ordered for evidence in alert.evidence]
    return [name for name in dict.fromkeys([*named, *USUAL]) if name in measured][:MOST_USUAL]


def heatmap(store: Store, run: Run, signal: str, wanted: Wanted, alerts: Sequence[Alert], chosen: str) -> Picture:
    """Return the picture of one signal.

    Args:
        alerts: The layers that these name are kept where there are too many.
        chosen: The layer whose row is framed.
    """
    info = describe(signal)
    window = None if wanted.whole else (wanted.start or 0, run.last_step if wanted.stop is None else wanted.stop - 1)
    found = layer_points(store, run.id, info, window=window)
    points = _most_telling(found, info, {alert.module for alert in alerts})
    columns = min(MAX_COLUMNS, max(_LEAST_COLUMNS, MOST_CELLS // max(1, len(points.rows))))
    grid = layer_grid(points, info, window, max_columns=columns)
    names = distinct(points.modules)
    named = dict(zip(points.modules, names, strict=True))
    figure = layer_heatmap_figure(grid, names, info, named.get(chosen, chosen))
    figure["layout"].pop("meta", None)
    label = f"Heatmap of {info.title}, layers by training steps"
    chart = Chart(f"heat-{signal}", label, figure, _said(grid, points, info))
    left_out = len(found.modules) - len(points.modules)
    note = "Brighter is more worrying."
    if left_out:
        shown = f"{len(points.modules):,} of {len(found.modules):,} layers"
        note = f"{note} Shown are {shown}: those that alerts name, and those with the most troubling values."
    return Picture(info.title, info.recognise, chart, note)


def distinct(modules: Sequence[str]) -> list[str]:
    """Return names of at most 80 letters, no two of them alike: a picture tells its rows apart by them."""
    seen: dict[str, int] = {}
    names = []
    for module in modules:
        name = shorten(module, _MOST_LETTERS)
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names


def _most_telling(points: LayerPoints, info: SignalInfo, alerted: set[str]) -> LayerPoints:
    """Return at most so many layers as fit, in their order."""
    if len(points.modules) <= MOST_ROWS:
        return points

    def rank(row: int) -> tuple[bool, float]:
        values = np.asarray(points.rows[row].values, np.float64)
        values = values[np.isfinite(values)]
        worst = float(worry(values, info.trouble).max()) if values.size else -np.inf
        return points.modules[row] not in alerted, -worst

    kept = sorted(sorted(range(len(points.modules)), key=rank)[:MOST_ROWS])
    return LayerPoints(tuple(points.modules[row] for row in kept), tuple(points.rows[row] for row in kept))


def _said(grid: Grid | None, points: LayerPoints, info: SignalInfo) -> str:
    """Return which layer has the most troubling value, and when."""
    if grid is None or not np.isfinite(grid.cells).any():
        return ""
    row, column = np.unravel_index(np.nanargmax(worry(grid.cells, info.trouble)), grid.cells.shape)
    layer, at = shorten(points.modules[row], _MOST_LETTERS), step_number(grid.step_of(int(column)))
    words = f"Most worrying in {layer}: {number(float(grid.cells[row, column]))} near step {at}"
    return f"{words}{f'; {len(grid.odd):,} cells not finite' if grid.odd else ''}."
