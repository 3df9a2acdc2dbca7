"""Detectors that ask for two things at once: a wild update and a loss that breaks, a rate that rises and a loss that turns."""

import json
import math
import random
import re
from statistics import median

import pytest
from foreshock.analyzer.detectors import Detector
from foreshock.analyzer.detectors.rolling import Learnt
from foreshock.analyzer.rules import RuleError, RuleSet
from foreshock.storage.records import SeriesKey, Severity

LOSS, RATE, GRADIENT, CLIPPED = (SeriesKey(name) for name in ("loss", "learning_rate", "gradient.norm", "gradient.norm_clipped"))


def detector(name, **parameters):
    kind = Detector.registry[name]
    return kind(kind.complete(parameters))


def breaches(watched, samples):
    missing = [math.nan] * (len(watched.INPUTS) - len(samples[0]))
    return [step for step, sample in enumerate(samples) if (found := watched.feed(step, *sample, *missing)) and found.breach]


def steady(count, seed=0, loss=1.4, gradient=2.5, rate=0.05):
    draw = random.Random(seed)
    return [(loss * draw.lognormvariate(0, 0.1), gradient * draw.lognormvariate(0, 0.2), rate) for _ in range(count)]


def after(samples, *changes):
    """Follow ``samples`` with (loss, gradient, rate) as told."""
    return [*samples, *changes]


# -- shock ---------------------------------------------------------------------------------------------------------------


def test_a_jump_of_the_rate_that_breaks_the_loss_is_named_at_the_next_step():
    run = after(steady(100), (1.4, 2.5, 1.5), (9.2, 17.0, 1.5), (117.0, 190.0, 1.5))
    watched = detector("shock")
    assert breaches(watched, run) == [101]
    assert (watched.wild_at, round(watched.rate_times)) == (100, 30)


def test_a_bad_batch_is_named_only_if_the_model_is_worse_for_it():
    bad, usual = (400.0, 9000.0, 0.05), (1.4, 2.5, 0.05)
    assert breaches(detector("shock"), after(steady(100), bad, (30.0, 50.0, 0.05))) == [101]
    assert breaches(detector("shock"), after(steady(100), bad, *[usual] * 5)) == []  # clipped elsewhere, or skipped
    clipped = [(12.0, 1.0, 0.05)] * 12  # wrong labels for some steps: high losses, updates as ever
    assert breaches(detector("shock"), after(steady(100), *clipped, *[usual] * 5)) == []


def test_what_grows_over_several_steps_is_no_shock():
    growing = [(1.4 * 1.6**count, 2.5 * 2.0**count, 0.05) for count in range(1, 12)]
    assert breaches(detector("shock"), after(steady(100), *growing)) == []


@pytest.mark.parametrize("seed", range(5))
def test_large_updates_that_do_no_harm_are_nothing(seed):
    draw = random.Random(seed)
    run = [(loss, gradient * (20.0 if draw.random() < 0.02 else 1.0), rate) for loss, gradient, rate in steady(2000, seed)]
    assert breaches(detector("shock"), run) == []


def test_shock_learns_a_level_that_lasts_and_never_what_it_flags():
    watched = detector("shock", rebaseline=40)
    broken = [(50.0, 60.0, 1.5)] * 30
    breaches(watched, after(steady(100), (1.4, 2.5, 1.5), *broken))
    assert watched.losses.median() < 2.0
    breaches(watched, [(50.0, 60.0, 1.5)] * 40)
    assert watched.losses.median() == 50.0


def test_values_of_every_kind_leave_shock_and_overreach_standing():
    for name, width in (("shock", 3), ("overreach", 3), ("odd_input", 2), ("swamped", 2)):
        watched = detector(name)
        strange = (0.0, -1.0, 1e300, math.nan, 1e-300)
        for step in range(300):
            watched.feed(step, [1.0, 0.0, -5.0, 1e300][step % 4], *(strange[(step + place) % 5] for place in range(width - 1)))
        again = detector(name)
        again.load_state_dict(json.loads(json.dumps(watched.state_dict())))
        assert again.state_dict() == watched.state_dict()


