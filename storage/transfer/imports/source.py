"""What a format gives: a run of its own, looked over once and then read as a stream, in the order in which it was written.

A source never holds a run in memory; it is read twice because names must be known before the first value is stored.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ...records import RunStatus, SeriesKey

FURTHEST = 2**63 - 1
"""The largest step there can be."""

Label = str | SeriesKey
"""What a value is called where it comes from: the tracker's own name, or one of our keys."""

Point = tuple[Label, int, float, float]
"""Label, step, time (seconds since the epoch), value. A bare tuple: there are millions."""

Progress = Callable[[int], object]
"""Called with how much further the work has come: bytes when looking over, values when reading."""


@dataclass(frozen=True, slots=True)
class Part:
    """Begins what one process wrote: a file of its own. Steps that come again in it belong to a new segment.

    ``segment`` is given where the source knows it; then nothing is concluded from the steps.
    """

    segment: int | None = None


@dataclass(frozen=True, slots=True)
class HistogramPoint:
    """Counts over equal bins of [low, high] at a step."""

    label: Label
    step: int
    time: float
    low: float
    high: float
    counts: tuple[int, ...]


Item = Point | Part | HistogramPoint


@dataclass(slots=True)
class Survey:
    """What looking a run over found.

    Attributes:
        labels: every label that has values, with their number, in order of first appearance.
        histograms: of those that can be kept.
        skipped: what cannot be kept, by kind in plain words, and how many of each.
        notes: what else a person should know, a sentence each.
        meta: facts about the run, JSON-serialisable.
    """

    labels: Counter[Label] = field(default_factory=Counter)
    histograms: Counter[Label] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    project: str = ""
    status: RunStatus = RunStatus.FINISHED
    created_at: float = 0.0
    ended_at: float | None = None
    tags: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)

    def saw(self, time: float) -> None:
        """Take a time at which something was written: the run began no later and ended no earlier."""
        if self.ended_at is None or time > self.ended_at:
            self.ended_at = time
        if not self.created_at or time < self.created_at:
            self.created_at = time

    @property
    def all_labels(self) -> Counter[Label]:
        """Every label that has values or histograms."""
        return self.labels | self.histograms

    @property
    def values(self) -> int:
        """Number of values to be read, histograms too."""
        return self.labels.total() + self.histograms.total()


class Found(NamedTuple):
    """The runs at a path, and what there was beside them that cannot be read, in plain words."""

    runs: "Sequence[Source]"
    left_out: Sequence[str] = ()


class Source(ABC):
    """One run as its tracker left it.

    Attributes:
        name: what the tracker calls it.
        aliases: other names by which a person may pick it (its id there).
        size: bytes to be looked over; 0 where that cannot be said.
    """

    name: str
    aliases: tuple[str, ...] = ()
    size: int = 0

    @property
    @abstractmethod
    def identity(self) -> tuple[object, ...]:
        """What makes it the same run when it is imported again."""

    @property
    @abstractmethod
    def origin(self) -> str:
        """Where it is, for people."""

    @abstractmethod
    def survey(self, progress: Progress) -> Survey:
        """Look the run over.

        Raises:
            TransferError: it cannot be read.
        """

    @abstractmethod
    def stream(self) -> Iterator[Item]:
        """Yield what it holds in the order in which it was written."""


def names_of(labels: Mapping[Label, int] | Counter[Label]) -> list[str]:
    """Return the names that labels go by, each once, in order."""
    return list(dict.fromkeys(label.signal if isinstance(label, SeriesKey) else label for label in labels))


def equal_bins(edges: "list[float] | Any", counts: "list[float] | Any") -> tuple[float, float, tuple[int, ...]] | None:
    """Return (low, high, counts) of a histogram if its bins are equally wide and its counts whole; None where they are not."""
    import numpy as np

    limits, numbers = np.asarray(edges, np.float64), np.asarray(counts, np.float64)
    if len(numbers) < 1 or len(limits) != len(numbers) + 1 or not np.isfinite(limits).all() or not np.isfinite(numbers).all():
        return None
    widths = np.diff(limits)
    width = (limits[-1] - limits[0]) / len(numbers)
    # Edges come as rounded numbers: a float32's worth of their size is what they may be off.
    slack = 1e-3 * width + 4e-7 * float(np.abs(limits).max())
    if (widths < 0).any() or np.abs(widths - width).max() > slack or (numbers < 0).any() or (numbers % 1 != 0).any():
        return None
    return float(limits[0]), float(limits[-1]), tuple(int(number) for number in numbers)
