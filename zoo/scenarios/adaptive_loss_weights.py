"""A physics-informed net with loss weights that climb by themselves: on noisy measurements they never stop, and SGD's step grows.

Self-adaptive weights ascend the loss that the net descends. A residual that vanishes lets its weight rest; noise does not vanish.
The weight of the measurements grows from 2.3 at step 150 to between 6 and 10 at step 350, while the errors fall and then stay as
they are; on exact measurements it comes to rest between 2.2 and 3.2.
"""

import math

import torch
from torch import Tensor, nn

from ..scenario import Scenario, Training, seeded

STEPS = 750
WARM_UP = 100
_FAMILY = "adaptive_loss_weights"
_SOURCE = "arXiv 2009.04544 (self-adaptive physics-informed nets); setting found by experiment"


class Solution(nn.Module):
    """A tanh net for the solution u(t) of an equation, and the logarithms of the weights of its two errors."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))
        self.log_weights = nn.Parameter(torch.zeros(2))

    def forward(self, t_N1: Tensor) -> Tensor:
        """Map times (N, 1) to the solution (N, 1)."""
        out: Tensor = self.net(t_N1)
        return out


def exact(t: Tensor) -> Tensor:
    """Return the solution of u' + 2 u = 2 cos 4t with u(-1) = 1 + 0.2 cos 4 - 0.4 sin 4."""
    return 0.2 * torch.cos(4 * t) + 0.4 * torch.sin(4 * t) + torch.exp(-2 * (t + 1))


def build(noise: float, highest: float, seed: int) -> Training:
    """A net of 2 layers of width 32, 64 points of the equation, 32 measurements; SGD with momentum, Adam ascends the weights.

    The loss returned is that of the errors without their weights.

    Args:
        noise: standard deviation of the measurements' error.
        highest: what a weight is cut to.
        seed: of the run.
    """
    order = seeded(seed)
    model = Solution(32)
    rate = 3e-3
    descent = torch.optim.SGD(model.net.parameters(), lr=rate, momentum=0.9)
    ascent = torch.optim.Adam([model.log_weights], lr=5e-3, maximize=True)
    points, times = (torch.rand(count, 1, generator=order) * 2 - 1 for count in (64, 32))
    measured = exact(times) + noise * torch.randn(32, 1, generator=order)

    def step(number: int) -> Tensor:
        descent.param_groups[0]["lr"] = rate * min(1.0, (number + 1) / WARM_UP)
        t = points.clone().requires_grad_()
        u = model(t)
        (slope,) = torch.autograd.grad(u.sum(), t, create_graph=True)
        errors = torch.stack(
            [(slope + 2 * u - 2 * torch.cos(4 * points)).square().mean(), (model(times) - measured).square().mean()]
        )
        descent.zero_grad()
        ascent.zero_grad()
        (model.log_weights.exp() * errors).sum().backward()
        descent.step()
        ascent.step()
        with torch.no_grad():
            model.log_weights.clamp_(max=math.log(highest))
        return errors.detach().sum()

    return Training(model, [descent, ascent], step)


CLIMBING = Scenario(
    name="climbing-loss-weights",
    family=_FAMILY,
    split="held_out",
    title="A physics-informed net under SGD whose loss weights climb on noisy measurements",
    cause="the weight of an error that cannot vanish grows by the same share in each step, and the rate that the net feels with it",
    expected="diverged",
    steps=STEPS,
    build=lambda seed: build(0.5, math.inf, seed),
    source=_SOURCE,
    onset="slow",
    cause_id="learning_rate_too_high",
)

RESTING = Scenario(
    name="resting-loss-weights",
    family=_FAMILY,
    split="held_out",
    title="The same net and weights on exact measurements",
    cause="weights that double and treble at first; the errors vanish, and the weights come to rest",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(0.0, math.inf, seed),
    source=_SOURCE,
)

CAPPED = Scenario(
    name="capped-loss-weights",
    family=_FAMILY,
    split="held_out",
    title="The same net on the noisy measurements, its loss weights cut at 4",
    cause="a weight that climbs as fast at first, and a step that grows fourfold, which the net bears",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(0.5, 4.0, seed),
    source=_SOURCE,
)