# -- overreach -----------------------------------------------------------------------------------------------------------


def ramp(turns, power=3, steps=600, noise=0.08, seed=0):
    """A loss that falls until ``turns`` and rises from there, under a rate that never stops rising."""
    draw = random.Random(seed)
    losses = [3.5 * math.exp(-min(step, turns) / 250) * math.exp(max(0, step - turns) / 400) for step in range(steps)]
    return [(loss * draw.lognormvariate(0, noise), 0.1 * ((step + 1) / steps) ** power) for step, loss in enumerate(losses)]


@pytest.mark.parametrize("seed", range(3))
def test_a_loss_that_turns_under_a_rising_rate_is_seen_and_one_that_falls_is_not(seed):
    found = breaches(detector("overreach"), ramp(350, seed=seed))
    assert 370 < found[0] < 460
    assert breaches(detector("overreach"), ramp(600, seed=seed)) == []
    constant = [(loss, 0.05) for loss, _ in ramp(350, seed=seed)]
    assert breaches(detector("overreach"), constant) == []
    decaying = [(loss, 0.1 - rate) for loss, rate in ramp(350, seed=seed)]
    assert breaches(detector("overreach"), decaying) == []


def test_a_momentum_that_rises_counts_as_a_rate_that_does():
    """The effective rate is measured at every tenth step; between these it moves with the learning rate."""
    losses = [loss for loss, _ in ramp(350)]

    def under(momentum, rate=lambda step: 0.05):
        return [
            (loss, rate(step), rate(step) / (1 - momentum(step)) if step % 10 == 0 else math.nan)
            for step, loss in enumerate(losses)
        ]

    rising = under(lambda step: 1 - 0.1 * 0.02 ** (step / 600))
    found = breaches(detector("overreach"), rising)
    assert 370 < found[0] < 460
    assert breaches(detector("overreach"), under(lambda step: 0.9)) == []
    # As one-cycle schedules have it: the momentum falls while the rate rises, and their product stays.
    balanced = under(lambda step: 1 - 0.05 * (step + 1) / 60, lambda step: 0.01 * (step + 1) / 60)
    assert breaches(detector("overreach"), balanced[:590]) == []


def test_overreach_sees_what_a_slow_twin_sees():
    samples = ramp(350, seed=7)
    losses, rates = [loss for loss, _ in samples], [rate for _, rate in samples]
    slow, best = [], math.inf
    for step in range(24, len(samples)):
        now = median(losses[step - 24 : step + 1])
        if now < best:
            best, at = now, step
        elif rates[step] == max(rates[: step + 1]) and rates[step] >= 1.25 * rates[at]:
            slow += [step] if now > 1.1 * best + 0.02 and step - at >= 0.15 * step else []
    assert slow
    assert breaches(detector("overreach"), samples) == slow


def test_restarts_of_the_rate_to_where_it_was_are_no_overreach():
    draw = random.Random(3)
    rates = [0.05 * (1 + math.cos(math.pi * (step % 200) / 200)) + 1e-3 for step in range(1000)]
    run = [(0.6 * (1 + 5 * rate) * draw.lognormvariate(0, 0.1), rate) for rate in rates]
    assert len(breaches(detector("overreach"), run)) <= 5  # single steps, which persistence passes over


# -- odd inputs, and runs undone at the start ------------------------------------------------------------------------------


def inputs(judge, size, loss):
    return judge.run({SeriesKey("input.rms"): judge.noisy(size, 0.02), LOSS: judge.noisy(loss, 0.05, 1)}, 400, every=10)


