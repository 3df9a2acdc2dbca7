"""Some batches with random labels: the loss jumps as if it exploded, and is back as soon as the labels are."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models import GPT
from ..scenario import Scenario, Training, seeded
from ..text import batch_of, windows
from ..training import trained, warm_up

STEPS = 700
BURST = range(400, 412)
_SOURCE = "found by experiment"


def build(seed: int) -> Training:
    """A 2-layer GPT of width 32 learns 32 windows by heart; at steps 400 to 411 the bytes to predict are random letters."""
    order = seeded(seed)
    data = windows(count=32, context=32)
    model = GPT(32, 2, 2, 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True)

    def loss(number: int) -> Tensor:
        given, wanted = batch_of(data, 8, order)
        if number in BURST:
            wanted = torch.randint(97, 123, wanted.shape, generator=order)
        return F.cross_entropy(model(given).flatten(0, 1), wanted.flatten())

    return trained(model, optimizer, loss, schedule=warm_up(50), clip=1.0)


LABEL_NOISE = Scenario(
    name="label-noise-burst",
    family="label_noise",
    split="train",
    title="A GPT that meets twelve batches with random labels",
    cause="the loss is ten nats for twelve steps: wrong data, not a broken model; with clipping it comes back in some steps",
    expected="survived",
    steps=STEPS,
    build=build,
    source=_SOURCE,
    trouble_step=BURST.start,
)
