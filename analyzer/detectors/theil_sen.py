"""The line that outliers cannot turn: the median of the slopes between all pairs of points, with its interval.

Source: Sen, Journal of the American Statistical Association 63 (1968); the interval is the one from Kendall's tau. It takes the
errors to be independent: where neighbouring samples err alike it is too narrow.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

_MOST_POINTS = 32
_NORMAL_95 = 1.96


class Slope(NamedTuple):
    """A slope and the ends of its 95 % interval."""

    middle: float
    low: float
    high: float


def theil_sen(along: Sequence[float], up: Sequence[float]) -> Slope:
    """Fit a slope to points; longer series are thinned to 32 of them, so that the work is bounded (496 pairs).

    Args:
        along: strictly rising.
        up: as many.

    Raises:
        ValueError: fewer than two points.
    """
    if len(along) < 2:
        raise ValueError(f"a slope needs two points or more; got {len(along)}")
    stride = -(-len(along) // _MOST_POINTS)
    x, y = along[::-1][::stride][::-1], up[::-1][::stride][::-1]  # the latest point is kept
    count = len(x)
    slopes = sorted((y[j] - y[i]) / (x[j] - x[i]) for i in range(count) for j in range(i + 1, count))
    pairs = len(slopes)
    middle = 0.5 * (slopes[(pairs - 1) // 2] + slopes[pairs // 2])
    reach = _NORMAL_95 * math.sqrt(count * (count - 1) * (2 * count + 5) / 18.0)
    low, high = math.floor((pairs - reach) / 2.0), math.ceil((pairs + reach) / 2.0)
    return Slope(middle, slopes[max(low, 0)], slopes[min(high, pairs - 1)])
