"""The scales of a small chart: where a value stands, and which values are worth a mark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_MOST_MARKS = 6


@dataclass(frozen=True, slots=True)
class Axis:
    """A span of values laid over a span of pixels; logarithmic if ``log``, then both ends are positive."""

    low: float
    high: float
    first: float
    last: float
    log: bool = False

    def at(self, value: float) -> float:
        """Return the pixel at which a finite value stands."""
        low, high, here = (math.log10(each) if self.log else each for each in (self.low, self.high, value))
        return self.first + (self.last - self.first) * (here - low) / (high - low)

    def marks(self, most: int = _MOST_MARKS) -> list[float]:
        """Return round values within the span, at most so many."""
        return _log_marks(self.low, self.high, most) if self.log else _even_marks(self.low, self.high, most)


def value_axis(values: Sequence[float], bottom: float, top: float, *, log: bool) -> Axis:
    """Return an axis that holds finite values with some room above and below.

    Args:
        log: only where there is a positive value; others are left out then.
    """
    known = [math.log10(value) for value in values if value > 0] if log else list(values)
    low, high = min(known), max(known)
    if not log and low == high == 0:
        return Axis(0.0, 1.0, bottom, top)
    room = max((high - low) * 0.12, 0.01 if log else max(abs(low), abs(high)) * 0.01)
    low, high = low - room, high + room
    if not log and min(known) >= 0 > low:
        low = 0.0  # what is never negative has no marks below 0
    return Axis(10.0**low, 10.0**high, bottom, top, True) if log else Axis(low, high, bottom, top)


def _even_marks(low: float, high: float, most: int) -> list[float]:
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * part for part in (1.0, 2.0, 5.0, 10.0) if power * part >= raw)
    digits = 12 - math.floor(math.log10(step))
    return [round(number * step, digits) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_marks(low: float, high: float, most: int) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for parts in ((1, 2, 5), (1, 3), (1,)):
        found = [mark for power in powers for part in parts if low <= (mark := float(f"{part}e{power}")) <= high]
        if len(found) <= most:
            return found if len(found) > 1 else _even_marks(low, high, most)
    every = math.ceil(len(powers) / most)
    return [float(f"1e{power}") for power in powers[::every] if low <= float(f"1e{power}") <= high]
