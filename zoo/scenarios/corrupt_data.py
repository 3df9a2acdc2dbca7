"""One image with a value that is not a number: the loss of its batch is none either, and after the update no weight is."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..images import batch_of
from ..scenario import Scenario, Training, seeded
from ..training import trained
from ..vision import ConvNet

STEPS = 600
BAD = 350


def build(seed: int) -> Training:
    """A conv net with batch norm on glyphs under AdamW; one point of one image of step 350 is NaN."""
    order = seeded(seed)
    model = ConvNet(8, norm="batch")
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, fused=True)

    def loss(number: int) -> Tensor:
        images, labels = batch_of(32, order)
        if number == BAD:
            images[0, 0, 6, 6] = math.nan
        return F.cross_entropy(model(images), labels)

    return trained(model, optimizer, loss)


NAN_IN_DATA = Scenario(
    name="nan-in-data",
    family="corrupt_data",
    split="train",
    title="A conv net that meets an image with a NaN in it",
    cause="NaN in one point of one image reaches the loss, every gradient and every weight",
    expected="diverged",
    steps=STEPS,
    build=build,
    source="found by experiment",
    onset="abrupt",
    cause_id="bad_batch",
    trouble_step=BAD,
)
