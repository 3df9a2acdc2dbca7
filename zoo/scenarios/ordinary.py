"""Two small image classifiers on the settings that most people would choose: nothing is wrong, and nothing looks so."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from ..images import batch_of
from ..scenario import Scenario, Training, seeded
from ..training import Schedule, trained
from ..vision import MLP, ConvNet

STEPS = 1500
_FAMILY = "ordinary"
_SOURCE = "the usual recipes: arXiv 1711.05101 (AdamW, a cosine), arXiv 1512.03385 (SGD with momentum, steps)"


def cosine(number: int) -> float:
    """Warm up for 75 steps, then fall along half a cosine to a hundredth."""
    if number < 75:
        return (number + 1) / 75
    return 0.01 + 0.99 * (1.0 + math.cos(math.pi * (number - 75) / (STEPS - 75))) / 2.0


def steps(number: int) -> float:
    """Divide by ten after a half and after three quarters of the run."""
    return 1.0 if number < STEPS // 2 else 0.1 if number < 3 * STEPS // 4 else 0.01


def classifier(model: nn.Module, optimizer: Optimizer, schedule: Schedule, clip: float | None, order: torch.Generator) -> Training:
    """Train on glyphs in batches of 32, labels smoothed by a tenth."""

    def loss(number: int) -> Tensor:
        images, labels = batch_of(32, order)
        return F.cross_entropy(model(images), labels, label_smoothing=0.1)

    return trained(model, optimizer, loss, schedule=schedule, clip=clip)


def mlp(seed: int) -> Training:
    """A residual MLP of 2 layers of width 64; AdamW at 2e-3, weight decay 0.05, a warm-up and a cosine, clipped at 1."""
    order = seeded(seed)
    model = MLP(64, 2, norm=True, activation=nn.GELU)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05, fused=True)
    return classifier(model, optimizer, cosine, 1.0, order)


def conv_net(seed: int) -> Training:
    """A conv net with batch norm; SGD at 0.1 with momentum 0.9, weight decay 5e-4, two steps down."""
    order = seeded(seed)
    model = ConvNet(8, norm="batch")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)
    return classifier(model, optimizer, steps, None, order)


ORDINARY_MLP = Scenario(
    name="ordinary-mlp",
    family=_FAMILY,
    split="train",
    title="A small residual MLP under AdamW with a warm-up, a cosine and clipping",
    cause="nothing: the usual settings",
    expected="survived",
    steps=STEPS,
    build=mlp,
    source=_SOURCE,
)

ORDINARY_CONV_NET = Scenario(
    name="ordinary-conv-net",
    family=_FAMILY,
    split="train",
    title="A small conv net with batch norm under SGD with momentum and step decay",
    cause="nothing: the usual settings",
    expected="survived",
    steps=STEPS,
    build=conv_net,
    source=_SOURCE,
)
