"""A Siamese net that brings two images of one character together, and a linear probe that tells what its features are worth."""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..images import CLASSES, data_set
from ..scenario import Reachable, Scenario, Training, seeded
from ..training import trained, warm_up

STEPS = 1000
BATCH = 32
_FAMILY = "self_supervised"
_SOURCE = "arXiv 2011.10566 (SimSiam: it collapses without the stopped gradient); setting found by experiment"


class Siamese(nn.Module):
    """A conv encoder with a projector, a predictor, and a linear probe."""

    def __init__(self, channels: int = 8, width: int = 64) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, channels, 3, 2, 1), nn.ReLU(), nn.Conv2d(channels, 2 * channels, 3, 2, 1), nn.ReLU(), nn.Flatten()
        )
        self.projector = nn.Sequential(nn.Linear(18 * channels, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width))
        self.predictor = nn.Sequential(
            nn.Linear(width, width // 2), nn.BatchNorm1d(width // 2), nn.ReLU(), nn.Linear(width // 2, width)
        )
        self.probe = nn.Linear(width, CLASSES)

    def forward(self, images_B1HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the features (B, 64), the predictions (B, 64), and the probe's logits (B, 32), which teach the probe alone."""
        features: Tensor = self.projector(self.convolutions(images_B1HW))
        return features, self.predictor(features), self.probe(features.detach())


@functools.cache
def by_label() -> Tensor:
    """Return the places of as many images of each character as there are of the rarest: (32, count)."""
    _, labels = data_set()
    places = [torch.nonzero(labels == each)[:, 0] for each in range(CLASSES)]
    least = min(map(len, places))
    return torch.stack([each[:least] for each in places])


def build(stopped: bool, seed: int) -> Training:
    """SimSiam on pairs of images of one character, and the probe's cross entropy on top; AdamW.

    Args:
        stopped: no gradient goes through the features that are to be predicted.
        seed: of the run.
    """
    order = seeded(seed)
    images, table = data_set()[0], by_label()
    model = Siamese()
    probe = list(model.probe.parameters())
    rest = [each for name, each in model.named_parameters() if not name.startswith("probe")]
    groups: list[dict[str, Any]] = [{"params": rest}, {"params": probe, "lr": 1e-2}]
    optimizer = torch.optim.AdamW(groups, lr=3e-3, fused=True)

    def loss(number: int) -> Tensor:
        labels = torch.randint(CLASSES, (BATCH,), generator=order).repeat(2)
        places = table[labels, torch.randint(table.shape[1], (2 * BATCH,), generator=order)]
        features, predictions, logits = model(images[places])
        others = features.roll(BATCH, 0)
        apart = 1.0 - F.cosine_similarity(predictions, others.detach() if stopped else others).mean()
        return 2.0 * apart + F.cross_entropy(logits, labels)

    return trained(model, optimizer, loss, schedule=warm_up(50))


COLLAPSED = Scenario(
    name="self-supervised-collapse",
    family=_FAMILY,
    split="train",
    title="A Siamese net in which nobody stopped the gradient of the side to be predicted",
    cause="to agree is easiest with one feature vector for all: the distance falls to nothing, and the probe finds nothing",
    expected="stuck",
    steps=STEPS,
    build=lambda seed: build(False, seed),
    source=_SOURCE,
    onset="silent",
    cause_id="representation_collapse",
    reachable=Reachable(2.3, 750, "self-supervised"),
)

SELF_SUPERVISED = Scenario(
    name="self-supervised",
    family=_FAMILY,
    split="train",
    title="The same Siamese net with a stopped gradient",
    cause="the distance stays far from nothing, as it must where features differ; the probe learns what they are worth",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(True, seed),
    source=_SOURCE,
)
