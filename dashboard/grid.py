"""Samples of many rows on a common grid of steps: what a heatmap draws, bounded in size, and extended column by column.

A column covers ``width`` steps. A cell holds the most troubling value measured in it; a cell without a measurement keeps the
last one, because a layer that is sampled every 50 steps has not vanished in between.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .signals import Trouble

MAX_COLUMNS = 400

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


_WORRY: Mapping[Trouble, Callable[[Floats], Floats]] = {Trouble.HIGH: np.positive, Trouble.LOW: np.negative, Trouble.AWAY: np.abs}


@dataclass(frozen=True, slots=True)
class Points:
    """Measurements of one row in any order: ``steps`` and ``values`` of shape (n,), or sequences of equal length."""

    steps: Ints | Sequence[int]
    values: Floats | Sequence[float]


@dataclass(frozen=True, slots=True)
class OddCell:
    """A cell in which a value was not finite."""

    row: int
    column: int
    value: float


@dataclass(frozen=True, slots=True)
class Grid:
    """Cells of shape (rows, columns); column ``k`` covers the steps from ``start + k * width`` on. NaN: nothing measured yet."""

    start: int
    width: int
    cells: Floats
    odd: tuple[OddCell, ...] = ()

    @property
    def columns(self) -> int:
        """Number of columns."""
        return int(self.cells.shape[1])

    @property
    def first_centre(self) -> float:
        """Step at the middle of the first column."""
        return self.start + (self.width - 1) / 2

    def step_of(self, column: int) -> int:
        """Return the first step that a column covers."""
        return self.start + column * self.width


def worry(values: Floats, trouble: Trouble) -> Floats:
    """Return numbers that are the larger, the more worrying the values are."""
    return _WORRY[trouble](values)


def spacing(steps: Ints | Sequence[int], max_columns: int = MAX_COLUMNS) -> tuple[int, int]:
    """Return (start, width) of a grid for these steps: the usual distance between samples, widened to ``max_columns`` columns."""
    distinct = np.unique(np.asarray(steps, dtype=np.int64))
    if not len(distinct):
        return 0, 1
    usual = int(np.median(np.diff(distinct))) if len(distinct) > 1 else 1
    span = int(distinct[-1] - distinct[0]) + 1
    return int(distinct[0]), max(usual, math.ceil(span / max_columns), 1)


def fill(
    rows: Sequence[Points], start: int, width: int, *, trouble: Trouble, before: Floats | None = None, columns: int = 0
) -> Grid:
    """Lay rows of points on a grid.

    Args:
        rows: One entry per row of the picture; points before ``start`` are left out.
        trouble: Of several values of a cell the most worrying is kept: the largest, the smallest, or that farthest from 0.
        before: Last known value per row, shape (rows,), that cells without a measurement take until the first one comes.
        columns: How many there are at least.
    """
    steps = np.concatenate([np.empty(0, np.int64), *(np.asarray(row.steps, dtype=np.int64) for row in rows)])
    values = np.concatenate([np.empty(0), *(np.asarray(row.values, dtype=np.float64) for row in rows)])
    which = np.repeat(np.arange(len(rows)), [len(row.steps) for row in rows])
    inside = steps >= start
    which, at, values = which[inside], (steps[inside] - start) // width, values[inside]
    cells = np.full((len(rows), max(int(at.max()) + 1 if len(at) else 0, columns)), np.nan)
    finite = np.isfinite(values)
    odd = zip(which[~finite].tolist(), at[~finite].tolist(), values[~finite].tolist(), strict=True)
    # A stable sort by trouble lets the last assignment, the worst value, win without a Python loop.
    order = np.argsort(_WORRY[trouble](values[finite]), kind="stable")
    cells[which[finite][order], at[finite][order]] = values[finite][order]
    return Grid(start, width, _hold(cells, before), tuple(OddCell(*cell) for cell in odd))


def _hold(cells: Floats, before: Floats | None) -> Floats:
    """Give every empty cell the last value to its left; ``before`` stands left of the first column."""
    if not cells.size:
        return cells
    if before is not None:
        cells = np.concatenate([before[:, None], cells], axis=1)
    last_seen = np.maximum.accumulate(np.where(np.isnan(cells), 0, np.arange(cells.shape[1])), axis=1)
    held = np.take_along_axis(cells, last_seen, axis=1)
    return held if before is None else held[:, 1:]
