"""What a block is without its tensor, and the numbers of several ranks made one.

A sampled step travels as one vector; its parts say which stretch of it belongs to which series, how it is read, and how the
stretches that several ranks measured are joined: sums are added before they are finished, so that what comes out is the whole
batch's. Ranks need not have measured the same things, nor in the same order: a probe that failed on one of them leaves a gap there.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...storage.records import Histogram, SeriesKey
from ..base import Across, Block, Counts, Sums
from ..statistics.not_applicable import is_not_applicable, not_applicable

Vector = npt.NDArray[np.float32]
Stretch = npt.NDArray[Any]
Finish = Callable[[Tensor], Tensor]

COUNTS, SUMS, DOUBLE_SUMS = "counts", "sums", "double sums"


@dataclass(frozen=True, slots=True)
class Part:
    """What a block is without its tensor.

    Attributes:
        keys: its series.
        shape: of its tensor.
        how: the name of an ``Across`` for measured values, or COUNTS, SUMS, or DOUBLE_SUMS: float64 ones, in two float32 halves.
        low, high: range of a histogram.
    """

    keys: tuple[SeriesKey, ...]
    shape: tuple[int, ...]
    how: str
    low: float = 0.0
    high: float = 0.0

    @property
    def size(self) -> int:
        """Length of its stretch of the vector."""
        return math.prod(self.shape) * (2 if self.how == DOUBLE_SUMS else 1)

    def to_plain(self) -> list[Any]:
        """Return it as lists and numbers, fit for JSON."""
        keys = [[key.signal, key.module, key.head, key.rank] for key in self.keys]
        return [keys, list(self.shape), self.how, self.low, self.high]

    @classmethod
    def from_plain(cls, plain: Sequence[Any]) -> "Part":
        """Return the part ``to_plain`` described."""
        keys, shape, how, low, high = plain
        return cls(tuple(SeriesKey(*key) for key in keys), tuple(shape), how, low, high)


def part_of(block: Block) -> tuple[Part, Tensor, Finish | None]:
    """Take a block apart: what it is, what travels, and what finishes its sums."""
    if isinstance(block, Counts):
        return Part(block.keys, tuple(block.counts.shape), COUNTS, block.low, block.high), block.counts, None
    if not isinstance(block, Sums):
        return Part(block.keys, tuple(block.values.shape), block.across.value), block.values, None
    sums = block.sums.detach()
    if sums.dtype != torch.float64:
        return Part(block.keys, tuple(sums.shape), SUMS), sums, block.finish
    half = sums.float()
    rest = torch.where(torch.isfinite(half), sums - half, 0.0).float()
    return Part(block.keys, tuple(sums.shape), DOUBLE_SUMS), torch.stack([half, rest]), block.finish


@dataclass(frozen=True, slots=True)
class Found:
    """What was measured in a step: values by key, those that do not apply left out, and histograms."""

    keys: tuple[SeriesKey, ...]
    values: list[float]
    histograms: tuple[Histogram, ...]


def read(parts: Sequence[Part], finishers: Sequence[Finish | None], vector: Vector) -> Found:
    """Read the vector of one rank. Every NaN but the reserved one is kept."""
    stretches = (_whole(part, stretch) for part, stretch in _cut(parts, vector))
    return _found(zip(parts, finishers, stretches, strict=True))


def join(measured: Mapping[int, tuple[tuple[Part, ...], Vector]], finishers: Mapping[Part, Finish]) -> Found:
    """Make the numbers of several ranks one.

    Args:
        measured: parts and vector of each rank.
        finishers: what finishes sums: functions do not travel from rank to rank. Sums without one are left out.
    """
    alike = len({parts for parts, _ in measured.values()}) == 1
    stretches: dict[Part, dict[int, Stretch]] = {}
    for rank, (parts, vector) in sorted(measured.items()):
        for part, stretch in _cut(parts, vector):
            whole = _whole(part, stretch)
            for small, its in [(part, whole)] if alike else _series(part, whole):
                stretches.setdefault(small, {})[rank] = its
    # Sums cannot be taken apart: of two that share a series, the one that most ranks measured is kept.
    ordered = list(stretches.items()) if alike else sorted(stretches.items(), key=lambda item: -len(item[1]))
    taken: set[SeriesKey] = set()
    joined: list[tuple[Part, Finish | None, Stretch]] = []
    for part, by_rank in ordered:
        if not taken.intersection(part.keys):
            taken.update(part.keys)
            one, stretch = _joined(part, by_rank)
            joined.append((one, finishers.get(part), stretch))
    return _found(joined)


def _cut(parts: Iterable[Part], vector: Vector) -> Iterator[tuple[Part, Vector]]:
    place = 0
    for part in parts:
        yield part, vector[place : place + part.size]
        place += part.size


def _whole(part: Part, stretch: Vector) -> Stretch:
    """Return a stretch in the shape and precision of its block."""
    if part.how == DOUBLE_SUMS:
        with np.errstate(invalid="ignore"):
            both: Stretch = stretch.reshape(2, *part.shape).sum(0, dtype=np.float64)
        return both
    return stretch.reshape(part.shape)


def _series(part: Part, whole: Stretch) -> Iterator[tuple[Part, Stretch]]:
    """Yield a part series by series, so that ranks that grouped them differently still meet; sums stay together."""
    if part.how in (SUMS, DOUBLE_SUMS):
        yield part, whole
        return
    for place, key in enumerate(part.keys):
        yield replace(part, keys=(key,), shape=(1, *part.shape[1:])), whole[place : place + 1]


def _joined(part: Part, by_rank: Mapping[int, Stretch]) -> tuple[Part, Stretch]:
    stack = np.stack(list(by_rank.values()))
    if part.how == Across.EACH:
        keys = tuple(replace(key, rank=rank) for rank in by_rank for key in part.keys)
        return replace(part, keys=keys, shape=(len(keys),)), stack.reshape(-1)
    if part.how in (COUNTS, SUMS, DOUBLE_SUMS):
        return part, stack.sum(0, dtype=np.float64).astype(np.float32 if part.how == SUMS else np.float64)
    nothing = is_not_applicable(stack)
    if part.how == Across.SAME:
        return part, np.take_along_axis(stack, nothing.argmin(0)[None], 0)[0]
    with np.errstate(all="ignore"):
        given = stack.astype(np.float64)
        if part.how == Across.MAX:
            result = np.where(nothing, -np.inf, given).max(0)
        elif part.how == Across.MIN:
            result = np.where(nothing, np.inf, given).min(0)
        else:
            result = np.where(nothing, 0.0, given).sum(0)
            if part.how == Across.MEAN:
                result = result / (~nothing).sum(0)
        single = result.astype(np.float32)
    single[nothing.all(0)] = not_applicable(torch.device("cpu")).numpy()
    return part, single


def _found(stretches: Iterable[tuple[Part, Finish | None, Stretch]]) -> Found:
    keys: list[SeriesKey] = []
    values: list[Vector] = []
    histograms: list[Histogram] = []
    for part, finish, stretch in stretches:
        if part.how == COUNTS:
            for key, row in zip(part.keys, stretch, strict=True):
                histograms.append(Histogram(key, part.low, part.high, tuple(row.astype(np.int64).tolist())))
            continue
        if part.how in (SUMS, DOUBLE_SUMS):
            if finish is None:
                continue
            stretch = finish(torch.from_numpy(np.ascontiguousarray(stretch))).float().numpy()
        keys.extend(part.keys)
        values.append(stretch)
    if not values:
        return Found((), [], tuple(histograms))
    joined = np.concatenate(values)
    applies = ~is_not_applicable(joined)
    return Found(tuple(key for key, there in zip(keys, applies, strict=True) if there), joined[applies].tolist(), tuple(histograms))
