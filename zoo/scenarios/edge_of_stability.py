"""Full-batch Adam far past convergence: the loss falls to almost nothing and now and then leaps by orders of magnitude."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..images import data_set
from ..scenario import Scenario, Training, seeded
from ..training import trained
from ..vision import MLP

STEPS = 1000


def build(seed: int) -> Training:
    """A 3-layer residual MLP of width 48 on one batch of 128 glyphs; Adam at 3e-3 with beta2 0.95."""
    seeded(seed)
    images, labels = data_set()
    model = MLP(48, 3, norm=False, activation=nn.Tanh)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.95), fused=True)
    first = 128 * (seed % 16)
    batch, wanted = images[first : first + 128], labels[first : first + 128]

    def loss(number: int) -> Tensor:
        return F.cross_entropy(model(batch), wanted)

    return trained(model, optimizer, loss)


EDGE_OF_STABILITY = Scenario(
    name="edge-of-stability-spikes",
    family="edge_of_stability",
    split="train",
    title="A small MLP under full-batch Adam whose loss spikes and recovers",
    cause="gradients so small that Adam's second moment forgets how large they were; each spike heals itself",
    expected="survived",
    steps=STEPS,
    build=build,
    source="arXiv 2207.14484 (adaptive edge of stability); setting found by experiment",
)