def test_a_batch_in_raw_units_is_named_if_the_loss_stands_out_too(judge):
    def at(level, odd, steps=range(200, 400)):
        return lambda step: odd if step in steps else level

    (alert,) = judge.fired(inputs(judge, at(1.0, 147.0), at(0.5, 7.0)), "odd_inputs")
    assert (alert.first_step, alert.severity) == (210, Severity.WARNING)
    assert alert.diagnosis[0].name == "bad_batch"
    assert re.match(r"The inputs are 1[45]\d times as large as usual at step 210", alert.message)
    assert judge.fired(inputs(judge, at(1.0, 0.01), at(0.5, 7.0)), "odd_inputs"), "far too small is odd too"
    assert judge.fired(inputs(judge, at(1.0, 147.0), at(0.5, 0.5)), "odd_inputs") == [], "a net that bears it"
    assert judge.fired(inputs(judge, at(1.0, 1.3), at(0.5, 7.0)), "odd_inputs") == [], "labels, not inputs"
    assert judge.fired(inputs(judge, at(0.0, 1.0, range(30, 400)), at(0.5, 7.0)), "odd_inputs") == [], "no size, no factor"


def test_inputs_that_grow_are_told_before_the_loss_turns(judge):
    (alert,) = judge.fired(inputs(judge, lambda step: math.exp(step / 200), lambda step: 0.5), "input_growth")
    assert 140 < alert.first_step < 260
    assert alert.diagnosis[0].name == "input_drift"
    assert judge.fired(inputs(judge, lambda step: 1.0 + 0.5 * step / 400, lambda step: 0.5), "input_growth") == []


def test_odd_sizes_that_stay_become_the_usual_ones():
    watched = detector("odd_input")
    run = [(1.0, 1.0)] * 20 + [(9.0, 3.0)] * 30 + [(1.0, 9.0)]
    assert breaches(watched, run) == [*range(20, 28), 50]


def started(judge, update, loss):
    return judge.run({SeriesKey("update.ratio", "layer"): update, LOSS: loss}, 200, every=10)


def test_a_run_that_only_rises_since_its_first_updates_is_failing(judge):
    large, risen = (lambda step: 1.0 if step == 0 else 0.02), (lambda step: 4.0 if step == 0 else 100.0 + step)
    (alert,) = judge.fired(started(judge, large, risen), "undone_at_start")
    assert (alert.first_step, alert.severity) == (30, Severity.CRITICAL)
    assert alert.diagnosis[0].name in ("learning_rate_too_high", "missing_warmup")
    assert "against 4 at the start" in alert.message
    small = started(judge, lambda step: 0.01, risen)
    assert judge.fired(small, "undone_at_start") == [], "a loss that begins near nothing, as where a model teaches itself"
    back = started(judge, large, lambda step: {0: 4.0, 10: 50.0, 20: 3.0}.get(step, 50.0))
    assert judge.fired(back, "undone_at_start") == [], "it came back once: what came then has another cause"


# -- learnt, early, across ------------------------------------------------------------------------------------------------


def test_learnt_is_for_good_and_survives_a_checkpoint():
    learnt = Learnt(1e-3)
    assert not learnt.all(1e-9)  # nothing known of where it began
    learnt.begin(4.0)
    assert [learnt.all(loss) for loss in (4.0, 0.005, math.nan, 0.003, 5.0)] == [False, False, False, True, True]
    for one in (learnt, Learnt(1e-3)):
        again = Learnt(1e-3)
        again.load_state_dict(json.loads(json.dumps(one.state_dict())))
        assert again.all(3.0) is one.all(3.0)


def growing_weights(judge, floor):
    loss = judge.noisy(lambda step: max(floor, 3.0 * math.exp(-step / 15)), 0.05)
    return {LOSS: loss, SeriesKey("weight.spectral_norm", "head"): lambda step: 2.0 * 2.0 ** (max(0, step - 500) / 90)}


def test_weights_that_grow_when_all_is_learnt_are_no_warning(judge):
    assert judge.loud(judge.run(growing_weights(judge, 1e-6), 1000)) == []
    assert judge.fired(judge.run(growing_weights(judge, 0.3), 1000), "spectral_norm_growth")


