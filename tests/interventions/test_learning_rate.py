"""A cut rate trains to the very bits that a rate lowered by hand does, whatever sets it; and it comes back."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import foreshock
import pytest
import torch
from foreshock.interventions.base import Training
from foreshock.interventions.learning_rate import LowerLearningRate
from foreshock.storage.records import Alert, AlertState, Run, Severity
from torch import Tensor, nn
from torch.optim import lr_scheduler as schedulers

Alarm = Callable[..., Alert]
STEPS = 60


class Story:
    """A run whose alerts are those put in ``alerts``; ``factors`` holds what each step's rate was multiplied by."""

    def __init__(self, lowering: LowerLearningRate | None, optimizer: Callable[[Any], Any], schedule: Any = None) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        self.optimizer = optimizer(self.model)
        self.scheduler = schedule(self.optimizer) if schedule else None
        self.lowering = lowering
        self.alerts: list[Alert] = []
        self.told: list[str] = []
        self.logged: list[float] = []
        self.factors: list[float] = []
        self.number = 0
        self.data = torch.Generator().manual_seed(1)
        if lowering is not None:
            lowering.attach(
                Training(
                    {"model": self.model},
                    [self.optimizer],
                    Run("run1", "r"),
                    tell=lambda kind, message, **data: self.told.append(message),
                    step=lambda: self.number,
                    alerts=lambda: self.alerts,
                    log=lambda **metrics: self.logged.append(metrics["learning_rate.factor"]),
                )
            )

    def go(self, until: int, factors: list[float] | None = None) -> None:
        """Train; ``factors``: multiply the rates by hand."""
        while self.number < until:
            self.optimizer.zero_grad()
            self.model(torch.randn(4, 4, generator=self.data)).square().mean().backward()
            before = [copy.copy(group["lr"]) for group in self.optimizer.param_groups]
            for group in self.optimizer.param_groups if factors is not None else ():
                group["lr"] = group["lr"] * factors[self.number]
            self.optimizer.step()
            for group, rate in zip(self.optimizer.param_groups, before, strict=True):
                if factors is not None:
                    group["lr"] = rate
                assert group["lr"] == rate, "between steps the rate is the user's own"
            if self.scheduler is not None:
                self.scheduler.step()
            if self.lowering is not None:
                self.factors.append(self.lowering.factor)
                self.lowering.after_step(self.number)
            self.number += 1

    def state(self) -> list[Tensor]:
        found: list[Any] = [p.detach() for p in self.model.parameters()]
        found += [value for state in self.optimizer.state.values() for value in state.values()]
        return [each for each in found if isinstance(each, Tensor)]


def groups(model: nn.Sequential) -> list[dict[str, Any]]:
    return [{"params": model[0].parameters(), "lr": 0.03}, {"params": model[2].parameters()}]


OPTIMIZERS: dict[str, Callable[[nn.Sequential], Any]] = {
    "adamw, two rates": lambda m: torch.optim.AdamW(groups(m), lr=0.01),
    "fused adamw": lambda m: torch.optim.AdamW(m.parameters(), lr=0.01, fused=True),
    "foreach sgd momentum": lambda m: torch.optim.SGD(groups(m), lr=0.01, momentum=0.9, foreach=True),
    "adamw, a tensor shared by groups": lambda m: torch.optim.AdamW(
        [{"params": m[0].parameters()}, {"params": m[2].parameters()}], lr=torch.tensor(0.01), foreach=False
    ),
    "adafactor": lambda m: torch.optim.Adafactor(m.parameters(), lr=0.01),
    "sgd, tensor": lambda m: torch.optim.SGD(m.parameters(), lr=torch.tensor(0.01)),
}
SCHEDULES: dict[str, Any] = {
    "none": None,
    "absolute": lambda o: schedulers.LambdaLR(o, lambda step: 1 / (1 + step)),
    "chained": lambda o: schedulers.ExponentialLR(o, 0.97),
    "one cycle": lambda o: schedulers.OneCycleLR(o, max_lr=0.1, total_steps=STEPS + 1),
}


@pytest.mark.parametrize(
    ("optimizer", "schedule"), [*((name, "absolute") for name in OPTIMIZERS), *(("adamw, two rates", name) for name in SCHEDULES)]
)
def test_it_trains_as_if_the_rate_had_been_lowered_by_hand(optimizer: str, schedule: str, alarm: Alarm) -> None:
    lowering = LowerLearningRate(patience=5, recover=15)
    story = Story(lowering, OPTIMIZERS[optimizer], SCHEDULES[schedule])
    story.go(10)
    lowering.on_alert(alarm())
    story.go(35)
    lowering.on_alert(alarm())
    story.go(STEPS)
    assert min(story.factors) < 0.6
    assert len({*story.factors}) > 10
    lowering.close()
    assert not story.optimizer._optimizer_step_pre_hooks
    by_hand = Story(None, OPTIMIZERS[optimizer], SCHEDULES[schedule])
    by_hand.go(STEPS, story.factors)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(story.state(), by_hand.state(), strict=True))


def plain(model: nn.Sequential) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.01)


