"""One data worker of four loses its division by 255: from one step on its images reach a conv net in raw units."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..images import batch_of
from ..scenario import Scenario, Training, seeded
from ..training import trained, warm_up
from ..vision import ConvNet

STEPS = 900
BROKEN = 450
WORKERS = 4
BATCH = 32
_FAMILY = "unscaled_shard"
_SOURCE = "a common mistake in input pipelines (images in 0 to 255 where 0 to 1 was meant); setting found by experiment"


def raw(images: Tensor) -> Tensor:
    """Return images as they were before anything was subtracted or divided: mean 100, standard deviation 80."""
    return images * 80.0 + 100.0


def build(mixed: bool, seed: int) -> Training:
    """A conv net with batch norm on glyphs; RMSprop with momentum, as EfficientNet and MobileNet are trained.

    Args:
        mixed: every batch takes a quarter of its images from each worker; if not, workers give whole batches in turn.
        seed: of the run.
    """
    order = seeded(seed)
    model = ConvNet(8, norm="batch")
    optimizer = torch.optim.RMSprop(model.parameters(), lr=2e-3, alpha=0.9, eps=1e-3, momentum=0.9, weight_decay=1e-5)

    def loss(number: int) -> Tensor:
        images, labels = batch_of(BATCH, order)
        if number >= BROKEN:
            if mixed:
                share = BATCH // WORKERS
                images = torch.cat([raw(images[:share]), images[share:]])
            elif number % WORKERS == 0:
                images = raw(images)
        return F.cross_entropy(model(images), labels)

    return trained(model, optimizer, loss, schedule=warm_up(50))


UNSCALED_SHARD = Scenario(
    name="unscaled-shard",
    family=_FAMILY,
    split="train",
    title="A conv net with batch norm, a quarter of each batch in raw units from one step on",
    cause="batch norm takes mean and scale from the broken images; the sound ones become all alike, and are not told apart",
    expected="diverged",
    steps=STEPS,
    build=lambda seed: build(True, seed),
    source=_SOURCE,
    onset="abrupt",
    cause_id="bad_batch",
    trouble_step=BROKEN,
)

UNSCALED_BATCHES = Scenario(
    name="unscaled-batches",
    family=_FAMILY,
    split="train",
    title="The same conv net and the same broken worker, which gives whole batches",
    cause="each fourth batch eighty times brighter; batch norm takes the common scale out, and the net learns on",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(False, seed),
    source=_SOURCE,
    trouble_step=BROKEN,
)
