"""Fewer points that draw the same line: MinMaxLTTB (arXiv 2305.00332) over finite values, everything non-finite kept."""

from typing import Any

import numpy as np
from tsdownsample import MinMaxLTTBDownsampler

Array = np.ndarray[Any, Any]

_LEAST = 8  # points kept of a segment, however small its share


def kept(segments: Array, steps: Array, values: Array, max_points: int) -> Array:
    """Return the indices of the points to keep, ascending.

    Kept are about ``max_points`` finite points, shared among segments by their size; of each segment the first, the last,
    the lowest and the highest; and all that are not finite, because they are what one looks for.

    Args:
        segments, steps, values: shape (n,), in order of (segment, step); values may hold nan and infinities.
        max_points: at least 1.

    Raises:
        ValueError: ``max_points`` is below 1.
    """
    if max_points < 1:
        raise ValueError(f"max_points is {max_points}; it must be at least 1, or None for all points")
    if len(values) <= max_points:
        return np.arange(len(values))
    finite = np.isfinite(values)
    chosen = [np.flatnonzero(~finite)]
    starts = np.flatnonzero(np.diff(segments, prepend=segments[0] - 1))
    for start, stop in zip(starts, [*starts[1:], len(values)], strict=True):
        of_segment = start + np.flatnonzero(finite[start:stop])
        share = max(_LEAST, round(max_points * len(of_segment) / len(values)))
        chosen.append(of_segment[_of_line(steps[of_segment], values[of_segment], share)])
    return np.unique(np.concatenate(chosen))


def _of_line(steps: Array, values: Array, share: int) -> Array:
    if len(values) <= share:
        return np.arange(len(values))
    # LTTB measures areas: scaled to [-1, 1], values near the end of float64's range do not overflow there.
    scale = float(np.abs(values).max()) or 1.0
    sampler = MinMaxLTTBDownsampler()  # type: ignore[no-untyped-call]  # the library has no annotations
    line = sampler.downsample(steps.astype(np.float64), values / scale, n_out=share)
    return np.union1d(line.astype(np.int64), [values.argmin(), values.argmax()])


def evenly(count: int, limit: int | None) -> list[int]:
    """Return at most ``limit`` indices of ``range(count)``, evenly spread, first and last among them; all when it is None."""
    if limit is None or count <= limit:
        return list(range(count))
    return sorted({round(index) for index in np.linspace(0, count - 1, max(limit, 1)).tolist()})
