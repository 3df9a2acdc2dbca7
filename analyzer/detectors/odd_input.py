"""Inputs in another unit than the usual ones, at a step at which the loss is not as usual either."""

from collections import deque
from typing import ClassVar

from .base import Detector, Finding, Parameter
from .rolling import RollingMedian


class OddInput(Detector, name="odd_input"):
    """Sees inputs ``factor`` times larger or smaller than their median, while the loss is ``worse`` above its own.

    Neither half alone proves anything: batches differ, and a net with normalisation may take one in another unit as it comes.
    The baseline never learns from sizes that stand out; after ``rebaseline`` of them in a row they are the usual ones.
    """

    SEES: ClassVar = "inputs in another unit than the usual ones at a step at which the loss stands out"
    INPUTS: ClassVar = ("size", "loss")
    PARAMETERS: ClassVar = {
        "window": Parameter(32, "samples", "how much of the past says what is usual", 4, 4096),
        "min_samples": Parameter(5, "samples", "length of the past before anything is judged", 2, 4096),
        "factor": Parameter(4.0, "times the usual", "so much larger or smaller the inputs must be", 1.0),
        "worse": Parameter(0.5, "share of the usual loss", "and so far above its usual the loss", 0.0),
        "rebaseline": Parameter(8, "samples", "odd sizes in a row that make the new size usual", 2, 4096),
    }
    FACTS: ClassVar = {
        "times": "the inputs' size over the usual",
        "loss": "loss of the step",
        "usual_loss": "what it usually is",
    }
    STATE: ClassVar = ("sizes", "losses", "odd")

    def reset(self) -> None:
        """Forget what is usual."""
        window = self.count("window")
        self.sizes, self.losses = RollingMedian(window), RollingMedian(window)
        self.odd: deque[float] = deque(maxlen=window)
        self._least = min(self.count("min_samples"), window)
        self._factor, self._worse = self.number("factor"), self.number("worse")
        self._rebaseline = min(self.count("rebaseline"), window)

    def feed(self, step: int, value: float, *others: float) -> Finding | None:
        """Hold the size against the usual ones, and the loss against its own."""
        (loss,) = others
        if len(self.sizes) < self._least or self.sizes.median() <= 0.0 or value <= 0.0:
            self._learn(value, loss)
            return None
        usual = self.sizes.median()
        times = value / usual
        if 1.0 / self._factor < times < self._factor:
            self._learn(value, loss)
            return None
        self.odd.append(value)
        if len(self.odd) >= self._rebaseline:
            self.sizes.replace(self.odd)
            self.odd.clear()
        threshold = usual * self._factor if times > 1.0 else usual / self._factor
        usual_loss = self.losses.median() if len(self.losses) else loss
        # NaN is above nothing, and has a rule of its own.
        worse = loss > usual_loss + self._worse * abs(usual_loss)
        facts = {"times": times, "loss": loss, "usual_loss": usual_loss}
        return Finding(value, threshold, usual, breach=worse, facts=facts if worse else {})

    def _learn(self, size: float, loss: float) -> None:
        self.odd.clear()
        self.sizes.push(size)
        if loss - loss == 0.0:
            self.losses.push(loss)
