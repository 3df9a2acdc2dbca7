"""Data that change in mid-run: the loss leaps to that of a beginner, and falls again."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models import GPT
from ..scenario import Scenario, Training, seeded
from ..text import batch_of, source_windows, windows
from ..training import trained, warm_up

STEPS = 900
SWITCH = 400


def build(seed: int) -> Training:
    """A 2-layer GPT of width 32 learns 16 windows of Moby-Dick by heart, from step 400 on 16 of Python source; Adafactor."""
    order = seeded(seed)
    stages = windows(count=16, context=32), source_windows(count=16, context=32)
    model = GPT(32, 2, 2, 32)
    optimizer = torch.optim.Adafactor(model.parameters(), lr=0.03)

    def loss(number: int) -> Tensor:
        given, wanted = batch_of(stages[number >= SWITCH], 8, order)
        return F.cross_entropy(model(given).flatten(0, 1), wanted.flatten())

    return trained(model, optimizer, loss, schedule=warm_up(50), clip=1.0)


CURRICULUM = Scenario(
    name="curriculum-switch",
    family="curriculum",
    split="train",
    title="A GPT whose text is exchanged for another in mid-run",
    cause="the loss goes from a hundredth to several nats in one step: other data, not a broken model",
    expected="survived",
    steps=STEPS,
    build=build,
    source="found by experiment",
    trouble_step=SWITCH,
)
