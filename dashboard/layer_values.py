"""Values of a layer's series at three moments: at first, at a chosen step, and now."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..storage.base import Store
from ..storage.records import Series, SeriesKey
from ..storage.results import SeriesData

_FEW = 8
"""Points asked for where only the first and the last are wanted: both are among however few."""


@dataclass(frozen=True, slots=True)
class Value:
    """A value and the step at which it was measured."""

    step: int
    value: float


@dataclass(frozen=True, slots=True)
class Course:
    """One series at three moments; ``chosen`` is the last sample up to the chosen step, None where there is none, or no step."""

    key: SeriesKey
    first: Value
    newest: Value
    chosen: Value | None = None


def courses(store: Store, series: Sequence[Series], step: int | None) -> list[Course]:
    """Return the course of each series that has points; costs a few rows a series, however long it is."""
    whole = store.read(series, max_points=_FEW)
    earlier = store.read(series, stop=step + 1, max_points=_FEW) if step is not None else [None] * len(series)
    found = []
    for one, data, before in zip(series, whole, earlier, strict=True):
        if len(data.steps):
            chosen = _at(before, -1) if before is not None and len(before.steps) else None
            found.append(Course(one.key, _at(data, 0), _at(data, -1), chosen))
    return found


def _at(data: SeriesData, place: int) -> Value:
    return Value(int(data.steps[place]), float(data.values[place]))
