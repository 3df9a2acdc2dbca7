"""The dry run: what it counts is what the probes do."""

from collections.abc import Iterator
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from foreshock.probes.base import Block, Probe, Scalars
from foreshock.probes.estimate import _Memory, estimate
from foreshock.probes.model import WatchedModel
from foreshock.storage.records import SeriesKey
from foreshock.zoo.models import GPT
from torch import Tensor, nn


class Hungry(Probe):
    """Holds 4,000 bytes from sample to sample, and 40,000 more while it measures."""

    name = "hungry"
    presets = frozenset()

    def attach(self, model: WatchedModel) -> None:
        self.held: Tensor | None = None

    def arm(self, step: int) -> None:
        self.held = torch.zeros(1000) if self.held is None else self.held

    def rebind(self) -> None:
        self.held = None

    def collect(self, step: int) -> Iterator[Block]:
        assert self.held is not None
        large = torch.ones(10_000)
        view = large[:1000]
        yield Scalars((SeriesKey("hungry.a"), SeriesKey("hungry.b")), torch.stack([view.sum(), self.held.sum()]))

    def disarm(self) -> None: ...


def test_memory_is_counted_by_storage_and_forgotten_with_it() -> None:
    memory = _Memory()
    with memory:
        a = torch.zeros(100)
        b = a[:50].t()
        a.add_(1)
        c = a + 1
        assert (memory.alive, memory.peak) == (800, 800)
        del a
        assert memory.alive == 800, "the view keeps it"
        del b
        assert memory.alive == 400
        d = c.clone()
    del c, d
    assert (memory.alive, memory.peak) == (0, 800)


def test_a_probe_pays_for_what_it_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foreshock.probes.estimate.choose_probes", lambda preset: [Hungry()])
    model = nn.Linear(3, 3)
    calls = 0

    def step() -> None:
        nonlocal calls
        calls += 1
        model(torch.ones(2, 3)).sum().backward()

    (found,) = estimate(model, step, presets=["light"], samples=2)
    (probe,) = found.probes
    assert (probe.name, probe.statistics, probe.held_bytes) == ("hungry", 2, 4000)
    assert 44_000 <= probe.peak_bytes <= 44_100
    assert (found.held_bytes, found.statistics) == (4000, 2)
    assert calls < 20


def test_every_preset_on_a_real_model_leaves_no_hook_behind() -> None:
    model = GPT(16, 2, 2, 24, partial(F.scaled_dot_product_attention, is_causal=True))
    optimizer = torch.optim.AdamW(model.parameters())
    tokens = torch.arange(48).reshape(2, 24)

    def step() -> None:
        optimizer.zero_grad()
        model(tokens).square().mean().backward()
        optimizer.step()

    light, default, full = estimate(model, step, samples=1)
    assert [light.preset, default.preset, full.preset] == ["light", "default", "full"]
    assert {probe.name for probe in light.probes} <= {probe.name for probe in default.probes}
    assert {probe.name for probe in default.probes} <= {probe.name for probe in full.probes}
    assert light.statistics < default.statistics <= full.statistics
    assert 0 < light.held_bytes <= light.peak_bytes
    assert all(probe.statistics >= 0 and probe.milliseconds > 0 for probe in full.probes)
    assert not any(m._forward_pre_hooks or m._forward_hooks or m._backward_hooks for m in model.modules())


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"budget": 0.0}, {"budget": 2.0}])
def test_impossible_wishes_are_explained(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least 1 sample and a budget above 0"):
        estimate(nn.Linear(2, 2), lambda: None, **wrong)
    with pytest.raises(ValueError, match="neither a preset"):
        estimate(nn.Linear(2, 2), lambda: None, presets=["huge"])
