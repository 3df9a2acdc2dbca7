"""Decides which step is sampled next, so that the probes cost at most their budget of the training time."""

import math
import statistics
from collections import deque

SHORTEST_INTERVAL = 10
LONGEST_INTERVAL = 2000
# Plain steps looked back on for the median step time, and sampled steps for the median cost.
_PLAIN, _SAMPLED = 32, 5


class Governor:
    """Chooses the cadence of sampled steps.

    A sampled step's cost is what it took longer than a plain step or what the probes' own clock says, whichever is more: what
    the hooks do to the device and the caches counts too. The interval is then cost / (budget * step time).

    Args:
        every: a fixed cadence; the governor then only keeps accounts.
        budget: allowed share of the step time, 0.01 for one percent.

    Raises:
        ValueError: ``every`` below 1 or ``budget`` outside (0, 1].
    """

    def __init__(self, every: int | None = None, budget: float = 0.01) -> None:
        if every is not None and every < 1:
            raise ValueError(f"every is {every}; give a number of steps of at least 1, or leave it out to let the budget decide")
        if not 0 < budget <= 1:
            raise ValueError(f"budget is {budget}; give a share of the step time above 0 and up to 1, such as 0.01")
        self.interval = SHORTEST_INTERVAL if every is None else every
        self._fixed = every is not None
        self._budget = budget
        # (whole time, the monitor's own share) of the plain steps since the last sampled one, and what is remembered of older ones.
        self._noted: list[tuple[float, float]] = []
        self._plain: deque[float] = deque(maxlen=_PLAIN)
        self._costs: deque[float] = deque(maxlen=_SAMPLED)
        self._sampled = 0
        self._spent = 0.0
        self._elapsed = 0.0

    def next_after(self, step: int) -> int:
        """Return the step to sample after ``step``."""
        return step + self.interval

    def plain_step(self, times: tuple[float, float]) -> None:
        """Account for a step that was not sampled: its whole time, and what the monitor itself took of it, in seconds."""
        self._noted.append(times)
        if len(self._noted) > LONGEST_INTERVAL:  # a fixed cadence may be longer, or never
            self._sum_up()

    def sampled_step(self, seconds: float, own: float) -> None:
        """Account for a sampled step and set the next interval."""
        self._sum_up()
        self._sampled += 1
        usual = statistics.median(self._plain) if len(self._plain) >= 3 else seconds
        cost = max(own, seconds - usual) if self._sampled > 1 else own
        self._elapsed += seconds
        self._spent += cost
        # The first sample starts cold, from random vectors; it says nothing of what the next will cost.
        if self._sampled == 1:
            return
        self._costs.append(cost)
        if not self._fixed and usual > 0:
            wanted = min(LONGEST_INTERVAL, statistics.median(self._costs) / (self._budget * usual))
            self.interval = max(SHORTEST_INTERVAL, math.ceil(wanted))

    def take_overhead(self) -> float | None:
        """Return the share of the time since the last call that monitoring cost, None when no time has passed."""
        self._sum_up()
        spent, elapsed = self._spent, self._elapsed
        self._spent = self._elapsed = 0.0
        return min(1.0, spent / elapsed) if elapsed > 0 else None

    def _sum_up(self) -> None:
        self._plain.extend(seconds for seconds, _ in self._noted[-_PLAIN:])
        self._elapsed += sum(seconds for seconds, _ in self._noted)
        self._spent += sum(own for _, own in self._noted)
        self._noted.clear()
