"""Decides which step is sampled next and which probes run on it, so that they cost at most their budget of the training time."""

import math
import statistics
import sys
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

SHORTEST_INTERVAL = 10
LONGEST_INTERVAL = 2000
LONGEST_STRIDE = 16
# Plain steps looked back on for the median step time, and sampled steps for the median cost.
_PLAIN, _SAMPLED = 32, 5


@dataclass(frozen=True, slots=True)
class Cadence:
    """Every ``interval`` steps is sampled, and a probe runs on every ``strides[name]``-th sample (1 where not named)."""

    interval: int
    strides: Mapping[str, int] = field(default_factory=dict)

    def steps_between(self, probe: str) -> int:
        """Return how many steps lie between two samples of a probe."""
        return self.interval * self.strides.get(probe, 1)


class Governor:
    """Chooses the cadence of sampled steps, and of each probe.

    A sampled step's cost is what it took longer than a plain step or what the probes' own clock says, whichever is more: what
    the hooks do to the device and the caches counts too. Each probe bears its share of it, by its own clock. Under a budget, the
    intervals whose sum is least are in proportion to the square roots of the costs; they are rounded to powers of two of the
    shortest, so that samples coincide and travel in one copy, and that one is set to what the budget allows.

    Args:
        every: a fixed cadence of all probes; the governor then only keeps accounts.
        budget: allowed share of the step time, 0.01 for one percent.

    Raises:
        ValueError: ``every`` below 1 or ``budget`` outside (0, 1].
    """

    def __init__(self, every: int | None = None, budget: float = 0.01) -> None:
        if every is not None and every < 1:
            raise ValueError(f"every is {every}; give a number of steps of at least 1, or leave it out to let the budget decide")
        if not 0 < budget <= 1:
            raise ValueError(f"budget is {budget}; give a share of the step time above 0 and up to 1, such as 0.01")
        self.cadence = Cadence(SHORTEST_INTERVAL if every is None else every)
        self.budget = budget
        self._fixed = every is not None
        # (whole time, the monitor's own share) of the plain steps since the last sampled one, and what is remembered of older ones.
        self._noted: list[tuple[float, float]] = []
        self._plain: deque[float] = deque(maxlen=_PLAIN)
        # What a sample costs besides its probes, and what each probe does; in seconds.
        self._rest: deque[float] = deque(maxlen=_SAMPLED)
        self._parts: dict[str, deque[float]] = {}
        self._sampled = 0
        self._spent = 0.0
        self._elapsed = 0.0
        # Of the whole run, as far as it was taken.
        self._all_spent = 0.0
        self._all_elapsed = 0.0

    @property
    def interval(self) -> int:
        """Steps from one sample to the next."""
        return self.cadence.interval

    @property
    def fixed(self) -> bool:
        """Whether the user fixed the cadence."""
        return self._fixed

    def next_after(self, step: int) -> int:
        """Return the step to sample after ``step``."""
        return step + self.interval

    def is_due(self, probe: str, sample: int) -> bool:
        """Tell whether a probe runs on the sample of this number, counted from 0."""
        return sample % self.cadence.strides.get(probe, 1) == 0

    def plain_step(self, times: tuple[float, float]) -> None:
        """Account for a step that was not sampled: its whole time, and what the monitor itself took of it, in seconds."""
        self._noted.append(times)
        if len(self._noted) > LONGEST_INTERVAL:  # a fixed cadence may be longer, or never
            self._sum_up()

    def sampled_step(self, seconds: float, own: float, parts: Mapping[str, float] | None = None) -> None:
        """Account for a sampled step and set the next intervals.

        Args:
            seconds: its whole time.
            own: what the monitor took of that, by its own clock.
            parts: what each of the probes that ran took of that.
        """
        self._sum_up()
        self._sampled += 1
        usual = statistics.median(self._plain) if len(self._plain) >= 3 else seconds
        cost = max(own, seconds - usual) if self._sampled > 1 else own
        self._elapsed += seconds
        self._spent += cost
        # The first sample starts cold, from random vectors; it says nothing of what the next will cost.
        if self._sampled == 1:
            return
        hidden = cost / own if own > 0 else 1.0
        known = {name: part * hidden for name, part in (parts or {}).items()}
        self._rest.append(max(0.0, cost - sum(known.values())))
        for name, part in known.items():
            self._parts.setdefault(name, deque(maxlen=_SAMPLED)).append(part)
        if not self._fixed and usual > 0:
            self.cadence = self._affordable(self.budget * usual)

    def take_overhead(self) -> float | None:
        """Return the share of the time since the last call that monitoring cost, None when no time has passed."""
        self._sum_up()
        spent, elapsed = self._spent, self._elapsed
        self._spent = self._elapsed = 0.0
        self._all_spent += spent
        self._all_elapsed += elapsed
        return min(1.0, spent / elapsed) if elapsed > 0 else None

    @property
    def share(self) -> float | None:
        """The share of all the time up to the last ``take_overhead`` that monitoring cost, None before it."""
        return min(1.0, self._all_spent / self._all_elapsed) if self._all_elapsed > 0 else None

    def _affordable(self, allowance: float) -> Cadence:
        """The densest cadence that costs at most ``allowance`` seconds a step."""
        rest = statistics.median(self._rest)
        costs = {name: statistics.median(parts) for name, parts in self._parts.items()}
        strides = dict.fromkeys(costs, 1)
        if rest + sum(costs.values()) > SHORTEST_INTERVAL * allowance:
            least = min((math.sqrt(cost + rest) for cost in costs.values() if cost + rest > 0), default=1.0)
            for name, cost in costs.items():
                wanted = math.sqrt(cost + rest) / least
                before = self.cadence.strides.get(name, 1)
                # Kept unless it is clearly wrong: a stride that flickers makes series of uneven density.
                keep = 0.6 * before < wanted < 1.7 * before
                strides[name] = before if keep else 1 << min(round(math.log2(max(1.0, wanted))), LONGEST_STRIDE.bit_length() - 1)
        interval = min(LONGEST_INTERVAL, (rest + sum(cost / strides[name] for name, cost in costs.items())) / allowance)
        return Cadence(max(SHORTEST_INTERVAL, math.ceil(interval)), strides)

    def _sum_up(self) -> None:
        self._plain.extend(seconds for seconds, _ in self._noted[-_PLAIN:])
        self._elapsed += sum(seconds for seconds, _ in self._noted)
        self._spent += sum(own for _, own in self._noted)
        self._noted.clear()


class FollowingGovernor(Governor):
    """Samples when the first rank of a distributed job says so, and keeps accounts."""

    def __init__(self, budget: float = 0.01) -> None:
        super().__init__(every=sys.maxsize, budget=budget)
        self._step = -1
        self._probes: Collection[str] | None = None

    def follow(self, step: int, probes: Collection[str]) -> None:
        """Take the next sampled step, and the names of the probes that run on it."""
        self._step, self._probes = step, probes

    def next_after(self, step: int) -> int:
        """Return the step said, far away while none is."""
        return self._step if self._step > step else sys.maxsize

    def is_due(self, probe: str, sample: int) -> bool:
        """Tell whether a probe runs on the sample; on the first one all do."""
        return sample == 0 or self._probes is None or probe in self._probes
