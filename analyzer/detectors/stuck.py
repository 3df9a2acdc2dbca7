"""A silent failure: the loss does not explode, it just does not fall any more, and something that should be alive is not."""

import math
from collections import deque
from typing import ClassVar

from .base import Detector, Fact, Finding, Parameter
from .rolling import RollingMedian


class Stuck(Detector, name="stuck"):
    """Sees a symptom beyond its level (collapsed entropy, gradients gone, saturated units) while the loss has not improved.

    Neither alone proves anything: a loss may rest on a plateau and fall again, and one layer of many may be quiet in a run that
    learns well. *Not improved*: the running median of the loss is less than ``improvement`` below what it was ``patience`` samples
    ago. A run whose loss was once below ``learnt`` of where it began has learnt something and is never called stuck.

    A symptom of the first ``early`` samples counts for good: signals that vanish come back after a while, into a net that lags.
    """

    SEES: ClassVar = "a symptom beyond its level while the loss has not improved"
    INPUTS: ClassVar = ("symptom", "loss", "reference")
    OPTIONAL: ClassVar = frozenset({"reference"})
    PARAMETERS: ClassVar = {
        "level": Parameter(0.0, "units of the symptom", "the level; of symptom over reference, where there is a reference"),
        "direction": Parameter("below", "", "which side of the level is a symptom", choices=("above", "below")),
        "window": Parameter(5, "samples", "length of the running medians", 1, 512),
        "patience": Parameter(10, "samples", "how long the loss must not have improved", 2, 4096),
        "improvement": Parameter(0.02, "share of the loss", "a smaller improvement is none", 0.0, 1.0),
        "early": Parameter(0, "samples", "a symptom this near the beginning counts for good", 0, 4096),
        "learnt": Parameter(0.5, "share of the first loss", "a lower loss shows that the run has learnt", 0.0, 1.0),
    }
    FACTS: ClassVar = {
        "loss": "running median of the loss",
        "first_loss": "running median of the loss where the series began",
        "before": "running median of the loss `since`",
        "since": "step since which the loss has not improved",
    }
    STATE: ClassVar = ("symptom", "losses", "past", "steps", "first", "lowest", "seen", "mark")

    def reset(self) -> None:
        """Forget symptom and loss."""
        window, patience = self.count("window"), self.count("patience")
        self.symptom, self.losses = RollingMedian(window), RollingMedian(window)
        self.past: deque[float] = deque(maxlen=patience)
        self.steps: deque[int] = deque(maxlen=patience)
        self.first: float | None = None
        self.lowest = math.inf
        self.seen = 0
        self.mark: float | None = None
        self._early = self.count("early")
        self._sign = 1.0 if self.parameters["direction"] == "above" else -1.0
        self._level = self.number("level")
        self._improvement, self._learnt = self.number("improvement"), self.number("learnt")

    def rewind(self, step: int) -> None:
        """Forget the course of the loss at or after ``step``."""
        while self.steps and self.steps[-1] >= step:
            self.steps.pop()
            self.past.pop()

    def feed(self, step: int, value: float, *others: float) -> Finding | None:
        """Ask the symptom first, then the loss."""
        loss, reference = others
        if reference == reference:
            value = value / reference if reference > 0.0 else 0.0
        self.symptom.push(value)
        if self.seen < self._early:
            self.seen += 1
            if self.mark is None and len(self.symptom) == self.symptom.window and self._shows(median := self.symptom.median()):
                self.mark = median
        if loss != loss:
            return None
        self.losses.push(loss)
        if len(self.losses) < self.losses.window:
            return None
        now = self.losses.median()
        if self.first is None:
            self.first = now
        if now < self.lowest:
            self.lowest = now
        full = len(self.past) == self.past.maxlen
        before, since = (self.past[0], self.steps[0]) if full else (now, step)
        self.past.append(now)
        self.steps.append(step)
        if not full:
            return None
        seen = self.symptom.median() if self.mark is None else self.mark
        if not self._shows(seen):
            return None
        if self.lowest < self.first - (1.0 - self._learnt) * abs(self.first):
            return None
        facts: dict[str, Fact] = {"loss": now, "first_loss": self.first, "before": before, "since": since}
        return Finding(seen, self._level, breach=before - now < self._improvement * abs(before), facts=facts)

    def _shows(self, symptom: float) -> bool:
        return self._sign * (symptom - self._level) > 0.0
