"""A momentum that follows a teacher's schedule: SGD's momentum rises to 1, and with it the rate that one gradient has in all.

Self-distillation averages a teacher with a momentum that goes from 0.996 to 1 along a cosine. Under the same name in the same
configuration it is easily handed to the optimizer, where ``1 / (1 - momentum)`` times the learning rate is what a gradient moves.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..images import batch_of
from ..scenario import Scenario, Training, seeded
from ..training import warm_up
from ..vision import ViT

STEPS = 1000
WARM_UP = 50
_FAMILY = "momentum_schedule"
_SOURCE = "arXiv 2104.14294 (DINO: the teacher's schedule), arXiv 1803.09820 (momentum sets the rate); setting found by experiment"


def build(rate: float, teacher: float | None, seed: int) -> Training:
    """A 2-layer ViT learns 512 glyphs; SGD, clipped at 1; its momentum goes from 0.9 to ``teacher`` along a cosine, or stays."""
    order = seeded(seed)
    model = ViT(32, 2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=1e-4, fused=True)
    warm = warm_up(WARM_UP)

    def step(number: int) -> Tensor:
        group = optimizer.param_groups[0]
        group["lr"] = rate * warm(number)
        if teacher is not None:
            group["momentum"] = teacher - (teacher - 0.9) * (1 + math.cos(math.pi * number / STEPS)) / 2
        images, labels = batch_of(32, order, count=512)
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    return Training(model, optimizer, step)


TO_ONE = Scenario(
    name="momentum-to-one",
    family=_FAMILY,
    split="train",
    title="A ViT under SGD whose momentum was given a teacher's schedule and rises to 1",
    cause="each gradient acts longer and longer: by mid-run it moves twice what it did, at nine tenths forty times",
    expected="diverged",
    steps=STEPS,
    build=lambda seed: build(0.1, 1.0, seed),
    source=_SOURCE,
    onset="slow",
    cause_id="learning_rate_too_high",
)

TO_099 = Scenario(
    name="momentum-to-099",
    family=_FAMILY,
    split="train",
    title="The same ViT whose momentum rises to 0.99, at a fifth of the rate",
    cause="updates grow tenfold in the course of the run, to what the rate bears: a loss that shakes a little while it falls",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(0.02, 0.99, seed),
    source=_SOURCE,
)
