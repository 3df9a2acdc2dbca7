"""Baselines alarm where their sources would, faults included."""

import math
import statistics
from pathlib import Path

import foreshock
import numpy as np
import pytest
from foreshock.storage.records import Batch, Run, SeriesKey, StepRecord
from foreshock.zoo.baselines import BASELINES, Recorded, Series, above, not_finite, recorded, six_sigma, twice_the_mean, zclip


def series(values: list[float]) -> Series:
    return Series(range(len(values)), values)


def noise(count: int, seed: int = 0) -> list[float]:
    return [float(value) for value in np.random.default_rng(seed).normal(2.0, 0.1, count)]


def test_six_sigma_agrees_with_its_slow_twin() -> None:
    values = noise(400)
    values[200], values[203], values[300] = 4.0, 2.8, 0.5
    expected = []
    for step in range(63, 400):
        past = values[max(0, step - 128) : step]
        if abs(values[step] - statistics.fmean(past)) / statistics.stdev(past) > 6.0:
            expected.append(step)
    assert six_sigma(series(values)) == expected
    assert {200, 300} <= set(expected)
    assert 203 not in expected  # the spike at 200 has widened the sigma


def test_six_sigma_says_nothing_before_half_a_window() -> None:
    values = noise(64)
    values[62] = 100.0
    assert six_sigma(series(values)) == []
    values[62], values[63] = 2.0, 100.0
    assert six_sigma(series(values)) == [63]


def test_six_sigma_alarms_for_as_long_as_a_nan_is_in_its_window() -> None:
    values = noise(400)
    values[200] = math.nan
    assert six_sigma(series(values)) == list(range(200, 329))


def test_twice_the_mean_needs_five_outliers_in_a_row_after_a_full_window() -> None:
    values = [2.0] * 300
    values[200:204] = [5.0] * 4
    assert twice_the_mean(series(values)) == []
    values[200:206] = [5.0] * 6
    assert twice_the_mean(series(values)) == [204, 205]
    early = [2.0] * 90 + [9.0] * 6
    assert twice_the_mean(series(early)) == []


def test_twice_the_mean_also_has_a_cap_and_is_deaf_after_a_nan() -> None:
    slow = [1.0 + 0.06 * step for step in range(400)]  # never twice its mean
    # 10 is passed at step 151; from 201 on half of the window is above it, which is when the second window is full too.
    assert twice_the_mean(series(slow))[0] == 201
    values = [2.0] * 150 + [math.nan] + [8.0] * 99
    assert twice_the_mean(series(values)) == []


def test_zclip_alarms_above_its_threshold_and_learns_the_clipped_norm() -> None:
    values = [1.0, 1.2] * 50
    values[60:72] = [50.0] * 12
    assert zclip(series(values)) == list(range(60, 72))  # had it learnt 50, it would have been used to it before the end
    first = [0.5, 1.5] * 12 + [1.0]
    mean = statistics.fmean(first)
    variance = statistics.pvariance(first)
    limit = mean + 2.5 * (math.sqrt(variance) + 1e-6)
    assert zclip(series([*first, limit + 1e-3])) == [25]
    assert zclip(series([*first, limit - 1e-3])) == []


@pytest.mark.parametrize("values", [[1.0] * 10, [1.0] * 30 + [math.inf] * 5, [1.0] * 30 + [1e200] * 5, [math.nan] * 40])
def test_zclip_bears_anything(values: list[float]) -> None:
    assert set(zclip(series(values))) <= set(range(25, len(values)))


def test_fixed_limits_and_values_that_are_not_finite() -> None:
    assert above([series([1.0, 5.0]), series([9.0, math.nan])], 4.0) == [0, 1]
    assert not_finite(series([1.0, math.nan, 2.0, -math.inf])) == [1, 3]
    assert above([], 4.0) == []


def test_steps_are_those_of_the_run_and_must_match() -> None:
    assert above([Series((10, 20), (1.0, 5.0))], 4.0) == [20]
    with pytest.raises(ValueError, match="1 steps for 2 values"):
        Series((1,), (1.0, 2.0))


def test_every_baseline_reads_a_recorded_run(tmp_path: Path) -> None:
    keys = (
        SeriesKey("loss"),
        SeriesKey("gradient.norm"),
        SeriesKey("attention.max_logit", "a", 0),
        SeriesKey("weight.spectral_norm", "w"),
        SeriesKey("spectral_alignment.sign_diversity", "w"),
    )
    steps = [
        StepRecord(step, float(step), keys, (math.nan if step == 9 else 1.0, 1.0, 100.0 * step, 8.0 * step, 1.0 - 0.111 * step))
        for step in range(10)
    ]
    store = foreshock.open_store(f"sqlite:///{tmp_path / 'run.db'}")
    store.create_run(Run("r", "r"))
    store.open_segment("r", 0, 0.0)
    store.write(Batch("b", "r", 0, tuple(steps)))
    found = recorded(store, "r")
    alarms = {name: baseline(found)[:1] for name, baseline in BASELINES.items()}
    store.close()
    assert alarms["not finite"] == [9]
    assert alarms["max logit above 300"] == alarms["sigma_1 above 30"] == [4]
    assert alarms["sign collapse"] == [9]
    assert alarms["loss 6 sigma"] == alarms["gradient norm ZClip"] == []


def test_a_run_without_attention_gives_no_alarms_of_attention() -> None:
    empty = Recorded(series([]), series([]))
    assert {name: baseline(empty) for name, baseline in BASELINES.items()} == {name: [] for name in BASELINES}
