"""Low-precision attention whose rounding errors have one sign (arXiv 2510.04212), seen without a high-precision twin.

The gradient of a common shift of all keys is zero in exact arithmetic, so what is there is pure rounding error. ``excess`` is
that residual over what random rounding would leave: about 1 when healthy. Errors of one sign leave several times as much. Neither
this nor growing logits alone names the failure; together they do.
"""

import math
from typing import ClassVar

from .base import Detector, Fact, Finding, Parameter
from .rolling import RollingMedian, Trend


class KeyShift(Detector, name="key_shift"):
    """Sees a running median of the excess above ``excess`` while the logits grow, or while the errors point the same way.

    Healthy logits grow too, and large errors of random sign do no harm. Logits are a product of two weights: under bounded updates
    each drifts at most linearly, so the logits' ``exponent`` (growth rate times age) stays at or below 2. Driven by errors of one
    sign it rises without bound.
    """

    SEES: ClassVar = "rounding errors far above random ones while the logits grow"
    INPUTS: ClassVar = ("excess", "logit", "coherence")
    OPTIONAL: ClassVar = frozenset({"logit", "coherence"})
    PARAMETERS: ClassVar = {
        "window": Parameter(9, "samples", "length of the running median", 1, 512),
        "excess": Parameter(4.0, "times what random rounding leaves", "a smaller excess is healthy", 1.0),
        "coherence": Parameter(
            0.7, "0.35 random to 1 always the same way", "errors this coherent count without logit growth", 0.0, 1.0
        ),
        "logit": Parameter(50.0, "max |logit|", "smaller logits are not judged as growing", 0.0),
        "min_rise": Parameter(0.1, "log units over the window", "the logits must rise at least this much", 0.0, 50.0),
        "min_fit": Parameter(0.3, "R squared", "and at least this steadily", 0.0, 1.0),
        "exponent": Parameter(2.0, "growth rate times age", "and at least this fast for the run's age", 0.0),
    }
    FACTS: ClassVar = {
        "logit": "max attention logit now; n/a where not measured",
        "growth": "its growth per 100 steps in percent; n/a where coherence decided",
        "coherence": "how alike the errors are; n/a where not measured",
    }
    STATE: ClassVar = ("median", "trend")

    def reset(self) -> None:
        """Forget all samples."""
        self.median = RollingMedian(self.count("window"))
        self.trend = Trend(max(4, self.count("window")))
        self._excess, self._coherence, self._logit = self.number("excess"), self.number("coherence"), self.number("logit")
        self._min_rise, self._min_fit = self.number("min_rise"), self.number("min_fit")
        self._exponent = self.number("exponent")

    def rewind(self, step: int) -> None:
        """Forget logits at or after ``step``."""
        self.trend.rewind(step)

    def feed(self, step: int, value: float, *others: float) -> Finding | None:
        """Move the median on; ask for logits or coherence only where the excess stands out."""
        logit, coherence = others
        self.median.push(value)
        if not math.isnan(logit):
            self.trend.push(step, logit)
        if len(self.median) < self.median.window:
            return None
        excess = self.median.median()
        if excess <= self._excess:
            return Finding(excess, self._excess, 1.0, breach=False) if excess > 0.7 * self._excess else None
        facts: dict[str, Fact] = {"logit": logit, "coherence": coherence}
        if coherence >= self._coherence:
            return Finding(excess, self._excess, 1.0, facts=facts)
        if logit >= self._logit and self.trend.full and self.trend.rise() >= self._min_rise:
            rate, fit = self.trend.fit()
            if rate > 0.0 and fit >= self._min_fit and rate * (self.trend.middle() - self.origin) >= self._exponent:
                facts["growth"] = 100.0 * math.expm1(min(100.0 * rate, 50.0))
                return Finding(excess, self._excess, 1.0, facts=facts)
        return Finding(excess, self._excess, 1.0, breach=False)
