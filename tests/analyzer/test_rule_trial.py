"""Rules tried on a stored run: the alerts of the engine, side by side, and bounds that are told."""

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from foreshock.analyzer.backtest import backtest
from foreshock.analyzer.rule_trial import paired, replay, try_rules
from foreshock.analyzer.rules import RuleSet
from foreshock.storage import open_store
from foreshock.storage.base import Store
from foreshock.storage.records import Alert, AlertState, Batch, Run, SeriesKey, Severity, StepRecord, new_id

KEYS = (SeriesKey("loss"), SeriesKey("gradient.norm"), SeriesKey("of.no.interest"))
STEPS = 2500
HOT = {"hot": {"detector": "level", "signals": {"value": "loss"}, "clear": 5, "cooldown": 0, "parameters": {"level": 4.0}}}


def loss(step: int) -> float:
    """Learns, has two humps, and leaves its best for good at step 2,000."""
    hump = 3.0 if 800 <= step < 820 else 1.5 if 1200 <= step < 1230 else 0.0
    return 1.0 + 2.0 * 0.99**step + hump + max(0, step - 2000) / 50


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    opened = open_store(f"sqlite:///{tmp_path / 'runs.db'}")
    opened.create_run(Run("r" * 32, "run", created_at=time.time()))
    for first in range(0, STEPS, 500):
        steps = (StepRecord(step, 1.0 * step, KEYS, [loss(step), 1.0, 0.0]) for step in range(first, first + 500))
        opened.write(Batch(new_id(), "r" * 32, 0, tuple(steps)))
    yield opened
    opened.close()


def test_a_trial_says_which_alerts_are_new_gone_or_moved_and_what_that_does_to_the_lead(store):
    run, rules = store.run("r" * 32), RuleSet.load(HOT)
    seen = []
    lower = try_rules(store, run, rules, rules.merged({"hot": {"parameters": {"level": 2.0}}}), ["hot"], progress=seen.append)
    assert sum(seen) == lower.replay.steps == STEPS
    told = [(move.verdict, move.alert.first_step) for move in lower.moves]
    assert told == [("new", 0), ("same", 800), ("new", 1200), ("earlier", 2050)]
    assert lower.moves[-1].steps == -100
    assert lower.replay.failed_at is not None
    assert lower.lead_before == lower.lead_after - 800 == lower.replay.failed_at - 800
    assert lower.replay.samples == STEPS, "of what nobody looks at nothing is read"
    off = try_rules(store, run, rules, rules.merged({"hot": {"enabled": False}}), ["hot"])
    assert {move.verdict for move in off.moves} == {"gone"}
    assert off.lead_after is None
    same = try_rules(store, run, rules, rules.merged({"hot": {"severity": "info"}}), ["hot"])
    assert [move.verdict for move in same.moves] == ["changed", "changed"]
    assert [same.count("changed"), same.count("new"), same.lead_after] == [2, 0, None]


def test_a_replay_finds_what_a_backtest_finds(store):
    run = store.run("r" * 32)
    whole = replay(store, run, [RuleSet.default()])
    said = [(alert.rule, alert.first_step, alert.message) for alert in backtest(store, run).alerts]
    assert [(alert.rule, alert.first_step, alert.message) for alert in whole.engines[0].alerts] == said
    assert "loss_degradation" in {rule for rule, _, _ in said}
    assert (whole.whole, whole.last_step, whole.outcome) == (True, STEPS - 1, backtest(store, run).outcome)


def test_when_the_time_is_up_it_says_how_far_it_came(store):
    run = store.run("r" * 32)
    cut = replay(store, run, [RuleSet.default()], seconds=0.0)
    assert (cut.whole, cut.steps, cut.last_step, cut.failure) == (False, 500, 499, None)
    store.create_run(Run("e" * 32, "empty"))
    empty = replay(store, store.run("e" * 32), [RuleSet.default()], seconds=0.0)
    assert (empty.whole, empty.steps, empty.last_step) == (True, 0, None)


def test_a_caller_breaks_off_between_batches(store):
    calls = []

    def stop(steps: int) -> None:
        calls.append(steps)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        replay(store, store.run("r" * 32), [RuleSet.default()], progress=stop)
    assert calls == [500]


def test_alerts_about_the_same_trouble_are_paired_whatever_their_episodes():
    def alert(module: str, episode: int, first: int, last: int) -> Alert:
        state, severity = AlertState.RESOLVED, Severity.WARNING
        return Alert(new_id(), "r", "hot", module, episode, severity, state, 0, first, last, 1.0, 1.0, "Hot.")

    before = [alert("", 0, 100, 120), alert("", 1, 300, 340), alert("", 2, 500, 520), alert("a", 0, 500, 520)]
    after = [alert("", 0, 310, 330), alert("", 1, 500, 520), alert("", 2, 900, 920)]
    moves = paired(before, after)
    assert [(move.verdict, move.alert.first_step, move.alert.module) for move in moves] == [
        ("gone", 100, ""),
        ("later", 310, ""),
        ("same", 500, ""),
        ("gone", 500, "a"),
        ("new", 900, ""),
    ]
    assert [move.verdict for move in paired([before[0]], [replace(before[0], segment=1)])] == ["gone", "new"]
