"""Every default rule on a crafted series that must fire it, and healthy runs that look alarming and must raise no warning."""

import math
import random
import re

import pytest
from foreshock.analyzer.rules import RuleSet
from foreshock.storage.records import AlertState, SeriesKey, Severity

LOSS, RATE, GRADIENT = SeriesKey("loss"), SeriesKey("learning_rate"), SeriesKey("gradient.norm")
ATTENTION = "blocks.1.attn"
LAYER = "blocks.1.mlp.up"


def head(signal, number=0, module=ATTENTION):
    return SeriesKey(signal, module, number)


def healthy(judge, seed=0):
    """A small GPT that trains well, as recorded runs look."""
    noisy = judge.noisy
    series = {
        LOSS: noisy(lambda step: 3.0 * math.exp(-step / 250) + 0.3, 0.08, seed),
        RATE: lambda step: 3e-3 * min(1.0, (step + 1) / 50),
        GRADIENT: noisy(lambda step: 1.5 + 0.5 * math.exp(-step / 100), 0.25, seed + 1),
    }
    for number in range(2):
        series |= {
            head("attention.max_logit", number): noisy(
                lambda step: 100 * (1 - math.exp(-step / 80)) + 0.05, 0.1, seed + 2 + number
            ),
            head("attention.entropy_mean", number): noisy(lambda step: 0.5 + 2.5 * math.exp(-step / 60), 0.2, seed + 4 + number),
            head("attention.common_logit_shift", number): noisy(lambda step: 4.0, 0.4, seed + 6 + number),
            head("rounding.key_shift_excess", number): noisy(lambda step: 1.0 + 3000 * math.exp(-step / 5), 0.3, seed + 8 + number),
        }
    for count, module in enumerate((f"{ATTENTION}.q", LAYER)):
        series |= {
            SeriesKey("weight.spectral_norm", module): noisy(
                lambda step: 0.5 + 2.0 * (1 - math.exp(-step / 150)), 0.002, seed + 20 + count
            ),
            SeriesKey("spectral_alignment.sign_diversity", module): noisy(lambda step: 0.8, 0.1, seed + 30 + count),
            SeriesKey("spectral_alignment.gap", module): lambda step: 1.8,
            SeriesKey("spectral_alignment.turn", module): lambda step: 0.002,
        }
    return series


@pytest.mark.parametrize("seed", range(5))
def test_a_healthy_run_raises_nothing(judge, seed):
    assert judge.run(healthy(judge, 100 * seed), 3000).alerts == []


def _noise_burst(judge, base):
    base[LOSS] = judge.noisy(lambda step: 3.2 if 700 <= step < 720 else 0.4, 0.08)
    base[GRADIENT] = judge.noisy(lambda step: 9.0 if 700 <= step < 720 else 1.5, 0.25)


def _rate_drop(judge, base):
    base[RATE] = lambda step: 3e-3 if step < 600 else 3e-4
    base[LOSS] = judge.noisy(lambda step: 1.0 if step < 600 else 0.4 + 0.6 * math.exp(-(step - 600) / 5), 0.08)
    base[GRADIENT] = judge.noisy(lambda step: 2.0 if step < 600 else 0.5, 0.25)


def _plateau(judge, base):
    base[LOSS] = judge.noisy(lambda step: 2.4 if step < 900 else 0.5 + 1.9 * math.exp(-(step - 900) / 30), 0.03)


def _benign_logits(judge, base):
    for number in range(2):
        base[head("attention.max_logit", number)] = judge.noisy(lambda step: 150 * (1 - math.exp(-step / 500)) + 1, 0.05, number)


def _bfloat16_excess(judge, base):
    base[head("rounding.key_shift_excess")] = judge.noisy(lambda step: 12.0, 0.4)
    base[head("attention.max_logit")] = judge.noisy(lambda step: 30 + 0.1 * step, 0.05)


def _warmup_growth(judge, base):
    base[SeriesKey("weight.spectral_norm", LAYER)] = judge.noisy(lambda step: 0.3 * math.exp(2.2 * min(1.0, step / 220)), 0.002)


def _linear_growth(judge, base):
    base[SeriesKey("weight.spectral_norm", LAYER)] = judge.noisy(lambda step: 0.5 + 0.02 * step, 0.002)


def _loud_loss(judge, base):
    base[LOSS] = judge.noisy(lambda step: 3.0 * math.exp(-step / 250) + 0.3, 0.2)


