"""Helpers of the detectors: a rolling median, a trend over a short window, and a thinned memory of the whole past."""

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from .theil_sen import Slope, theil_sen

MAD_TO_STD = 1.4826
"""For a normal distribution the standard deviation is this times the median absolute deviation."""


class RollingMedian:
    """Median and median absolute deviation of the last ``window`` values; O(log window) a value beside the memory move."""

    __slots__ = ("_sorted", "_values", "window")

    def __init__(self, window: int) -> None:
        self.window = window
        self._values: deque[float] = deque()
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self._values)

    def push(self, value: float) -> None:
        """Add a finite value, dropping the oldest when full."""
        if len(self._values) == self.window:
            del self._sorted[bisect_left(self._sorted, self._values.popleft())]
        self._values.append(value)
        insort(self._sorted, value)

    def replace(self, values: Iterable[float]) -> None:
        """Start over from these values."""
        self._values = deque(values, maxlen=None)
        while len(self._values) > self.window:
            self._values.popleft()
        self._sorted = sorted(self._values)

    def median(self) -> float:
        """Return the median (the mean of the middle two for an even count). Needs at least one value."""
        ordered, count = self._sorted, len(self._sorted)
        middle = count // 2
        return ordered[middle] if count % 2 else 0.5 * ordered[middle - 1] + 0.5 * ordered[middle]

    def deviation(self) -> float:
        """Return the median absolute deviation (the upper one for an even count).

        The values nearest to the median lie side by side in sorted order: a binary search finds where they begin.
        """
        ordered, median = self._sorted, self.median()
        nearest = len(ordered) // 2 + 1
        low, high = 0, len(ordered) - nearest
        while low < high:
            middle = (low + high) // 2
            if median - ordered[middle] > ordered[middle + nearest] - median:
                low = middle + 1
            else:
                high = middle
        return max(median - ordered[low], ordered[low + nearest - 1] - median)

    def smallest(self) -> float:
        """Return the smallest value held."""
        return self._sorted[0]

    def state_dict(self) -> list[float]:
        """Return the values in order of arrival."""
        return list(self._values)

    def load_state_dict(self, state: Iterable[float]) -> None:
        """Continue from ``state_dict``."""
        self.replace(state)


class Trend:
    """Straight line through the logarithm of the last ``window`` positive values against the step."""

    __slots__ = ("_logs", "_steps", "window")

    def __init__(self, window: int) -> None:
        self.window = window
        self._steps: deque[int] = deque(maxlen=window)
        self._logs: deque[float] = deque(maxlen=window)

    def push(self, step: int, value: float) -> None:
        """Add a value; one that is not positive has no logarithm and is left out."""
        if value > 0.0:
            self._steps.append(step)
            self._logs.append(math.log(value))

    @property
    def full(self) -> bool:
        """Whether the window is filled."""
        return len(self._logs) == self.window

    def rise(self) -> float:
        """Return log(last / first): the cheap question before the fit. O(1)."""
        return self._logs[-1] - self._logs[0] if self._logs else 0.0

    def fit(self) -> tuple[float, float]:
        """Return (growth rate per step, R squared) of the least-squares line. O(window)."""
        count = len(self._logs)
        mean_step = sum(self._steps) / count
        mean_log = sum(self._logs) / count
        square = cross = total = 0.0
        for step, log in zip(self._steps, self._logs, strict=True):
            along, off = step - mean_step, log - mean_log
            square += along * along
            cross += along * off
            total += off * off
        if square == 0.0 or total == 0.0:
            return 0.0, 0.0
        return cross / square, cross * cross / (square * total)

    def power_of(self, other: "Trend") -> float | None:
        """Return the power of ``other``'s values by which these grow, over the steps that both hold; None where that is no telling.

        The slope of the least-squares line of one's logarithms against the other's. O(window).
        """
        count = min(len(self._logs), len(other._logs))
        if count < 3 or self._steps[-count] != other._steps[-count]:
            return None
        mine, others = list(self._logs)[-count:], list(other._logs)[-count:]
        mean_mine, mean_others = sum(mine) / count, sum(others) / count
        square = sum((each - mean_others) ** 2 for each in others)
        cross = sum((one - mean_mine) * (each - mean_others) for one, each in zip(mine, others, strict=True))
        return cross / square if square > 0.0 else None

    def slope(self) -> Slope:
        """Return the growth rate per step that outliers cannot turn, with its 95 % interval. O(min(window, 32) ** 2)."""
        return theil_sen(tuple(self._steps), tuple(self._logs))

    def middle(self) -> float:
        """Return the mean step: where the fitted rate holds. O(window)."""
        return sum(self._steps) / len(self._steps)

    def rewind(self, step: int) -> None:
        """Forget values at or after ``step``."""
        while self._steps and self._steps[-1] >= step:
            self._steps.pop()
            self._logs.pop()

    def state_dict(self) -> dict[str, list[Any]]:
        """Return steps and logarithms."""
        return {"steps": list(self._steps), "logs": list(self._logs)}

    def load_state_dict(self, state: Mapping[str, list[Any]]) -> None:
        """Continue from ``state_dict``."""
        self._steps = deque(state["steps"], maxlen=self.window)
        self._logs = deque(state["logs"], maxlen=self.window)


