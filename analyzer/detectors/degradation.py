"""The failure itself: the loss has left its best and does not come back."""

from collections import deque
from typing import ClassVar

from .base import Detector, Finding, Parameter
from .rolling import RollingMedian


class Degradation(Detector, name="degradation"):
    """Sees a running median above ``best * (1 + ratio) + rise`` that is not already on its way back.

    ``best`` is the lowest running median so far. A median that has lost ``recovering`` of its excess since its peak in the last
    window is on its way back (a burst of bad labels, a switch of data) and is not flagged.
    """

    SEES: ClassVar = "a running median that has left its best and is not on its way back"
    PARAMETERS: ClassVar = {
        "window": Parameter(50, "samples", "length of the running median", 5, 4096),
        "ratio": Parameter(0.25, "share of the best", "how far above the best is too far", 0.0),
        "rise": Parameter(0.05, "units of the signal", "and this much on top, so that tiny losses may rattle", 0.0),
        "recovering": Parameter(0.1, "share of the excess", "an excess that shrank by this much is on its way back", 0.0, 1.0),
    }
    FACTS: ClassVar = {
        "best_step": "step of the best running median",
        "ratio": "running median over its best",
        "rise": "running median minus its best",
    }
    STATE: ClassVar = ("median", "recent", "best", "best_step")

    def reset(self) -> None:
        """Forget the best."""
        window = self.count("window")
        self.median = RollingMedian(window)
        self.recent: deque[float] = deque(maxlen=window)
        self.best: float | None = None
        self.best_step = 0
        self._ratio, self._rise = self.number("ratio"), self.number("rise")
        self._keep = 1.0 - self.number("recovering")

    def feed(self, step: int, value: float, *others: float) -> Finding | None:
        """Move the running median on and hold it against its best."""
        self.median.push(value)
        if len(self.median) < self.median.window:
            return None
        now = self.median.median()
        self.recent.append(now)
        if self.best is None or now < self.best:
            self.best, self.best_step = now, step
            return None
        best = self.best
        threshold = best + self._ratio * abs(best) + self._rise
        if now <= threshold:
            return Finding(now, threshold, best, breach=False) if now > 0.5 * (best + threshold) else None
        if now - best < self._keep * (max(self.recent) - best):
            return Finding(now, threshold, best, breach=False)
        ratio = now / best if best > 0 else float("inf")
        return Finding(now, threshold, best, facts={"best_step": self.best_step, "ratio": ratio, "rise": now - best})