def _tiny_loss(judge, base):
    base[LOSS] = lambda step: 2.0 * math.exp(-step / 30) + 1e-7 * 10 ** random.Random(step).uniform(-1, 1.5)


def _early_one_signed(judge, base):
    base[SeriesKey("spectral_alignment.sign_diversity", LAYER)] = judge.noisy(lambda step: 0.8 if step < 180 else 0.01, 0.1)
    _linear_growth(judge, base)


def _late_one_signed_without_growth(judge, base):
    base[SeriesKey("spectral_alignment.sign_diversity", LAYER)] = judge.noisy(lambda step: 0.8 if step < 800 else 0.01, 0.1)


def _loss_scaling(judge, base):
    base[GRADIENT] = lambda step: math.inf if step % 90 == 10 else 1.5 + 0.1 * math.sin(step)


def _data_switch(judge, base):
    base[LOSS] = judge.noisy(lambda step: 0.4 if step < 700 else 0.4 + 2.0 * math.exp(-(step - 700) / 70), 0.05)


ALARMING = [
    _noise_burst,
    _rate_drop,
    _plateau,
    _benign_logits,
    _bfloat16_excess,
    _warmup_growth,
    _linear_growth,
    _loud_loss,
    _tiny_loss,
    _early_one_signed,
    _late_one_signed_without_growth,
    _loss_scaling,
    _data_switch,
]


@pytest.mark.parametrize("change", ALARMING, ids=lambda change: change.__name__.strip("_"))
@pytest.mark.parametrize("every", [5, 20])
def test_a_healthy_run_that_looks_alarming_raises_no_warning(judge, change, every):
    series = healthy(judge, 7)
    change(judge, series)
    assert [alert.message for alert in judge.loud(judge.run(series, 1500, every=every))] == []


def _exploding(value, start, doubling):
    return lambda step: value * 2.0 ** (max(0, step - start) / doubling)


def test_not_a_number_is_critical_at_once_and_kept_once(judge):
    series = healthy(judge)
    series[LOSS] = lambda step: math.nan if step >= 500 else 0.5
    engine = judge.run(series, 700)
    (alert,) = judge.loud(engine)
    assert (alert.rule, alert.first_step, alert.severity, alert.state) == ("non_finite", 500, Severity.CRITICAL, AlertState.FIRING)
    assert alert.message.startswith("Loss is NaN at step 500")
    assert {"overflow", "bad_batch"} & {cause.name for cause in alert.diagnosis}
    assert math.isnan(alert.evidence[0].values[-1])


def test_a_gradient_that_stays_infinite_is_critical_and_single_ones_are_a_note(judge):
    series = healthy(judge)
    series[GRADIENT] = lambda step: math.inf if step == 100 or step >= 600 else 1.5
    engine = judge.run(series, 800)
    assert judge.fired(engine, "gradient_non_finite")[0].first_step == 100
    (stays,) = judge.fired(engine, "gradient_stays_non_finite")
    assert (stays.first_step, stays.severity) == (624, Severity.CRITICAL)


def test_a_loss_spike_is_named_at_once_and_explained_as_a_bad_batch_when_it_comes_back(judge):
    series = healthy(judge)
    series[LOSS] = judge.noisy(lambda step: 4.0 if step == 700 else 0.4, 0.05)
    series[GRADIENT] = judge.noisy(lambda step: 30.0 if step == 700 else 1.5, 0.1)
    engine = judge.run(series, 900)
    (spike,) = judge.fired(engine, "loss_spike")
    assert (spike.first_step, spike.severity, spike.state) == (700, Severity.INFO, AlertState.RESOLVED)
    assert judge.loud(engine) == []
    (gradient,) = judge.fired(engine, "gradient_spike")
    assert gradient.first_step == 700
    assert "times its usual 1.5" in gradient.message


def test_a_loss_that_jumps_and_stays_is_a_warning_and_then_critical(judge):
    series = healthy(judge)
    series[RATE] = lambda step: 3e-3 if step < 600 else 6e-2
    series[LOSS] = judge.noisy(lambda step: 0.4 if step < 600 else 3.5, 0.05)
    engine = judge.run(series, 900)
    (stays,) = judge.fired(engine, "loss_stays_high")
    assert 600 < stays.first_step <= 650
    (fails,) = judge.fired(engine, "loss_degradation")
    assert fails.severity is Severity.CRITICAL
    assert stays.first_step < fails.first_step < 700
    cause = fails.diagnosis[0]
    assert cause.name == "learning_rate_too_high"
    assert any("rose from 0.003 to 0.06 at step 600" in reason for reason in cause.reasons)


