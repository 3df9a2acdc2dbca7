"""CUSUM, Page-Hinkley, coherence, stuck runs and the Theil-Sen line: what they see, and what they never learn from."""

import json
import math
import random
import statistics

import pytest
from foreshock.analyzer.detectors import Detector
from foreshock.analyzer.detectors.theil_sen import theil_sen
from hypothesis import given, settings
from hypothesis import strategies as st

SHIFTS = ("cusum", "page_hinkley")
NEW = (*SHIFTS, "coherence", "stuck")


def detector(name, **parameters):
    kind = Detector.registry[name]
    return kind(kind.complete(parameters))


def feed_all(watched, values, start=0):
    return [watched.feed(start + count, *(value if isinstance(value, tuple) else (value,))) for count, value in enumerate(values)]


def breaches(findings):
    return [count for count, finding in enumerate(findings) if finding and finding.breach]


def lognormal(count, level=1.0, spread=0.1, seed=0):
    draw = random.Random(seed)
    return [level * math.exp(draw.gauss(0.0, spread)) for _ in range(count)]


@pytest.mark.parametrize("name", SHIFTS)
@pytest.mark.parametrize("seed", range(5))
def test_a_steady_or_falling_series_is_no_shift(name, seed):
    steady = lognormal(3000, seed=seed)
    falling = [value * math.exp(-count / 400) for count, value in enumerate(lognormal(1500, seed=seed))]
    for values in (steady, falling):
        assert breaches(feed_all(detector(name), values)) == []


@pytest.mark.parametrize("name", SHIFTS)
def test_a_small_lasting_shift_is_seen_that_a_spike_detector_does_not_see(name):
    values = lognormal(300) + lognormal(80, level=1.8, seed=1)
    assert breaches(feed_all(detector("spike"), values)) == []
    flagged = breaches(feed_all(detector(name), values))
    assert 300 < flagged[0] < 360
    finding = feed_all(detector(name), values)[-1]
    assert 290 <= finding.facts["since"] <= 301
    assert finding.baseline == pytest.approx(1.0, rel=0.2)


@pytest.mark.parametrize("name", SHIFTS)
def test_a_single_outlier_however_large_is_no_shift(name):
    values = lognormal(600)
    for at in (200, 300, 400):
        values[at] = 1e300
    assert breaches(feed_all(detector(name), values)) == []


@pytest.mark.parametrize("name", SHIFTS)
def test_the_direction_can_be_turned(name):
    values = lognormal(300) + lognormal(100, level=0.5, seed=1)
    assert breaches(feed_all(detector(name), values)) == []
    assert breaches(feed_all(detector(name, direction="below"), values))


@pytest.mark.parametrize("name", SHIFTS)
def test_a_lasting_shift_becomes_the_baseline_after_it_was_reported(name):
    findings = feed_all(detector(name, rebaseline=60), lognormal(300) + lognormal(900, level=3.0, seed=1))
    flagged = breaches(findings)
    assert len(flagged) == 60
    assert flagged[0] > 300
    assert not any(findings[flagged[-1] + 1 :])


@given(st.lists(st.floats(3.0, 1e6), min_size=30, max_size=60))
def test_the_baselines_never_learn_from_what_they_flag(shifted):
    for name in SHIFTS:
        watched = detector(name, rebaseline=4096)
        before = feed_all(watched, [*lognormal(200), *[10.0] * 40])[-1].baseline
        assert feed_all(watched, shifted, start=240)[-1].baseline == before


@given(st.lists(st.floats(0.5, 2.0), min_size=100, max_size=160), st.floats(1e-6, 1e6))
def test_what_is_flagged_does_not_depend_on_the_scale(values, scale):
    for name in SHIFTS:
        series = [*values, *[3.0] * 40]
        plain = feed_all(detector(name), series)
        scaled = feed_all(detector(name), [scale * value for value in series])
        assert [finding and finding.breach for finding in plain] == [finding and finding.breach for finding in scaled]


@pytest.mark.parametrize("name", SHIFTS)
def test_values_without_a_logarithm_are_passed_over(name):
    assert feed_all(detector(name), [0.0, -1.0] * 200) == [None] * 400


@pytest.mark.parametrize("seed", range(20))
def test_random_signs_are_never_coherent_whatever_their_sizes(seed):
    draw = random.Random(seed)
    values = [draw.choice((-1, 1)) * 10 ** draw.uniform(-3, 3) for _ in range(1000)]
    assert breaches(feed_all(detector("coherence"), values)) == []


def test_one_sign_is_coherent_and_the_sum_grows_like_n():
    values = [-abs(random.Random(count).gauss(0, 1)) * 1e-9 for count in range(200)]
    findings = feed_all(detector("coherence"), values)
    assert breaches(findings)[0] <= 40
    facts = findings[-1].facts
    assert facts["sign"] == "negative"
    assert facts["share"] == pytest.approx(1.0)
    assert facts["exponent"] > 0.95


