"""Momentum that goes on rising, up to 1, as the moving average of a self-supervised teacher does, but in the optimizer.

With momentum m an update reaches ``1 / (1 - m)`` times as far as the learning rate says, and noise is summed over as many steps.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..images import CLASSES, SIZE, batch_of
from ..scenario import Scenario, Training, seeded
from ..training import trained

STEPS = 1200
RAMP = 1000
FIRST = 0.9
_FAMILY = "momentum"
_SOURCE = (
    "Sutskever et al., ICML 2013 (initialization and momentum), arXiv 2006.07733 (the cosine to 1); setting found by experiment"
)


class Mixing(nn.Module):
    """A mixer layer: an MLP across patches, then one across channels, each on a normalised residual stream."""

    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens_up, self.tokens_down = nn.Linear(patches, 2 * patches), nn.Linear(2 * patches, patches)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x_BPC: Tensor) -> Tensor:
        """Map (B, patches, width) to the same."""
        mixed: Tensor = self.tokens_down(F.gelu(self.tokens_up(self.norm_1(x_BPC).transpose(1, 2))))
        x_BPC = x_BPC + mixed.transpose(1, 2)
        fed: Tensor = self.down(F.gelu(self.up(self.norm_2(x_BPC))))
        return x_BPC + fed


class Mixer(nn.Module):
    """An MLP-Mixer (arXiv 2105.01601) over 16 patches of 3 by 3 points.

    Args:
        width: channels.
        layers: of mixing.
    """

    patch = 3

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Linear(self.patch**2, width)
        self.layers = nn.ModuleList(Mixing((SIZE // self.patch) ** 2, width) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, images_B1HW: Tensor) -> Tensor:
        """Map images (B, 1, 12, 12) to logits (B, 32)."""
        h = self.embed(F.unfold(images_B1HW, self.patch, stride=self.patch).transpose(1, 2))
        for layer in self.layers:
            h = layer(h)
        logits: Tensor = self.head(self.norm(h).mean(1))
        return logits


def momentum(number: int, last: float) -> float:
    """Return the momentum of a step: from 0.9 along half a cosine to ``last`` at step 1,000."""
    return last - (last - FIRST) * (1.0 + math.cos(math.pi * min(1.0, number / RAMP))) / 2.0


def build(last: float, coupled: bool, seed: int) -> Training:
    """A mixer of 2 layers of width 32 on glyphs; SGD at 0.15 with Nesterov's momentum, which rises from 0.9 to ``last``.

    Args:
        last: momentum at the end.
        coupled: the learning rate falls as ``1 - momentum`` does, so that an update reaches as far as before.
        seed: of the run.
    """
    order = seeded(seed)
    model = Mixer(32, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.15, momentum=FIRST, nesterov=True, fused=True)

    def schedule(number: int) -> float:
        return (1.0 - momentum(number, last)) / (1.0 - FIRST) if coupled else 1.0

    def loss(number: int) -> Tensor:
        for group in optimizer.param_groups:
            group["momentum"] = momentum(number, last)
        images, labels = batch_of(32, order)
        return F.cross_entropy(model(images), labels)

    return trained(model, optimizer, loss, schedule=schedule)


MOMENTUM_TO_ONE = Scenario(
    name="image-momentum-to-one",
    family=_FAMILY,
    split="train",
    title="An MLP-Mixer under SGD whose momentum rises from 0.9 to 1 along a cosine",
    cause="the schedule of a teacher's moving average on the optimizer: updates reach ever further, and noise is never forgotten",
    expected="diverged",
    steps=STEPS,
    build=lambda seed: build(1.0, False, seed),
    source=_SOURCE,
    onset="slow",
    cause_id="learning_rate_too_high",
)

MOMENTUM_COUPLED = Scenario(
    name="momentum-with-falling-rate",
    family=_FAMILY,
    split="train",
    title="The same mixer, its momentum rising to 0.99 while the learning rate falls to a tenth",
    cause="a momentum buffer that grows tenfold; the rate falls by as much, and updates stay as they were",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(0.99, True, seed),
    source=_SOURCE,
)

MOMENTUM_CAPPED = Scenario(
    name="momentum-capped",
    family=_FAMILY,
    split="train",
    title="The same mixer, its momentum rising to 0.97 at a constant learning rate",
    cause="updates that reach three times as far as at first, which the mixer bears",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(0.97, False, seed),
    source=_SOURCE,
)
