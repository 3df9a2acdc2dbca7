"""A learning rate that goes on rising past what the run bears: the loss has turned, and the rate has not."""

from typing import ClassVar

from .base import Detector, Finding, Parameter
from .rolling import RollingMedian


class Overreach(Detector, name="overreach"):
    """Sees a running median of the loss that has left its best while the learning rate, at its highest, has risen on since then.

    A loss that is worse than it was proves little: data change, and noise has its highs. Nor does a rate that rises: it is a
    warm-up. Judged is a loss that is ``worse`` than its best, has had no new best for ``since`` of the run's age, and all that time
    the rate went up, by ``rise`` or more. Long before the run fails, that is where it learns less from larger steps. Where there
    is an ``effective`` rate, which momentum has a part in, it is that which counts.
    """

    SEES: ClassVar = "a loss that has turned while the learning rate goes on rising"
    INPUTS: ClassVar = ("loss", "rate", "effective")
    OPTIONAL: ClassVar = frozenset({"effective"})
    PARAMETERS: ClassVar = {
        "window": Parameter(25, "samples", "length of the running median of the loss", 5, 4096),
        "worse": Parameter(0.1, "share of the best", "how far above its best the loss must be", 0.0),
        "margin": Parameter(0.02, "units of the loss", "and this much on top, so that tiny losses may rattle", 0.0),
        "since": Parameter(0.15, "share of the run's age", "for how long there was no new best", 0.0, 1.0),
        "rise": Parameter(1.25, "times the rate at the best", "how far the rate has risen since", 1.0),
    }
    FACTS: ClassVar = {
        "rate": "learning rate now",
        "reach": "effective learning rate over the learning rate, where the former was measured",
        "best_step": "step of the best running median",
        "best_rate": "learning rate at that step",
        "ratio": "running median over its best",
    }
    STATE: ClassVar = ("median", "best", "best_step", "best_rate", "highest", "effective", "reach")

    def reset(self) -> None:
        """Forget the best."""
        self.median = RollingMedian(self.count("window"))
        self.best: float | None = None
        self.best_step = 0
        self.best_rate = 0.0
        self.highest = 0.0
        self.effective, self.reach = 0.0, 1.0
        self._worse, self._margin = self.number("worse"), self.number("margin")
        self._since, self._rise = self.number("since"), self.number("rise")

    def feed(self, step: int, value: float, *others: float) -> Finding | None:
        """Move the running median on; hold it against its best only where the rate has risen since."""
        rate, effective = others
        # It is measured at samples only: what it is to the learning rate holds until the next.
        if effective != self.effective and effective > 0.0 < rate:
            self.effective, self.reach = effective, effective / rate
        rate *= self.reach
        if rate > self.highest:
            self.highest = rate
        self.median.push(value)
        if len(self.median) < self.median.window:
            return None
        now = self.median.median()
        if self.best is None or now < self.best:
            self.best, self.best_step, self.best_rate = now, step, rate
            return None
        if not (rate >= self.highest and rate >= self._rise * self.best_rate > 0.0):
            return None
        best = self.best
        threshold = best + self._worse * abs(best) + self._margin
        if now <= threshold or step - self.best_step < self._since * (step - self.origin):
            return Finding(now, threshold, best, breach=False) if now > 0.5 * (best + threshold) else None
        ratio = now / best if best > 0 else float("inf")
        facts = {"rate": rate, "best_step": self.best_step, "best_rate": self.best_rate, "ratio": ratio}
        if self.effective:
            facts["reach"] = self.reach
        return Finding(now, threshold, best, facts=facts)
