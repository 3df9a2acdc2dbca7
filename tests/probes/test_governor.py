"""The governor in simulated training loops: no clock but the one given."""

import random

import pytest
from foreshock.probes.step.governor import LONGEST_INTERVAL, SHORTEST_INTERVAL, Governor
from hypothesis import given
from hypothesis import strategies as st


class Loop:
    """A training loop of which every time is known."""

    def __init__(
        self, governor: Governor, step: float, cost: float, *, own: float | None = None, noise: float = 0.0, seed: int = 0
    ) -> None:
        self.governor, self.step, self.cost = governor, step, cost
        self.own = cost if own is None else own
        self.noise, self.random = noise, random.Random(seed)
        self.sampled: list[int] = []
        self.spent = self.elapsed = 0.0

    def run(self, steps: int) -> "Loop":
        sample_at = 0
        for number in range(steps):
            plain = self.step * (1.0 + self.noise * self.random.random())
            if self.noise and self.random.random() < 0.01:
                plain *= 10  # a hiccup: the loader, the garbage collector
            if number < sample_at:
                self.governor.plain_step((plain, 1e-6))
                self.elapsed += plain
                continue
            self.sampled.append(number)
            self.governor.sampled_step(plain + self.cost, self.own)
            self.spent += self.cost
            self.elapsed += plain + self.cost
            sample_at = self.governor.next_after(number)
        return self

    @property
    def share(self) -> float:
        return self.spent / self.elapsed


@pytest.mark.parametrize("budget", [0.002, 0.01, 0.1])
@pytest.mark.parametrize("cost", [0.1, 1.0, 3.0], ids=lambda cost: f"costs {cost} steps")
@pytest.mark.parametrize("noise", [0.0, 0.5], ids=["steady", "noisy"])
def test_cost_stays_within_the_budget(budget: float, cost: float, noise: float) -> None:
    loop = Loop(Governor(budget=budget), 0.1, 0.1 * cost, noise=noise).run(20_000)
    # The first two samples come before anything is known.
    assert loop.spent - 2 * loop.cost < budget * 1.1 * loop.elapsed
    wanted = min(LONGEST_INTERVAL, max(SHORTEST_INTERVAL, cost / budget))
    assert loop.governor.interval == pytest.approx(wanted, rel=0.6 if noise else 0.05, abs=1)


def test_the_budget_is_used_and_not_saved() -> None:
    loop = Loop(Governor(budget=0.01), 0.1, 0.1).run(20_000)
    assert loop.share > 0.008


def test_cheap_probes_run_at_the_shortest_interval_and_dear_ones_at_the_longest() -> None:
    assert Loop(Governor(), 0.1, 1e-5).run(500).governor.interval == SHORTEST_INTERVAL
    assert Loop(Governor(), 0.1, 1e3).run(500).governor.interval == LONGEST_INTERVAL


def test_what_hooks_do_to_the_step_counts_though_no_clock_of_ours_saw_it() -> None:
    hidden = Loop(Governor(budget=0.01), 0.1, 0.1, own=0.0).run(5000)
    assert hidden.share < 0.011


def test_the_probes_own_clock_counts_where_the_step_was_shorter_than_usual() -> None:
    governor = Governor(budget=0.01)
    for _ in range(6):
        for _ in range(20):
            governor.plain_step((0.1, 0.0))
        governor.sampled_step(0.05, 0.02)
    assert governor.interval == pytest.approx(0.02 / (0.01 * 0.1), abs=1)


def test_follows_a_change_of_cost() -> None:
    governor = Governor(budget=0.01)
    loop = Loop(governor, 0.1, 0.02).run(2000)
    cheap = governor.interval
    loop.cost = loop.own = 0.2
    loop.run(8000)
    assert governor.interval > 5 * cheap


def test_one_bad_sample_does_not_stretch_the_interval_for_long() -> None:
    governor = Governor(budget=0.01)
    Loop(governor, 0.1, 0.02).run(500)
    before = governor.interval
    governor.sampled_step(30.0, 30.0)
    assert governor.interval <= 2 * before


@pytest.mark.parametrize("every", [1, 7, 5000])
def test_a_fixed_cadence_is_kept_whatever_it_costs(every: int) -> None:
    loop = Loop(Governor(every=every, budget=0.001), 0.1, 1.0).run(20 if every == 1 else 4 * every)
    assert loop.sampled == list(range(0, 20 if every == 1 else 4 * every, every))


def test_a_cadence_that_never_comes_does_not_fill_the_memory() -> None:
    governor = Governor(every=10**9)
    for _ in range(3 * LONGEST_INTERVAL):
        governor.plain_step((0.1, 0.001))
    assert len(governor._noted) <= LONGEST_INTERVAL + 1
    assert governor.take_overhead() == pytest.approx(0.01)


