"""Smoothed lines against the average written out as a sum over all earlier points."""

import math

import numpy as np
import pytest
from foreshock.dashboard.smoothing import Average, smoothed, thinned, warm_up
from foreshock.storage.base import Store
from foreshock.storage.records import Batch, SeriesKey, StepRecord, new_id
from hypothesis import given
from hypothesis import strategies as st

NAN, INF = math.nan, math.inf
VALUES = st.one_of(st.floats(-1e6, 1e6), st.sampled_from([NAN, INF, -INF]))


def slow(steps: list[int], values: list[float], reach: int) -> list[float]:
    """Each average as its definition has it: the sum over all points since the last one that was no number."""
    found = []
    for now in range(len(steps)):
        if not math.isfinite(values[now]):
            found.append(NAN)
            continue
        first = max((place + 1 for place in range(now) if not math.isfinite(values[place])), default=0)
        weights = [math.exp((steps[place] - steps[now]) / reach) for place in range(first, now + 1)]
        found.append(math.fsum(w * v for w, v in zip(weights, values[first : now + 1], strict=True)) / math.fsum(weights))
    return found


@given(st.lists(st.tuples(st.integers(1, 50), VALUES), min_size=1, max_size=60), st.integers(1, 500))
def test_the_average_is_its_definition(points: list[tuple[int, float]], reach: int) -> None:
    steps, values = np.cumsum([gap for gap, _ in points]).tolist(), [value for _, value in points]
    average = Average(reach)
    found = [average.add(step, value) for step, value in zip(steps, values, strict=True)]
    np.testing.assert_allclose(found, slow(steps, values, reach), rtol=1e-9, atol=1e-6)


def write(store: Store, run_id: str, values: list[float], segment: int = 0, first: int = 0) -> None:
    key = (SeriesKey("loss"),)
    records = [StepRecord(first + place, 0.0, key, [value]) for place, value in enumerate(values)]
    for begin in range(0, len(records), 5000):
        store.write(Batch(new_id(), run_id, segment, tuple(records[begin : begin + 5000])))


def test_segments_are_smoothed_apart_and_nothing_is_carried_across_a_gap(store: Store, simulated) -> None:
    run = simulated.begin_run(store, "resumed")
    first = [*np.linspace(5, 1, 60).tolist(), NAN, 9.0, 8.0]
    write(store, run.id, first)
    store.open_segment(run.id, 40, 1.0)
    write(store, run.id, [2.0, 4.0], 1, 40)
    (found,) = store.envelopes(store.series(run.id), means=True)
    one, two = smoothed(found, 10)
    np.testing.assert_allclose(one.values, slow(list(range(63)), first, 10), rtol=1e-12)
    assert (one.segment, two.segment) == (0, 1)
    assert two.values == pytest.approx(slow([40, 41], [2.0, 4.0], 10))
    assert one.values[61] == 9.0, "after the gap it begins anew"


def test_a_long_series_is_smoothed_over_all_of_its_points(store: Store, simulated) -> None:
    """By the means of stretches: as good as point by point where the average reaches over several stretches."""
    run = simulated.begin_run(store, "long")
    source = np.random.default_rng(0)
    values = (3 + np.exp(-np.arange(20_000) / 3000) + 0.5 * source.exponential(size=20_000)).tolist()
    write(store, run.id, values)
    reach = 1_000
    (found,) = store.envelopes(store.series(run.id), max_points=500, means=True)
    assert len(found.mean) <= 5_010
    (line,) = smoothed(found, reach)
    assert len(line.steps) <= 1_001
    exact = np.empty(len(values))
    average = Average(reach)
    for step, value in enumerate(values):
        exact[step] = average.add(step, value)
    np.testing.assert_allclose(line.values, exact[line.steps], atol=0.01)
    assert line.steps[-1] == 19_999
    # In a window the curve is the same one.
    start = 15_000
    (part,) = store.envelopes(store.series(run.id), start=warm_up(start, reach), stop=16_000, max_points=500, means=True)
    (shown,) = smoothed(part, reach, start)
    assert shown.steps[0] >= start
    np.testing.assert_allclose(shown.values, exact[shown.steps], atol=0.02)


def test_thinning_keeps_the_end_and_every_gap() -> None:
    values = [1.0] * 5_000
    values[1_234] = NAN
    places = thinned(values)
    assert 1_234 in places
    assert places[-1] == 4_999
    assert len(places) <= 1_002
    assert thinned([1.0, NAN, 2.0]) == [0, 1, 2]
