"""A resume that brings back a part of the optimizer only: Adam's second moment is 0, its first moment and its count are not.

Such a checkpoint comes from a conversion between formats, or from a load that forgives missing keys. With a count of hundreds there
is no bias correction left, so a second moment from 0 is thousands of times too small at first.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import GPT
from ..scenario import Scenario, Training, seeded
from ..text import batch_of, source_windows
from ..training import warm_up

STEPS = 900
RESUMED = 500
_FAMILY = "partial_resume"
_SOURCE = "arXiv 2006.04884 and 2006.05987 (what Adam does without bias correction); lost optimizer state: setting by experiment"


def linear_attention(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor:
    """Attend to the past in proportion to the products of positive features, without softmax (arXiv 2006.16236)."""
    scores_BHTT = ((F.elu(q_BHTD) + 1) @ (F.elu(k_BHTD) + 1).transpose(-1, -2)).tril()
    return scores_BHTT @ v_BHTD / (scores_BHTT.sum(-1, keepdim=True) + 1e-6)


def build(lost: Literal["second", "moments", "all"], seed: int) -> Training:
    """A 2-layer GPT with linear attention learns 64 windows of Python source; AdamW at 1e-2, clipped; resumed at step 500."""
    order = seeded(seed)
    data = source_windows(count=64, context=32)
    model = GPT(32, 2, 2, 32, linear_attention)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1, fused=True)
    warm = warm_up(100)

    def resume() -> None:
        if lost == "all":
            optimizer.state.clear()
        for state in optimizer.state.values():
            state["exp_avg_sq"].zero_()
            if lost == "moments":
                state["exp_avg"].zero_()

    def step(number: int) -> Tensor:
        if number == RESUMED:
            resume()
        optimizer.param_groups[0]["lr"] = 1e-2 * warm(number)
        given, wanted = batch_of(data, 8, order)
        loss = F.cross_entropy(model(given).flatten(0, 1), wanted.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    return Training(model, optimizer, step)


SECOND_LOST = Scenario(
    name="second-moment-lost",
    family=_FAMILY,
    split="train",
    title="A GPT with linear attention, resumed without Adam's second moment",
    cause="the mean gradient over a second moment near 0: the first updates are many times the learning rate and undo the net",
    expected="diverged",
    steps=STEPS,
    build=lambda seed: build("second", seed),
    source=_SOURCE,
    onset="abrupt",
    cause_id="second_moment_lag",
    trouble_step=RESUMED,
)

MOMENTS_LOST = Scenario(
    name="moments-lost",
    family=_FAMILY,
    split="train",
    title="The same GPT, resumed without both moments but with the count of steps",
    cause="updates of several times the learning rate for some hundred steps: the loss rises fourfold, and comes back",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build("moments", seed),
    source=_SOURCE,
    trouble_step=RESUMED,
)

FRESH = Scenario(
    name="fresh-optimizer",
    family=_FAMILY,
    split="train",
    title="The same GPT, resumed with a fresh optimizer",
    cause="moments and count start again together, so the bias correction does its work: hardly a bump",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build("all", seed),
    source=_SOURCE,
    trouble_step=RESUMED,
)
