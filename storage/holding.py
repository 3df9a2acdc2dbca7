"""Which points of a run that was resumed still hold."""

import numpy as np
import numpy.typing as npt


def current(segments: npt.NDArray[np.int64], steps: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return which points still hold: where a resumed run repeated steps, those of the newer segment.

    Args:
        segments, steps: shape (n,), in order of (segment, step).
    """
    if not len(segments) or segments[0] == segments[-1]:
        return np.ones(len(segments), dtype=np.bool_)
    first = np.flatnonzero(np.diff(segments, prepend=segments[0] - 1))
    begins = np.append(steps[first], np.iinfo(np.int64).max)
    newer = np.minimum.accumulate(begins[::-1])[::-1][1:]  # the first step of any newer segment
    holds: npt.NDArray[np.bool_] = steps < np.repeat(newer, np.diff(np.append(first, len(segments))))
    return holds