def test_a_bias_far_below_the_noise_is_seen_once_there_are_enough_samples():
    draw = random.Random(0)
    findings = feed_all(detector("coherence", memory=400), [draw.gauss(0.4, 1.0) for _ in range(600)])
    assert 80 < breaches(findings)[0] < 500
    assert 0.5 < findings[breaches(findings)[0]].facts["exponent"] < 0.9


def test_one_huge_sample_decides_no_sign():
    values = [(1.0 if count % 2 else -1.0) * (1e200 if count == 100 else 1.0) for count in range(300)]
    assert not any(feed_all(detector("coherence"), values))


def plateau(symptom, count=60, loss=3.0):
    return [(symptom, loss, math.nan)] * count


def test_stuck_needs_the_symptom_and_a_loss_that_does_not_fall():
    falling = [(0.01, 3.0 * math.exp(-count / 40), math.nan) for count in range(60)]
    assert breaches(feed_all(detector("stuck", level=0.1), plateau(0.01)))
    assert not any(feed_all(detector("stuck", level=0.1), plateau(1.0)))
    assert breaches(feed_all(detector("stuck", level=0.1), falling)) == []
    assert breaches(feed_all(detector("stuck", level=0.1, direction="above"), plateau(1.0)))


def test_a_run_that_has_learnt_is_never_called_stuck():
    learnt = [(0.01, 3.0, math.nan)] * 5 + [(0.01, 1.0, math.nan)] * 60
    assert breaches(feed_all(detector("stuck", level=0.1), learnt)) == []
    assert breaches(feed_all(detector("stuck", level=0.1, learnt=0.2), learnt))


def test_a_symptom_is_held_against_its_reference_where_there_is_one():
    share = [(1e-3, 3.0, 1e3)] * 60
    assert breaches(feed_all(detector("stuck", level=1e-4), share))
    assert not any(feed_all(detector("stuck", level=1e-4), [(1e-3, 3.0, 1.0)] * 60))


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from(NEW),
    st.lists(st.floats(1e-3, 1e3), min_size=100, max_size=200),
    st.integers(0, 99),
)
def test_state_survives_json_at_any_sample(name, values, cut):
    kind = Detector.registry[name]
    samples = [(value,) * len(kind.INPUTS) for value in [*values, *[50.0] * 60]]
    whole, first = detector(name), detector(name)
    expected = feed_all(whole, samples)
    feed_all(first, samples[:cut])
    second = detector(name)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert feed_all(second, samples[cut:], start=cut) == expected[cut:]


@pytest.mark.parametrize("name", NEW)
def test_steps_seen_again_after_a_resume_do_not_count_twice(name):
    kind = Detector.registry[name]
    values = lognormal(120) if name != "coherence" else [1.0 if count % 3 else -1.0 for count in range(120)]
    samples = [(value,) * len(kind.INPUTS) for value in values]
    watched = detector(name)
    seen = []
    for _ in range(8):
        seen += feed_all(watched, samples)
        watched.rewind(0)
    assert breaches(seen) == []


def slow_slopes(along, up):
    return [(up[j] - up[i]) / (along[j] - along[i]) for i in range(len(up)) for j in range(i + 1, len(up))]


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=32))
def test_the_theil_sen_slope_is_the_median_of_all_pairs(up):
    along = [3 * count for count in range(len(up))]
    slope = theil_sen(along, up)
    assert slope.middle == pytest.approx(statistics.median(slow_slopes(along, up)))
    assert slope.low <= slope.middle <= slope.high


def test_the_theil_sen_line_is_not_turned_by_outliers_and_takes_long_series():
    along = list(range(1000))
    up = [0.5 * count for count in along]
    up[-1] = -1e9
    assert theil_sen(along, up).middle == pytest.approx(0.5)
    with pytest.raises(ValueError, match="two points"):
        theil_sen([1], [1.0])


def test_the_interval_of_the_slope_holds_the_truth_as_often_as_it_says():
    draw = random.Random(1)
    inside = 0
    for _ in range(400):
        slope = theil_sen(range(12), [0.1 * count + draw.gauss(0, 0.3) for count in range(12)])
        inside += slope.low <= 0.1 <= slope.high
    assert 0.92 <= inside / 400 <= 0.99


def test_growth_tells_when_a_limit_is_reached_and_between_which_steps():
    draw = random.Random(0)
    growth = detector("growth", window=12, limit=1e6)
    values = [math.exp(0.002 * 20 * count + draw.gauss(0, 0.02)) for count in range(60)]
    finding = [growth.feed(20 * count, value) for count, value in enumerate(values)][-1]
    truth = math.log(1e6) / 0.002
    facts = finding.facts
    assert facts["limit_first"] <= facts["limit_step"] <= facts["limit_last"]
    assert facts["limit_first"] <= truth <= facts["limit_last"]
    assert facts["limit_last"] - facts["limit_first"] < truth


def test_growth_that_one_sample_alone_makes_is_no_growth():
    flat = [1.0 + 0.001 * (count % 2) for count in range(20)]
    growth = detector("growth", window=8, min_fit=0.0, exponent=0.0)
    assert not any(finding and finding.breach for finding in feed_all(growth, [*flat, 50.0]))