def test_a_cut_and_a_smooth_recovery_once_nothing_is_open(alarm: Alarm) -> None:
    lowering = LowerLearningRate(factor=0.25, patience=10, recover=20)
    story = Story(lowering, plain)
    story.go(3)
    story.alerts = [alarm(step=2)]
    lowering.on_alert(story.alerts[0])
    story.go(9)
    assert story.factors == [1.0] * 4 + [0.25] * 5
    story.alerts = [replace(story.alerts[0], state=AlertState.RESOLVED)]
    story.go(60)
    rising = story.factors[story.factors.index(0.25) :]
    low = rising.count(0.25)
    assert low in (15, 16, 17), "at least ten steps since the alert was last open"
    steps = [math.log(after / before) for before, after in zip(rising[low - 1 :], rising[low : low + 20], strict=False)]
    assert steps == pytest.approx([math.log(4) / 20] * 20)
    assert story.factors[-10:] == [1.0] * 10
    assert story.logged[-1] == 1.0, "that it is over is recorded"
    assert story.told == [
        "Learning rates are multiplied by 0.25 from here on: loss_degradation gave a warning at step 2.",
        "No warning is open any more: the learning rate rises from 0.25 to 1 times its own over 20 steps.",
    ]


def test_one_trouble_is_one_cut_and_what_lasts_is_more_but_never_below_the_least(alarm: Alarm) -> None:
    lowering = LowerLearningRate(most=3, patience=30)
    story = Story(lowering, plain)
    story.alerts = [alarm()]
    for _ in range(5):
        lowering.on_alert(alarm())
        story.go(story.number + 3)
    assert lowering.factor == 0.5
    story.go(50)
    assert lowering.factor == 0.25
    lowering.on_alert(alarm("spectral_norm_growth"))
    story.go(60)
    assert lowering.factor == 0.125
    story.go(200)
    assert lowering.factor == 0.125


def test_what_comes_back_leaves_the_rate_lower(alarm: Alarm) -> None:
    lowering = LowerLearningRate(patience=5, recover=10)
    story = Story(lowering, plain)
    lowering.on_alert(alarm())
    story.go(40)
    assert lowering.factor == 1.0
    lowering.on_alert(alarm())
    story.go(80)
    assert lowering.factor == 1.0, "long after the recovery it is a new trouble"
    lowering.on_alert(alarm())
    story.go(95)
    assert 0.5 < lowering.factor < 1.0
    lowering.on_alert(alarm())  # during the recovery, and 15 steps after the cut
    story.go(100)
    lowering.on_alert(alarm())
    story.go(300)
    assert lowering.factor == 0.5


def test_after_a_roll_back_the_rate_is_a_quarter_and_never_more_than_half_again() -> None:
    lowering = LowerLearningRate(patience=5, recover=10)
    story = Story(lowering, plain)
    story.go(3)
    lowering.on_rollback(1)
    story.go(7)
    assert lowering.factor == 0.25
    story.go(60)
    assert lowering.factor == 0.5


def test_alerts_that_a_lower_rate_does_not_mend_are_left_alone(alarm: Alarm) -> None:
    lowering = LowerLearningRate()
    story = Story(lowering, plain)
    for one in (alarm("stale_updates"), alarm("key_shift_bias"), alarm(severity=Severity.INFO)):
        lowering.on_alert(one)
        story.go(story.number + 3)
    assert set(story.factors) == {1.0}
    assert not story.logged


def test_a_step_that_raises_leaves_the_rate_right(alarm: Alarm) -> None:
    lowering = LowerLearningRate()
    story = Story(lowering, plain)
    lowering.on_alert(alarm())
    story.go(5)

    def fails() -> float:
        raise RuntimeError("in the closure")

    with pytest.raises(RuntimeError, match="in the closure"):
        story.optimizer.step(fails)
    lowering.after_step(5)
    assert story.optimizer.param_groups[0]["lr"] == 0.01
    with pytest.raises(RuntimeError, match="in the closure"):
        story.optimizer.step(fails)
    story.optimizer.step()
    assert story.optimizer.param_groups[0]["lr"] == 0.01
    with pytest.raises(RuntimeError, match="in the closure"):
        story.optimizer.step(fails)
    lowering.close()
    assert story.optimizer.param_groups[0]["lr"] == 0.01


def test_a_watched_run_keeps_its_own_rate_and_the_factor_beside_it(small: Any, url: str) -> None:
    chosen = [LowerLearningRate(rules=[], severity="critical")]
    with foreshock.watch(small.model, small.optimizer, store=url, interventions=chosen) as monitor:
        for step in range(12):
            loss = small.step()
            monitor.step(float("nan") if step == 3 else loss)
            monitor.flush()
    assert monitor.faults.total == 0
    store = foreshock.open_store(url)
    frame = store.frame(monitor.run.id)
    assert set(frame[frame["signal"] == "learning_rate"]["value"]) == {0.05}
    factor = frame[frame["signal"] == "learning_rate.factor"]
    assert dict(zip(factor["step"], factor["value"], strict=True)) == dict.fromkeys(range(5, 12), 0.5)
    (event,) = [event for event in store.events(monitor.run.id) if event.kind == "intervention"]
    assert (event.step, event.data["rule"], event.data["factor"]) == (4, "non_finite", 0.5)
    store.close()


@pytest.mark.parametrize("options", [{"factor": 1.0}, {"factor": 0.0}, {"most": 0}, {"patience": 0}, {"recover": 0}])
def test_numbers_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="factor between 0 and 1, the others at least 1"):
        LowerLearningRate(**options)
    with pytest.raises(ValueError, match="must know it"):
        LowerLearningRate().attach(Training({}, [], Run("r", "r")))
