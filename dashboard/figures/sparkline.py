"""A line small enough for a table cell."""

import math
from collections.abc import Sequence

WIDTH, HEIGHT = 120, 28
"""Size of the picture that the points are for, in its own units."""
_PAD = 3


def sparkline_points(values: Sequence[float]) -> str:
    """Return values as the points of an SVG polyline without axes.

    What trouble this picture lets you recognise: a loss that no longer falls, at a glance down a list of runs.
    Non-finite values are left out; fewer than two finite values give a flat line.
    """
    finite = [(index, value) for index, value in enumerate(values) if math.isfinite(value)]
    if len(finite) < 2:
        return f"{_PAD},{HEIGHT / 2} {WIDTH - _PAD},{HEIGHT / 2}"
    low = min(value for _, value in finite)
    span = (max(value for _, value in finite) - low) or 1.0
    across = (WIDTH - 2 * _PAD) / (len(values) - 1)
    down = HEIGHT - 2 * _PAD
    return " ".join(f"{_PAD + index * across:.1f},{_PAD + (1 - (value - low) / span) * down:.1f}" for index, value in finite)
