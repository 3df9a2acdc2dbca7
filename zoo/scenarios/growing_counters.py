"""Columns of a table that only ever grow: counters that were small when training began, and reach a net as they are.

The counters rise by one every 40 steps, and the targets do not depend on them. The rms of the first layer's output grows three- to
fourfold from a fifth of the way to shortly before the failure, while the loss stays flat; under the counters' logarithm it grows by
a third, and where they go back to 1 every 200 steps it goes up and down about where it was.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..scenario import Scenario, Training, seeded
from ..training import trained, warm_up

STEPS = 1100
COLUMNS, COUNTERS = 12, 4
_FAMILY = "growing_counters"
_SOURCE = "Sculley et al., NIPS 2015 (hidden technical debt: inputs that change under a model); setting found by experiment"


class Table(nn.Module):
    """An MLP of two layers over the columns of a row."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inputs = COLUMNS + COUNTERS
        self.layers = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, rows_BF: Tensor) -> Tensor:
        """Map rows (B, 16) to predictions (B,)."""
        out: Tensor = self.layers(rows_BF)[:, 0]
        return out


def growing(number: int) -> float:
    """Return what the counters stand at: 1 at first, 1 more every 40 steps."""
    return 1.0 + number / 40


def build(counter: Callable[[int], float], seed: int) -> Training:
    """An MLP of width 64 predicts a smooth function of 12 columns, with noise; SGD at 0.03 with momentum.

    Args:
        counter: the mean of the counters at a step.
        seed: of the run, and of the function.
    """
    order = seeded(seed)
    model = Table(64)
    inner = 1.5 / math.sqrt(COLUMNS) * torch.randn(COLUMNS, 8, generator=order)
    outer = 1.2 * F.normalize(torch.randn(8, generator=order), dim=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9, fused=True)

    def loss(number: int) -> Tensor:
        columns = torch.randn(64, COLUMNS, generator=order)
        counters = counter(number) * (1.0 + 0.3 * torch.randn(64, COUNTERS, generator=order))
        targets = torch.tanh(columns @ inner) @ outer + 0.3 * torch.randn(64, generator=order)
        return F.mse_loss(model(torch.cat([columns, counters], 1)), targets)

    return trained(model, optimizer, loss, schedule=warm_up(50))


GROWING = Scenario(
    name="growing-counters",
    family=_FAMILY,
    split="held_out",
    title="Regression on a table with counters that grow and are never rescaled",
    cause="curvature grows as the square of the counters, until a step at the same rate overshoots and units die",
    expected="diverged",
    steps=STEPS,
    build=lambda seed: build(growing, seed),
    source=_SOURCE,
    onset="slow",
    cause_id="input_drift",
)

RESET = Scenario(
    name="counters-that-are-reset",
    family=_FAMILY,
    split="held_out",
    title="The same regression with counters that grow to 6 and begin again every 200 steps",
    cause="inputs that grow sixfold time and again, and drop at once; the rate leaves room for them",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(lambda number: growing(number % 200), seed),
    source=_SOURCE,
)

LOGARITHM = Scenario(
    name="logarithm-of-counters",
    family=_FAMILY,
    split="held_out",
    title="The same regression on the logarithm of the growing counters",
    cause="counters that grow as much; of their logarithm little is left",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(lambda number: math.log1p(growing(number)), seed),
    source=_SOURCE,
)
