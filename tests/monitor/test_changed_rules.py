"""A rule is changed in the store, from another process, while a run trains."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import foreshock
import pytest
from foreshock import open_store
from foreshock.analyzer import live_rules
from foreshock.storage.records import RuleVersion, new_id
from foreshock.storage.sqlalchemy_store import SQLAlchemyStore
from sqlalchemy import text

Eventually = Callable[[Callable[[], object], str], None]

SAVE = """
import json, sys
from foreshock.storage import open_store
from foreshock.storage.records import RuleVersion, new_id
store = open_store(sys.argv[1], create=False)
store.save_rule(RuleVersion(new_id(), created_by="ann", comment="try it", **json.loads(sys.argv[2])), seen=int(sys.argv[3]))
store.close()
"""
HEAT = {"heat": {"detector": "level", "signals": {"value": "heat"}, "persistence": 3, "clear": 2, "cooldown": 0}}


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_rules, "EVERY", 0.05)


def save_in_another_process(url: str, rule: str, changes: dict[str, Any], seen: int = 0, **scope: str) -> None:
    given = json.dumps({"rule": rule, "changes": changes, **scope})
    subprocess.run([sys.executable, "-P", "-c", SAVE, url, given, str(seen)], check=True, timeout=60)


def save_elsewhere(url: str, rule: str, changes: dict[str, Any], seen: int = 0, **scope: str) -> None:
    """Save a change through another connection."""
    store = open_store(url)
    store.save_rule(RuleVersion(new_id(), rule, changes, created_by="ann", comment="try it", **scope), seen=seen)
    store.close()


class Training:
    """Trains step by step, with a metric of its own, and waits for what is to happen meanwhile."""

    def __init__(self, small: Any, monitor: Any, eventually: Eventually) -> None:
        self.small, self.monitor, self._eventually = small, monitor, eventually
        self.events: list[Any] = []

    def steps(self, count: int, heat: float = 1.0) -> None:
        for _ in range(count):
            self.monitor.step(self.small.step(), heat=heat)

    def until(self, condition: Callable[[], object], what: str, heat: float = 1.0) -> None:
        def one() -> object:
            self.steps(5, heat)
            self.monitor.flush()
            return condition()

        self._eventually(one, what)

    def changed(self, count: int) -> Callable[[], object]:
        """Return a condition: so many events tell of changed rules."""

        def told() -> bool:
            store = self.monitor._writer.store
            self.events = store.events(self.monitor.run.id, kind="rules_changed") if store is not None else []
            return len(self.events) == count

        return told

    def of(self, rule: str) -> list[Any]:
        return [alert for alert in self.monitor.alerts if alert.rule == rule]


@contextmanager
def training(small: Any, url: str, eventually: Eventually, **options: Any) -> Iterator[Training]:
    options = {"run": "hot", "project": "stove", "every": 10, "rules": HEAT} | options
    with foreshock.watch(small.model, small.optimizer, store=url, **options) as monitor:
        yield Training(small, monitor, eventually)


def test_a_threshold_lowered_elsewhere_raises_the_alert_and_one_raised_again_resolves_it(
    small: Any, url: str, eventually: Eventually
) -> None:
    with training(small, url, eventually, rules={"heat": HEAT["heat"] | {"parameters": {"level": 5.0}}}) as run:
        run.steps(20)
        run.monitor.flush()
        assert run.of("heat") == []
        save_in_another_process(url, "heat", {"parameters": {"level": 0.5}}, project="stove")
        run.until(lambda: run.of("heat"), "the alert of the lowered threshold")
        (alert,) = run.of("heat")
        assert (alert.state, alert.threshold) == ("firing", 0.5)
        assert run.changed(1)()
        (event,) = run.events
        assert event.message == "Rules changed in the store by ann: heat: parameters.level 5 -> 0.5."
        assert event.data["versions"] == [{"rule": "heat", "version": 1, "by": "ann", "comment": "try it"}]
        assert 20 <= event.data["step"] <= alert.first_step - 2
        save_elsewhere(url, "heat", {}, seen=1, project="stove")
        run.until(lambda: run.of("heat")[0].state == "resolved", "the end of the alert")
        assert len(run.of("heat")) == 1
        save_elsewhere(url, "heat", {"parameters": {"level": 0.1}}, project="another")
        save_elsewhere(url, "loss_spike", {"severity": "critical"})
        run.until(run.changed(3), "the last change")
        assert run.events[-1].message.endswith("loss_spike: severity info -> critical."), "nothing of the other project"
        assert len(run.of("heat")) == 1
    store = open_store(url)
    assert [each.state for each in store.alerts(run.monitor.run.id) if each.rule == "heat"] == ["resolved"]
    store.close()


def test_a_rule_switched_off_elsewhere_resolves_its_alert_and_is_quiet_and_counts_its_episodes_on(
    small: Any, url: str, eventually: Eventually
) -> None:
    with training(small, url, eventually) as run:
        run.until(lambda: run.of("heat"), "the alert")
        save_elsewhere(url, "heat", {"enabled": False}, run_id=run.monitor.run.id)
        run.until(run.changed(1), "the change")
        run.steps(30)
        run.monitor.flush()
        assert [(alert.episode, alert.state) for alert in run.of("heat")] == [(0, "resolved")]
        save_elsewhere(url, "heat", {"severity": "critical"}, seen=1, run_id=run.monitor.run.id)
        run.until(lambda: len(run.of("heat")) == 2, "the alert of the rule that is on again")
        assert [(alert.episode, alert.severity) for alert in run.of("heat")] == [(0, "warning"), (1, "critical")]
    store = open_store(url)
    stored = [alert for alert in store.alerts(run.monitor.run.id) if alert.rule == "heat"]
    assert [(alert.episode, alert.state) for alert in stored] == [(0, "resolved"), (1, "firing")]
    store.close()


def test_what_was_changed_before_a_run_holds_from_its_first_step_and_what_it_was_given_is_noted(
    small: Any, url: str, eventually: Eventually
) -> None:
    open_store(url).close()
    save_elsewhere(url, "heat", {"parameters": {"level": 100.0}})
    with training(small, url, eventually) as run:
        run.steps(30, heat=10.0)
        run.monitor.flush()
        assert run.of("heat") == []
        assert run.changed(1)()
        assert run.events[0].data["step"] == 0
    store = open_store(url)
    assert store.run(run.monitor.run.id).meta["rules"] == HEAT
    store.close()


def test_changes_that_no_rule_takes_are_counted_and_told_and_the_last_good_rules_stay(
    small: Any, url: str, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    bad = {"parameters": {"no_such_number": 1}, "severity": "loud"}
    with caplog.at_level(logging.WARNING, "foreshock"), training(small, url, eventually) as run:
        before = run.monitor.faults.total
        save_elsewhere(url, "heat", {"parameters": {"level": 5.0}})
        run.until(run.changed(1), "a good change", heat=-1.0)
        save_elsewhere(url, "heat", bad, seen=1)
        save_elsewhere(url, "a rule of <b>tomorrow</b>", {"horizon": 3})
        run.until(lambda: run.monitor.faults.total >= before + 2, "two faults", heat=2.0)
        store = open_store(url)
        assert isinstance(store, SQLAlchemyStore)
        store.save_rule(RuleVersion(new_id(), "heat", {"enabled": True}, project="stove"), seen=0)
        with store.database.write() as connection:
            connection.execute(text("UPDATE rule_versions SET changes = '[broken' WHERE project = 'stove'"))
        store.save_rule(RuleVersion(new_id(), "gradient_spike", {"enabled": False}), seen=0)
        run.until(run.changed(2), "the good one beside the bad ones", heat=2.0)
        assert run.events[-1].data["changes"] == ["gradient_spike: enabled on -> off"]
        assert run.monitor.faults.total == before + 3, "each is counted once, however often it is read"
        assert run.of("heat") == [], "the last good level, 5, holds"
        run.until(lambda: run.of("heat"), "an alert by the level that was good", heat=6.0)
        faults = [event.message for event in store.events(run.monitor.run.id, kind="fault")]
        store.close()
    assert any("no_such_number" in message and "version 2 by ann cannot be used" in message for message in faults)
    assert any("no rule has that name" in message for message in faults)
    assert sum("no_such_number" in record.getMessage() for record in caplog.records) == 1
    assert run.monitor._closed


def test_a_look_costs_one_small_query_and_comes_at_its_own_pace(
    small: Any, url: str, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    for name in ("rules_revision", "rule_overrides"):
        whole = getattr(SQLAlchemyStore, name)
        monkeypatch.setattr(
            SQLAlchemyStore, name, lambda self, _name=name, _whole=whole, **scope: asked.append(_name) or _whole(self, **scope)
        )
    monkeypatch.setattr(live_rules, "EVERY", 3600.0)
    with training(small, url, eventually) as run:
        for _ in range(20):
            run.steps(2)
            run.monitor.flush()
    assert asked == ["rules_revision", "rule_overrides"], "once, at the start"
