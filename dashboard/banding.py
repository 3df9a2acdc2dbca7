"""The mean of the last samples of a statistic with a confidence band, from what the probes store of each: value and z-score."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..storage.results import SeriesData

Floats = npt.NDArray[np.float64]

NORMAL_95 = 1.96
SAMPLES = 16
"""Samples that are averaged."""


@dataclass(frozen=True, slots=True)
class Band:
    """Samples in order, and the mean of the last 16 at each, arrays of shape (n,).

    Args:
        low, high: Ends of the mean's 95 % band; nan where the standard error of a sample is not known.
    """

    segments: npt.NDArray[np.int64]
    steps: npt.NDArray[np.int64]
    values: Floats
    mean: Floats
    low: Floats
    high: Floats

    @property
    def excludes_zero(self) -> bool:
        """Whether the newest band lies on one side of 0."""
        known = np.flatnonzero(np.isfinite(self.low))
        return bool(len(known)) and bool(self.low[known[-1]] > 0 or self.high[known[-1]] < 0)


def band(value: SeriesData, z: SeriesData) -> Band | None:
    """Return the band of a statistic; None where value and z-score share no step.

    A sample's standard error is ``|value / z|``: the probe says by z how many of them the value is away from 0. That of a mean of n
    samples is ``sqrt(sum of their squares) / n``: samples many steps apart see other tokens. Means never reach over a restart.

    Args:
        value, z: Of the same series, each step once a segment; steps that only one of them has are left out.
    """
    places = {place: number for number, place in enumerate(zip(z.segments, z.steps, strict=True))}
    shared = [(i, places[place]) for i, place in enumerate(zip(value.segments, value.steps, strict=True)) if place in places]
    if not shared:
        return None
    mine, others = (list(each) for each in zip(*shared, strict=True))
    segments, steps = np.asarray(value.segments, np.int64)[mine], np.asarray(value.steps, np.int64)[mine]
    x, score = np.asarray(value.values, np.float64)[mine], np.asarray(z.values, np.float64)[others]
    error = np.divide(np.abs(x), np.abs(score), out=np.full(len(x), np.nan), where=(score != 0) & (x != 0) & np.isfinite(score))
    mean, of_mean = np.empty(len(x)), np.empty(len(x))
    for first, last in _stretches(segments):
        mean[first:last], of_mean[first:last] = _running(x[first:last], error[first:last])
    return Band(segments, steps, x, mean, mean - NORMAL_95 * of_mean, mean + NORMAL_95 * of_mean)


def _running(x: Floats, error: Floats) -> tuple[Floats, Floats]:
    """Return the mean of the last samples at each, and its standard error. A sample that is not finite counts as none."""
    known = np.isfinite(x) & np.isfinite(error)
    count, total, squares = (
        _last(np.where(known, each, 0.0)) for each in (np.ones(len(x)), np.where(known, x, 0.0), np.where(known, error, 0.0) ** 2)
    )
    some = count > 0
    mean = np.divide(total, count, out=np.full(len(x), np.nan), where=some)
    return mean, np.divide(np.sqrt(squares), count, out=np.full(len(x), np.nan), where=some)


def _last(values: Floats) -> Floats:
    """Return the sum of the last 16 values at each, added up anew: differences of long sums would lose small ones."""
    padded = np.concatenate([np.zeros(SAMPLES - 1), values])
    sums: Floats = np.lib.stride_tricks.sliding_window_view(padded, SAMPLES).sum(axis=1)
    return sums


def _stretches(segments: Sequence[int] | npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    edges = [0, *(np.flatnonzero(np.diff(segments)) + 1).tolist(), len(segments)]
    return list(itertools.pairwise(edges))