def test_a_loss_that_creeps_up_for_good_is_critical(judge):
    series = healthy(judge)
    series[LOSS] = judge.noisy(lambda step: 0.5 if step < 700 else 0.5 * math.exp((step - 700) / 250), 0.05)
    engine = judge.run(series, 1300)
    (alert,) = judge.fired(engine, "loss_degradation")
    assert 750 < alert.first_step < 900


def test_growing_logits_are_told_with_rate_and_time_to_the_limit(judge):
    series = healthy(judge)
    series[head("attention.max_logit", 0)] = judge.noisy(_exploding(60.0, 400, 170), 0.03)
    engine = judge.run(series, 1300)
    (alert,) = judge.fired(engine, "attention_logit_growth")
    assert 760 < alert.first_step < 900
    assert alert.severity is Severity.WARNING
    assert "blocks.1.attn head 0 grew from" in alert.message
    assert "doubling every 1" in alert.message
    assert "passes 10,000 near step 1,6" in alert.message
    assert alert.evidence[0].key == head("attention.max_logit", 0)
    assert alert.evidence[0].steps[-1] == alert.first_step
    assert alert.diagnosis[0].name == "attention_logit_growth"
    (saturated,) = judge.fired(engine, "attention_logit_saturation")
    assert saturated.severity is Severity.CRITICAL
    assert saturated.first_step > alert.first_step


def test_rounding_bias_with_growing_logits_is_low_precision_attention_in_first_place(judge):
    series = healthy(judge)
    series[head("attention.max_logit", 1)] = judge.noisy(_exploding(70.0, 300, 120), 0.05)
    series[head("rounding.key_shift_excess", 1)] = judge.noisy(lambda step: 60.0, 0.4)
    engine = judge.run(series, 1300)
    first = judge.loud(engine)[0]
    assert first.rule == "key_shift_bias"
    assert 300 < first.first_step < 560
    assert "head 1" in first.message
    assert "times what random rounding leaves, and its largest logit" in first.message
    assert {item.key.signal for item in first.evidence} == {"rounding.key_shift_excess", "attention.max_logit"}
    for alert in judge.loud(engine):
        assert alert.diagnosis[0].name == "low_precision_attention"
    assert "stabilised attention" in first.diagnosis[0].remedy
    assert judge.fired(engine, "key_shift_excess")[0].severity is Severity.INFO


def test_collapsed_entropy_is_named_though_the_loss_looks_well(judge):
    series = healthy(judge)
    for number in range(2):
        series[head("attention.entropy_mean", number)] = judge.noisy(lambda step: 1.0 if step < 600 else 0.015, 0.2, number)
    (alert,) = judge.loud(judge.run(series, 1000))
    assert alert.rule == "attention_entropy_collapse"
    assert 600 <= alert.first_step <= 720


def test_one_sharp_head_is_no_entropy_collapse(judge):
    series = healthy(judge)
    series[head("attention.entropy_mean", 0)] = lambda step: 0.001
    assert judge.run(series, 1000).alerts == []


def test_a_growing_common_shift_is_a_note(judge):
    series = healthy(judge)
    series[head("attention.common_logit_shift")] = judge.noisy(_exploding(4.0, 400, 150), 0.1)
    engine = judge.run(series, 1300)
    assert judge.fired(engine, "common_logit_shift_growth")
    assert judge.loud(engine) == []


def test_exponential_growth_of_a_spectral_norm_is_a_warning(judge):
    series = healthy(judge)
    series[SeriesKey("weight.spectral_norm", LAYER)] = judge.noisy(_exploding(2.0, 500, 180), 0.005)
    (alert,) = judge.loud(judge.run(series, 1500))
    assert (alert.rule, alert.module) == ("spectral_norm_growth", LAYER)
    assert "doubles every 1" in alert.message


