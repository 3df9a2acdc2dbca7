"""What the engine promises whatever it is fed: indifference to batches, survival of anything, and state that carries on."""

import json
import math
import random
from dataclasses import replace
from itertools import pairwise

import pytest
from foreshock.analyzer.engine import Engine
from foreshock.analyzer.rules import RuleSet
from foreshock.storage import open_store
from foreshock.storage.records import AlertState, Batch, Run, SeriesKey, StepRecord
from hypothesis import given, settings
from hypothesis import strategies as st

LOSS = SeriesKey("loss")
LOGIT = SeriesKey("attention.max_logit", "blocks.0.attn", 0)
OTHER_LOGIT = SeriesKey("attention.max_logit", "blocks.0.attn", 1)
EXCESS = SeriesKey("rounding.key_shift_excess", "blocks.0.attn", 0)
SIGMA = SeriesKey("weight.spectral_norm", "blocks.0.attn.q")
DIVERSITY = SeriesKey("spectral_alignment.sign_diversity", "blocks.0.attn.q")

QUICK = RuleSet.load(
    {
        name: {"warmup": 20, "cooldown": 30, "clear": 5, "interval": 1}
        for name in (
            "attention_logit_growth",
            "attention_logit_saturation",
            "key_shift_bias",
            "key_shift_excess",
            "spectral_norm_growth",
        )
    }
)


def troubled_run(steps=400, seed=0):
    """A run in which nearly everything happens within 400 steps."""
    draw = random.Random(seed)
    records = []
    dense, full = (LOSS, SeriesKey("learning_rate"), SeriesKey("gradient.norm")), None
    full = (*dense, LOGIT, OTHER_LOGIT, EXCESS, SIGMA, DIVERSITY)
    for step in range(steps):
        loss = 2.0 * math.exp(-step / 60) + 0.3 if step < 250 else 0.3 * math.exp((step - 250) / 40)
        loss = 6.0 if step in (120, 121, 180) else loss * draw.uniform(0.95, 1.05)
        logit = 60.0 * 2 ** (max(0, step - 80) / 40) * draw.uniform(0.97, 1.03)
        values = [loss, 3e-3, draw.uniform(1.0, 2.0) if step != 150 else math.inf, logit, 50.0, 40.0, 2.0 ** (step / 50), 0.5]
        keys = full if step % 4 == 0 else dense
        records.append(StepRecord(step, 100.0 + step, keys, values[: len(keys)]))
    return records


RECORDS = troubled_run()


def batches(records, cuts, segment=0):
    edges = [0, *sorted(set(cuts)), len(records)]
    return [Batch(f"b{start}", "run", segment, tuple(records[start:stop])) for start, stop in pairwise(edges)]


def fed(records, cuts=(), rules=QUICK):
    engine = Engine("run", rules)
    saved = {}
    for batch in batches(records, cuts):
        saved.update({alert.id: alert for alert in engine.feed(batch)})
    saved.update({alert.id: alert for alert in engine.finish(1e6)})
    return engine, saved


WHOLE, _ = fed(RECORDS)


def test_the_troubled_run_has_alerts_of_many_rules():
    rules = {alert.rule for alert in WHOLE.alerts}
    assert rules >= {"loss_spike", "gradient_non_finite", "attention_logit_growth", "key_shift_bias", "loss_degradation"}
    steps = [alert.first_step for alert in WHOLE.alerts]
    assert steps == sorted(steps)
    assert len({alert.id for alert in WHOLE.alerts}) == len(WHOLE.alerts)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, len(RECORDS) - 1), max_size=60))
def test_findings_do_not_depend_on_how_steps_are_cut_into_batches(cuts):
    engine, saved = fed(RECORDS, cuts)
    assert engine.alerts == WHOLE.alerts
    assert [saved[alert.id] for alert in engine.alerts] == engine.alerts  # what was handed out for saving is what it came to


