"""Detectors one by one: what they see, what they must not see, and what they may never learn from."""

import json
import math
from itertools import accumulate

import pytest
from foreshock.analyzer.detectors import Detector
from hypothesis import given, settings
from hypothesis import strategies as st

positive = st.floats(0.5, 2.0)


def detector(name, **parameters):
    kind = Detector.registry[name]
    return kind(kind.complete(parameters))


def feed_all(watched, values, start=0, stride=1):
    return [
        watched.feed(start + stride * count, *(value if isinstance(value, tuple) else (value,)))
        for count, value in enumerate(values)
    ]


def test_every_detector_says_what_it_can_be_tuned_by():
    assert set(Detector.registry) >= {"non_finite", "spike", "growth", "level", "collapse", "key_shift", "degradation"}
    for kind in Detector.registry.values():
        for parameter in kind.PARAMETERS.values():
            assert parameter.meaning
            assert parameter.check(parameter.default) == parameter.default
        assert kind.__doc__


@given(st.lists(positive, min_size=40, max_size=60), st.floats(1e-3, 1e3))
def test_spike_z_does_not_change_with_the_scale(values, scale):
    plain, scaled = detector("spike", z=4.0), detector("spike", z=4.0)
    series = [*values, 40.0]
    z = [finding and finding.facts.get("z") for finding in feed_all(plain, series)]
    z_scaled = [finding and finding.facts.get("z") for finding in feed_all(scaled, [scale * value for value in series])]
    for one, other in zip(z, z_scaled, strict=True):
        assert one == pytest.approx(other, rel=1e-6) if one is not None else other is None
    assert z[-1]


@given(st.lists(st.floats(0.9, 1.1), min_size=40, max_size=80), st.lists(st.floats(50.0, 1e6), min_size=1, max_size=50))
def test_the_baseline_never_learns_from_what_it_flags(values, spikes):
    spike = detector("spike", rebaseline=64)
    feed_all(spike, values)
    before = spike.window.state_dict()
    findings = feed_all(spike, spikes, start=len(values))
    assert all(finding and finding.breach for finding in findings)
    assert spike.window.state_dict() == before


def test_a_lasting_shift_becomes_the_baseline_after_it_was_reported():
    spike = detector("spike", rebaseline=64)
    feed_all(spike, [1.0 + 0.01 * (count % 5) for count in range(100)])
    findings = feed_all(spike, [5.0 + 0.05 * (count % 5) for count in range(200)], start=100)
    assert all(finding and finding.breach for finding in findings[:64])
    assert not any(findings[64:])
    assert spike.window.median() == pytest.approx(5.1)


def test_spike_judges_series_that_reach_zero_on_a_linear_scale():
    spike = detector("spike")
    assert not any(feed_all(spike, [0.1 * math.sin(count) for count in range(100)]))
    assert spike.feed(100, 5.0).breach
    assert spike.feed(101, -50.0) is None


@settings(deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(0.001, 0.02))
def test_growth_finds_the_rate_at_any_scale(scale, rate):
    growth = detector("growth", window=10, limit=scale * 1e12)
    findings = feed_all(growth, [scale * math.exp(rate * 20 * count) for count in range(60)], stride=20)
    last = findings[-1]
    assert last.breach
    assert last.facts["doubling"] == pytest.approx(math.log(2) / rate, abs=1.0)
    assert last.facts["factor"] == pytest.approx(last.value / last.facts["start_value"])
    reached = scale * math.exp(rate * last.facts["limit_step"])
    assert reached == pytest.approx(scale * 1e12, rel=0.05)


def test_growth_at_or_below_the_pace_of_steady_updates_is_not_flagged():
    for power in (0.3, 0.5, 1.0):
        growth = detector("growth", window=16, exponent=1.2)
        assert not any(feed_all(growth, [1.0 + (20.0 * count) ** power for count in range(10, 200)], start=200, stride=20))


SCHEDULES = {
    "constant": lambda step: 0.01,
    "warm-up": lambda step: 0.01 * min(1.0, (step + 1) / 300),
    "cosine to nothing": lambda step: 0.005 * (1 + math.cos(math.pi * step / 1000)),
    "a ramp that never stops": lambda step: 0.01 * (step / 1000) ** 3,
    "restarts": lambda step: 0.005 * (1 + math.cos(math.pi * (step % 250) / 250)),
}


