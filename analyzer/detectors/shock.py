"""A model broken in one step: an update out of all proportion, and a loss that is not back at the next step."""

import math
from collections import deque
from typing import ClassVar

from .base import Detector, Fact, Finding, Parameter
from .rolling import MAD_TO_STD, RollingMedian

_BEFORE = 5
"""Updates before a wild one that must have been calm: what grows over several steps is no shock."""

_SAME_RATE = 1.05
"""The learning rate over its usual, up to which it says nothing of the update."""


class Shock(Detector, name="shock"):
    """Sees a loss far above its usual right after an update far larger than the usual ones.

    The size of an update is taken as learning rate times gradient norm (after clipping): exact for plain gradient descent, and for
    any optimizer what a jump of the rate or of the gradient makes of it. Neither half alone proves anything: a bad batch has a high
    loss, and a clipped or normalised update of it does no harm - the next loss is as usual; a large update may be a good one. An
    update is wild where it is ``wild`` times the median of the past ones and the last ones before it were calm.
    """

    SEES: ClassVar = "a loss far above its usual right after an update out of all proportion"
    INPUTS: ClassVar = ("loss", "gradient", "rate")
    OPTIONAL: ClassVar = frozenset({"rate"})
    PARAMETERS: ClassVar = {
        "window": Parameter(64, "samples", "how much of the past says what is usual", 8, 4096),
        "min_samples": Parameter(32, "samples", "length of the past before anything is judged", 8, 4096),
        "wild": Parameter(10.0, "times the usual", "an update at least this large is wild", 1.0),
        "calm": Parameter(3.0, "times the usual", "the last updates before a wild one are no larger", 1.0),
        "reach": Parameter(2, "steps", "the loss must stand out at most this long after the wild update", 1, 100),
        "z": Parameter(6.0, "robust standard deviations", "so far above its usual the loss must be", 1.0),
        "spread_floor": Parameter(0.05, "share of the usual", "smallest spread assumed", 1e-6, 10.0),
        "min_rise": Parameter(0.3, "units of the loss", "and at least this much above it", 0.0),
        "rebaseline": Parameter(100, "samples", "high losses in a row that make the new level usual", 2, 4096),
    }
    FACTS: ClassVar = {
        "times": "the wild update over the usual ones",
        "at": "step of the wild update",
        "z": "robust standard deviations of the loss above its usual",
        "rate_times": "the learning rate of the wild update over the usual; n/a where it was the usual, or is not known",
    }
    STATE: ClassVar = ("losses", "updates", "rates", "last", "high", "wild_at", "times", "rate_times", "broken")

    def reset(self) -> None:
        """Forget what is usual."""
        window = self.count("window")
        self.losses, self.updates, self.rates = RollingMedian(window), RollingMedian(window), RollingMedian(window)
        self.last: deque[float] = deque(maxlen=_BEFORE)
        self.high: deque[float] = deque(maxlen=window)
        self.wild_at = -1
        self.times = self.rate_times = 0.0
        self.broken = False
        self._min_samples = min(self.count("min_samples"), window)
        self._wild, self._calm, self._reach = self.number("wild"), self.number("calm"), self.count("reach")
        self._z, self._floor, self._min_rise = self.number("z"), self.number("spread_floor"), self.number("min_rise")
        self._rebaseline = min(self.count("rebaseline"), window)

    def rewind(self, step: int) -> None:
        """The wild update at or after ``step`` has not been made."""
        if self.wild_at >= step:
            self.wild_at = -1
        self.last.clear()
        self.broken = False

    def feed(self, step: int, value: float, *others: float) -> Finding | None:
        """Judge the loss by the update before it, then the update made from it."""
        gradient, rate = others
        finding = self._judge(step, value)
        self._weigh(step, gradient, rate)
        return finding

    def _judge(self, step: int, loss: float) -> Finding | None:
        losses = self.losses
        if len(losses) < self._min_samples:
            losses.push(loss)
            return None
        usual = losses.median()
        rise = loss - usual
        if rise <= self._min_rise:  # nearly all samples end here
            self._is_usual(loss)
            return None
        z = rise / max(MAD_TO_STD * losses.deviation(), self._floor * abs(usual))
        if z <= self._z:
            self._is_usual(loss)
            return None
        self.high.append(loss)
        if len(self.high) >= self._rebaseline:
            losses.replace(self.high)
            self.high.clear()
        threshold = usual + self._min_rise
        if self.broken:
            return Finding(loss, threshold, usual, breach=False)
        if self.wild_at < 0 or not 0 < step - self.wild_at <= self._reach:
            return None
        self.broken = True
        facts: dict[str, Fact] = {"times": self.times, "at": self.wild_at, "z": z}
        if self.rate_times > _SAME_RATE:  # NaN is not
            facts["rate_times"] = self.rate_times
        return Finding(loss, threshold, usual, facts=facts)

    def _is_usual(self, loss: float) -> None:
        self.high.clear()
        self.losses.push(loss)
        self.broken = False

    def _weigh(self, step: int, gradient: float, rate: float) -> None:
        size = gradient if rate != rate else gradient * rate
        if not 0.0 < size < math.inf:
            return
        times = 1.0
        if len(self.updates) >= self._min_samples:
            times = size / self.updates.median()
            if times >= self._wild and len(self.last) == _BEFORE and max(self.last) <= self._calm:
                self.wild_at, self.times = step, times
                self.rate_times = rate / self.rates.median() if rate == rate else math.nan
        self.last.append(times)
        if times < self._wild:
            self.updates.push(size)
            if rate == rate:
                self.rates.push(rate)