@settings(max_examples=15, deadline=None)
@given(st.integers(1, len(RECORDS) - 1))
def test_state_carries_on_as_if_uninterrupted(cut):
    first = Engine("run", QUICK)
    first.feed(batches(RECORDS[:cut], ())[0])
    state = json.loads(json.dumps(first.state_dict()))
    second = Engine("run", QUICK)
    second.load_state_dict(state)
    assert second.alerts == first.alerts
    second.feed(Batch("rest", "run", 0, tuple(RECORDS[cut:])))
    second.finish(1e6)
    assert second.alerts == WHOLE.alerts


def test_a_changed_rule_learns_anew_but_never_doubles_an_episode():
    first = Engine("run", QUICK)
    first.feed(Batch("a", "run", 0, tuple(RECORDS[:300])))
    second = Engine(
        "run", QUICK.merged({"attention_logit_growth": {"parameters": {"level": 100}}, "loss_spike": {"enabled": False}})
    )
    second.load_state_dict(first.state_dict())
    second.feed(Batch("b", "run", 0, tuple(RECORDS[300:])))
    assert len({(alert.rule, alert.module, alert.episode) for alert in second.alerts}) == len(second.alerts)
    assert {alert.id for alert in first.alerts} <= {alert.id for alert in second.alerts}


def test_state_of_another_version_is_refused_with_both_versions_named():
    with pytest.raises(ValueError, match="version 99 given; this foreshock reads version 1"):
        Engine("run").load_state_dict({"version": 99})


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, len(RECORDS) - 1), max_size=40), st.randoms(use_true_random=False))
def test_repeated_and_late_steps_change_nothing(repeats, draw):
    records = list(RECORDS)
    for place in sorted(repeats, reverse=True):
        records.insert(draw.randint(place + 1, len(records)), RECORDS[place])
    engine, _ = fed(records)
    assert engine.alerts == WHOLE.alerts


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_nothing_that_can_be_stored_makes_it_raise(data):
    hostile = st.floats(allow_nan=True, allow_infinity=True)
    records = list(RECORDS[:200])
    for place in data.draw(st.lists(st.integers(0, 199), max_size=30)):
        values = data.draw(st.lists(hostile, min_size=len(records[place].keys), max_size=len(records[place].keys)))
        records[place] = replace(records[place], values=values, time=data.draw(hostile))
    drop = set(data.draw(st.lists(st.integers(0, 199), max_size=50)))
    engine, _ = fed([record for place, record in enumerate(records) if place not in drop])
    json.dumps(engine.state_dict())
    for alert in engine.alerts:
        assert "{" not in alert.message


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, -1.0, 1e308, 5e-324])
def test_everything_at_one_strange_value(value):
    records = [replace(record, values=[value] * len(record.keys)) for record in RECORDS]
    engine, _ = fed(records)
    assert bool(engine.alerts) >= (not math.isfinite(value))


def test_a_clock_that_jumps_moves_no_alert():
    jumping = [replace(record, time=1e9 * (-1) ** record.step) for record in RECORDS]
    engine, _ = fed(jumping)
    assert [(alert.rule, alert.first_step) for alert in engine.alerts] == [(alert.rule, alert.first_step) for alert in WHOLE.alerts]


def test_timestamps_are_the_steps_own():
    for alert in WHOLE.alerts:
        assert alert.created_at == 100.0 + alert.first_step


