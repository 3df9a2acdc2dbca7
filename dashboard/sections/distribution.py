"""The distribution of spectral alignment of the chosen layer, growing column by column."""

from collections.abc import Iterator

import numpy as np
from dash import Patch

from ...storage.base import Store
from ...storage.records import Run
from ..figures.adjust import in_window
from ..figures.alignment_distribution import alignment_distribution_figure, share_rows
from ..grid import Grid
from ..names import related
from ..reading import MAX_HISTOGRAMS, histogram_grid, histogram_steps
from ..signals import HISTOGRAM
from ..tables import histograms_table
from ..updates import Updates
from .following import RunSection
from .heat import extend_columns, most_columns


class Distribution(RunSection):
    """One layer's histograms over time; of a layer that has none (attention as a whole) those of its first part."""

    def __init__(self, store: Store, run: Run, graph: str, module: str) -> None:
        super().__init__(store, run)
        self._graph, self._module, self._shown = graph, module, ""
        self._grid: Grid | None = None
        self._drawn_segment = 0
        self._most_columns = 0

    def paint(self) -> Updates:
        """Draw the whole picture."""
        self.catch_up()
        self._shown = self._measured()
        between = {"start": self.lens.start, "stop": self.lens.stop}
        histograms = histogram_steps(self.store, self.run.id, self._shown, **between) if self._shown else []
        self._grid, self._drawn_segment = histogram_grid(histograms), self._segment
        self._most_columns = most_columns(self._grid, MAX_HISTOGRAMS)
        if self._grid is None:
            figure = alignment_distribution_figure(None)
        else:
            newest = histograms[-1].histogram
            figure = alignment_distribution_figure(self._grid, newest.low, newest.high)
        figure = in_window(figure, self.lens.window, measured=bool(self._shown))
        return {self._graph: {"figure": figure}, f"{self._graph}-of": {"children": self._shown}}

    def advance(self) -> Updates:
        """Append columns."""
        if not self.news() or self.lens.is_past(self._changed_from):
            return {}
        grid = self._grid
        if grid is None or grid.columns > self._most_columns or self._segment != self._drawn_segment:
            return self.paint()
        last = grid.columns - 1
        start = grid.step_of(last)
        fresh = histogram_steps(self.store, self.run.id, self._shown, start=start, stop=self.lens.stop)
        before = grid.cells[:, last - 1] if last else None
        tail = histogram_grid(fresh, start=start, width=grid.width, before=before)
        if tail is None or len(tail.cells) != len(grid.cells):
            return {}
        if tail.columns == 1 and np.array_equal(tail.cells[:, 0], grid.cells[:, last], equal_nan=True):
            return {}
        self._grid = Grid(grid.start, grid.width, np.concatenate([grid.cells[:, :last], tail.cells], axis=1))
        patch = Patch()
        extend_columns(patch, {"z": [list(row) for row in share_rows(tail)]}, last)
        return {self._graph: {"figure": patch}}

    def table(self) -> Iterator[str]:
        """Yield the histograms that are drawn, all of them, as CSV."""
        return histograms_table(self.store, self.run, HISTOGRAM, self._measured(), self.lens.window)

    def _measured(self) -> str:
        """Return the layer whose histograms are drawn; empty where there are none."""
        measured = [series.key.module for series in self.store.series(self.run.id, signal=HISTOGRAM)]
        return next(iter(related(self._module, measured)), "")
