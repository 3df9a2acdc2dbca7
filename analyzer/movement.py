"""How a series moves against its own past: how far it has left it, since when, how fast it grows, and when it meets a threshold.

Pure and bounded: every function takes at most some hundred points, which a caller has read decimated or from the end of a series.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .detectors.theil_sen import theil_sen

Floats = npt.NDArray[np.float64]

LEAST_PAST, LEAST_RECENT = 12, 4
"""Points before the recent ones, and recent ones, that a movement is told from."""
_RECENT_SHARE = 8
"""The recent points are one in so many."""
_SPREADS = 4.0
"""A level fewer spreads away from the past's median is within its past."""
_LEAST_SPREAD = 0.02
"""Of a very steady series the spread is at least this share of its level."""
RATE_POINTS = 24
_STRETCHES = (RATE_POINTS, 12, 6)
_NORMAL_MAD = 1.4826
_LEAST_GROWTH = 0.005
"""Growth of less than this share in 100 steps is not told."""
_SOME_FIT, _GOOD_FIT = 0.6, 0.8
"""R squared of the logarithms around their line, below which no growth is told, and none is drawn on into the future."""
_AHEAD = 2
"""A line is drawn on no further than this many times the stretch that it was fitted to."""
_LAST = 6
_BENT = 1.25
"""By this factor the time to a threshold is widened either way: no growth stays exponential."""


@dataclass(frozen=True, slots=True)
class Movement:
    """A series that has left its own past.

    Args:
        usual: Median of its values up to ``since``.
        now: Median of its last values.
        since: Last step at which it still was near its usual level.
        spreads: How many robust standard deviations of its past ``now`` is away from its median.
    """

    usual: float
    now: float
    since: int
    spreads: float


@dataclass(frozen=True, slots=True)
class Rate:
    """Exponential growth (or decay, below 0) of a positive series at its end, per step: middle, and ends of its interval.

    Args:
        middle, low, high: Where they are of the last 24 points, the ends hold the interval of the last 12 too, to tell of a bend.
        level: Where the line stands at ``step``, the last one.
        span: Steps between the first and the last point that it is told from.
        fit: R squared of these logarithms around their line.
        scatter: How far the logarithms usually lie from it.
        least, most: Of the last six values.
    """

    middle: float
    low: float
    high: float
    level: float
    step: int
    span: int
    fit: float
    scatter: float
    least: float
    most: float

    @property
    def certain(self) -> bool:
        """Whether it is told apart from standing still, and fast enough to be worth telling."""
        return (self.low > 0 or self.high < 0) and abs(self.per_hundred) >= _LEAST_GROWTH and self.fit >= _SOME_FIT

    @property
    def per_hundred(self) -> float:
        """Growth in 100 steps, as a share: 0.03 is three per cent."""
        return math.expm1(min(100.0 * self.middle, 50.0))


@dataclass(frozen=True, slots=True)
class Crossing:
    """A threshold that is reached at the present rate: near ``step``, between ``first`` and ``last``."""

    step: int
    first: int
    last: int


def moved(steps: npt.ArrayLike, values: npt.ArrayLike, *, up: bool) -> Movement | None:
    """Return how a series has left its past in one direction; None where it has not, or has too little past.

    The level is the median of the last eighth of its points, the past is what lies before. Medians and the median deviation from
    them: a few wild values move neither. A drift as long as the series itself is its past, and no movement.

    Args:
        steps, values: in order; what is not finite is left out.
        up: Whether a rise is meant, or a fall.
    """
    x, y = _finite(steps, values)
    recent = max(LEAST_RECENT, len(y) // _RECENT_SHARE)
    if len(y) < LEAST_PAST + recent:
        return None
    past, sign = y[:-recent], 1.0 if up else -1.0
    median, now = float(np.median(past)), float(np.median(y[-recent:]))
    spread = max(_NORMAL_MAD * float(np.median(np.abs(past - median))), _LEAST_SPREAD * abs(median))
    shift = sign * (now - median)
    if shift <= 0.0 or shift < _SPREADS * spread:
        return None
    near = min(max(2.0 * spread, 0.05 * shift), 0.25 * shift)
    left = int(np.flatnonzero(sign * (y - median) <= near)[-1])  # the median itself is in the past, so there is one
    if len(y) - 1 - left < LEAST_RECENT:
        return None  # it comes and goes
    return Movement(float(np.median(y[: left + 1])), now, int(x[left]), shift / spread if spread > 0 else math.inf)


def rate(steps: npt.ArrayLike, values: npt.ArrayLike) -> Rate | None:
    """Return how fast a series grows at its end; None where it has fewer than 12 points, or they are not all above 0.

    The slope is Theil and Sen's, of the logarithms, with its 95 % interval from Kendall's tau: of the last 24 points, or 12, or 6,
    the longest stretch whose slope the shorter ones do not contradict. Growth that has ended is told no more.
    """
    x, y = _finite(steps, values)
    x, y = x[-RATE_POINTS:], y[-RATE_POINTS:]
    if len(y) < LEAST_PAST or (y <= 0).any() or len(np.unique(x)) < len(x):
        return None
    logs = np.log(y)
    slopes = [theil_sen(x[-count:].tolist(), logs[-count:].tolist()) for count in _STRETCHES]
    chosen = next(
        place for place, slope in enumerate(slopes) if all(one.low <= slope.middle <= one.high for one in slopes[place + 1 :])
    )
    slope = slopes[chosen]
    beside = slopes[chosen : chosen + 2] if chosen == 0 else [slope]  # six points alone would widen any interval
    x, logs = x[-_STRETCHES[chosen] :], logs[-_STRETCHES[chosen] :]
    level = float(np.median(logs - slope.middle * (x - x[-1])))
    off = logs - level - slope.middle * (x - x[-1])
    whole = float(np.square(logs - logs.mean()).sum())
    return Rate(
        slope.middle,
        min(one.low for one in beside),
        max(one.high for one in beside),
        math.exp(level),
        int(x[-1]),
        int(x[-1] - x[0]),
        1.0 - float(np.square(off).sum()) / whole if whole > 0 else 0.0,
        _NORMAL_MAD * float(np.median(np.abs(off))),
        float(y[-_LAST:].min()),
        float(y[-_LAST:].max()),
    )


def crossing(found: Rate, threshold: float, *, horizon: int) -> Crossing | None:
    """Return when a threshold is reached at the present rate.

    None where one of the last six values has reached it, unless the fit is good and the series moves towards it, and where the
    latest such step is more than ``horizon`` steps away. The range is that of the rate's interval and of the scatter: of
    14 told in five failing runs of the zoo 10 held the true step, and three times the growth ended before it.
    """
    if threshold <= 0.0 or found.fit < _GOOD_FIT or not found.certain or found.least <= threshold <= found.most:
        return None
    far = math.log(threshold / found.level)
    slow, fast = sorted((found.low, found.high), key=abs)
    room = 2.0 * found.scatter
    if far * found.middle <= 0.0 or abs(far) <= room:
        return None
    first, middle, last = (abs(far) - room) / abs(fast), far / found.middle, (abs(far) + room) / abs(slow)
    first, last = min(first, middle) / _BENT, max(last, middle) * _BENT
    if last > min(horizon, _AHEAD * found.span):
        return None
    return Crossing(*(found.step + max(1, round(each)) for each in (middle, first, last)))


def _finite(steps: npt.ArrayLike, values: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], Floats]:
    x, y = np.asarray(steps, np.int64), np.asarray(values, np.float64)
    known = np.isfinite(y)
    return x[known], y[known]