def test_a_segment_that_resumes_earlier_sees_its_steps_again():
    engine = Engine("run", QUICK)
    engine.feed(Batch("a", "run", 0, tuple(RECORDS[:300])))
    before = engine.alerts
    growth = next(alert for alert in before if alert.rule == "attention_logit_growth")
    assert growth.state is AlertState.FIRING
    calm = [replace(record, values=[0.3, 3e-3, 1.5, 60.0, 50.0, 1.0, 2.0, 0.5][: len(record.keys)]) for record in RECORDS[100:]]
    engine.feed(Batch("b", "run", 1, tuple(calm)))
    assert {alert.rule: alert.state for alert in engine.alerts}["attention_logit_growth"] is AlertState.RESOLVED
    assert len(engine.alerts) == len(before)
    assert engine.feed(Batch("late", "run", 0, tuple(RECORDS[300:]))) == []  # the old segment is over
    engine.feed(Batch("c", "run", 2, tuple(RECORDS[100:])))
    again = [alert for alert in engine.alerts if alert.rule == "attention_logit_growth"]
    assert [alert.episode for alert in again] == [0, 1]
    assert [alert.segment for alert in again] == [0, 2]


def test_a_resumed_run_counts_its_episodes_on_and_keeps_open_what_was_open():
    first = Engine("run", QUICK)
    first.feed(Batch("a", "run", 0, tuple(RECORDS[:300])))
    stored = first.alerts
    assert any(alert.rule == "attention_logit_growth" and alert.state is AlertState.FIRING for alert in stored)
    second = Engine("run", QUICK)  # a new process, without the old one's state
    second.adopt(stored)
    second.adopt(stored)
    assert second.alerts == stored
    second.feed(Batch("b", "run", 1, tuple(RECORDS[:100])))
    calm = [replace(record, values=[0.3, 3e-3, 1.5, 60.0, 50.0, 1.0, 2.0, 0.5][: len(record.keys)]) for record in RECORDS[100:200]]
    second.feed(Batch("c", "run", 1, tuple(calm)))
    assert {alert.rule: alert.state for alert in second.alerts}["attention_logit_growth"] is AlertState.RESOLVED
    second.feed(Batch("d", "run", 1, tuple(RECORDS[200:])))
    again = [alert for alert in second.alerts if alert.rule == "attention_logit_growth"]
    assert [alert.episode for alert in again] == [0, 1]
    assert again[1].segment == 1
    assert len({alert.id for alert in second.alerts}) == len(second.alerts)


def test_an_alert_is_rewritten_seldom_however_long_it_is_open():
    steps = 20_000
    keys = (LOSS, LOGIT)
    engine = Engine("run", QUICK)
    handed_out = 0
    for start in range(0, steps, 10):
        records = tuple(
            StepRecord(step, float(step), keys, (0.5, 60.0 * math.exp(min(step, 2000) / 300))) for step in range(start, start + 10)
        )
        handed_out += len(engine.feed(Batch(f"b{start}", "run", 0, records)))
    assert engine.alerts[0].last_step == steps - 1
    assert 2 <= handed_out <= 60


def test_a_rule_that_keeps_firing_falls_quiet():
    rules = RuleSet.load({"loss_spike": {"warmup": 0, "cooldown": 10, "clear": 2}})
    records = [
        StepRecord(step, float(step), (LOSS,), (8.0 if step % 20 == 0 and step else 0.5 + 0.01 * (step % 3),))
        for step in range(20_000)
    ]
    engine, _ = fed(records, rules=rules)
    spikes = [alert for alert in engine.alerts if alert.rule == "loss_spike"]
    assert 7 <= len(spikes) <= 40


def test_pending_findings_are_dropped_at_the_end():
    engine = Engine("run", RuleSet.load({"loss_spike": {"persistence": 5}}))
    records = [StepRecord(step, float(step), (LOSS,), (0.5 if step < 97 else 9.0,)) for step in range(100)]
    engine.feed(Batch("a", "run", 0, tuple(records)))
    assert engine.finish(100.0) == []
    engine.feed(Batch("b", "run", 0, (StepRecord(100, 100.0, (LOSS,), (9.0,)),)))
    assert engine.alerts == []


def test_evidence_is_bounded_and_ends_at_the_first_step():
    for alert in WHOLE.alerts:
        for evidence in alert.evidence:
            assert 1 <= len(evidence.steps) <= 100
            assert evidence.steps[-1] <= alert.first_step
            assert len(evidence.steps) == len(evidence.values)
        assert alert.evidence[0].steps[-1] == alert.first_step


