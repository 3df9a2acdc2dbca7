"""A small shift that lasts, which no single sample shows: the cumulative sum of deviations (Page, Biometrika 41, 1954)."""

import math
from collections import deque
from typing import ClassVar

from .base import Detector, Finding, Parameter
from .rolling import MAD_TO_STD, RollingMedian


class Cusum(Detector, name="cusum"):
    """Sums ``z - drift`` of log(value), never below zero, and sees a sum above ``threshold``.

    ``z = (log v - median) / (1.4826 MAD)`` over a rolling window, cut off at ``clip``: one outlier alone can never fire. Samples
    since the sum left zero are held back and learned only once it is zero again, so the baseline never learns from a shift. One
    that lasts for ``rebaseline`` samples after it was reported is the new baseline. Values without a logarithm are passed over.
    """

    SEES: ClassVar = "a small shift that lasts, which no single sample shows"
    PARAMETERS: ClassVar = {
        "window": Parameter(128, "samples", "how much of the past is the baseline", 8, 4096),
        "min_samples": Parameter(32, "samples", "baseline size before anything is judged", 4, 4096),
        "direction": Parameter("above", "", "which side is flagged", choices=("above", "below")),
        "drift": Parameter(0.75, "robust standard deviations", "a smaller lasting shift is never flagged", 0.0, 100.0),
        "threshold": Parameter(15.0, "robust standard deviations, summed", "a larger sum is flagged", 1.0),
        "clip": Parameter(4.0, "robust standard deviations", "a single sample counts at most this much", 1.0),
        "spread_floor": Parameter(
            0.02, "log units", "smallest spread assumed, so that a constant series is no hair trigger", 1e-6, 10.0
        ),
        "rebaseline": Parameter(100, "samples", "flagged samples that make the new level normal", 2, 4096),
    }
    FACTS: ClassVar = {
        "since": "step at which the sum left zero",
        "shift": "how far the values since lie from the baseline, in percent",
        "sum": "the sum, in robust standard deviations",
    }
    STATE: ClassVar = ("window", "held", "sum", "since", "over")
    RELEARNS: ClassVar = frozenset({"direction"})

    def reset(self) -> None:
        """Forget the baseline."""
        self.window = RollingMedian(self.count("window"))
        self.held: deque[float] = deque(maxlen=self.count("window"))
        self.sum = 0.0
        self.since = 0
        self.over = 0
        self._sign = 1.0 if self.parameters["direction"] == "above" else -1.0
        self._drift, self._threshold, self._clip = self.number("drift"), self.number("threshold"), self.number("clip")
        self._floor, self._rebaseline = self.number("spread_floor"), self.count("rebaseline")
        self._min_samples = min(self.count("min_samples"), self.count("window"))

    def rewind(self, step: int) -> None:
        """Start the sum anew: what it was made of comes again."""
        self.held.clear()
        self.sum, self.over = 0.0, 0

    def feed(self, step: int, value: float, *others: float) -> Finding | None:
        """Move the sum on, and learn what it has forgiven."""
        if value <= 0.0:
            return None
        log, window = math.log(value), self.window
        if len(window) < self._min_samples:
            window.push(log)
            return None
        median = window.median()
        away = self._sign * (log - median)
        if self.sum == 0.0 and away <= 0.0:  # half of all samples end here
            window.push(log)
            return None
        z = away / max(MAD_TO_STD * window.deviation(), self._floor)
        if self.sum == 0.0:
            self.since = step
        self.sum = min(max(0.0, self.sum + min(z, self._clip) - self._drift), 2.0 * self._threshold)
        self.held.append(log)
        if self.sum == 0.0:
            self._learn()
            return None
        if self.sum > self._threshold:
            return self._flag(value, median)
        if len(self.held) == self.held.maxlen:  # it hovers below the threshold: this is what is normal now
            self._learn()
            self.sum = 0.0
            return None
        return Finding(value, baseline=_exp(median), breach=False) if self.over else None

    def _flag(self, value: float, median: float) -> Finding:
        self.over += 1
        ordered = sorted(self.held)
        shift = 100.0 * (_exp(ordered[len(ordered) // 2] - median) - 1.0)
        finding = Finding(value, baseline=_exp(median), facts={"since": self.since, "shift": shift, "sum": self.sum})
        if self.over >= self._rebaseline:
            self.window.replace(self.held)
            self.held.clear()
            self.sum, self.over = 0.0, 0
        return finding

    def _learn(self) -> None:
        for log in self.held:
            self.window.push(log)
        self.held.clear()
        self.over = 0


def _exp(log: float) -> float:
    return math.exp(min(log, 700.0))
