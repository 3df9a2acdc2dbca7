"""A lasting rise of the mean level, in constant memory: the Page-Hinkley test (Hinkley, Biometrika 58, 1971)."""

import math
from typing import ClassVar

from .base import Detector, Finding, Parameter


class PageHinkley(Detector, name="page_hinkley"):
    """Sums ``log v - mean - delta`` and sees the sum rise by more than ``threshold`` above its lowest.

    The mean forgets: it is over about ``memory`` samples. It never learns from what is flagged, and from an outlier at most
    ``clip``. A rise that lasts for ``rebaseline`` flagged samples becomes the new level. Where CUSUM asks for a shift in units of
    the series' own spread, this one asks for it in log units (0.1 is a tenth). Values without a logarithm are passed over.
    """

    SEES: ClassVar = "a shift of its usual level that lasts"
    PARAMETERS: ClassVar = {
        "min_samples": Parameter(50, "samples", "length of the past before anything is judged", 4, 100_000),
        "memory": Parameter(200, "samples", "over how much of the past the mean is taken", 4, 1_000_000),
        "direction": Parameter("above", "", "which side is flagged", choices=("above", "below")),
        "delta": Parameter(0.2, "log units", "a smaller lasting shift is never flagged", 0.0, 50.0),
        "threshold": Parameter(10.0, "log units, summed", "a larger sum is flagged", 0.01),
        "clip": Parameter(1.5, "log units", "a single sample counts at most this much", 0.01, 50.0),
        "rebaseline": Parameter(100, "samples", "flagged samples that make the new level normal", 2, 4096),
    }
    FACTS: ClassVar = {
        "since": "step of the sum's lowest",
        "ratio": "mean value since the shift was flagged, over the baseline",
        "sum": "the sum above its lowest, in log units",
    }
    STATE: ClassVar = ("seen", "mean", "sum", "since", "over", "shifted")
    RELEARNS: ClassVar = frozenset({"direction"})

    def reset(self) -> None:
        """Forget mean and sum."""
        self.seen = 0
        self.mean = 0.0
        self.sum = 0.0
        self.since = 0
        self.over = 0
        self.shifted = 0.0
        self._sign = 1.0 if self.parameters["direction"] == "above" else -1.0
        self._min_samples, self._memory = self.count("min_samples"), self.count("memory")
        self._delta, self._threshold, self._clip = self.number("delta"), self.number("threshold"), self.number("clip")
        self._rebaseline = self.count("rebaseline")

    def rewind(self, step: int) -> None:
        """Start the sum anew: what it was made of comes again."""
        self.sum, self.over, self.shifted = 0.0, 0, 0.0

    def feed(self, step: int, value: float, *others: float) -> Finding | None:
        """Move sum and mean on. The sum is kept above its lowest, which makes the lowest 0."""
        if value <= 0.0:
            return None
        log = math.log(value)
        away = min(max(log - self.mean, -self._clip), self._clip) if self.seen else 0.0
        if self.seen >= self._min_samples:
            if self.sum == 0.0:
                self.since = step
            self.sum = min(max(0.0, self.sum + self._sign * away - self._delta), 2.0 * self._threshold)
            if self.sum > self._threshold:
                return self._flag(value, log)
        self.seen += 1
        self.mean = self.mean + away / min(self.seen, self._memory) if self.seen > 1 else log
        if not self.over:
            return None
        if self.sum <= 0.5 * self._threshold:
            self.over, self.shifted = 0, 0.0
            return None
        return Finding(value, baseline=_exp(self.mean), breach=False)

    def _flag(self, value: float, log: float) -> Finding:
        self.over += 1
        self.shifted += (log - self.shifted) / self.over
        facts = {"since": self.since, "ratio": _exp(self.shifted - self.mean), "sum": self.sum}
        finding = Finding(value, baseline=_exp(self.mean), facts=facts)
        if self.over >= self._rebaseline:
            self.mean, self.seen = self.shifted, self._min_samples
            self.sum, self.over, self.shifted = 0.0, 0, 0.0
        return finding


def _exp(log: float) -> float:
    return math.exp(min(log, 700.0))