def followed(weights, rate, *, reach=lambda step: 1.0, every=10, steps=1000, **parameters):
    """Steps at which the growth of ``weights(step)``, sampled at every tenth step, stands out under a schedule."""
    growth = detector("growth", window=10, exponent=1.3, min_rise=0.15, min_fit=0.9, **parameters)
    found = []
    for step in range(0, steps, every):
        sample = (step, weights(step), math.nan, rate(step), rate(step) * reach(step))
        growth.begin(*sample) if step == 0 else None
        finding = growth.feed(*sample)
        if step == steps // 2:  # what it knows of the schedule survives a checkpoint
            again = detector("growth", window=10, exponent=1.3, min_rise=0.15, min_fit=0.9, **parameters)
            again.load_state_dict(json.loads(json.dumps(growth.state_dict())))
            growth = again
        found += [step] if finding and finding.breach else []
    return found


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_weights_in_proportion_to_the_rate_travelled_are_not_flagged_whatever_the_schedule(schedule):
    rate = SCHEDULES[schedule]
    travelled = list(accumulate(rate(step) for step in range(1000)))
    assert followed(lambda step: 0.01 + 5.0 * travelled[step], rate, discount="travel") == []
    assert followed(lambda step: math.hypot(1.0, 3.0 * travelled[step]), rate, discount="travel") == []


def test_weights_that_feed_on_themselves_are_flagged_whatever_the_schedule():
    for schedule in ("constant", "warm-up"):
        found = followed(lambda step: 1.003**step, SCHEDULES[schedule], discount="travel")
        assert 430 <= found[0] <= 640, schedule
        assert found == list(range(found[0], 1000, 10))
    in_a_warmup = followed(lambda step: (1 + step) ** 2.0, SCHEDULES["warm-up"], steps=300, discount="none", min_age=100)
    assert in_a_warmup, "as a warm-up makes them: only counted in steps is it too fast"
    assert followed(lambda step: (1 + step) ** 2.0, SCHEDULES["warm-up"], steps=300, discount="travel", min_age=100) == []


def test_updates_that_momentum_makes_larger_are_not_flagged():
    reach = {step: 1 / (1 - (1 - 0.1 * 0.01 ** (step / 1000))) for step in range(1000)}
    constant = SCHEDULES["constant"]
    assert followed(reach.get, constant, reach=reach.get, discount="none"), "tenfold and more, as a power of the steps"
    assert followed(reach.get, constant, reach=reach.get, discount="momentum") == []
    beyond = {step: value * 1.004**step for step, value in reach.items()}
    assert followed(beyond.get, constant, reach=reach.get, discount="momentum")


def test_a_run_that_went_back_has_not_travelled_what_it_will_travel_again():
    growth = detector("growth", discount="travel")
    for step in range(0, 500, 10):
        growth.feed(step, 1.0, math.nan, 0.01, math.nan)
    growth.rewind(250)
    assert growth.schedule.travel == pytest.approx(2.5)
    for step in range(250, 500, 10):
        growth.feed(step, 1.0, math.nan, 0.01, math.nan)
    assert growth.schedule.travel == pytest.approx(4.91)


def test_growth_that_stopped_keeps_an_alert_open_but_opens_none():
    growth = detector("growth", window=6, level=10.0)
    findings = feed_all(growth, [min(30.0, 1.5**count) for count in range(40)], stride=20)
    assert any(finding and finding.breach for finding in findings)
    assert findings[-1]
    assert not findings[-1].breach


def test_level_has_hysteresis_on_both_sides():
    above = detector("level", level=100.0, direction="above", release=0.8)
    assert [finding and finding.breach for finding in feed_all(above, [70, 90, 101, 90, 79])] == [None, False, True, False, None]
    below = detector("level", level=0.2, direction="below", release=0.8)
    assert [finding and finding.breach for finding in feed_all(below, [0.3, 0.22, 0.19, 0.24, 0.26])] == [
        None,
        False,
        True,
        False,
        None,
    ]


def test_collapse_needs_the_fall_and_the_growth():
    def series(diversity, rate):
        return [(diversity if count > 60 else 0.8, math.exp(rate * max(0, count - 60)), 2.0, 0.001) for count in range(100)]

    fallen_and_growing = feed_all(detector("collapse"), series(0.05, 0.05), stride=20)
    assert any(finding and finding.breach for finding in fallen_and_growing)
    for harmless in (series(0.05, 0.0), series(0.7, 0.05)):
        assert not any(finding and finding.breach for finding in feed_all(detector("collapse"), harmless, stride=20))


