"""Muon without weight decay at a high rate: every update has full rank and the same size, so the weights grow as the steps do."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models import GPT
from ..scenario import Scenario, Training, seeded
from ..text import batch_of, windows
from ..training import Schedule, doubling_from, trained, warm_up

STEPS = 700
_FAMILY = "muon"
_SOURCE = "arXiv 2502.16982 (Muon is scalable), arXiv 2507.20534 (Kimi K2: logits explode under Muon); setting found by experiment"


def build(rate: float, decay: float, schedule: Schedule, seed: int) -> Training:
    """A 2-layer GPT of width 32 learns 32 windows by heart; Muon for the blocks' matrices, AdamW at 2e-3 for the rest."""
    order = seeded(seed)
    data = windows(count=32, context=32)
    model = GPT(32, 2, 2, 32)
    matrices = [p for p in model.blocks.parameters() if p.dim() == 2]
    chosen = set(matrices)
    others = [p for p in model.parameters() if p not in chosen]
    optimizers = [
        torch.optim.Muon(matrices, lr=rate, weight_decay=decay),
        torch.optim.AdamW(others, lr=2e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]

    def loss(number: int) -> Tensor:
        given, wanted = batch_of(data, 8, order)
        return F.cross_entropy(model(given).flatten(0, 1), wanted.flatten())

    return trained(model, optimizers, loss, schedule=schedule)


MUON_RAMP = Scenario(
    name="muon-ramp",
    family=_FAMILY,
    split="train",
    title="A GPT under Muon without weight decay, its learning rate doubling each 50 steps",
    cause="orthogonal updates add the rate to every singular value; attention logits grow as the square, until softmax saturates",
    expected="diverged",
    steps=STEPS,
    build=lambda seed: build(0.02, 0.0, doubling_from(300, 50, warm_up(50)), seed),
    source=_SOURCE,
    onset="slow",
    cause_id="learning_rate_too_high",
)

MUON = Scenario(
    name="muon",
    family=_FAMILY,
    split="train",
    title="The same GPT under Muon at a sound rate with weight decay",
    cause="spectral norms grow quickly and evenly at first, then level off",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(0.02, 0.1, warm_up(50), seed),
    source=_SOURCE,
)
