"""A deep equilibrium model: its output is a fixed point, which it drifts away from having, as its inner weights only ever grow.

From a fifth of the way to the failure to three fifths of it the norm of the inner weights doubles, from 7 to 14, and what one more
iteration changes in the state rises from 0.04 or less to 0.4, while the loss falls and then lies flat; with weight decay on
them the norm stays near 6, and the change mostly below 0.1.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..images import CLASSES, SIZE, batch_of
from ..scenario import Scenario, Training, seeded
from ..training import trained, warm_up

STEPS = 1300
_FAMILY = "equilibrium"
_SOURCE = "arXiv 1909.01377 (deep equilibrium models), arXiv 2106.14342 (they become unstable as they train); setting by experiment"


class Equilibrium(nn.Module):
    """An implicit net: the state z solves z = relu(W z + U x), and a linear head reads it.

    Args:
        width: of the state.
        found: iterations from 0 without a gradient.
        unrolled: iterations after those, through which the gradient goes.
    """

    def __init__(self, width: int, found: int = 30, unrolled: int = 5) -> None:
        super().__init__()
        self.found, self.unrolled = found, unrolled
        self.inject = nn.Linear(SIZE * SIZE, width)
        self.inner = nn.Linear(width, width, bias=False)
        self.state, self.change = nn.Identity(), nn.Identity()  # so that both can be watched
        self.head = nn.Linear(width, CLASSES)
        nn.init.orthogonal_(self.inner.weight, 0.5)

    def forward(self, images_B1HW: Tensor) -> Tensor:
        """Map images (B, 1, 12, 12) to logits (B, 32)."""
        injected = self.inject(images_B1HW.flatten(1))
        state = before = torch.zeros_like(injected)
        with torch.no_grad():
            for _ in range(self.found):
                state = F.relu(F.linear(state, self.inner.weight) + injected)
        for _ in range(self.unrolled):
            before, state = state, F.relu(self.inner(state) + injected)
        self.change((state - before).detach())
        logits: Tensor = self.head(self.state(state))
        return logits


def build(decay: float, seed: int) -> Training:
    """An equilibrium model of width 64 on glyphs; SGD at 0.08 with momentum.

    Args:
        decay: weight decay of the inner weights.
        seed: of the run.
    """
    order = seeded(seed)
    model = Equilibrium(64)
    rest = [each for name, each in model.named_parameters() if name != "inner.weight"]
    groups: list[dict[str, Any]] = [{"params": [model.inner.weight], "weight_decay": decay}, {"params": rest}]
    optimizer = torch.optim.SGD(groups, lr=0.08, momentum=0.9, fused=True)

    def loss(number: int) -> Tensor:
        images, labels = batch_of(32, order)
        return F.cross_entropy(model(images), labels)

    return trained(model, optimizer, loss, schedule=warm_up(50))


UNBOUND = Scenario(
    name="equilibrium-lost",
    family=_FAMILY,
    split="held_out",
    title="A deep equilibrium model under SGD, its inner weights free to grow",
    cause="larger inner weights amplify more and are rewarded for it, until iterating them no longer comes to rest but runs off",
    expected="diverged",
    steps=STEPS,
    build=lambda seed: build(0.0, seed),
    source=_SOURCE,
    onset="slow",
    cause_id="runaway_weights",
)

DECAYED = Scenario(
    name="equilibrium-held",
    family=_FAMILY,
    split="held_out",
    title="The same equilibrium model with weight decay on its inner weights",
    cause="weights that grow a little and level off; the state, found by iteration, comes near to rest",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(0.01, seed),
    source=_SOURCE,
)