def test_another_runs_batch_is_refused():
    with pytest.raises(ValueError, match="the engine of run 'run' was given a batch of run 'other'"):
        Engine("run").feed(Batch("b", "other", 0, ()))


def test_reset_forgets_everything():
    engine, _ = fed(RECORDS)
    engine.reset()
    assert engine.alerts == []
    engine.feed(Batch("b", "run", 0, tuple(RECORDS)))
    engine.finish(1e6)
    assert engine.alerts == WHOLE.alerts


def test_modules_narrow_a_rule():
    rules = QUICK.merged({"attention_logit_growth": {"modules": ["decoder.*"]}})
    engine, _ = fed(RECORDS, rules=rules)
    assert "attention_logit_growth" not in {alert.rule for alert in engine.alerts}


def test_an_input_from_another_record_is_taken_at_its_latest():
    """The excess arrives alone, the logits in records of their own: the rule that needs both still finds them."""
    engine = Engine("run", QUICK)
    records = []
    for step in range(0, 400, 4):
        logit = 60.0 * 2 ** (max(0, step - 80) / 60)
        records += [StepRecord(step, float(step), (LOGIT,), (logit,)), StepRecord(step, float(step), (EXCESS,), (40.0,))]
    engine.feed(Batch("a", "run", 0, tuple(records)))
    assert "key_shift_bias" in {alert.rule for alert in engine.alerts}


def test_replay_of_a_stored_run_equals_the_live_engine(tmp_path):
    store = open_store(f"sqlite:///{tmp_path}/runs.db")
    store.create_run(Run("run", "troubled", created_at=1.0))
    assert store.open_segment("run", 0, 1.0) == 0
    live = Engine("run", QUICK)
    for batch in batches(RECORDS, range(7, len(RECORDS), 7)):
        store.write(batch)
        store.save_alerts(live.feed(batch))
    store.save_alerts(live.finish(1e6))
    replayed = Engine.replay("run", store.batches("run", steps_per_batch=90), QUICK)
    replayed.finish(1e6)
    assert [(alert.rule, alert.module, alert.first_step, alert.message) for alert in replayed.alerts] == [
        (alert.rule, alert.module, alert.first_step, alert.message) for alert in live.alerts
    ]
    assert replayed.alerts == live.alerts
    stored = sorted(store.alerts("run"), key=lambda alert: alert.id)
    assert stored == sorted(live.alerts, key=lambda alert: alert.id)
    store.close()


def test_keys_that_are_equal_but_not_the_same_tuple_feed_the_same_watchers():
    fresh = [replace(record, keys=tuple(replace(key) for key in record.keys)) for record in RECORDS]
    engine, _ = fed(fresh)
    assert engine.alerts == WHOLE.alerts


@pytest.mark.parametrize("cut", [90, 110, 130, 180])
def test_an_alert_that_gathers_modules_carries_on_from_a_checkpoint(cut):
    keys = tuple(SeriesKey("weight.spectral_norm", name) for name in "abcd")

    def sigma(number, step):
        return math.nan if 100 + 20 * number <= step < 300 + 10 * number else 2.0

    records = [StepRecord(step, float(step), keys, [sigma(number, step) for number in range(4)]) for step in range(500)]
    whole, _ = fed(records)
    first = Engine("run", QUICK)
    first.feed(Batch("a", "run", 0, tuple(records[:cut])))
    second = Engine("run", QUICK)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    second.feed(Batch("b", "run", 0, tuple(records[cut:])))
    second.finish(1e6)
    assert repr(second.alerts) == repr(whole.alerts)  # NaN, which is among the values, equals nothing
    (alert,) = whole.alerts
    assert alert.message.endswith("The same in 3 other modules: b, c and d.")
    assert (alert.state, alert.last_step) == (AlertState.RESOLVED, 330 + 49)
