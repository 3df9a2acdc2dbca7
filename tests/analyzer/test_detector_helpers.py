"""Rolling median, trend and milestones against their slow, obvious twins."""

import statistics
from itertools import pairwise

import numpy as np
import pytest
from foreshock.analyzer.detectors.rolling import Milestones, RollingMedian, Trend
from hypothesis import given
from hypothesis import strategies as st

numbers = st.floats(-1e6, 1e6)


@given(st.lists(numbers, min_size=1, max_size=60), st.integers(1, 20))
def test_rolling_median_equals_the_median_of_the_last_window(values, window):
    rolling = RollingMedian(window)
    for count, value in enumerate(values, 1):
        rolling.push(value)
        held = values[max(0, count - window) : count]
        assert len(rolling) == len(held)
        assert rolling.median() == pytest.approx(statistics.median(held))
        assert rolling.smallest() == min(held)


@given(st.lists(numbers, min_size=1, max_size=60), st.integers(1, 20))
def test_deviation_equals_the_median_absolute_deviation(values, window):
    rolling = RollingMedian(window)
    for value in values:
        rolling.push(value)
    held = values[-window:]
    middle = rolling.median()
    assert rolling.deviation() == pytest.approx(statistics.median_high(abs(value - middle) for value in held))


@given(st.lists(st.floats(1e-6, 1e6), min_size=4, max_size=40), st.integers(0, 10**9))
def test_trend_equals_a_least_squares_fit(values, offset):
    trend = Trend(len(values))
    steps = [offset + 7 * count for count in range(len(values))]
    for step, value in zip(steps, values, strict=True):
        trend.push(step, value)
    centred = np.array(steps) - np.mean(steps)
    slope = np.polyfit(centred, np.log(values), 1)[0]
    rate, fit = trend.fit()
    assert rate == pytest.approx(slope, abs=1e-9)
    assert -1e-9 <= fit <= 1 + 1e-9
    assert trend.full


def test_trend_leaves_out_values_without_a_logarithm():
    trend = Trend(3)
    for step, value in enumerate([1.0, 0.0, -3.0, 2.0]):
        trend.push(step, value)
    assert not trend.full
    assert trend.rise() == pytest.approx(np.log(2))


@given(st.integers(1, 2000))
def test_milestones_stay_few_and_cover_the_whole_past(count):
    past = Milestones(8)
    for step in range(count):
        past.push(step, float(step))
    kept = past.state_dict()["points"]
    assert 1 <= len(past) < 16
    assert kept[0] == [0, 0.0]
    assert kept[-1][0] >= count / 2 - 1
    gaps = {later[0] - earlier[0] for earlier, later in pairwise(kept)}
    assert len(gaps) <= 1


def test_milestones_forget_what_a_resumed_run_will_see_again():
    past = Milestones(8)
    for step in range(100):
        past.push(step, 1.0)
    past.rewind(50)
    assert max(step for step, _ in past.state_dict()["points"]) < 50
    assert past.push(50, 2.0)
