"""What was asked for is done, recorded and undone; what fails never reaches training."""

from collections.abc import Callable
from typing import Any

import foreshock
import pytest
from foreshock.interventions.attention import StabilizedAttention
from foreshock.interventions.base import Intervention, Training
from foreshock.kernels.switch import install, installed, uninstall
from foreshock.storage.records import Alert, Run, Severity

Alarm = Callable[..., Alert]


class Failing(Intervention):
    name = "failing"

    def __init__(self, where: str) -> None:
        self.where = where

    def _fail(self, where: str) -> None:
        if where == self.where:
            raise RuntimeError(f"broke in {where}")

    def before_end(self, step: int) -> None:
        self._fail("before_end")

    def on_alert(self, alert: Alert) -> None:
        self._fail("on_alert")

    def after_step(self, step: int) -> None:
        self._fail("after_step")

    def close(self) -> None:
        self._fail("close")


class Noting(Intervention):
    name = "noting"

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def on_alert(self, alert: Alert) -> None:
        self.heard.append(alert.rule)

    def after_step(self, step: int) -> None:
        self.heard.append(step)


@pytest.fixture(autouse=True)
def _switched_back() -> Any:
    yield
    uninstall()


@pytest.mark.parametrize("where", ["before_end", "on_alert", "after_step", "close"])
def test_one_that_fails_is_counted_and_the_others_go_on(where: str, small: Any, url: str) -> None:
    noting = Noting()
    with foreshock.watch(small.model, small.optimizer, store=url, every=1, interventions=[Failing(where), noting]) as monitor:
        for step in range(4):
            monitor.step(small.step() if step != 1 else float("nan"))
            monitor._writer.flush(10)
    assert [each for each in noting.heard if isinstance(each, int)] == [0, 1, 2, 3]
    assert "non_finite" in noting.heard
    assert monitor.faults.count("intervention failing") > 0


def test_the_switch_is_thrown_by_an_alert_about_attention_and_by_no_other(alarm: Alarm) -> None:
    done: list[str] = []
    switching = StabilizedAttention()
    switching.attach(Training({}, [], Run("r", "r"), tell=lambda kind, message, **data: done.append(message)))
    switching.on_alert(alarm("loss_spike", Severity.CRITICAL))
    switching.on_alert(alarm("key_shift_bias", Severity.INFO))
    assert not installed()
    assert not done
    switching.on_alert(alarm("key_shift_bias", Severity.WARNING, module="blocks.1.attention"))
    switching.on_alert(alarm("attention_logit_saturation", Severity.CRITICAL))
    assert installed()
    assert done == ["Switched to stabilised attention, because key_shift_bias gave a warning at step 7 in blocks.1.attention."]
    switching.close()
    assert not installed()


def test_what_the_user_switched_on_stays_on(alarm: Alarm) -> None:
    switching = StabilizedAttention(rules=[])
    switching.attach(Training({}, [], Run("r", "r")))
    install()
    switching.on_alert(alarm("anything"))
    switching.close()
    assert installed()


def test_the_event_is_in_the_store_and_the_attention_stabilised_until_the_end(
    small: Any, url: str, eventually: Callable[[Callable[[], object], str], None]
) -> None:
    rules = {"non_finite": {"severity": "critical"}}
    chosen = [StabilizedAttention(rules=["non_finite"])]
    with foreshock.watch(small.model, small.optimizer, store=url, rules=rules, interventions=chosen) as monitor:
        monitor.step(float("nan"))
        monitor._writer.flush(10)
        assert not installed()
        monitor.step(small.step())
        assert installed()
    assert not installed()
    store = foreshock.open_store(url)
    (event,) = [event for event in store.events(monitor.run.id) if event.kind == "intervention"]
    assert event.step == 1
    assert event.data["intervention"] == "stabilized_attention"
    assert event.data["rule"] == "non_finite"
    store.close()


def test_names_come_from_the_settings_too(small: Any, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORESHOCK_INTERVENTIONS", "no_such_thing")
    with pytest.raises(ValueError, match="there is no intervention 'no_such_thing'"):
        foreshock.watch(small.model, small.optimizer, store=url)