def test_alignment_collapse_needs_all_three_signals_of_one_module(judge):
    def collapse(series, diversity, sigma):
        series[SeriesKey("spectral_alignment.sign_diversity", diversity)] = judge.noisy(
            lambda step: 0.8 if step < 700 else 0.02, 0.1
        )
        series[SeriesKey("weight.spectral_norm", sigma)] = judge.noisy(_exploding(2.0, 700, 140), 0.002)
        return series

    together = judge.run(collapse(healthy(judge), LAYER, LAYER), 1300)
    (alert,) = judge.fired(together, "spectral_alignment_collapse")
    assert alert.module == LAYER
    assert 800 < alert.first_step < 1100
    assert "sign diversity fell to" in alert.message
    assert alert.diagnosis[0].name == "spectral_alignment_collapse"
    assert [item.key.signal for item in alert.evidence] == [
        "spectral_alignment.sign_diversity",
        "weight.spectral_norm",
        "spectral_alignment.gap",
        "spectral_alignment.turn",
        "loss",
    ]
    apart = judge.run(collapse(healthy(judge), LAYER, f"{ATTENTION}.q"), 1300)
    assert judge.fired(apart, "spectral_alignment_collapse") == []


def test_the_monitors_own_troubles_are_notes(judge):
    series = healthy(judge)
    series[SeriesKey("monitor.dropped")] = lambda step: 0.0 if step < 500 else 12.0
    series[SeriesKey("monitor.errors")] = lambda step: 0.0 if step < 600 else 1.0
    engine = judge.run(series, 900)
    assert {(alert.rule, alert.severity) for alert in engine.alerts} == {
        ("monitor_dropped", Severity.INFO),
        ("monitor_errors", Severity.INFO),
    }


def test_nothing_is_claimed_that_was_not_measured(judge):
    series = {LOSS: judge.noisy(lambda step: 0.5 if step < 700 else 0.5 * math.exp((step - 700) / 150), 0.05)}
    (alert,) = judge.fired(judge.run(series, 1100), "loss_degradation")
    reasons = " ".join(reason for cause in alert.diagnosis for reason in cause.reasons)
    assert {cause.name for cause in alert.diagnosis} <= {"learning_rate_too_high"}
    for word in ("rounding", "logit", "warm-up", "learning rate"):
        assert word not in reasons


@pytest.mark.parametrize("missing", [None, 1])
def test_a_rank_that_drifts_is_named_with_its_own_series_as_evidence(judge, missing):
    """Also where another rank has fallen silent: ranks are told by their number, not by their place."""

    def checksum(rank):
        return lambda step: float(step % 977 + (5 if rank == 3 and step > 600 else 0))

    ranks = [rank for rank in range(5) if rank != missing]
    series = {SeriesKey("loss"): lambda step: 2.0, **{SeriesKey("rank.checksum", rank=rank): checksum(rank) for rank in ranks}}
    (alert,) = judge.fired(judge.run(series, 1000), "rank_drift")
    assert alert.severity is Severity.CRITICAL
    assert alert.message.startswith(
        f"The weights of rank 3 are no longer the same as those of the other ranks at step 640; {len(ranks) - 1}"
    )
    assert alert.evidence[0].key == SeriesKey("rank.checksum", rank=3)
    assert alert.diagnosis[0].name == "rank_drift"


def test_one_rank_alone_and_ranks_that_are_no_copies_raise_nothing(judge):
    alone = {SeriesKey("loss"): lambda step: 2.0, SeriesKey("rank.checksum", rank=0): lambda step: float(step)}
    assert not judge.fired(judge.run(alone), "rank_drift")
    parts = {SeriesKey("rank.checksum", rank=rank): (lambda step, rank=rank: float(step + rank)) for rank in range(4)}
    assert not judge.fired(judge.run({SeriesKey("loss"): lambda step: 2.0, **parts}), "rank_drift")


def test_a_loss_that_is_not_a_number_on_one_rank_is_critical_and_names_it(judge):
    series = {SeriesKey("loss"): lambda step: 2.0}
    for rank in range(3):
        series[SeriesKey("rank.loss", rank=rank)] = lambda step, rank=rank: math.nan if rank == 2 and step >= 400 else 2.0
    (alert,) = judge.fired(judge.run(series, 600), "non_finite")
    assert alert.message.startswith("rank.loss on rank 2 is NaN at step 400")


def _broken(judge, layers, since=500):
    """One NaN that reaches the loss, and at the next sample every layer's weights."""
    series = {LOSS: lambda step: math.nan if step >= since else 0.5}
    for number in range(layers):
        series[SeriesKey("weight.spectral_norm", f"layer.{number}")] = lambda step: math.nan if step >= since else 2.0
    return series


