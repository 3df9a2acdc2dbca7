"""Rules that change while an engine judges by them: what stays, what begins anew, and where a value comes from."""

import json
import random
from typing import Any

import pytest
from foreshock.analyzer.detectors import Detector
from foreshock.analyzer.engine import Engine
from foreshock.analyzer.rule_layers import RuleLayers, described, flat, in_force, nested
from foreshock.analyzer.rules import RuleSet
from foreshock.storage import open_store
from foreshock.storage.records import AlertState, Batch, RuleVersion, Run, SeriesKey, StepRecord, new_id

LOSS, RATE, NORM = SeriesKey("loss"), SeriesKey("learning_rate"), SeriesKey("gradient.norm")
A, B = SeriesKey("weight.norm", "a"), SeriesKey("weight.norm", "b")


def batch(first: int, values: list[Any], keys: tuple[SeriesKey, ...] = (LOSS,)) -> Batch:
    rows = [value if isinstance(value, (list, tuple)) else [value] for value in values]
    return Batch(new_id(), "run", 0, tuple(StepRecord(first + at, 1.0 * at, keys, list(row)) for at, row in enumerate(rows)))


def change(engine: Engine, changes: dict[str, Any], at: Batch) -> None:
    engine.change_rules(engine.rules.merged(changes), at.steps[0])


def quiet(count: int, seed: int = 0) -> list[float]:
    draw = random.Random(seed)
    return [2.0 * draw.uniform(0.97, 1.03) for _ in range(count)]


def test_a_changed_threshold_keeps_the_baseline_and_a_fresh_engine_agrees_from_there_on():
    """The alert comes at once: a detector that learned anew would need 32 samples first."""
    engine = Engine("run")
    engine.feed(batch(0, quiet(100)))
    jump = batch(100, [2.6])
    engine.feed(jump)
    assert engine.alerts == []
    after = batch(101, [*quiet(20, 1), 2.6])
    change(engine, {"loss_spike": {"parameters": {"z": 3.0, "min_rise": 0.1, "min_ratio": 0.1}}}, after)
    changed = engine.feed(after)
    assert [(alert.rule, alert.first_step) for alert in changed] == [("loss_spike", 121)]


def test_every_detector_keeps_what_it_learned_when_any_number_changes_and_carries_on():
    """State after a change is the state before it, cut to a smaller window where there is one; and it can be fed on."""
    draw = random.Random(3)
    for name, detector in sorted(Detector.registry.items()):
        if not detector.__module__.startswith("foreshock."):
            continue
        for changed, parameter in detector.PARAMETERS.items():
            if changed in detector.RELEARNS:
                continue
            signals = {given: f"signal.{given}" for given in detector.INPUTS}
            rules = RuleSet.load({"mine": {"detector": name, "signals": signals, "warmup": 0}}).only(["mine"])
            engine = Engine("run", rules)
            keys = tuple(SeriesKey(f"signal.{given}", "m") for given in detector.INPUTS)
            values = [[draw.uniform(1.0, 2.0) for _ in keys] for _ in range(120)]
            engine.feed(batch(0, values, keys))
            (watcher,) = engine._watchers.values()
            before = json.dumps(watcher.detector.state_dict(), sort_keys=True)
            value: Any = next((choice for choice in parameter.choices if choice != parameter.default), None)
            if value is None:
                value = parameter.default * 2 if parameter.default else 1
                value = min(max(value, parameter.low), parameter.high)
            after = batch(120, [[1.5 for _ in keys]], keys)
            change(engine, {"mine": {"parameters": {changed: value}}}, after)
            assert engine._watchers["mine", "m"] is watcher
            assert watcher.detector.parameters[changed] == value
            now = json.dumps(watcher.detector.state_dict(), sort_keys=True)
            kept = now == before or changed in ("window", "memory", "patience", "learnt")
            assert kept, (name, changed)
            assert len(now) > 0.5 * len(before), (name, changed)
            engine.feed(after)


