"""Metric learning with a hand-written distance: a root has no slope at 0, and one pair of equal images ends the run."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..images import CLASSES, data_set
from ..scenario import Scenario, Training, seeded
from ..training import trained, warm_up

STEPS = 800
REPEATED = 500
BATCH = 32
_FAMILY = "zero_distance"
_SOURCE = "arXiv 1703.07737 (triplet loss; its authors' code guards the root); a common report; setting found by experiment"


class Embedding(nn.Module):
    """A conv net that maps an image to a point in 16 dimensions."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, channels, 3, 2, 1), nn.GELU(), nn.Conv2d(channels, 2 * channels, 3, 2, 1), nn.GELU(), nn.Flatten()
        )
        self.project = nn.Linear(18 * channels, 16)

    def forward(self, images_B1HW: Tensor) -> Tensor:
        """Map images (B, 1, 12, 12) to points (B, 16)."""
        out: Tensor = self.project(self.convolutions(images_B1HW))
        return out


@functools.cache
def by_label() -> Tensor:
    """Return the places of as many images of each character as there are of the rarest: (32, count)."""
    _, labels = data_set()
    places = [torch.nonzero(labels == each)[:, 0] for each in range(CLASSES)]
    least = min(map(len, places))
    return torch.stack([each[:least] for each in places])


def distance(one: Tensor, other: Tensor, guard: float) -> Tensor:
    """Return the Euclidean distance of each pair of rows, as it is written by hand."""
    return ((one - other).square().sum(1) + guard).sqrt()


def build(guard: float, seed: int) -> Training:
    """Triplets of glyphs under a soft margin; NAdam. From step 500 on one positive of each batch is the anchor itself.

    Args:
        guard: added under the root.
        seed: of the run.
    """
    order = seeded(seed)
    images, table = data_set()[0], by_label()
    model = Embedding()
    optimizer = torch.optim.NAdam(model.parameters(), lr=1e-3)

    def loss(number: int) -> Tensor:
        labels = torch.randint(CLASSES, (BATCH,), generator=order)
        others = (labels + torch.randint(1, CLASSES, (BATCH,), generator=order)) % CLASSES
        chosen = torch.stack([labels, labels, others])
        drawn = torch.randint(table.shape[1] - 1, chosen.shape, generator=order)
        drawn[1] += drawn[1] >= drawn[0]  # a positive is another image than its anchor
        places = table[chosen, drawn]
        if number >= REPEATED:
            places[1, 0] = places[0, 0]
        anchor, positive, negative = model(images[places.flatten()]).chunk(3)
        return F.softplus(distance(anchor, positive, guard) - distance(anchor, negative, guard)).mean()

    return trained(model, optimizer, loss, schedule=warm_up(50))


UNGUARDED = Scenario(
    name="triplet-zero-distance",
    family=_FAMILY,
    split="held_out",
    title="A triplet loss whose distance is a bare root, and data in which images repeat from one step on",
    cause="an anchor and its positive are one image: the slope of the root at 0 is infinite, times 0 it is no number",
    expected="diverged",
    steps=STEPS,
    build=lambda seed: build(0.0, seed),
    source=_SOURCE,
    onset="abrupt",
    cause_id="overflow",
    trouble_step=REPEATED,
)

GUARDED = Scenario(
    name="triplet-guarded-distance",
    family=_FAMILY,
    split="held_out",
    title="The same triplet loss on the same data with 1e-12 under the root",
    cause="the same equal pairs; their slope is large but a number, and their difference is 0",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(1e-12, seed),
    source=_SOURCE,
    trouble_step=REPEATED,
)
