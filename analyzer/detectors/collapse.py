"""Spectral-alignment collapse, judged against the layer's own past and tied to growth of its spectral norm (arXiv 2510.04202).

Collapse alone proves nothing: small ReLU networks are one-signed from early on and train well. What is flagged is a layer that was
diverse for most of its life, is not any more, and whose spectral norm sigma_1 grows steadily at the same time, because only then do
the one-signed terms add up in sigma_1.
"""

import math
from typing import ClassVar

from .base import Detector, Finding, Parameter
from .rolling import Learnt, Milestones, Trend


class Collapse(Detector, name="collapse"):
    """Sees sign diversity far below the layer's own past while sigma_1 grows.

    A sample with ``gap`` near 1 or a large ``turn`` has no steady principal direction; its signs mean little and it is passed over.
    """

    SEES: ClassVar = "sign diversity far below the layer's own past while its spectral norm grows"
    INPUTS: ClassVar = ("diversity", "sigma", "gap", "turn", "loss")
    OPTIONAL: ClassVar = frozenset({"gap", "turn", "loss"})
    PARAMETERS: ClassVar = {
        "min_past": Parameter(16, "samples", "length of the past before anything is judged", 4, 4096),
        "min_diversity": Parameter(
            0.3, "sign diversity, 0 to 1", "a layer whose past median lies lower was never diverse", 0.0, 1.0
        ),
        "drop": Parameter(0.25, "share of the past median", "diversity at or below this share is a collapse", 0.0, 1.0),
        "window": Parameter(12, "samples", "length of the fit to sigma_1", 4, 512),
        "exponent": Parameter(1.0, "growth rate times age", "sigma_1 must grow at least this fast", 0.0),
        "min_rise": Parameter(0.05, "log units over the window", "sigma_1 must rise at least this much", 0.0, 50.0),
        "min_fit": Parameter(0.6, "R squared", "and at least this steadily", 0.0, 1.0),
        "min_gap": Parameter(1.05, "sigma_1 / sigma_2", "a sample with a smaller gap is passed over", 1.0),
        "max_turn": Parameter(0.1, "1 - |cos| of v_1 with the previous", "a sample with a larger turn is passed over", 0.0, 1.0),
        "learnt": Parameter(
            1e-3, "share of the first loss", "a run whose loss was lower has learnt all and is not judged", 0.0, 1.0
        ),
        "rebaseline": Parameter(200, "samples", "collapsed samples in a row that make it the layer's normal", 2, 100_000),
    }
    FACTS: ClassVar = {
        "past": "the layer's own past median of sign diversity",
        "sigma": "spectral norm now",
        "growth": "growth of sigma_1 per 100 steps, in percent",
    }
    STATE: ClassVar = ("past", "trend", "median", "low", "learnt")

    def reset(self) -> None:
        """Forget the layer's past."""
        self.past = Milestones()
        self.trend = Trend(self.count("window"))
        self.learnt = Learnt(self.number("learnt"))
        self.median = 0.0
        self.low = 0
        self._min_past = self.count("min_past")
        self._min_diversity, self._drop = self.number("min_diversity"), self.number("drop")
        self._exponent, self._min_rise, self._min_fit = self.number("exponent"), self.number("min_rise"), self.number("min_fit")
        self._min_gap, self._max_turn = self.number("min_gap"), self.number("max_turn")
        self._rebaseline = self.count("rebaseline")

    def begin(self, step: int, value: float, *others: float) -> None:
        """Note where the loss began."""
        self.learnt.begin((*others, math.nan)[3])

    def rewind(self, step: int) -> None:
        """Forget samples at or after ``step``."""
        self.past.rewind(step)
        self.trend.rewind(step)
        if len(self.past):
            self.median = self.past.median()

    def feed(self, step: int, value: float, *others: float) -> Finding | None:
        """Judge diversity first (cheap), then sigma_1's growth."""
        sigma, gap, turn, loss = (*others, math.nan)[:4]
        if not math.isnan(sigma):
            self.trend.push(step, sigma)
        if self.learnt.all(loss):
            return None
        if gap < self._min_gap or turn > self._max_turn:  # False where nan: not measured, not discounted
            return None
        threshold = self._drop * self.median
        if len(self.past) < self._min_past or self.median < self._min_diversity or value > threshold:
            self.low = 0
            if self.past.push(step, value):
                self.median = self.past.median()
            return None
        self.low += 1
        if self.low >= self._rebaseline:
            self.past = Milestones()
            self.low = 0
            return None
        if not self.trend.full or self.trend.rise() < self._min_rise:
            return Finding(value, threshold, self.median, breach=False)
        rate, fit = self.trend.fit()
        if fit < self._min_fit or rate * (self.trend.middle() - self.origin) < self._exponent:
            return Finding(value, threshold, self.median, breach=False)
        growth = 100.0 * math.expm1(min(100.0 * rate, 50.0))
        return Finding(value, threshold, self.median, facts={"past": self.median, "sigma": sigma, "growth": growth})
