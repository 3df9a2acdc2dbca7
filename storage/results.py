"""What reading a store returns that is no record: series as columns, stretches, histograms in their place, news."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .records import Alert, Histogram, SeriesKey


@dataclass(frozen=True, slots=True)
class SeriesData:
    """Points of one series in order of (segment, step). ``values`` has nan and infinities as themselves.

    ``decimated`` says that points were left out to stay under the asked-for number; extremes and non-finite values are kept.
    """

    key: SeriesKey
    segments: Sequence[int]
    steps: Sequence[int]
    values: Sequence[float]
    decimated: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Envelope:
    """A series as consecutive stretches of points, in order of (segment, start_step): arrays of shape (n,).

    ``minimum`` and ``maximum`` are over a stretch's finite values, nan where there are none; ``nonfinite`` counts the others.
    All but these two and ``mean`` hold integers. ``mean`` of the finite values and ``count`` of all points are there where they
    were asked for.
    """

    key: SeriesKey
    segment: Any
    start_step: Any
    end_step: Any
    minimum: Any
    maximum: Any
    nonfinite: Any
    mean: Any = None
    count: Any = None


@dataclass(frozen=True, slots=True)
class StepHistogram:
    """A histogram with the place where it was measured."""

    segment: int
    step: int
    histogram: Histogram


@dataclass(frozen=True, slots=True)
class AlertLine:
    """An alert as a list shows it: without its evidence, and with the run it is of."""

    alert: Alert
    run_name: str
    project: str


@dataclass(frozen=True, slots=True)
class News:
    """Which runs were written to. False in a condition when nothing is known to have been."""

    runs: frozenset[str] = frozenset()
    everything: bool = False
    """It is not known which: anything may have changed."""

    def __bool__(self) -> bool:
        return self.everything or bool(self.runs)

    def concerns(self, run_id: str) -> bool:
        """Return whether something may have been written to that run; ``''`` stands for any run."""
        return self.everything or run_id in self.runs or (not run_id and bool(self.runs))
