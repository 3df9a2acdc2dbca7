"""The rule of failure (``analyzer.failure``) as it stands at each step of a run that is still going on.

Whether a failure lasts is known at the end only. Until then: the rule is *met* where one of its windows is full and the running
median has left its best (a high loss from which the median never moves is over before it lasted), and for as long as the loss has
not come back.
"""

from collections import deque
from collections.abc import Mapping
from math import inf, isfinite
from typing import Any

from .detectors.rolling import RollingMedian
from .failure import (
    DEGRADATION_RATIO,
    DEGRADATION_RISE,
    DEGRADATION_WINDOW,
    LEAST_MEDIAN,
    MEDIAN_WINDOW,
    SPIKE_RATIO,
    SPIKE_WINDOW,
)

NON_FINITE_FOR_GOOD = 20
"""Losses in a row that are not finite, from which no run comes back."""

WELL, MET, OVER = 0, 1, 2

_FALL = 0.05
_MOST_BESTS = 128


class Failing:
    """Says whether the loss meets the rule now. O(1) memory, some microseconds a loss.

    Attributes:
        stage: ``WELL``; ``MET`` from the step at which a window of the rule is full (a loss that is not finite: at once) until the
            loss is finite, not high, and its running median near the best again; ``OVER`` where it was not finite 20 times in a
            row.
    """

    def __init__(self) -> None:
        self.stage = WELL
        self._lost = 0
        self._median = RollingMedian(MEDIAN_WINDOW)
        self._best = inf
        self._high = 0
        self._left = 0
        # The best so far wherever it fell by 5 %: a run that goes back has the best again that it had there.
        self._bests: deque[tuple[int, float]] = deque(maxlen=_MOST_BESTS)

    def feed(self, step: int, loss: float) -> None:
        """Take the loss of the next step."""
        finite = isfinite(loss)
        if finite:
            self._median.push(loss)
        self._lost = 0 if finite else self._lost + 1
        high = left = False
        if len(self._median) >= LEAST_MEDIAN:
            now = self._median.median()
            if now < self._best:
                self._best = now
                if not self._bests or now < self._bests[-1][1] - _FALL * abs(self._bests[-1][1]):
                    self._bests.append((step, now))
            best, size = self._best, abs(self._best)
            high = finite and loss > best + (SPIKE_RATIO - 1.0) * size
            left = now > best + (DEGRADATION_RATIO - 1.0) * size + DEGRADATION_RISE
        self._high = self._high + 1 if high else 0
        self._left = self._left + 1 if left else 0
        if not finite or (left and self._high >= SPIKE_WINDOW) or self._left >= DEGRADATION_WINDOW:
            self.stage = OVER if self._lost >= NON_FINITE_FOR_GOOD else MET
        elif not high and not left:
            self.stage = WELL

    def rewind(self, step: int) -> None:
        """The run went back to ``step``: what lay at or after it will come again."""
        while self._bests and self._bests[-1][0] >= step:
            self._bests.pop()
        self._best = self._bests[-1][1] if self._bests else inf
        self._median = RollingMedian(MEDIAN_WINDOW)
        self._high = self._left = self._lost = 0
        self.stage = WELL

    def state_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            "stage": self.stage,
            "median": self._median.state_dict(),
            "best": self._best if isfinite(self._best) else None,
            "lost": self._lost,
            "high": self._high,
            "left": self._left,
            "bests": [list(item) for item in self._bests],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self.stage, self._lost, self._high, self._left = state["stage"], state["lost"], state["high"], state["left"]
        self._median.load_state_dict(state["median"])
        self._best = inf if state["best"] is None else state["best"]
        self._bests = deque(((step, best) for step, best in state["bests"]), maxlen=_MOST_BESTS)