class Learnt:
    """Says when a run has learnt all there is: its loss was below ``share`` of where it began, once.

    What happens to weights and logits then teaches nothing: gradients are noise, which Adam scales up to full steps.
    """

    __slots__ = ("_level", "first", "lowest", "share")

    def __init__(self, share: float) -> None:
        self.share = share
        self.first: float | None = None
        self.lowest = math.inf
        self._level = -math.inf

    def begin(self, loss: float) -> None:
        """Take the first loss; nan where there is none."""
        if loss > 0.0:
            self.first, self._level = loss, self.share * loss

    def all(self, loss: float) -> bool:
        """Take the loss now; say whether all is learnt. Always False where no loss is known."""
        if self.first is not None and loss < self.lowest:
            self.lowest = loss
        return self.lowest < self._level

    def state_dict(self) -> list[float | None]:
        """Return the first loss, None where all is learnt (0.0 where not, for older readers), and the lowest, None for none."""
        lowest = self.lowest if self.lowest < math.inf else None
        return [self.first, None if self.lowest < self._level else self._level if self.first else 0.0, lowest]

    def load_state_dict(self, state: list[float | None]) -> None:
        """Continue from ``state_dict``; whether all is learnt follows from this one's ``share``."""
        self.first = state[0]
        self._level = -math.inf if self.first is None else self.share * self.first
        if len(state) > 2:
            self.lowest = math.inf if state[2] is None else state[2]
        else:  # written before the lowest was kept
            self.lowest = -math.inf if self.first is not None and state[1] is None else math.inf


class Milestones:
    """At most ``2 * size`` points spread evenly over a series' whole past: every k-th value, k doubling as the past grows."""

    __slots__ = ("_points", "_seen", "_stride", "size")

    def __init__(self, size: int = 32) -> None:
        self.size = size
        self._points: list[tuple[int, float]] = []
        self._stride = 1
        self._seen = 0

    def __len__(self) -> int:
        return len(self._points)

    def push(self, step: int, value: float) -> bool:
        """Add a value; return whether it was kept."""
        self._seen += 1
        if (self._seen - 1) % self._stride:
            return False
        self._points.append((step, value))
        if len(self._points) == 2 * self.size:
            self._points = self._points[::2]
            self._stride *= 2
        return True

    def median(self) -> float:
        """Return the median of what is kept. O(size log size)."""
        ordered = sorted(value for _, value in self._points)
        middle = len(ordered) // 2
        return ordered[middle] if len(ordered) % 2 else 0.5 * ordered[middle - 1] + 0.5 * ordered[middle]

    def last_below(self, level: float) -> tuple[int, float] | None:
        """Return the latest kept (step, value) at or below ``level``, else the smallest value's, None when empty."""
        if not self._points:
            return None
        for step, value in reversed(self._points):
            if value <= level:
                return step, value
        return min(self._points, key=lambda point: point[1])

    def rewind(self, step: int) -> None:
        """Forget points at or after ``step``."""
        while self._points and self._points[-1][0] >= step:
            self._points.pop()
        self._seen = len(self._points) * self._stride

    def state_dict(self) -> dict[str, Any]:
        """Return the points and the spacing."""
        return {"points": [list(point) for point in self._points], "stride": self._stride, "seen": self._seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self._points = [(step, value) for step, value in state["points"]]
        self._stride = state["stride"]
        self._seen = state["seen"]