def gradients(judge, shares, loss):
    """Modules that get these shares of the gradient until step 40, and a tenth each after it."""
    series = {LOSS: judge.noisy(loss, 0.01), GRADIENT: judge.noisy(lambda step: 0.2, 0.1)}
    for number, share in enumerate(shares):
        series[SeriesKey("gradient.module_norm", f"layer.{number}")] = lambda step, share=share: 0.2 * (share if step < 40 else 0.1)
    return series


def test_gradients_that_vanished_at_the_start_are_named_though_they_come_back(judge):
    vanished = [10.0**-power for power in (8, 7, 6, 5, 4, 3, 2, 1, 0.3)]
    run = judge.run(gradients(judge, vanished, lambda step: 3.5 * math.exp(-step / 4000)), 400, every=10)
    (alert,) = judge.loud(run)
    assert (alert.rule, alert.module, alert.severity) == ("vanishing_gradients", "", Severity.WARNING)
    assert alert.first_step < 200
    assert re.match(r"A third of the modules got [01]\.\d+e-6 of the gradient or less at the start", alert.message)
    assert alert.diagnosis[0].name == "bad_initialisation"
    learns = judge.run(gradients(judge, vanished, lambda step: 3.5 * math.exp(-step / 200)), 400, every=10)
    assert judge.loud(learns) == []
    few = judge.run(gradients(judge, [1e-7, 1e-7, *[0.3] * 7], lambda step: 3.5), 400, every=10)
    assert judge.fired(few, "vanishing_gradients") == []


def test_a_rule_across_modules_is_fed_once_a_step_with_one_number_of_all(judge):
    def values(reduce):
        rules = RuleSet.load(
            {
                "wide": {
                    "detector": "level",
                    "signals": {"value": "activation.rms"},
                    "across": True,
                    "reduce": reduce,
                    "modules": ["layer.*"],
                    "parameters": {"level": 0.0},
                }
            }
        )
        rules = rules.merged({name: {"enabled": False} for name in rules if name != "wide"})
        sizes = {f"layer.{number}": number + 1.0 for number in range(7)} | {"other": 100.0}
        series = {SeriesKey("activation.rms", module): lambda step, size=size: size for module, size in sizes.items()}
        return [(alert.module, alert.value) for alert in judge.run(series, 40, rules=rules).alerts]

    assert {reduce: values(reduce) for reduce in ("min", "max", "mean", "median", "third")} == {
        "min": [("", 1.0)],
        "max": [("", 7.0)],
        "mean": [("", 4.0)],
        "median": [("", 4.0)],
        "third": [("", 3.0)],
    }
    with pytest.raises(RuleError, match="allowed: max, min, mean, median, third"):
        values("most")


def test_a_broken_model_is_told_with_the_jump_of_the_rate_and_named_in_first_place(judge):
    series = {
        RATE: lambda step: 0.05 if step < 400 else 1.5,
        LOSS: judge.noisy(lambda step: 1.4 if step <= 400 else 1.4 * 5.0 ** (step - 400), 0.1),
        GRADIENT: judge.noisy(lambda step: 2.5 if step <= 400 else 2.5 * 5.0 ** (step - 400), 0.2, 1),
    }
    series[CLIPPED] = series[GRADIENT]
    first = judge.loud(judge.run(series, 410))[0]
    assert (first.rule, first.first_step) == ("broken_by_update", 401)
    assert "the update of step 400 was" in first.message
    assert "at 30 times the learning rate" in first.message
    assert first.diagnosis[0].name == "learning_rate_too_high"


def test_a_rate_that_rises_too_far_is_told_long_before_the_loss_counts_as_failed(judge):
    samples = ramp(350)
    series = {LOSS: lambda step: samples[step][0], RATE: lambda step: samples[step][1], GRADIENT: lambda step: 2.0}
    engine = judge.run(series, 600)
    (alert,) = judge.fired(engine, "learning_rate_overreach")
    assert alert.severity is Severity.WARNING
    assert alert.first_step < 480
    assert alert.diagnosis[0].name == "learning_rate_too_high"
