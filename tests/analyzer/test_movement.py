"""How a series moves against its own past, against slow twins and on courses whose truth is known."""

import math
from itertools import combinations
from statistics import median

import numpy as np
import pytest
from foreshock.analyzer.movement import crossing, moved, rate
from hypothesis import given
from hypothesis import strategies as st


def twin_of_rate(steps, values):
    """Median slope of the logarithms between all pairs of points, in percent per 100 steps; every pair written out."""
    points = list(zip(steps, [math.log(value) for value in values], strict=True))
    slopes = [(after[1] - before[1]) / (after[0] - before[0]) for before, after in combinations(points, 2)]
    return 100 * math.expm1(100 * median(slopes))


def falling(since=4100, every=20, until=4800, noise=0.0, seed=0):
    """Sign diversity as in the issue: 0.9, from a step on sinking to 0.1."""
    random = np.random.default_rng(seed)
    steps = np.arange(0, until, every)
    values = np.where(steps <= since, 0.9, np.maximum(0.1, 0.9 - 0.008 * (steps - since)))
    return steps, values + noise * random.standard_normal(len(steps))


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_fall_is_told_with_its_size_and_its_beginning(noise):
    steps, values = falling(noise=noise)
    found = moved(steps, values, up=False)
    assert found.usual == pytest.approx(0.9, abs=0.01)
    assert found.now == pytest.approx(0.1, abs=0.03)
    assert 4100 <= found.since <= 4160
    assert found.spreads > 8
    assert moved(steps, values, up=True) is None
    mirrored = moved(steps, -values, up=True)
    assert (mirrored.since, mirrored.now) == (found.since, -found.now)


def test_what_is_no_movement():
    random = np.random.default_rng(1)
    steps = np.arange(400)
    assert moved(steps, random.standard_normal(400), up=True) is None
    assert moved(steps, 1 + 0.01 * steps, up=True) is None, "a drift as long as the series is its past"
    assert moved(steps, np.where(steps == 399, 100.0, 1.0), up=True) is None, "a single spike"
    assert moved(steps, np.where((steps > 200) & (steps < 260), 9.0, 1.0), up=True) is None, "it has come back"
    flicker = np.where((steps > 340) & (steps % 3 > 0), 9.0, 1.0)
    assert moved(steps, flicker, up=True) is None, "it comes and goes"
    assert moved(steps[:15], np.full(15, 1.0), up=True) is None, "too short"
    assert moved([], [], up=True) is None


def test_wild_and_broken_values_move_nothing():
    steps, values = falling(noise=0.01)
    clean = moved(steps, values, up=False)
    values = values.copy()
    values[[3, 40, 90]] = [50.0, -50.0, math.nan]
    found = moved(steps, values, up=False)
    assert found.usual == pytest.approx(clean.usual, abs=0.01)
    assert found.since == clean.since


@given(st.floats(0.1, 10), st.floats(-5, 5), st.integers(0, 3))
def test_scale_and_shift_change_only_the_numbers(scale, shift, seed):
    steps, values = falling(noise=0.02, seed=seed)
    values = values - values.mean() - 3.0  # so that the least spread, a share of the level, decides nothing
    found, other = moved(steps, values, up=False), moved(steps, scale * values, up=False)
    assert (other.since, other.spreads) == (found.since, pytest.approx(found.spreads))
    assert other.now == pytest.approx(scale * found.now)


@given(st.floats(-0.02, 0.02), st.integers(1, 50), st.integers(12, 40), st.floats(0.01, 100))
def test_exact_growth_is_found_exactly(slope, every, count, start):
    steps = [7 + every * number for number in range(count)]
    found = rate(steps, [start * math.exp(slope * step) for step in steps])
    assert found.middle == pytest.approx(slope, abs=1e-9)
    assert found.level == pytest.approx(start * math.exp(slope * steps[-1]), rel=1e-6)


def test_the_rate_is_the_median_of_all_slopes():
    random = np.random.default_rng(2)
    steps = list(range(0, 480, 20))
    values = [3 * math.exp(0.002 * step + 0.02 * random.standard_normal()) for step in steps]
    found = rate(steps, values)
    assert 100 * found.per_hundred == pytest.approx(twin_of_rate(steps, values), rel=1e-9)
    assert found.certain
    assert found.low < 0.002 < found.high
    assert rate(list(range(0, 4800, 20)), [1.0] * 216 + values).middle == pytest.approx(found.middle), "only the end counts"


def test_growth_that_has_ended_is_told_no_more():
    steps = list(range(0, 480, 20))
    random = np.random.default_rng(3)
    values = [math.exp(0.01 * min(step, 340) + 0.01 * random.standard_normal()) for step in steps]
    found = rate(steps, values)
    assert abs(found.per_hundred) < 0.1
    assert not found.certain
    assert rate(steps, [math.exp(0.01 * step) for step in steps]).certain


@pytest.mark.parametrize("values", [[1.0] * 11, [1.0] * 23 + [0.0], [-1.0] * 24, [math.nan] * 24])
def test_what_has_no_rate(values):
    assert rate(range(len(values)), values) is None


def test_a_threshold_is_met_where_the_line_meets_it():
    steps = list(range(0, 480, 20))
    found = rate(steps, [10 * math.exp(0.005 * step) for step in steps])
    at = crossing(found, 1000.0, horizon=10_000)
    assert abs(at.step - math.log(100) / 0.005) <= 1
    assert 460 < at.first <= at.step <= at.last
    assert at.first < at.step - 90 < at.step + 90 < at.last, "no growth stays exponential: the range says so"
    assert crossing(found, 1000.0, horizon=300) is None
    assert crossing(found, 1e9, horizon=10**9) is None, "further ahead than twice the stretch that was measured"
    assert crossing(found, 5.0, horizon=10_000) is None, "passed already"
    assert crossing(found, found.level, horizon=10_000) is None
    sinking = rate(steps, [10 * math.exp(-0.005 * step) for step in steps])
    assert crossing(sinking, 1000.0, horizon=10_000) is None
    assert crossing(sinking, 0.3, horizon=10_000).step == pytest.approx(math.log(10 / 0.3) / 0.005, abs=1)


def test_nothing_is_drawn_on_that_does_not_fit():
    random = np.random.default_rng(4)
    steps = list(range(0, 480, 20))
    noisy = rate(steps, [math.exp(0.003 * step + 0.5 * random.standard_normal()) for step in steps])
    assert noisy.fit < 0.8
    assert crossing(noisy, 100.0, horizon=10**6) is None
