"""Faults of the monitor: counted, told once, switched off when they do not end, and hooks taken away all the same."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from foreshock.probes.base import Counts, Probe, Scalars
from foreshock.probes.model import WatchedModel
from foreshock.probes.step.collector import Collector
from foreshock.probes.step.faults import FAULTS_UNTIL_OFF, Faults
from foreshock.probes.step.governor import Governor
from foreshock.storage.records import SeriesKey
from torch import nn


def fail() -> None:
    raise RuntimeError("no such thing")


def test_a_fault_is_caught_counted_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    faults, told = Faults(), []
    faults.report_to(lambda source, message: told.append((source, message)))
    done: list[int] = []
    assert faults.run("probe a", lambda: done.append(1)) is True
    assert faults.run("probe a", fail) is False
    assert faults.run("probe a", fail) is False
    assert (done, faults.total, faults.count("probe a"), faults.count("probe b")) == ([1], 2, 2, 0)
    assert told == [("probe a", "probe a failed: RuntimeError: no such thing")]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "probe a failed and was skipped; training goes on. RuntimeError: no such thing" in record.getMessage()
    assert record.exc_info is not None


def test_three_in_a_row_switch_off_and_say_so() -> None:
    faults, told = Faults(), []
    faults.report_to(lambda source, message: told.append(message))
    for count in range(1, FAULTS_UNTIL_OFF + 3):
        faults.run("probe a", fail)
        assert faults.is_off("probe a") == (count >= FAULTS_UNTIL_OFF)
    assert told[1:] == ["probe a switched off after 3 faults in a row: RuntimeError: no such thing"]
    assert not faults.is_off("probe b")


def test_a_clean_sample_begins_the_count_anew() -> None:
    faults = Faults()
    for _ in range(4):
        faults.run("probe a", fail)
        faults.run("probe a", fail)
        faults.succeeded("probe a")
    assert not faults.is_off("probe a")
    assert faults.total == 8


def test_what_was_found_before_anyone_listened_is_told_later() -> None:
    faults, told = Faults(), []
    faults.run("probe a", fail)
    faults.run("probe b", fail)
    faults.report_to(lambda source, message: told.append(source))
    assert told == ["probe a", "probe b"]
    faults.report_to(None)
    faults.run("probe c", fail)
    faults.report_to(lambda source, message: told.append(source))
    assert told == ["probe a", "probe b", "probe c"]


def test_what_is_no_fault_of_ours_passes() -> None:
    faults = Faults()
    for error in (KeyboardInterrupt, SystemExit):
        with pytest.raises(error):
            faults.run("probe a", lambda error=error: (_ for _ in ()).throw(error()))
    assert faults.total == 0


def test_the_time_of_guarded_work_is_kept() -> None:
    faults = Faults()
    faults.guard("probe a")(lambda: sum(range(100_000)))
    once = faults.seconds
    assert once > 0
    faults.guard("probe a")(fail)
    assert faults.seconds > once


class Scripted(Probe):
    """Fails where it is told to, with a hook in the model that counts how often it is called."""

    name = "scripted"
    presets = frozenset[str]()

    def __init__(self) -> None:
        super().__init__()
        self.failing: set[str] = set()
        self.hook_calls = self.disarmed = 0
        self.handles: list[Any] = []

    def check(self, where: str) -> None:
        if where in self.failing:
            raise RuntimeError(where)

    def attach(self, model: WatchedModel) -> None:
        self.model = model
        self.check("attach")

    def arm(self, step: int) -> None:
        for module in (layer.module for layer in self.model.linear_layers()):
            self.handles.append(module.register_forward_pre_hook(lambda *a: self.guard(self.on_forward)))
        self.check("arm")

    def on_forward(self) -> None:
        self.hook_calls += 1
        self.check("hook")

    def collect(self, step: int) -> Iterator[Scalars | Counts]:
        yield Scalars((SeriesKey("scripted.steps"),), torch.tensor([float(step)]))
        self.check("collect")

    def disarm(self) -> None:
        self.disarmed += 1
        while self.handles:
            self.handles.pop().remove()
        self.check("disarm")


class Run:
    """A training run under a collector that samples every step."""

    def __init__(self, *failing: str, modules: int = 1) -> None:
        self.model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(modules)))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.probe, self.faults = Scripted(), Faults()
        self.probe.failing = set(failing)
        self.collector = Collector(WatchedModel(self.model), [self.optimizer], [self.probe], Governor(every=1), self.faults)
        self.collector.begin(0)
        self.step = 0

    def train(self) -> set[str]:
        """One step; the names of what it measured."""
        self.optimizer.zero_grad()
        loss = self.model(torch.ones(1, 2)).square().sum()
        loss.backward()
        self.optimizer.step()
        record = self.collector.end_step(self.step, loss, {}).resolve()
        self.step += 1
        return {key.signal for key in record.keys}

    def hooks(self) -> int:
        return sum(len(m._forward_pre_hooks) for m in self.model.modules())


@pytest.mark.parametrize("where", ["attach", "arm", "hook", "collect", "disarm"])
def test_a_probe_that_fails_is_tried_again_and_then_given_up(where: str) -> None:
    run = Run(where)
    for _ in range(6):
        assert {"loss", "gradient.norm", "learning_rate"} <= run.train()
    source = "probe scripted"
    assert run.faults.count(source) > 0
    assert run.faults.is_off(source) == (where != "attach")
    assert where == "attach" or run.hooks() == 0, "hooks were left in the model"
    before = run.probe.hook_calls
    run.train()
    if where != "attach":
        assert run.probe.hook_calls == before
    run.collector.stop()
    assert run.hooks() == 0


def test_a_probe_whose_hooks_fail_many_times_in_one_step_leaves_the_model() -> None:
    run = Run("hook", modules=9)
    run.train()
    assert run.faults.is_off("probe scripted")
    assert run.hooks() == 0
    for _ in range(3):
        assert "scripted.steps" not in run.train()
    assert run.probe.hook_calls == 9


def test_a_probe_that_recovers_is_kept() -> None:
    run = Run()
    for _ in range(4):
        run.probe.failing = {"collect"}
        assert "scripted.steps" not in run.train()
        run.probe.failing = {"hook"}
        assert "scripted.steps" in run.train()
        run.probe.failing = set()
        assert "scripted.steps" in run.train()
    assert not run.faults.is_off("probe scripted")


def test_one_failing_probe_does_not_take_the_others_along() -> None:
    model = nn.Linear(2, 2)
    good, bad, faults = Scripted(), Scripted(), Faults()
    good.name, bad.name = "good", "bad"  # type: ignore[misc]
    bad.failing = {"arm", "hook", "collect", "disarm"}
    collector = Collector(WatchedModel(model), [], [bad, good], Governor(every=1), faults)
    collector.begin(0)
    for step in range(5):
        model(torch.ones(1, 2))
        record = collector.end_step(step, 1.0, {}).resolve()
        assert SeriesKey("scripted.steps") in record.keys
    assert faults.is_off("probe bad")
    assert not faults.is_off("probe good")
    collector.stop()
