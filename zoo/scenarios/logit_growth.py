"""Attention logits that grow without bound: a ViT whose queries and keys learn ever faster, without and with QK-norm.

What takes a large model thousands of steps takes this one hundreds: only the learning rate of queries and keys rises.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..images import batch_of
from ..scenario import Scenario, Training, seeded
from ..training import doubling_from, warm_up
from ..vision import ViT

STEPS = 700
START = 200
_FAMILY = "logit_growth"
_SOURCE = "arXiv 2302.05442 (ViT-22B), arXiv 2309.14322 (small-scale proxies); setting found by experiment"


def build(qk_norm: bool, seed: int) -> Training:
    """A 2-layer ViT learns 256 glyphs; AdamW at 3e-3, clipped; from step 200 the rate of q and k doubles each 60 steps."""
    order = seeded(seed)
    model = ViT(32, 2, 2, qk_norm=qk_norm)
    growing = [p for name, p in model.named_parameters() if ".q." in name or ".k." in name]
    chosen = set(growing)
    groups = [{"params": [p for p in model.parameters() if p not in chosen]}, {"params": growing}]
    optimizer = torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    schedules = warm_up(50), doubling_from(START, 60, warm_up(50))

    def step(number: int) -> Tensor:
        for group, schedule in zip(optimizer.param_groups, schedules, strict=True):
            group["lr"] = 3e-3 * schedule(number)
        images, labels = batch_of(32, order, count=256)
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    return Training(model, optimizer, step)


LOGIT_GROWTH = Scenario(
    name="attention-logit-growth",
    family=_FAMILY,
    split="train",
    title="A ViT whose queries and keys grow until its attention is one-hot",
    cause="nothing bounds the product of queries and keys: logits grow until softmax picks one patch, another after each update",
    expected="diverged",
    steps=STEPS,
    build=lambda seed: build(False, seed),
    source=_SOURCE,
    onset="slow",
    cause_id="attention_logit_growth",
    trouble_step=START,
)

QK_NORM = Scenario(
    name="normalised-queries",
    family=_FAMILY,
    split="train",
    title="The same ViT with QK-norm at the same learning rates",
    cause="the weights of queries and keys grow as they do in the twin; normalised, they cannot make the logits grow",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(True, seed),
    source=_SOURCE,
    trouble_step=START,
)
