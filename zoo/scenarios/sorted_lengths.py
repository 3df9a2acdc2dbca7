"""Sequences sorted by their length, the shortest first, a loss summed over time, and a GRU whose gradients are not clipped."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..scenario import Scenario, Training, seeded

STEPS = 1000
SHORTEST, LONGEST = 8, 64
BATCH = 16
_FAMILY = "sorted_lengths"
_SOURCE = "arXiv 1512.02595 (Deep Speech 2: SortaGrad, a loss summed over frames), arXiv 1211.5063; setting found by experiment"


class Forecaster(nn.Module):
    """A GRU that says the next value of a signal, and a linear head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gru = nn.GRU(1, width, batch_first=True)
        self.head = nn.Linear(width, 1)

    def forward(self, signals_BT1: Tensor) -> Tensor:
        """Map signals (B, T, 1) to their next values, of the same shape."""
        h_BTC, _ = self.gru(signals_BT1)
        out: Tensor = self.head(h_BTC)
        return out


def signals(length: int, random: torch.Generator) -> Tensor:
    """Draw a batch of noisy sums of two sines: (16, length, 1)."""
    speed, phase, size = (torch.rand(BATCH, 2, 1, generator=random) for _ in range(3))
    waves = (0.5 + size) * torch.sin((0.1 + 0.7 * speed) * torch.arange(length) + 2.0 * math.pi * phase)
    return (waves.sum(1) + 0.1 * torch.randn(BATCH, length, generator=random))[..., None]


def build(rate: float, summed: bool, clip: float | None, seed: int) -> Training:
    """A GRU of width 32 forecasts signals of 8 to 64 values; SGD with Nesterov's momentum.

    Args:
        rate: learning rate.
        summed: gradients are of the sum over time; if not, of the mean. What is returned is always the mean.
        clip: norm to clip the gradient to.
        seed: of the run.
    """
    order = seeded(seed)
    model = Forecaster(32)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, nesterov=True, fused=True)

    def step(number: int) -> Tensor:
        length = SHORTEST + (LONGEST - SHORTEST) * number // STEPS
        series = signals(length + 1, order)
        loss = F.mse_loss(model(series[:, :-1]), series[:, 1:])
        optimizer.zero_grad()
        (loss * length if summed else loss).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        return loss.detach()

    return Training(model, optimizer, step)


SORTED_LENGTHS = Scenario(
    name="sorted-lengths",
    family=_FAMILY,
    split="train",
    title="A GRU that forecasts signals sorted by length, its loss summed over time, not clipped",
    cause="gradients grow with the number of values they are summed over, until the learning rate is too high for them",
    expected="diverged",
    steps=STEPS,
    build=lambda seed: build(0.01, True, None, seed),
    source=_SOURCE,
    onset="slow",
    cause_id="learning_rate_too_high",
)

SORTED_AND_CLIPPED = Scenario(
    name="sorted-lengths-clipped",
    family=_FAMILY,
    split="train",
    title="The same GRU on the same signals, clipped at 1",
    cause="gradients grow with the length as in the twin; clipped, they do no harm",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(0.01, True, 1.0, seed),
    source=_SOURCE,
)

SORTED_AND_AVERAGED = Scenario(
    name="sorted-lengths-averaged",
    family=_FAMILY,
    split="train",
    title="The same GRU on the same signals, its loss averaged over time, not clipped",
    cause="sequences eight times longer at the end than at the start; the mean keeps the gradients as they were",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(0.1, False, None, seed),
    source=_SOURCE,
)