def test_overhead_is_the_share_since_it_was_last_asked_for() -> None:
    governor = Governor()
    assert governor.take_overhead() is None
    for _ in range(10):
        governor.plain_step((0.1, 0.0))
    governor.sampled_step(0.2, 0.05)
    assert governor.take_overhead() == pytest.approx(0.05 / 1.2), "the first sample's excess is not counted, its own clock is"
    for _ in range(10):
        governor.plain_step((0.1, 0.001))
    governor.sampled_step(0.3, 0.05)
    assert governor.take_overhead() == pytest.approx((0.2 + 0.01) / 1.3)
    assert governor.take_overhead() is None
    assert governor.share == pytest.approx(0.26 / 2.5), "of all the time"
    governor.plain_step((0.001, 0.5))
    assert governor.take_overhead() == 1.0


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0, 1e4), st.floats(0, 1e4)), max_size=60),
    st.floats(1e-6, 1.0),
)
def test_whatever_the_times_the_interval_stays_in_bounds(times: list[tuple[bool, float, float]], budget: float) -> None:
    governor = Governor(budget=budget)
    for sampled, seconds, own in times:
        if sampled:
            governor.sampled_step(seconds, own)
        else:
            governor.plain_step((seconds, own))
        assert SHORTEST_INTERVAL <= governor.interval <= LONGEST_INTERVAL
        assert governor.next_after(5) == 5 + governor.interval
    share = governor.take_overhead()
    assert share is None or 0 <= share <= 1


@pytest.mark.parametrize("every", [0, -3])
def test_an_impossible_cadence_is_explained(every: int) -> None:
    with pytest.raises(ValueError, match=rf"every is {every}; give a number of steps of at least 1, or leave it out"):
        Governor(every=every)


@pytest.mark.parametrize("budget", [0.0, -0.1, 1.5, float("nan")])
def test_an_impossible_budget_is_explained(budget: float) -> None:
    with pytest.raises(ValueError, match=rf"budget is {budget}; give a share of the step time above 0 and up to 1"):
        Governor(budget=budget)


class Probes:
    """A loop with several probes of known costs, and a fixed cost of each sample besides."""

    def __init__(self, governor: Governor, costs: dict[str, float], rest: float = 0.0, step: float = 0.1) -> None:
        self.governor, self.costs, self.rest, self.step = governor, costs, rest, step
        self.runs: dict[str, list[int]] = {name: [] for name in costs}
        self.spent = self.elapsed = 0.0

    def run(self, steps: int) -> "Probes":
        sample_at = sample = 0
        for number in range(steps):
            self.elapsed += self.step
            if number < sample_at:
                self.governor.plain_step((self.step, 0.0))
                continue
            due = [name for name in self.costs if self.governor.is_due(name, sample)]
            cost = self.rest + sum(self.costs[name] for name in due)
            for name in due:
                self.runs[name].append(number)
            self.spent += cost
            self.elapsed += cost
            self.governor.sampled_step(self.step + cost, cost, {name: self.costs[name] for name in due})
            sample += 1
            sample_at = self.governor.next_after(number)
        return self


def test_a_dear_probe_is_stretched_more_than_a_cheap_one_and_all_stay_within_the_budget() -> None:
    loop = Probes(Governor(budget=0.01), {"cheap": 0.01, "dear": 0.64}, rest=0.002).run(40_000)
    assert loop.spent < 0.0105 * loop.elapsed
    assert loop.spent > 0.008 * loop.elapsed, "the budget is used"
    cheap, dear = (loop.runs[name][-1] - loop.runs[name][-2] for name in ("cheap", "dear"))
    assert dear == pytest.approx(8 * cheap, rel=0.01), "square roots of the costs, as a power of two"
    assert set(loop.runs["dear"]) <= set(loop.runs["cheap"]), "samples coincide: one copy"
    alone = Probes(Governor(budget=0.01), {"both": 0.65}, rest=0.002).run(40_000)
    assert cheap < 0.5 * (alone.runs["both"][-1] - alone.runs["both"][-2]), "which leaves the cheap one a denser series"


def test_probes_that_can_all_be_afforded_run_together() -> None:
    loop = Probes(Governor(budget=0.01), {"cheap": 1e-5, "dear": 1e-3}).run(2000)
    assert loop.runs["cheap"] == loop.runs["dear"]
    assert loop.governor.interval == SHORTEST_INTERVAL


def test_a_fixed_cadence_is_that_of_every_probe() -> None:
    loop = Probes(Governor(every=50, budget=0.001), {"cheap": 0.01, "dear": 3.0}).run(400)
    assert loop.runs["cheap"] == loop.runs["dear"] == list(range(0, 400, 50))


@given(st.lists(st.floats(1e-7, 10.0), min_size=1, max_size=8), st.floats(1e-4, 0.5), st.floats(0.0, 0.1))
def test_whatever_probes_cost_the_budget_holds(costs: list[float], budget: float, rest: float) -> None:
    loop = Probes(Governor(budget=budget), {str(i): cost for i, cost in enumerate(costs)}, rest)
    loop.run(60)
    cadence = loop.governor.cadence
    assert SHORTEST_INTERVAL <= cadence.interval <= LONGEST_INTERVAL
    share = rest + sum(cost / cadence.strides[str(i)] for i, cost in enumerate(costs))
    assert share <= budget * loop.step * cadence.interval * (1 + 1e-9) or cadence.interval == LONGEST_INTERVAL
    assert all(stride in (1, 2, 4, 8, 16) for stride in cadence.strides.values())
