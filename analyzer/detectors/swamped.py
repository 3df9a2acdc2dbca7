"""A run undone by its first updates: they were as large as the weights, and the loss has not been near its first value since."""

from math import isfinite, nan
from typing import ClassVar

from .base import Detector, Finding, Parameter


class Swamped(Detector, name="swamped"):
    """Sees a loss that has been above its first value ever since first updates as large as the weights.

    A loss that only ever rises has no best to have left. Alone that proves nothing: where a model teaches itself, in
    reinforcement learning say, losses begin near 0 and grow as they should. After updates that wiped out the weights it does.
    """

    SEES: ClassVar = "a loss that has only been above its first value since first updates as large as the weights"
    INPUTS: ClassVar = ("update", "loss")
    PARAMETERS: ClassVar = {
        "level": Parameter(0.3, "share of the weights", "so large the first update must be", 0.0),
        "worse": Parameter(2.0, "times the first loss", "so high the loss must be", 1.0),
    }
    FACTS: ClassVar = {"times": "the first update over the weights", "ratio": "loss over the first"}
    STATE: ClassVar = ("first", "times")

    def reset(self) -> None:
        """Forget the start."""
        self.first = nan
        self.times = 0.0
        self._level, self._worse = self.number("level"), self.number("worse")

    def feed(self, step: int, value: float, *others: float) -> Finding | None:
        """Take the first update and loss; hold later losses against that."""
        (loss,) = others
        if self.first != self.first:
            self.first, self.times = loss, value
            return None
        first = self.first
        if self.times < self._level or not first > 0.0:
            return None
        if isfinite(loss) and loss <= first:
            self.times = 0.0  # it has come back: what comes later has another cause
            return None
        if not loss > self._worse * first:
            return None
        return Finding(loss, self._worse * first, first, facts={"times": self.times, "ratio": loss / first})
