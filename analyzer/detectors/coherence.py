"""Errors that all go one way: their running sum grows like n, where that of random ones grows like sqrt(n) (arXiv 2510.04212)."""

import math
from typing import ClassVar

from .base import Detector, Finding, Parameter

_LARGEST = 1e300


class Coherence(Detector, name="coherence"):
    """Sees ``t = |sum u| / sqrt(sum u^2)`` above a threshold, u the samples in units of their own usual size.

    For independent samples of either sign t is about the size of a normal number whatever n is; for samples of one sign it is
    sqrt(n). Older samples fade: sums are over about ``memory`` samples. One that is ``clip`` times as large as usual or more counts
    no more than that, so a single huge sample decides nothing. Zeros count as samples of no sign.
    """

    SEES: ClassVar = "errors that all have one sign: a running sum that grows faster than random signs can make it"
    PARAMETERS: ClassVar = {
        "memory": Parameter(100, "samples", "over how much of the past is summed", 4, 1_000_000),
        "min_samples": Parameter(30, "samples", "length of the past before anything is judged", 4, 100_000),
        "t": Parameter(5.0, "standard errors", "a larger |sum| is flagged", 1.0, 1000.0),
        "clip": Parameter(3.0, "times the usual size", "a single sample counts at most this much", 1.0, 1000.0),
    }
    FACTS: ClassVar = {
        "t": "the sum in standard errors",
        "sign": "positive or negative",
        "share": "|sum| over the sum of sizes: 1 where all have one sign",
        "exponent": "power of n by which the sum grows: 0.5 for random signs, 1 for one sign",
        "samples": "how many samples the sum is over",
    }
    STATE: ClassVar = ("seen", "size", "sum", "squares", "sizes")

    def reset(self) -> None:
        """Forget all sums."""
        self.seen = 0
        self.size = 0.0
        self.sum = 0.0
        self.squares = 0.0
        self.sizes = 0.0
        self._keep = 1.0 - 1.0 / self.count("memory")
        self._memory, self._min_samples = self.count("memory"), self.count("min_samples")
        self._t, self._clip = self.number("t"), self.number("clip")

    def rewind(self, step: int) -> None:
        """Start the sums anew: what they are made of comes again."""
        self.seen, self.sum, self.squares, self.sizes = 0, 0.0, 0.0, 0.0

    def feed(self, step: int, value: float, *others: float) -> Finding | None:
        """Add the sample to the fading sums."""
        self.seen += 1
        unit = self._in_units(value)
        self.sum = self._keep * self.sum + unit
        self.squares = self._keep * self._keep * self.squares + unit * unit
        self.sizes = self._keep * self.sizes + abs(unit)
        if self.seen < self._min_samples or self.squares <= 0.0:
            return None
        t = abs(self.sum) / math.sqrt(self.squares)
        if t <= 0.7 * self._t:
            return None
        if t <= self._t:
            return Finding(value, breach=False)
        count = min(self.seen, self._memory)
        facts = {
            "t": t,
            "sign": "positive" if self.sum > 0 else "negative",
            "share": abs(self.sum) / self.sizes,
            "exponent": min(1.0, 0.5 + math.log(t) / math.log(count)),
            "samples": count,
        }
        return Finding(value, baseline=0.0, facts=facts)

    def _in_units(self, value: float) -> float:
        """Return the value over the usual size, cut off; the usual size learns from what is cut off only that much."""
        size = abs(value)
        if size == 0.0:
            return 0.0
        if self.size == 0.0:
            self.size = size
        unit = min(size / self.size, self._clip)
        weight = max(1.0 / self.seen, 1.0 - self._keep)
        self.size += weight * (unit - 1.0) * self.size
        if not self.size < _LARGEST:
            self.size = _LARGEST
        return math.copysign(unit, value)
