"""A loss that leaps or is not finite at a step nobody samples: the next step is sampled, and tells where it comes from."""

import math
import random
from types import SimpleNamespace
from typing import Any

import foreshock
import pytest
import torch
from foreshock.probes.step.alarm import Alarm
from foreshock.storage.records import SeriesKey
from torch import Tensor, nn


class Breaking(nn.Module):
    """Passes on what it is given, and from a switch on breaks it, forwards or backwards."""

    way = ""

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "forward":
            return x / 0.0 - x / 0.0
        if self.way == "backward":  # 0 there, with an infinite slope
            return x + (x - x.detach()).abs().sqrt()
        return x


def trained(url: str, way: str, *, steps: int, breaks: range, every: int | None = 25, **metrics: Any) -> tuple[Any, set[int]]:
    """A loop that leaves out steps whose gradients are not finite; returns what was stored, and the sampled steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), Breaking(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with foreshock.watch(model, optimizer, store=url, probes=["nonfinite", "weights"], every=every) as monitor:
        for step in range(steps):
            model[1].way = way if step in breaks else ""
            optimizer.zero_grad()
            loss = model(torch.randn(3, 4)).square().mean()
            loss.backward()
            if math.isfinite(nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()):
                optimizer.step()
            monitor.step(loss, **metrics)
        assert monitor.faults.total == 0
    store = foreshock.open_store(url)
    frame = store.frame(store.runs()[0])
    store.close()
    return frame, set(frame[frame["signal"] == "weight.norm"]["step"])


@pytest.mark.parametrize("metrics", [{}, {"accuracy": 0.5}], ids=["plain step", "with a metric"])
@pytest.mark.parametrize(("way", "named"), [("forward", "1.forward"), ("backward", "0.backward")])
def test_the_module_is_named_at_the_next_step(url: str, way: str, named: str, metrics: dict[str, float]) -> None:
    frame, sampled = trained(url, way, steps=60, breaks=range(30, 60), **metrics)
    found = frame[frame["signal"] == "nonfinite.count"]
    assert found["step"].tolist()[0] == 31
    assert set(found[found["step"] == 31]["module"]) == {named}
    assert sampled == {0, 25, 31, 50}, "one sample more; the others where they were"


def test_a_single_bad_step_costs_one_sample(url: str) -> None:
    frame, sampled = trained(url, "forward", steps=60, breaks=range(30, 31))
    assert sampled == {0, 25, 31, 50}
    assert "nonfinite.count" not in set(frame["signal"])


def test_a_bad_step_that_is_sampled_costs_none(url: str) -> None:
    _, sampled = trained(url, "forward", steps=60, breaks=range(25, 26))
    assert sampled == {0, 25, 50}


def test_a_bad_step_before_a_sample_costs_none(url: str) -> None:
    assert trained(url, "forward", steps=60, breaks=range(24, 25))[1] == {0, 25, 50}


def test_a_loss_that_stays_broken_is_no_news(url: str) -> None:
    assert trained(url, "forward", steps=140, breaks=range(130), every=1000)[1] == {0}, "the first step was sampled and broken"
    _, sampled = trained(url + "2", "forward", steps=400, breaks=[*range(5, 50), *range(250, 260)], every=1000)  # type: ignore[arg-type]
    assert sampled == {0, 6, 251}


def noisy(count: int, level: float = 2.0, spread: float = 0.2, seed: int = 0) -> list[float]:
    draw = random.Random(seed)
    return [level * math.exp(spread * draw.gauss(0.0, 1.0)) for _ in range(count)]


def heard(losses: list[float]) -> list[int]:
    alarm = Alarm()
    return [step for step, loss in enumerate(losses) if alarm.hears(step, loss, 1.0)]


def test_a_loss_that_leaps_is_heard_at_once_and_one_that_is_noisy_is_not() -> None:
    for seed in range(20):
        usual = noisy(2000, seed=seed)
        assert heard(usual) == []
        assert heard([*usual, 20.0, *noisy(50, 20.0)]) == [2000, 2001], "looked at twice; what stays high is no further news"
        assert heard([value - 10.0 for value in usual] + [15.0, -8.0, -8.0]) == [2000, 2001], "a loss may be below zero"
    falling = [8.0 * math.exp(-step / 300) * noise for step, noise in enumerate(noisy(1500, 1.0))]
    assert heard(falling) == []
    assert heard([5.0] * 10 + [500.0]) == [], "nothing is usual yet"
    assert heard([0.0] * 100 + [1.0]) == [100]


def test_the_step_after_a_leap_is_sampled(url: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with foreshock.watch(model, optimizer, store=url, probes=["inputs", "weights"], every=100) as monitor:
        for step in range(150):
            x = torch.randn(32, 4) * (255.0 if step >= 60 else 1.0)
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            optimizer.step()
            monitor.step(loss)
    store = foreshock.open_store(url)
    sizes = store.frame(store.runs()[0], "input.rms")
    store.close()
    assert sizes["step"].tolist() == [0, 61, 62, 100], "twice, so that a single bad batch is told from what stays"
    assert sizes["value"].tolist()[1] > 100 * sizes["value"].tolist()[0]


class Arriving:
    """A copy from a device that arrives when it is told to."""

    def __init__(self, *values: float) -> None:
        self.values, self.there = torch.tensor(values), False

    def ready(self) -> bool:
        return self.there

    def numpy(self) -> Any:
        assert self.there, "it was waited for"
        return self.values.numpy()


def test_what_is_on_its_way_is_heard_when_it_arrives() -> None:
    alarm = Alarm()
    names = ("user metric", "loss", "gradient.norm")
    copies = {step: Arriving(math.nan, 1.0, 1.0 if step != 3 else math.inf) for step in range(6)}
    news = []
    for step, copy in copies.items():
        pending = SimpleNamespace(step=step, host_keys=(), host_values=(), away_keys=tuple(map(SeriesKey, names)), away=copy)
        assert not alarm.listen(pending, sampled=False)  # type: ignore[arg-type]
        if step >= 2:
            copies[step - 2].there = True
        news.append(alarm.late_news())
    assert news == [False, False, False, False, False, True]
