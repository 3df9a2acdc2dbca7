"""What a scenario is: a training run with a known end, its cause, its source. They stand in ``scenarios/``, one file a family."""

import functools
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Split = Literal["train", "held_out"]
Onset = Literal["slow", "abrupt", "silent"]
Outcome = Literal["diverged", "degraded", "survived", "stuck"]
SPLITS: tuple[Split, ...] = ("train", "held_out")
OUTCOMES: tuple[Outcome, ...] = ("diverged", "degraded", "survived", "stuck")


@dataclass(frozen=True, slots=True)
class Training:
    """A training run ready to go.

    Attributes:
        model, optimizer: as ``foreshock.watch`` takes them.
        step: trains one step (number from 0: schedule, forward, backward, clip, update) and returns the loss, 0-d, detached or not.
    """

    model: nn.Module
    optimizer: Optimizer | Sequence[Optimizer]
    step: Callable[[int], Tensor]


@dataclass(frozen=True, slots=True)
class Reachable:
    """What a sound run of the same kind reaches: without it, a run that never learns is not told from one that has learnt.

    Attributes:
        loss: the running median that the twin is below from ``step`` to its end, on every seed that was checked.
        step: by when. A run that is not near it then counts as stuck from that step on.
        twin: name of the sound scenario.
    """

    loss: float
    step: int
    twin: str


@dataclass(frozen=True, slots=True)
class Scenario:
    """A kind of run.

    Attributes:
        name: as users write it.
        family: the file it stands in. Scenarios of one family share model, data and trouble, and so one split.
        split: ``train``, where detectors and thresholds may be set; ``held_out``, where they are only scored.
        title: one line.
        cause: what makes it fail, or what looks alarming and why it does not fail.
        expected: how it ends, by ``analyzer.failure``; ``stuck``: it never fails by that rule, but never learns what its twin does.
        onset: how the failure comes. ``slow``: something measurable moves before the loss; ``abrupt``: from one step to the next;
            ``silent``: the loss never rises. None for healthy runs.
        cause_id: the true cause's id in ``analyzer/causes.toml`` (or one proposed for it); None for healthy runs.
        steps: how long it runs.
        build: makes the run for a seed; deterministic for a given thread count and machine.
        source: where the setting comes from.
        trouble_step: where what looks or is wrong sets in, when that is one known step; None when it is there from the start.
        reachable: what a sound twin reaches; required of ``stuck`` scenarios.

    Raises:
        ValueError: the fields contradict each other.
    """

    name: str
    family: str
    split: Split
    title: str
    cause: str
    expected: Outcome
    steps: int
    build: Callable[[int], Training]
    source: str
    onset: Onset | None = None
    cause_id: str | None = None
    trouble_step: int | None = None
    reachable: Reachable | None = None

    def __post_init__(self) -> None:
        healthy = self.expected == "survived"
        if healthy != (self.onset is None) or healthy != (self.cause_id is None):
            raise ValueError(f"{self.name}: onset and cause_id are given for runs that fail and for no others; got {self.expected}")
        if (self.expected == "stuck") > (self.reachable is not None):
            raise ValueError(f"{self.name}: a stuck run needs `reachable`, what its sound twin reaches")

    @property
    def fails(self) -> bool:
        """Whether the run is expected to fail."""
        return self.expected != "survived"


@functools.cache
def scenarios() -> dict[str, Scenario]:
    """Return every scenario by name.

    Raises:
        ValueError: two share a name.
    """
    package = f"{__package__}.scenarios"
    found: dict[str, Scenario] = {}
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
        for value in vars(importlib.import_module(f"{package}.{info.name}")).values():
            if isinstance(value, Scenario) and found.setdefault(value.name, value) is not value:
                raise ValueError(f"two scenarios are called {value.name!r}")
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
