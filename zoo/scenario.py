"""What a scenario is: a training run with a known end, its cause, its source. They stand in ``scenarios/``, one file a family."""

import functools
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass(frozen=True, slots=True)
class Training:
    """A training run ready to go.

    Attributes:
        model, optimizer: as ``foreshock.watch`` takes them.
        step: trains one step (number from 0: schedule, forward, backward, clip, update) and returns the loss, 0-d, detached or not.
    """

    model: nn.Module
    optimizer: Optimizer
    step: Callable[[int], Tensor]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A kind of run.

    Attributes:
        name: as users write it.
        title: one line.
        cause: what makes it fail, or why it does not.
        expected: how it ends.
        steps: how long it runs.
        build: makes the run for a seed; deterministic for a given thread count and machine.
        source: where the setting comes from.
    """

    name: str
    title: str
    cause: str
    expected: Literal["diverged", "degraded", "survived"]
    steps: int
    build: Callable[[int], Training]
    source: str


@functools.cache
def scenarios() -> dict[str, Scenario]:
    """Return every scenario by name."""
    package = f"{__package__}.scenarios"
    found: dict[str, Scenario] = {}
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
        for value in vars(importlib.import_module(f"{package}.{info.name}")).values():
            if isinstance(value, Scenario):
                found[value.name] = value
    return dict(sorted(found.items()))


def scenario(name: str) -> Scenario:
    """Return one scenario.

    Raises:
        ValueError: there is none of that name; the message lists them.
    """
    known = scenarios()
    if name not in known:
        raise ValueError(f"there is no scenario {name!r}; there are: {', '.join(known)}")
    return known[name]


def seeded(seed: int) -> torch.Generator:
    """Seed the global generators (initialisation, dropout) and return a private one for the order of the data."""
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)
