"""A post-LN GPT, which needs its warm-up: without one it never learns, and a rate that goes on rising takes everything back."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models import GPT
from ..scenario import Reachable, Scenario, Training, seeded
from ..text import batch_of, source_windows
from ..training import Schedule, constant, ramp, trained, warm_up

STEPS = 600
_FAMILY = "post_norm"
_SOURCE = "arXiv 2002.04745 (on layer normalization in the transformer architecture); setting found by experiment"
_TWIN = "warmed-up-post-norm"


def build(layers: int, rate: float, schedule: Schedule, seed: int) -> Training:
    """A post-LN GPT of width 32 learns 32 windows of Python source by heart; AdamW with its usual betas, not clipped."""
    order = seeded(seed)
    data = source_windows(count=32, context=32)
    model = GPT(32, 2, layers, 32, post_norm=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0, fused=True)

    def loss(number: int) -> Tensor:
        given, wanted = batch_of(data, 8, order)
        return F.cross_entropy(model(given).flatten(0, 1), wanted.flatten())

    return trained(model, optimizer, loss, schedule=schedule)


POST_NORM_RAMP = Scenario(
    name="post-norm-ramp",
    family=_FAMILY,
    split="train",
    title="A post-LN GPT whose learning rate goes on rising",
    cause="post-LN bears far less than pre-LN: beyond its rate the attention saturates and what was learnt is lost",
    expected="diverged",
    steps=STEPS,
    build=lambda seed: build(3, 0.06, ramp(STEPS, 2), seed),
    source=_SOURCE,
    onset="slow",
    cause_id="learning_rate_too_high",
)

POST_NORM_NO_WARMUP = Scenario(
    name="post-norm-without-warm-up",
    family=_FAMILY,
    split="train",
    title="A post-LN GPT at its full learning rate from the first step",
    cause="gradients near the output are large at the start (there is no residual path around the norms): the first updates end it",
    expected="stuck",
    steps=STEPS,
    build=lambda seed: build(6, 0.02, constant, seed),
    source=_SOURCE,
    onset="silent",
    cause_id="missing_warmup",
    reachable=Reachable(1.5, 500, _TWIN),
)

POST_NORM_WARMED_UP = Scenario(
    name=_TWIN,
    family=_FAMILY,
    split="train",
    title="The same post-LN GPT with a warm-up of 300 steps",
    cause="a plateau at the start, then the loss falls at once",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(6, 0.02, warm_up(300), seed),
    source=_SOURCE,
)
