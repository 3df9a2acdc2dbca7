"""A value far above its own recent past, in units of its own usual spread (robust z-score)."""

import math
from collections import deque
from typing import ClassVar

from .base import Detector, Finding, Parameter
from .rolling import MAD_TO_STD, RollingMedian


class Spike(Detector, name="spike"):
    """Sees ``z = (log v - median) / (1.4826 MAD)`` above a threshold, over a rolling window of what was not flagged.

    The baseline never learns from what it flags. When the flagged values last, they are the new normal: after ``rebaseline``
    flagged samples in a row (reported by then) the baseline starts over from them. Series that reach zero or below are judged
    on a linear scale instead. Only upward moves count.
    """

    SEES: ClassVar = "a value far above its own recent past"
    PARAMETERS: ClassVar = {
        "window": Parameter(128, "samples", "how much of the past is the baseline", 8, 4096),
        "min_samples": Parameter(32, "samples", "baseline size before anything is judged", 4, 4096),
        "z": Parameter(8.0, "robust standard deviations", "a larger deviation is flagged", 1.0),
        "spread_floor": Parameter(
            0.02, "share of the value", "smallest spread assumed, so that a constant series is no hair trigger", 1e-6, 10.0
        ),
        "min_ratio": Parameter(0.0, "share of the baseline", "a flagged value must exceed the baseline by this share", 0.0),
        "min_rise": Parameter(0.0, "units of the signal", "a flagged value must exceed the baseline by this much", 0.0),
        "rebaseline": Parameter(64, "samples", "flagged samples in a row that make the new level normal", 2, 4096),
    }
    FACTS: ClassVar = {
        "z": "robust standard deviations above the baseline",
        "ratio": "value over baseline",
        "rise": "value minus baseline",
    }
    STATE: ClassVar = ("window", "flagged")

    def reset(self) -> None:
        """Forget the baseline."""
        self.window = RollingMedian(self.count("window"))
        self.flagged: deque[float] = deque(maxlen=self.count("window"))
        self._z = self.number("z")
        self._floor = self.number("spread_floor")
        self._min_samples = min(self.count("min_samples"), self.count("window"))
        self._min_ratio, self._min_rise = self.number("min_ratio"), self.number("min_rise")
        self._rebaseline = self.count("rebaseline")

    def feed(self, step: int, value: float, *others: float) -> Finding | None:
        """Judge the value against the window, then learn it if it was normal."""
        window = self.window
        if len(window) < self._min_samples:
            window.push(value)
            return None
        baseline = window.median()
        rise = value - baseline
        # Most samples end here: no logarithm, no spread.
        if rise <= self._min_rise or rise <= self._min_ratio * abs(baseline):
            self.flagged.clear()
            window.push(value)
            return None
        z, threshold = self._deviation(value, baseline)
        if z <= self._z:
            if z <= 0.5 * self._z:
                self.flagged.clear()
            if not self.flagged:
                window.push(value)
                return None
            return Finding(value, threshold, baseline, breach=False)
        self.flagged.append(value)
        if len(self.flagged) >= self._rebaseline:
            window.replace(self.flagged)
            self.flagged.clear()
        ratio = value / baseline if baseline > 0 else math.inf
        return Finding(value, threshold, baseline, facts={"z": z, "ratio": ratio, "rise": rise})

    def _deviation(self, value: float, baseline: float) -> tuple[float, float]:
        """Return (z, the value at which z meets the threshold), both subject to the absolute floors."""
        spread = MAD_TO_STD * self.window.deviation()
        if self.window.smallest() > 0.0 < baseline:
            # d log v = dv / v: the spread of the logarithms, from the values' own.
            relative = max(spread / baseline, self._floor)
            z = math.log(value / baseline) / relative
            threshold = baseline * math.exp(min(self._z * relative, 700.0))
        else:
            spread = max(spread, self._floor * abs(baseline), 1e-300)
            z = (value - baseline) / spread
            threshold = baseline + self._z * spread
        return z, max(threshold, baseline + self._min_rise, baseline + self._min_ratio * abs(baseline))