@pytest.mark.parametrize("detector", ["growth", "collapse"])
def test_a_changed_share_of_what_is_learnt_is_judged_by_the_lowest_loss_so_far(detector):
    made = Detector.registry[detector]
    old = made(made.complete({"learnt": 0.5}))
    old.learnt.begin(10.0)
    assert not old.learnt.all(8.0)
    assert old.learnt.all(4.0)
    new = made(made.complete({"learnt": 0.1}))
    new.load_state_dict(json.loads(json.dumps(old.state_dict())))
    assert not new.learnt.all(6.0), "the lowest was 4, and 1 is asked now"
    assert new.learnt.all(0.5)
    for state, learnt in (
        ([10.0, 5.0], False),
        ([10.0, None], True),
        ([None, 0.0], False),
    ):  # as written before the lowest was kept
        new.learnt.load_state_dict(state)
        assert new.learnt.all(9.0) is learnt


def test_persistence_and_warmup_take_effect_at_the_next_sample():
    rules = {
        "hot": {"detector": "level", "signals": {"value": "loss"}, "persistence": 50, "warmup": 5, "parameters": {"level": 1.0}}
    }
    engine = Engine("run", RuleSet.load(rules).only(["hot"]))
    engine.feed(batch(0, [2.0] * 20))
    assert engine.alerts == []
    after = batch(20, [2.0])
    change(engine, {"hot": {"persistence": 10}}, after)
    engine.feed(after)
    assert [alert.first_step for alert in engine.alerts] == [20], "15 samples had stood out already"
    late = Engine("run", RuleSet.load(rules).only(["hot"]))
    late.feed(batch(0, [2.0] * 20))
    change(late, {"hot": {"persistence": 1, "warmup": 30}}, after)
    late.feed(batch(20, [2.0] * 15))
    assert [alert.first_step for alert in late.alerts] == [30]


def test_modules_no_longer_watched_let_their_alerts_go_and_new_ones_begin():
    rules = {"big": {"detector": "level", "signals": {"value": "weight.norm"}, "clear": 1, "parameters": {"level": 1.0}}}
    engine = Engine("run", RuleSet.load(rules).only(["big"]))
    engine.feed(batch(0, [(2.0, 2.0)] * 3, (A, B)))
    after = batch(3, [(2.0, 2.0)] * 3, (A, B))
    change(engine, {"big": {"modules": ["b*", "c"]}}, after)
    changed = engine.feed(after)
    assert {(alert.module, alert.state) for alert in changed} >= {("a", AlertState.RESOLVED)}
    assert {alert.module: str(alert.state) for alert in engine.alerts} == {"a": "resolved", "b": "firing"}
    assert engine.risk.state_dict()["open"] == {"big": ["b"]}


def test_a_rule_that_looks_elsewhere_begins_anew_and_counts_its_episodes_on():
    rules = {"hot": {"detector": "level", "signals": {"value": "loss"}, "cooldown": 0, "parameters": {"level": 1.0}}}
    engine = Engine("run", RuleSet.load(rules).only(["hot"]))
    engine.feed(batch(0, [(2.0, 9.0)] * 3, (LOSS, NORM)))
    after = batch(3, [(2.0, 9.0)] * 3, (LOSS, NORM))
    change(engine, {"hot": {"signals": {"value": "gradient.norm"}}}, after)
    state = json.loads(json.dumps(engine.state_dict()))
    engine.feed(after)
    assert [(alert.episode, alert.value, str(alert.state)) for alert in engine.alerts] == [(0, 2.0, "resolved"), (1, 9.0, "firing")]
    again = Engine("run", engine.rules)
    again.load_state_dict(state)
    again.feed(after)
    assert [alert.episode for alert in again.alerts] == [0, 1], "a checkpoint knows it too"


