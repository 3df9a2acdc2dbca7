"""Q-learning from recorded data: an estimate that is taught by itself, over an ever longer horizon.

The goal of a step holds the largest of the net's own estimates. Some of them are too high by chance, and the errors
feed themselves; the longer the horizon, the less is lost on the way round.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..scenario import Scenario, Training, seeded
from ..training import trained

STEPS = 1200
RISE = 900
HORIZONS = 10.0, 300.0
STATE, ACTIONS, COUNT, WIDTH = 6, 6, 1024, 64
_FAMILY = "q_learning"
_SOURCE = "arXiv 1812.02648 (deep RL and the deadly triad), arXiv 1512.02011 (a discount that rises); setting found by experiment"


def transitions() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return 1,024 steps of a made-up plant: states, actions, rewards, next states."""
    random = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    drift, push, wanted = draw(STATE, STATE) / STATE**0.5, 0.5 * draw(ACTIONS, STATE), draw(STATE) / STATE**0.5
    states = torch.tanh(draw(COUNT, STATE))
    actions = torch.randint(ACTIONS, (COUNT,), generator=random)
    later = torch.tanh(states @ drift + push[actions] + 0.1 * draw(COUNT, STATE))
    return states, actions, later @ wanted, later


def build(target_share: float | None, seed: int) -> Training:
    """A ReLU MLP of width 64 under Adam; its discount rises from 0.9 to 0.997 in 900 steps.

    Args:
        target_share: goals come from a copy that goes this share of the way to the net each step; None: from the net itself.
        seed: of the run.
    """
    order = seeded(seed)
    states, actions, rewards, later = transitions()
    model = nn.Sequential(nn.Linear(STATE, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, ACTIONS))
    target = model if target_share is None else copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def loss(number: int) -> Tensor:
        first, last = HORIZONS
        discount = 1.0 - 1.0 / (first * (last / first) ** min(1.0, number / RISE))
        drawn = torch.randint(COUNT, (64,), generator=order)
        with torch.no_grad():
            if target_share is not None:
                for old, new in zip(target.parameters(), model.parameters(), strict=True):
                    old.lerp_(new, target_share)
            goals = rewards[drawn] + discount * target(later[drawn]).amax(1)
        estimates = model(states[drawn]).gather(1, actions[drawn, None])[:, 0]
        return F.mse_loss(estimates, goals)

    return trained(model, optimizer, loss)


Q_LEARNING = Scenario(
    name="q-learning",
    family=_FAMILY,
    split="train",
    title="Q-learning without a target network, its discount rising to 0.997",
    cause="the net's own largest estimates are its goals: what is too high by chance is taught on, until all values run away",
    expected="diverged",
    steps=STEPS,
    build=lambda seed: build(None, seed),
    source=_SOURCE,
    onset="slow",
    cause_id="runaway_weights",
)

Q_LEARNING_WITH_TARGET = Scenario(
    name="q-learning-with-target",
    family=_FAMILY,
    split="train",
    title="The same Q-learning with a target network that follows slowly",
    cause="values grow with the horizon, as they should; goals that move slowly keep errors from feeding themselves",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(0.1, seed),
    source=_SOURCE,
)
