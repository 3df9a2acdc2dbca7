"""Adam's second moment lags behind gradients that keep growing: a loss scale that is never taken out again.

Adam does not care for the scale of its gradients, so the mistake shows in no loss - unless the scale grows and beta2 is near 1.
Gradients that grow by a factor r a step are ``sqrt((1 - r^-2) / (1 - beta2))`` times the root of the second moment: here 18.
"""

import torch
import torch.nn.functional as F

from ..images import batch_of
from ..scenario import Scenario, Training, seeded
from ..vision import MLP

STEPS = 800
START = 300
DOUBLING = 40
_FAMILY = "second_moment_lag"
_SOURCE = "arXiv 2304.13013 (stable and low-precision training), arXiv 2304.09871 (a theory on Adam instability)"


def build(beta2: float, seed: int) -> Training:
    """An 8-layer residual MLP without norms on glyphs; Adam at 6e-3; from step 300 gradients double every 40 steps."""
    order = seeded(seed)
    model = MLP(48, 8, norm=False, activation=torch.nn.Tanh)
    optimizer = torch.optim.Adam(model.parameters(), lr=6e-3, betas=(0.9, beta2), fused=True)

    def step(number: int) -> torch.Tensor:
        images, labels = batch_of(32, order)
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        (loss * 2.0 ** (max(0, number - START) / DOUBLING)).backward()
        optimizer.step()
        return loss.detach()

    return Training(model, optimizer, step)


LAGGING = Scenario(
    name="second-moment-lag",
    family=_FAMILY,
    split="train",
    title="Adam with beta2 0.9999 under a loss scale that doubles and is never taken out",
    cause="the second moment remembers smaller gradients: updates become 18 times the learning rate, which is then too high",
    expected="diverged",
    steps=STEPS,
    build=lambda seed: build(0.9999, seed),
    source=_SOURCE,
    onset="slow",
    cause_id="second_moment_lag",
    trouble_step=START,
)

FOLLOWING = Scenario(
    name="second-moment-follows",
    family=_FAMILY,
    split="train",
    title="The same mistake with beta2 0.95",
    cause="gradients grow a thousandfold; the second moment keeps up, and Adam's updates stay as they were",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(0.95, seed),
    source=_SOURCE,
    trouble_step=START,
)
