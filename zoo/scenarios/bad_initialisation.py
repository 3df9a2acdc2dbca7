"""Weights of the wrong size at the start: a deep tanh net that lets nothing through, and its loss stays where it was."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..images import batch_of
from ..scenario import Reachable, Scenario, Training, seeded
from ..training import trained
from ..vision import MLP

STEPS = 700
_FAMILY = "bad_initialisation"
_SOURCE = "Glorot and Bengio 2010; arXiv 1611.01232 (deep information propagation); settings found by experiment"
_TWIN = "deep-tanh"


def build(gain: float, seed: int) -> Training:
    """8 plain tanh layers of width 64 on glyphs, orthogonal weights times ``gain``; Adam at 1e-3."""
    order = seeded(seed)
    model = MLP(64, 8, norm=False, activation=nn.Tanh, residual=False)
    for up in model.ups.parameters():
        if up.dim() == 2:
            nn.init.orthogonal_(up, gain)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def loss(number: int) -> Tensor:
        images, labels = batch_of(32, order)
        return F.cross_entropy(model(images), labels)

    return trained(model, optimizer, loss)


SATURATED = Scenario(
    name="saturated-tanh",
    family=_FAMILY,
    split="train",
    title="A deep tanh net whose weights start ten times too large",
    cause="every unit is saturated: near images get unrelated outputs, and gradients are either nothing or noise",
    expected="stuck",
    steps=STEPS,
    build=lambda seed: build(10.0, seed),
    source=_SOURCE,
    onset="silent",
    cause_id="bad_initialisation",
    reachable=Reachable(2.0, 500, _TWIN),
)

VANISHED = Scenario(
    name="vanished-tanh",
    family=_FAMILY,
    split="train",
    title="A deep tanh net whose weights start ten times too small",
    cause="the signal shrinks tenfold in each layer: the output is the same for every image, and no gradient comes back",
    expected="stuck",
    steps=STEPS,
    build=lambda seed: build(0.1, seed),
    source=_SOURCE,
    onset="silent",
    cause_id="bad_initialisation",
    reachable=Reachable(2.0, 500, _TWIN),
)

DEEP_TANH = Scenario(
    name=_TWIN,
    family=_FAMILY,
    split="train",
    title="The same net with orthogonal weights of the right size",
    cause="deep and without norms or residuals, yet well prepared",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(1.0, seed),
    source=_SOURCE,
)