@pytest.mark.parametrize("layers", [1, 3, 300])
def test_one_nan_is_one_alert_however_many_layers_it_reaches(judge, layers):
    (alert,) = judge.run(_broken(judge, layers), 700).alerts
    assert (alert.rule, alert.module, alert.first_step) == ("non_finite", "", 500)
    assert alert.message.startswith("Loss is NaN at step 500: ")
    told = {1: "1 other module: layer.0.", 3: "3 other modules: layer.0, layer.1 and layer.2."}
    assert alert.message.endswith(told.get(layers, f" {layers} other modules, such as layer.0, layer.1 and layer.2."))


def test_the_first_module_is_named_and_those_that_follow_are_counted_until_all_are_well(judge):
    series = {
        SeriesKey("weight.spectral_norm", f"layer.{number}"): (
            lambda step, number=number: math.nan if 400 + 40 * number <= step < 600 + 600 * (number == 2) else 2.0
        )
        for number in (3, 2, 1)
    }
    (alert,) = judge.run(series, 1600, every=5).alerts
    assert (alert.module, alert.first_step) == ("layer.1", 440)
    assert alert.message.endswith("The same in 2 other modules: layer.2 and layer.3.")
    assert alert.state is AlertState.RESOLVED
    assert alert.last_step == 1195 + 5 * 50


def test_a_rule_that_does_not_gather_gives_each_module_its_alert(judge):
    rules = RuleSet.load({"non_finite": {"gather": False}})
    assert len(judge.run(_broken(judge, 4), 700, rules=rules).alerts) == 5


def test_a_loss_that_creeps_up_and_a_gradient_that_rises_are_notes(judge):
    series = healthy(judge)
    series[LOSS] = judge.noisy(lambda step: 0.5 if step < 700 else 0.6, 0.05)
    series[GRADIENT] = judge.noisy(lambda step: 1.5 if step < 700 else 3.5, 0.2)
    engine = judge.run(series, 1100)
    (creep,) = judge.fired(engine, "loss_creep")
    assert 700 < creep.first_step < 760
    assert "% above its usual 0.5" in creep.message
    (rises,) = judge.fired(engine, "gradient_creep")
    assert 700 < rises.first_step < 800
    assert judge.loud(engine) == []


def _stuck(judge, **series):
    base = {LOSS: judge.noisy(lambda step: 3.4, 0.02), GRADIENT: judge.noisy(lambda step: 2.0, 0.2)}
    return base | {SeriesKey(name.replace("__", "."), LAYER): value for name, value in series.items()}


@pytest.mark.parametrize(
    ("rule", "signal", "value"),
    [
        ("stuck_attention", "attention.entropy_mean", 0.02),
        ("stuck_gradients", "gradient.module_norm", 1e-6),
        ("stuck_saturated", "activation.kurtosis", 1.06),
    ],
)
def test_a_loss_that_does_not_fall_is_a_silent_failure_only_with_its_symptom(judge, rule, signal, value):
    series = _stuck(judge)
    assert judge.loud(judge.run(series, 900)) == []
    series[SeriesKey(signal, LAYER)] = lambda step: value
    engine = judge.run(series, 900)
    (alert,) = judge.fired(engine, rule)
    assert (alert.severity, alert.module) == (Severity.WARNING, LAYER)
    assert LAYER in alert.message
    assert "has not improved since step" in alert.message
    assert {SeriesKey(signal, LAYER), LOSS} <= {item.key for item in alert.evidence}
    series[LOSS] = judge.noisy(lambda step: 3.4 * math.exp(-step / 300), 0.02)
    assert judge.fired(judge.run(series, 900), rule) == []


@pytest.mark.parametrize(
    ("rule", "signal", "healthy_value", "value", "severity"),
    [
        ("dead_units", "activation.dead_fraction", 0.1, 0.8, Severity.WARNING),
        ("second_moment_lag", "adam.second_moment_lag", 1.2, 6.0, Severity.INFO),
        ("stale_updates", "numerics.stale_update_fraction", 0.05, 0.9, Severity.WARNING),
        ("fp16_range", "numerics.fp16_range_used", 0.01, 0.4, Severity.WARNING),
    ],
)
def test_one_alert_names_the_first_layer_and_counts_the_others(judge, rule, signal, healthy_value, value, severity):
    base = healthy(judge)
    for number in range(6):
        base[SeriesKey(signal, f"layer.{number}")] = judge.noisy(lambda step: healthy_value, 0.2, number)
    assert judge.run(base, 1300).alerts == []
    for number in range(1, 6):
        base[SeriesKey(signal, f"layer.{number}")] = judge.noisy(lambda step: healthy_value if step < 600 else value, 0.02, number)
    (alert,) = judge.run(base, 1300).alerts
    assert (alert.rule, alert.module, alert.severity) == (rule, "layer.1", severity)
    assert 600 < alert.first_step < 760
    assert alert.message.endswith("The same in 4 other modules, such as layer.2, layer.3 and layer.4.")