def test_an_engine_whose_rules_are_changed_to_the_same_is_the_same():
    values = [*quiet(150), 6.0, 6.0, *quiet(60, 2), float("nan"), *quiet(10)]
    one, other = Engine("run"), Engine("run")
    one.feed(batch(0, values))
    for first in range(0, len(values), 10):
        part = batch(first, values[first : first + 10])
        other.change_rules(RuleSet.default(), part.steps[0])
        other.feed(part)
    assert [(alert.rule, alert.first_step, alert.message) for alert in one.alerts] == [
        (alert.rule, alert.first_step, alert.message) for alert in other.alerts
    ]
    assert {alert.rule for alert in one.alerts} >= {"loss_spike", "non_finite"}


def test_layers_say_where_each_value_comes_from_and_leave_out_what_cannot_be_used(tmp_path):
    store = open_store(f"sqlite:///{tmp_path / 'runs.db'}")
    given = {"loss_spike": {"parameters": {"window": 64}}, "of_a_plugin_that_is_gone": {"severity": "info"}}
    run = Run("r" * 32, "run", project="p", meta={"rules": given})
    store.create_run(run)

    def save(rule: str, changes: dict[str, Any], seen: int = 0, **scope: str) -> RuleVersion:
        return store.save_rule(RuleVersion(new_id(), rule, changes, **scope), seen=seen)

    everywhere = save("loss_spike", {"severity": "warning", "parameters": {"z": 12.0, "min_rise": 0.5}})
    project = save("loss_spike", {"parameters": {"z": 14.0}}, project="p")
    mine = save("loss_spike", {"enabled": False}, run_id=run.id)
    bad = save("gradient_spike", {"parameters": {"z": -3}})
    save("loss_creep", {"enabled": False})
    save("loss_creep", {}, seen=1)
    layers = in_force(store, run)
    rule = layers.rules["loss_spike"]
    assert (rule.enabled, rule.severity, rule.parameters["z"], rule.parameters["window"]) == (False, "warning", 14.0, 64)
    origins = {
        path: layers.origin("loss_spike", path) for path in ("enabled", "severity", "parameters.z", "parameters.window", "clear")
    }
    assert origins == {
        "enabled": mine,
        "severity": everywhere,
        "parameters.z": project,
        "parameters.window": "file",
        "clear": "default",
    }
    assert layers.below("loss_spike", ("p", "")).parameters["z"] == 12.0
    assert layers.below("loss_spike", ("", "")).parameters["z"] == 8.0
    assert layers.rules["loss_creep"].enabled
    assert [each.version for each in layers.refused] == [bad]
    assert "parameters.z: got -3; allowed: a number of robust standard deviations of at least 1" in layers.refused[0].reason
    assert layers.rules["gradient_spike"] == RuleSet.default()["gradient_spike"]
    assert ["of_a_plugin_that_is_gone" in each for each in layers.unknown] == [True]
    assert in_force(store, run, stored=False).rules["loss_spike"].parameters["z"] == 8.0
    assert in_force(store).rules["loss_spike"].parameters["z"] == 12.0
    before = RuleSet.load({"gradient_spike": {"parameters": {"z": 5.0}}})
    kept = RuleLayers.over(before, [bad], before=before)
    assert kept.rules["gradient_spike"].parameters["z"] == 5.0
    store.close()


def test_changes_are_described_and_taken_apart_and_put_together():
    before = RuleSet.default()
    after = before.merged(
        {
            "loss_spike": {"enabled": False, "parameters": {"z": 9}},
            "mine": {"detector": "level", "signals": {"value": "x"}},
            "gradient_spike": {"modules": ["a*", "b"]},
        }
    )
    assert described(before, after) == [
        "loss_spike: parameters.z 8 -> 9, enabled on -> off",
        "gradient_spike: modules * -> a*, b",
        "mine: new",
    ]
    assert described(after, before)[-1] == "mine: gone"
    assert described(before, before) == []
    changes = {"enabled": False, "parameters": {"z": 9, "window": 3}, "signals": {"value": "x"}}
    assert flat(changes) == {"enabled": False, "parameters.z": 9, "parameters.window": 3, "signals.value": "x"}
    assert nested(flat(changes)) == changes
    assert before.merged(after.differences(before)).tables == after.tables
