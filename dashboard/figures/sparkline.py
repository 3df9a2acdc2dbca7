"""A line small enough for a table cell."""

import math
from collections.abc import Sequence
from urllib.parse import quote

from .style import SERIES

_WIDTH, _HEIGHT, _PAD = 120, 28, 3


def sparkline(values: Sequence[float]) -> str:
    """Draw values as a tiny line without axes; return an SVG image as a data URL.

    What trouble this picture lets you recognise: a loss that no longer falls, at a glance down a list of runs.
    Non-finite values are left out; fewer than two finite values give a flat line.
    """
    finite = [(index, value) for index, value in enumerate(values) if math.isfinite(value)]
    if len(finite) < 2:
        points = f"{_PAD},{_HEIGHT / 2} {_WIDTH - _PAD},{_HEIGHT / 2}"
    else:
        low = min(value for _, value in finite)
        span = (max(value for _, value in finite) - low) or 1.0
        across = (_WIDTH - 2 * _PAD) / (len(values) - 1)
        down = _HEIGHT - 2 * _PAD
        points = " ".join(f"{_PAD + index * across:.1f},{_PAD + (1 - (value - low) / span) * down:.1f}" for index, value in finite)
    image = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}">'
        f'<polyline points="{points}" fill="none" stroke="{SERIES}" stroke-width="1.6" stroke-linejoin="round"/></svg>'
    )
    return "data:image/svg+xml," + quote(image)
