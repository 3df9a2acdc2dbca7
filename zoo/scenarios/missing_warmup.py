"""The full learning rate from the first step: a pre-LN GPT does not diverge, it collapses in silence."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models import GPT
from ..scenario import Reachable, Scenario, Training, seeded
from ..text import batch_of, windows
from ..training import Schedule, constant, trained, warm_up

STEPS = 800
_FAMILY = "missing_warmup"
_SOURCE = "found by experiment"
_TWIN = "warmed-up-gpt"


def build(schedule: Schedule, seed: int) -> Training:
    """A 3-layer GPT of width 48 learns 64 windows of 32 bytes by heart; AdamW at 0.02, clipped at 1."""
    order = seeded(seed)
    data = windows(count=64, context=32)
    model = GPT(48, 2, 3, 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, betas=(0.9, 0.95), weight_decay=0.0, fused=True)

    def loss(number: int) -> Tensor:
        given, wanted = batch_of(data, 8, order)
        return F.cross_entropy(model(given).flatten(0, 1), wanted.flatten())

    return trained(model, optimizer, loss, schedule=schedule, clip=1.0)


MISSING_WARMUP = Scenario(
    name="missing-warmup",
    family=_FAMILY,
    split="train",
    title="A pre-LN GPT at its full learning rate from the first step",
    cause="the first updates saturate the attention: its entropy collapses, and the loss stays far above what the twin reaches",
    expected="stuck",
    steps=STEPS,
    build=lambda seed: build(constant, seed),
    source=_SOURCE,
    onset="silent",
    cause_id="missing_warmup",
    reachable=Reachable(1.0, 700, _TWIN),
)

WARMED_UP = Scenario(
    name=_TWIN,
    family=_FAMILY,
    split="train",
    title="The same GPT with a warm-up of 300 steps",
    cause="the same high learning rate, reached slowly",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(warm_up(300), seed),
    source=_SOURCE,
)
