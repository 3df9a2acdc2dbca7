"""A learning rate that never stops rising: a pre-LN GPT learns a text by heart, far into rates it cannot bear.

AdamW with pre-LN is very tolerant: the healthy twin settles at ten times a usual rate, and its loss jumps about, yet it learns.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models import GPT
from ..scenario import Scenario, Training, seeded
from ..text import batch_of, windows
from ..training import Schedule, ramp, trained, warm_up

STEPS = 900
_FAMILY = "learning_rate_ramp"
_SOURCE = "found by experiment"


def build(rate: float, schedule: Schedule, seed: int) -> Training:
    """2 layers, width 32, 32 bytes of context, 32 windows; AdamW, not clipped."""
    order = seeded(seed)
    data = windows(count=32, context=32)
    model = GPT(32, 2, 2, 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)

    def loss(number: int) -> Tensor:
        given, wanted = batch_of(data, 8, order)
        return F.cross_entropy(model(given).flatten(0, 1), wanted.flatten())

    return trained(model, optimizer, loss, schedule=schedule)


LEARNING_RATE_RAMP = Scenario(
    name="learning-rate-ramp",
    family=_FAMILY,
    split="train",
    title="A pre-LN GPT whose learning rate rises to 0.3, ever faster",
    cause="past some learning rate each update overshoots: weights and logits grow, and the text learnt by heart is lost",
    expected="diverged",
    steps=STEPS,
    build=lambda seed: build(0.3, ramp(STEPS, 3), seed),
    source=_SOURCE,
    onset="slow",
    cause_id="learning_rate_too_high",
)

HIGH_LEARNING_RATE = Scenario(
    name="high-learning-rate",
    family=_FAMILY,
    split="train",
    title="The same GPT, its learning rate held at 0.01 after a warm-up",
    cause="ten times the usual rate: a jumpy loss and large gradients at first, yet Adam and pre-LN bear it",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(0.01, warm_up(100), seed),
    source=_SOURCE,
)