def _layers(judge, signal, course, count=6):
    """The healthy run with a signal in some layers, each with a noise of its own."""
    noisy = {SeriesKey(signal, f"layer.{number}"): judge.noisy(course(number), 0.05, number) for number in range(count)}
    return healthy(judge) | noisy


def _warm_up_then(course, steps=300):
    """A linear warm-up, then a course."""
    return lambda step: 1e-3 * max(step, 1) / steps if step < steps else 1e-3 * course(step - steps)


def test_updates_of_half_of_the_modules_that_grow_ever_faster_are_a_warning(judge):
    quiet = _layers(judge, "update.rms", lambda number: _warm_up_then(lambda since: 1.0))
    assert judge.loud(judge.run(quiet, 1500)) == [], "a linear warm-up is not"
    series = _layers(judge, "update.rms", lambda number: _warm_up_then(lambda since: 2.0 ** (max(0, since - 300) / 150)))
    (alert,) = [each for each in judge.loud(judge.run(series, 900)) if each.rule == "update_growth"]
    assert alert.module == ""
    assert 600 < alert.first_step < 800
    assert "double every 1" in alert.message
    causes = [cause.name for cause in alert.diagnosis]
    assert causes[0] == "learning_rate_too_high"


def test_updates_of_one_layer_that_grow_exponentially_are_told_with_its_name(judge):
    grown = _warm_up_then(lambda since: 2.0 ** (max(0, since - 300) / 60))
    plain = _warm_up_then(lambda since: 1.0)
    series = _layers(judge, "update.rms", lambda number: grown if number == 2 else plain)
    (alert,) = judge.loud(judge.run(series, 900))
    assert (alert.rule, alert.module) == ("layer_update_growth", "layer.2")
    assert 600 < alert.first_step < 760


def test_first_updates_as_large_as_the_weights_are_told_at_once(judge):
    series = _layers(judge, "update.ratio", lambda number: lambda step: 1.0 if step < 10 else 0.02)
    (alert,) = judge.loud(judge.run(series, 300))
    assert (alert.rule, alert.first_step) == ("oversized_updates", 0)
    assert "times the size of their weights or more" in alert.message
    one = _layers(judge, "update.ratio", lambda number: lambda step: 5.0 if number == 0 else 0.02)
    assert judge.loud(judge.run(one, 300)) == [], "a layer that begins at zero moves by more than it holds"


def test_first_updates_far_larger_than_the_weights_are_the_rates_fault_and_no_warm_ups(judge):
    def causes(ratio):
        series = _layers(judge, "update.ratio", lambda number: lambda step: ratio)
        (alert,) = judge.loud(judge.run({**series, SeriesKey("learning_rate"): lambda step: 0.5}, 30))
        return alert.diagnosis

    assert causes(1.0)[0].name == "missing_warmup"
    named = causes(50.0)[0]
    assert named.name == "learning_rate_too_high"
    pattern = (
        r"Start again with a rate of 0\.00\d+ or less: at 0\.5 the first updates were [45]\d(\.\d)? times as large as the weights\."
    )
    assert re.fullmatch(pattern, named.remedy)


def test_layers_whose_units_are_all_dead_from_the_start_are_told(judge):
    series = _layers(judge, "activation.dead_fraction", lambda number: lambda step: 0.95 if number < 3 else 0.1)
    (alert,) = judge.loud(judge.run(series, 300))
    assert (alert.rule, alert.module) == ("units_dead", "layer.0")
    assert alert.first_step < 100
    assert alert.diagnosis[0].name == "dead_units"


def test_rounding_errors_of_one_sign_are_a_note_and_those_of_random_sign_are_nothing(judge):
    def bias(sign):
        return lambda step: sign(step) * 1e-9 * random.Random(step).lognormvariate(0, 1)

    base = healthy(judge)
    base[head("rounding.delta_bias")] = bias(lambda step: random.Random(-step).choice((-1, 1)))
    assert judge.run(base, 1500).alerts == []
    base[head("rounding.delta_bias")] = bias(lambda step: 1)
    (alert,) = judge.run(base, 1500).alerts
    assert (alert.rule, alert.severity) == ("rounding_bias_one_signed", Severity.INFO)
    assert "is positive and" in alert.message
