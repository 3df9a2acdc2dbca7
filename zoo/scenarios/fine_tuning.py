"""Training that goes on from a checkpoint: other data, a fresh optimizer without moments, and a rate that starts at its highest."""

import copy
import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models import GPT
from ..scenario import Scenario, Training, seeded
from ..text import batch_of, source_windows, windows
from ..training import trained

STEPS = 700
PRETRAINING = 250


def _losses_of(model: GPT, data: Tensor, order: torch.Generator) -> Any:
    def loss(number: int) -> Tensor:
        given, wanted = batch_of(data, 8, order)
        return F.cross_entropy(model(given).flatten(0, 1), wanted.flatten())

    return loss


@functools.cache
def checkpoint() -> dict[str, Tensor]:
    """Return the weights to go on from: the GPT after 250 steps on Moby-Dick. Made once a process; it draws its own numbers."""
    with torch.random.fork_rng(devices=[]):
        order = seeded(1851)
        model = GPT(32, 2, 2, 32)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), fused=True)
        training = trained(model, optimizer, _losses_of(model, windows(count=64, context=32), order), clip=1.0)
        for number in range(PRETRAINING):
            training.step(number)
    return copy.deepcopy(model.state_dict())


def build(seed: int) -> Training:
    """A 2-layer GPT of width 32 goes on from the checkpoint with 32 windows of Python source; AdamW at 2e-3, decaying to 0."""
    weights = checkpoint()
    order = seeded(seed)
    model = GPT(32, 2, 2, 32)
    model.load_state_dict(weights)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    loss = _losses_of(model, source_windows(count=32, context=32), order)
    return trained(model, optimizer, loss, schedule=lambda number: 1.0 - number / STEPS, clip=1.0)


FINE_TUNING = Scenario(
    name="fine-tuning",
    family="fine_tuning",
    split="train",
    title="A GPT that goes on from a checkpoint, with other text and a fresh optimizer",
    cause="a high loss and large updates at first, no warm-up, weights far from a fresh model's: as fine-tuning is",
    expected="survived",
    steps=STEPS,
    build=build,
    source="found by experiment",
)
