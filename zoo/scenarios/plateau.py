"""A long plateau: nothing seems to be learnt for hundreds of steps, then the loss falls off a cliff."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..scenario import Scenario, Training, seeded
from ..training import trained
from ..vision import MLP

STEPS = 1200
BITS = 20


def build(seed: int) -> Training:
    """A residual MLP of one layer learns the parity of 3 of 20 bits, new examples in every batch; Adam at 2e-3."""
    order = seeded(seed)
    model = MLP(64, 1, norm=False, inputs=BITS, outputs=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, fused=True)

    def loss(number: int) -> Tensor:
        bits = torch.randint(2, (128, BITS), generator=order)
        return F.cross_entropy(model(bits * 2.0 - 1.0), bits[:, :3].sum(1) % 2)

    return trained(model, optimizer, loss)


PLATEAU = Scenario(
    name="long-plateau",
    family="plateau",
    split="train",
    title="A net that learns nothing visible for a long time, then everything at once",
    cause="parity shows no part of itself before the whole is found: a saddle, and a run that leaves it",
    expected="survived",
    steps=STEPS,
    build=build,
    source="arXiv 2207.08799 (hidden progress in deep learning); setting found by experiment",
)