def test_collapse_passes_over_samples_without_a_steady_direction():
    def series(gap, turn):
        return [(0.05 if count > 60 else 0.8, math.exp(0.05 * max(0, count - 60)), gap, turn) for count in range(100)]

    for gap, turn in ((1.01, 0.001), (2.0, 0.5)):
        assert not any(feed_all(detector("collapse"), series(gap, turn), stride=20))
    unknown = feed_all(detector("collapse"), series(math.nan, math.nan), stride=20)
    assert any(finding and finding.breach for finding in unknown)


def test_a_layer_that_was_never_diverse_cannot_collapse():
    series = [(0.1 if count < 60 else 0.0, math.exp(0.02 * count), 2.0, 0.0) for count in range(120)]
    assert not any(feed_all(detector("collapse"), series, stride=20))


def test_key_shift_needs_excess_and_growing_logits_or_coherence():
    growing = [60 * math.exp(0.1 * count) for count in range(40)]
    cases = {
        (40.0, "growing", math.nan): True,
        (40.0, "flat", math.nan): False,
        (40.0, "flat", 0.95): True,
        (1.2, "growing", math.nan): False,
        (1.2, "growing", 0.95): False,
    }
    for (excess, logits, coherence), expected in cases.items():
        values = [(excess, growing[count] if logits == "growing" else 60.0, coherence) for count in range(40)]
        findings = feed_all(detector("key_shift", excess=20.0), values, stride=20)
        assert any(finding and finding.breach for finding in findings) is expected


def test_degradation_sees_a_loss_that_left_its_best_but_not_one_on_its_way_back():
    falling = [3.0 * math.exp(-count / 150) + 0.3 for count in range(500)]
    rising = [falling[-1] * math.exp(count / 100) for count in range(200)]
    findings = feed_all(detector("degradation"), falling + rising)
    assert not any(finding and finding.breach for finding in findings[:500])
    assert findings[-1].breach
    assert findings[-1].baseline == pytest.approx(min(falling), rel=0.1)
    recovering = [0.4 + 2.0 * math.exp(-count / 30) for count in range(400)]
    flagged = [finding for finding in feed_all(detector("degradation"), falling + recovering) if finding and finding.breach]
    assert len(flagged) < 50


def test_only_non_finite_sees_what_is_not_finite():
    watcher = detector("non_finite")
    assert [finding and finding.facts["kind"] for finding in feed_all(watcher, [1.0, math.nan, math.inf, -math.inf])] == [
        None,
        "NaN",
        "+infinity",
        "-infinity",
    ]


@given(
    st.sampled_from(sorted(set(Detector.registry) - {"non_finite"})),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=80),
)
def test_no_finite_value_makes_a_detector_raise(name, values):
    kind = Detector.registry[name]
    watched = kind(kind.complete({}))
    for step, value in enumerate(values):
        watched.feed(step, *([value] * len(kind.INPUTS)))


def by_rank(*values):
    return tuple(number for rank, value in enumerate(values) for number in (float(rank), value))


def test_an_odd_rank_is_seen_only_among_ranks_that_were_the_same():
    never = detector("odd_rank")
    assert feed_all(never, [by_rank(1.0, 2.0, 3.0), by_rank(1.0, 2.0, 4.0)]) == [None, None]
    odd = detector("odd_rank")
    findings = feed_all(odd, [by_rank(1.0, 1.0, 1.0, 1.0), by_rank(2.0, 2.0, 5.0, 2.0), by_rank(2.0, 7.0, 5.0, 2.0)])
    assert findings[0] is None
    assert (findings[1].value, findings[1].facts) == (5.0, {"ranks": "rank 2", "others": 3})
    assert findings[2].facts == {"ranks": "ranks 1 and 2", "others": 2}


def test_where_as_many_ranks_hold_one_value_as_another_all_are_named():
    two, three = detector("odd_rank"), detector("odd_rank")
    assert feed_all(two, [by_rank(1.0, 1.0), by_rank(1.0, 2.0)])[1].facts == {"ranks": "one of ranks 0 and 1"}
    assert feed_all(three, [by_rank(1.0, 1.0, 1.0), by_rank(3.0, 1.0, 2.0)])[1].facts == {"ranks": "one of ranks 0, 1 and 2"}


def test_that_ranks_agreed_survives_a_checkpoint():
    before, after = detector("odd_rank"), detector("odd_rank")
    before.feed(0, *by_rank(1.0, 1.0, 1.0))
    after.load_state_dict(before.state_dict())
    assert after.feed(1, *by_rank(1.0, 1.0, 9.0)).facts["ranks"] == "rank 2"
