"""Smoothed lines: an exponential moving average over steps, so that a curve looks the same at any zoom and any spacing of points.

A point that lies ``d`` steps back counts ``exp(-d / steps)`` times as much as the newest; the weights of what is there add up to
one, so the line begins at its first value. A value that is not finite ends the average: nothing is carried across it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..storage.results import Envelope

_MOST = 1_000
"""Points of a smoothed line: it has no peaks to lose."""


class Average:
    """The average of one segment of a series, point by point.

    Args:
        steps: Over how many steps it reaches back.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._sum = self._weight = 0.0
        self._last = 0

    def add(self, step: int, value: float, count: float = 1.0) -> float:
        """Take ``count`` points of mean ``value``, the last of them at ``step``; return the average there, or nan at a gap."""
        if not math.isfinite(value):
            self._sum = self._weight = 0.0
            return math.nan
        kept = math.exp((self._last - step) / self._steps) if self._weight else 0.0
        self._sum, self._weight, self._last = kept * self._sum + count * value, kept * self._weight + count, step
        return self._sum / self._weight


@dataclass(frozen=True, slots=True)
class Smooth:
    """A smoothed line of one segment, and the average that goes on from its end."""

    segment: int
    steps: list[int]
    values: list[float]
    average: Average


def smoothed(found: Envelope, steps: int, start: int | None = None) -> list[Smooth]:
    """Return a series' smoothed lines, one a segment.

    Args:
        found: With means. Of a long series they are those of stretches, so that every point counts.
        steps: Over how many steps the average reaches back.
        start: First step that is shown; what lies before it only counts.
    """
    segments = np.asarray(found.segment, np.int64)
    lines = [_line(segment, _columns(found, segments == segment), steps, start) for segment in np.unique(segments).tolist()]
    return [line for line in lines if line.steps]


def warm_up(start: int | None, steps: int) -> int | None:
    """Return the step to read from so that the average is right at ``start``: what lies further back counts less than 1 %."""
    return None if start is None else start - 5 * steps


Stretches = tuple[list[int], list[float], list[int], list[int]]
"""Last steps, means, numbers of points, and how many of these are not finite."""


def _columns(found: Envelope, chosen: Any) -> Stretches:
    ends, means, counts, odd = (
        np.asarray(one)[chosen].tolist() for one in (found.end_step, found.mean, found.count, found.nonfinite)
    )
    return ends, means, counts, odd


def _line(segment: int, stretches: Stretches, steps: int, start: int | None) -> Smooth:
    average, ends = Average(steps), stretches[0]
    values = [average.add(end, math.nan if bad else mean, count) for end, mean, count, bad in zip(*stretches, strict=True)]
    shown = ends if start is None else [end for end in ends if end >= start]
    picked = thinned(values[len(values) - len(shown) :])
    offset = len(values) - len(shown)
    return Smooth(segment, [shown[place] for place in picked], [values[offset + place] for place in picked], average)


def thinned(values: Sequence[float]) -> list[int]:
    """Return the places of at most about a thousand values, evenly spread, the last among them, and of every gap."""
    every = max(1, math.ceil(len(values) / _MOST))
    return [place for place, value in enumerate(values) if (len(values) - 1 - place) % every == 0 or (every > 1 and value != value)]
