"""The low-precision attention failure, made quick: a small GPT whose attention stores its output with three mantissa bits.

Attention is computed as a bfloat16 flash attention does it, but its output O is kept to 3 bits instead of bfloat16's 7. At this
size true bfloat16 never failed in anything tried: this is an accelerated model of the failure described in arXiv 2510.04212,
with its mechanism - delta = rowsum(dO * O) inherits the rounding error of O, that error has one sign where V has one sign, and
errors of one sign add up in W_q - and its cure: delta from the float32 O. The cured twin below trains to the end.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels.reference import Precision, reference_attention
from ..models import GPT
from ..scenario import Scenario, Training, seeded
from ..text import windows

STEPS = 1200
WARMUP = 50
LEARNING_RATE = 6e-3
BATCH = 8
_FAMILY = "low_precision_attention"
_SOURCE = "arXiv 2510.04212; setting found by experiment, see docs/reproduction"


def build(precision: Precision, seed: int) -> Training:
    """Build the run: 2 layers, width 64, 2 heads, 64 bytes of context, 16 windows of text learned by heart by AdamW."""
    order = seeded(seed)
    data = windows(count=16, context=64)
    model = GPT(64, 2, 2, 64, partial(reference_attention, is_causal=True, precision=precision), value_bias=-2.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)

    def step(number: int) -> Tensor:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (number + 1) / WARMUP)
        batch = data[torch.randint(len(data), (BATCH,), generator=order)]
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    return Training(model, optimizer, step)


LOW_PRECISION_ATTENTION = Scenario(
    name="low-precision-attention",
    family=_FAMILY,
    split="train",
    title="A small GPT whose attention output is kept to 3 mantissa bits",
    cause="delta = rowsum(dO * O) inherits one-signed rounding errors of O; they add up in W_q until the logits explode",
    expected="diverged",
    steps=STEPS,
    build=partial(build, Precision.flash(output=3)),
    source=_SOURCE,
    onset="slow",
    cause_id="low_precision_attention",
)

STABILISED = Scenario(
    name="stabilised",
    family=_FAMILY,
    split="train",
    title="The same run with delta taken from the float32 output",
    cause="the error of delta is gone, and with it the failure, although O is as coarse as before",
    expected="survived",
    steps=STEPS,
    build=partial(build, Precision.flash(output=3, delta_from="float32")),
    source=_SOURCE,
)

BFLOAT16 = Scenario(
    name="bfloat16-attention",
    family=_FAMILY,
    split="train",
    title="The same run with attention in true bfloat16",
    cause="the same one-signed errors, sixteen times smaller: too small to matter at this size",
    expected="survived",
    steps=STEPS,
    build=partial(build, Precision.flash()),
    source=_SOURCE,
)

HEALTHY = Scenario(
    name="healthy",
    family=_FAMILY,
    split="train",
    title="The same run in float32",
    cause="no rounding, no failure",
    expected="survived",
    steps=STEPS,
    build=partial(build, Precision()),
    source=_SOURCE,
)
