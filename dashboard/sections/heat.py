"""The layer-by-step heatmap that grows column by column."""

from collections.abc import Iterator

import numpy as np
from dash import Patch

from ...storage.base import Store
from ...storage.records import Run
from ..figures.adjust import in_window
from ..figures.layer_heatmap import CELLS, ODD, cell_rows, colour_range, layer_heatmap_figure, odd_trace, scale_bar
from ..figures.style import text
from ..grid import MAX_COLUMNS, Grid, OddCell, fill
from ..reading import layer_grid, layer_points, layer_series
from ..signals import describe
from ..tables import points_table
from ..updates import Updates
from .following import RunSection


class Heat(RunSection):
    """A heatmap of one signal; its last column is drawn again and new ones are appended as samples arrive."""

    def __init__(self, store: Store, run: Run, graph: str, signal: str, chosen: str) -> None:
        super().__init__(store, run)
        self._graph, self._info, self._chosen = graph, describe(signal), chosen
        self._grid: Grid | None = None
        self._modules: tuple[str, ...] = ()
        self._drawn_segment = 0
        self._most_columns = 0

    def paint(self) -> Updates:
        """Draw the whole picture."""
        self.catch_up()
        window = self.lens.window
        points = layer_points(self.store, self.run.id, self._info, window=window)
        self._modules, self._drawn_segment = points.modules, self._segment
        self._grid = layer_grid(points, self._info, window=window)
        self._most_columns = most_columns(self._grid, MAX_COLUMNS)
        figure = layer_heatmap_figure(self._grid, self._modules, self._info, self._chosen)
        return {
            self._graph: {"figure": in_window(figure, window, bool(points.modules))},
            f"{self._graph}-title": {"children": self._info.title},
            f"{self._graph}-hint": {"children": self._info.recognise},
        }

    def advance(self) -> Updates:
        """Append columns."""
        if not self.news() or self.lens.is_past(self._changed_from):
            return {}
        grid = self._grid
        if grid is None or grid.columns > self._most_columns or self._segment != self._drawn_segment:
            return self.paint()
        last = grid.columns - 1
        points = layer_points(self.store, self.run.id, self._info, start=grid.step_of(last), stop=self.lens.stop)
        if points.modules != self._modules:
            return self.paint()
        before = grid.cells[:, last - 1] if last else None
        tail = fill(points.rows, grid.step_of(last), grid.width, trouble=self._info.trouble, before=before)
        if not tail.columns or (tail.columns == 1 and np.array_equal(tail.cells[:, 0], grid.cells[:, last], equal_nan=True)):
            return {}
        moved = [OddCell(cell.row, cell.column + last, cell.value) for cell in tail.odd]
        odd = (*(cell for cell in grid.odd if cell.column < last), *moved)
        self._grid = Grid(grid.start, grid.width, np.concatenate([grid.cells[:, :last], tail.cells], axis=1), odd)
        patch = Patch()
        extend_columns(patch, cell_rows(tail.cells, self._info), last)
        patch["data"][CELLS]["zmin"], patch["data"][CELLS]["zmax"] = colour_range(self._grid, self._info)
        patch["data"][CELLS]["colorbar"] = scale_bar(self._grid, self._info)
        if odd:
            patch["data"][ODD] = odd_trace(self._grid, [text(name or "(whole model)") for name in self._modules])
        return {self._graph: {"figure": patch}}

    def table(self) -> Iterator[str]:
        """Yield the points of all layers, all of them, as CSV."""
        return points_table(self.store, self.run, layer_series(self.store, self.run.id, self._info.name), self.lens.window)


def most_columns(grid: Grid | None, usual: int) -> int:
    """Return how many columns a picture may grow to before it is drawn anew: soon while it is small, so that its axes suit it."""
    return min(2 * usual, 16 + 4 * grid.columns) if grid is not None else 0


def extend_columns(patch: Patch, tail: dict[str, list[list[object]]], last: int) -> None:
    """Put the first column of ``tail`` in the place of column ``last`` and append the others."""
    for name, rows in tail.items():
        for index, row in enumerate(rows):
            patch["data"][CELLS][name][index][last] = row[0]
            if len(row) > 1:
                patch["data"][CELLS][name][index].extend(row[1:])
