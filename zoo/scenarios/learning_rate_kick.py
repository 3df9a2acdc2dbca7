"""A learning rate changed in one step: a conv net under SGD, kicked out of its minimum, or let down into it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..images import batch_of
from ..scenario import Scenario, Training, seeded
from ..training import times_from, trained
from ..vision import ConvNet

STEPS = 700
CHANGE = 400
_FAMILY = "learning_rate_kick"
_SOURCE = "found by experiment"


def build(factor: float, seed: int) -> Training:
    """A conv net without norms on glyphs, SGD with momentum 0.9 and weight decay; the rate is multiplied at step 400."""
    order = seeded(seed)
    model = ConvNet(8, norm="none")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4, fused=True)

    def loss(number: int) -> Tensor:
        images, labels = batch_of(32, order)
        return F.cross_entropy(model(images), labels)

    return trained(model, optimizer, loss, schedule=times_from(CHANGE, factor))


LEARNING_RATE_KICK = Scenario(
    name="learning-rate-kick",
    family=_FAMILY,
    split="train",
    title="A conv net whose learning rate is multiplied by 30 in one step",
    cause="a schedule with a mistake in it: the first update at the new rate throws the weights out of the minimum",
    expected="diverged",
    steps=STEPS,
    build=lambda seed: build(30.0, seed),
    source=_SOURCE,
    onset="abrupt",
    cause_id="learning_rate_too_high",
    trouble_step=CHANGE,
)

LEARNING_RATE_DROP = Scenario(
    name="learning-rate-drop",
    family=_FAMILY,
    split="train",
    title="The same conv net whose learning rate drops to a tenth in one step",
    cause="loss and gradient change their level at once, downwards: a step decay, as it is meant to be",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(0.1, seed),
    source=_SOURCE,
    trouble_step=CHANGE,
)
