"""Inputs that drift: a broken normaliser lets images grow brighter step by step, in a net that has no norms of its own."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..images import batch_of
from ..scenario import Scenario, Training, seeded
from ..training import trained
from ..vision import ConvNet

STEPS = 900
START = 300
_FAMILY = "input_drift"
_SOURCE = "found by experiment"


def build(doubling: float, bounded: bool, seed: int) -> Training:
    """A conv net on glyphs, SGD with momentum; from step 300 inputs double every ``doubling`` steps, or up to 1.5."""
    order = seeded(seed)
    model = ConvNet(8, norm="none")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, fused=True)

    def loss(number: int) -> Tensor:
        images, labels = batch_of(32, order)
        factor = 2.0 ** (max(0, number - START) / doubling)
        return F.cross_entropy(model(images * (min(factor, 1.5) if bounded else factor)), labels)

    return trained(model, optimizer, loss)


INPUT_DRIFT = Scenario(
    name="input-drift",
    family=_FAMILY,
    split="train",
    title="A conv net whose inputs grow brighter without end",
    cause="activations and gradients grow with the inputs until the learning rate is too high for them",
    expected="diverged",
    steps=STEPS,
    build=lambda seed: build(100.0, False, seed),
    source=_SOURCE,
    onset="slow",
    cause_id="input_drift",
    trouble_step=START,
)

BOUNDED_DRIFT = Scenario(
    name="bounded-input-drift",
    family=_FAMILY,
    split="train",
    title="The same conv net whose inputs grow by half and stay there",
    cause="a drift that the net follows",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(100.0, True, seed),
    source=_SOURCE,
    trouble_step=START,
)
