"""One batch that was never normalised: without clipping it ends the run, with clipping it is one spike."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..images import batch_of
from ..scenario import Scenario, Training, seeded
from ..training import trained, warm_up
from ..vision import MLP

STEPS = 700
BAD = 450
_FAMILY = "bad_batch"
_SOURCE = "found by experiment"


def build(clip: float | None, seed: int) -> Training:
    """A residual MLP of 3 layers without norms on glyphs, SGD with momentum; in step 450 images are 100 times too bright."""
    order = seeded(seed)
    model = MLP(64, 3, norm=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, fused=True)

    def loss(number: int) -> Tensor:
        images, labels = batch_of(32, order)
        if number == BAD:
            images = 100.0 * images
        return F.cross_entropy(model(images), labels)

    return trained(model, optimizer, loss, schedule=warm_up(50), clip=clip)


BAD_BATCH = Scenario(
    name="bad-batch",
    family=_FAMILY,
    split="train",
    title="An MLP that meets one batch of images that were never normalised, not clipped",
    cause="one gradient thousands of times the usual: the update after it leaves weights nothing can be learnt from",
    expected="diverged",
    steps=STEPS,
    build=lambda seed: build(None, seed),
    source=_SOURCE,
    onset="abrupt",
    cause_id="bad_batch",
    trouble_step=BAD,
)

BAD_BATCH_CLIPPED = Scenario(
    name="bad-batch-clipped",
    family=_FAMILY,
    split="train",
    title="The same MLP and the same batch, clipped at 1",
    cause="one loss and one gradient out of all proportion; the clipped update does next to no harm",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(1.0, seed),
    source=_SOURCE,
    trouble_step=BAD,
)
