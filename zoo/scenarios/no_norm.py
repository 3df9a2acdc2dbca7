"""Deep residual MLPs without normalisation, under a learning rate that keeps rising; the twin with layer norms does not mind.

The ReLU nets here are one-signed from early on in many layers, healthy or not: sign collapse alone says nothing about them.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..images import batch_of
from ..scenario import Scenario, Training, seeded
from ..training import ramp, trained
from ..vision import MLP

STEPS = 900
_FAMILY = "no_norm"
_SOURCE = "after arXiv 2510.04202, which has a feed-forward case; setting found by experiment"


def build(activation: Literal["tanh", "relu"], kind: Literal["adam", "sgd"], norm: bool, rate: float, seed: int) -> Training:
    """8 residual layers of width 48 on glyphs; the learning rate rises to ``rate`` at the last step, as its cube; not clipped."""
    order = seeded(seed)
    model = MLP(48, 8, norm=norm, activation=nn.Tanh if activation == "tanh" else nn.ReLU)
    parameters = model.parameters()
    optimizer: torch.optim.Optimizer = (
        torch.optim.Adam(parameters, lr=rate, fused=True)
        if kind == "adam"
        else torch.optim.SGD(parameters, lr=rate, momentum=0.9, fused=True)
    )

    def loss(number: int) -> Tensor:
        images, labels = batch_of(32, order)
        return F.cross_entropy(model(images), labels)

    return trained(model, optimizer, loss, schedule=ramp(STEPS, 3))


TANH_RAMP = Scenario(
    name="tanh-mlp-ramp",
    family=_FAMILY,
    split="train",
    title="A tanh MLP without norms under Adam, the learning rate rising to 0.1",
    cause="nothing holds the scale of the residual stream: the layers' norms grow with the rate until tanh saturates",
    expected="diverged",
    steps=STEPS,
    build=lambda seed: build("tanh", "adam", False, 0.1, seed),
    source=_SOURCE,
    onset="slow",
    cause_id="learning_rate_too_high",
)

RELU_RAMP = Scenario(
    name="relu-mlp-ramp",
    family=_FAMILY,
    split="train",
    title="A ReLU MLP without norms under SGD with momentum, the learning rate rising to 1",
    cause="nothing holds the scale of the residual stream: past the edge of stability the activations explode",
    expected="diverged",
    steps=STEPS,
    build=lambda seed: build("relu", "sgd", False, 1.0, seed),
    source=_SOURCE,
    onset="slow",
    cause_id="learning_rate_too_high",
)

ONE_SIGNED = Scenario(
    name="one-signed-relu-mlp",
    family=_FAMILY,
    split="train",
    title="A ReLU MLP with layer norms under the learning rate that its twin cannot bear",
    cause="many layers see inputs of one sign, and the rate rises all the time; the norms keep the scale",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build("relu", "sgd", True, 0.3, seed),
    source=_SOURCE,
)
