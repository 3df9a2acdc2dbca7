"""Weights kept in bfloat16 without a float32 copy: most updates round back to the weight they came from."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..images import batch_of
from ..scenario import Reachable, Scenario, Training, seeded
from ..vision import MLP

STEPS = 900
_FAMILY = "stale_updates"
_SOURCE = "arXiv 2010.06192 (revisiting bfloat16 training); setting found by experiment"
_TWIN = "float32-weights"


def build(bfloat16: bool, seed: int) -> Training:
    """An MLP with layer norms on glyphs under Adam at 5e-5; after each update the weights are rounded to bfloat16, or not."""
    order = seeded(seed)
    model = MLP(256, 1, norm=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-5, fused=True)

    def step(number: int) -> Tensor:
        images, labels = batch_of(32, order)
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if bfloat16:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.copy_(parameter.bfloat16())
        return loss.detach()

    return Training(model, optimizer, step)


STALE_UPDATES = Scenario(
    name="stale-bfloat16-updates",
    family=_FAMILY,
    split="train",
    title="An MLP whose weights are kept in bfloat16 and nothing else",
    cause="updates smaller than half a bfloat16 step of their weight are lost: the loss stops where the float32 twin goes on",
    expected="stuck",
    steps=STEPS,
    build=lambda seed: build(True, seed),
    source=_SOURCE,
    onset="silent",
    cause_id="stale_updates",
    reachable=Reachable(2.3, 800, _TWIN),
)

FLOAT32_WEIGHTS = Scenario(
    name=_TWIN,
    family=_FAMILY,
    split="train",
    title="The same MLP with float32 weights",
    cause="slow, small updates: none is lost",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(False, seed),
    source=_SOURCE,
)
