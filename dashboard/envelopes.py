"""A series as stretches of steps with the lowest and highest value of each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..storage.base import Store
from ..storage.records import Series


@dataclass(frozen=True, slots=True)
class Envelope:
    """Stretches of one series in order of (segment, step), arrays of shape (n,); of a short series each is one point."""

    segment: npt.NDArray[np.int64]
    start_step: npt.NDArray[np.int64]
    end_step: npt.NDArray[np.int64]
    minimum: npt.NDArray[np.float64]
    maximum: npt.NDArray[np.float64]
    nonfinite: npt.NDArray[np.int64]


def envelopes(store: Store, series: Sequence[Series], *, start: int | None, max_points: int | None) -> list[Envelope]:
    """Return the envelope of each series from step ``start`` on; every point of it where ``max_points`` is None."""
    found = []
    for data in store.read(series, start=start, max_points=max_points):
        steps, values = np.asarray(data.steps, np.int64), np.asarray(data.values, np.float64)
        odd = (~np.isfinite(values)).astype(np.int64)
        found.append(Envelope(np.asarray(data.segments, np.int64), steps, steps, values, values, odd))
    return found
