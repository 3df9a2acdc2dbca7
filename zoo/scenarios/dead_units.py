"""ReLU units that die: a penalty on activity that is too strong switches them off, one by one, and the loss stays at chance."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..images import batch_of
from ..scenario import Reachable, Scenario, Training, seeded
from ..training import trained
from ..vision import MLP

STEPS = 700
_FAMILY = "dead_units"
_SOURCE = "arXiv 1903.06733 (dying ReLU and initialization); setting found by experiment"
_TWIN = "sparse-units"


def build(penalty: float, seed: int) -> Training:
    """3 plain ReLU layers of width 64 on glyphs; Adam at 2e-3; ``penalty`` times each layer's mean activation is added."""
    order = seeded(seed)
    active: list[Tensor] = []

    model = MLP(64, 3, norm=False, residual=False)
    for activation in model.activations:
        activation.register_forward_hook(lambda module, given, out: active.append(out))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, fused=True)

    def loss(number: int) -> Tensor:
        images, labels = batch_of(32, order)
        active.clear()
        error = F.cross_entropy(model(images), labels)
        return error + penalty * torch.stack([layer.mean() for layer in active]).sum()

    return trained(model, optimizer, loss)


DEAD_UNITS = Scenario(
    name="dead-relu-units",
    family=_FAMILY,
    split="train",
    title="A ReLU net whose penalty on activity switches its units off",
    cause="being silent pays more than being right: units go below zero for every image and get no gradient any more",
    expected="stuck",
    steps=STEPS,
    build=lambda seed: build(1.0, seed),
    source=_SOURCE,
    onset="silent",
    cause_id="dead_units",
    reachable=Reachable(1.8, 600, _TWIN),
)

SPARSE_UNITS = Scenario(
    name=_TWIN,
    family=_FAMILY,
    split="train",
    title="The same net with a penalty thirty times weaker",
    cause="many units are silent for many images, and the net learns with the others",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(0.03, seed),
    source=_SOURCE,
)
