"""What a probe is, and the step on one page.

    watch()                       optimizer hooks are placed, for good; on modules, nothing yet

    ┌─ one training step ──────────────────────────────────────────────────────────────────────────────────────────────
    │ forward                     on a sampled step only:
    │                               module hooks              probe taps see inputs and outputs      (taps/modules.py)
    │                               attention calls           q, k, v and the output are subsampled  (taps/attention.py)
    │ backward                    on a sampled step only:
    │                               tensor hooks              gradients of layer outputs, attention outputs and keys
    │ clip_grad_norm_             every step: the norm it computes anyway is the gradient.norm       (step/gradient_norm.py)
    │ optimizer.step              every step, pre-hook: gradient.norm where nothing was clipped
    │ monitor.step(loss)          every step: loss and norms start towards the host                  (step/buffer.py)
    │                             on a sampled step: probe.collect() for every probe, ONE copy to the host, hooks removed
    │                             the governor decides                                               (step/governor.py)
    │                             if the next step is sampled: probe.arm() - weights are what the next forward will use
    └──────────────────────────────────────────────────────────────────────────────────────────────────────────────────

A probe yields blocks of device tensors and never waits for the device: no ``.item()``, no ``.cpu()``, no branch on a
tensor's value. It never draws from the global random generators and never writes to a tensor that is not its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from torch import Tensor

from ..storage.records import SeriesKey
from .model import WatchedModel

Guard = Callable[[Callable[[], None]], None]
"""Runs a piece of measuring; what it raises is counted and never reaches the model. None comes back: a hook may return it."""


def unguarded(work: Callable[[], None]) -> None:
    """Run ``work`` and let its exceptions pass: what tests of a single probe want."""
    work()


class Across(StrEnum):
    """How the values that several ranks measured become one."""

    SAME = "same"
    """They are equal on every rank by construction (replicated weights): the first rank's is taken."""
    MEAN = "mean"
    SUM = "sum"
    MAX = "max"
    MIN = "min"
    EACH = "each"
    """Nothing is joined: every rank's value becomes a series of its own, with the rank in its key."""


@dataclass(frozen=True, slots=True)
class Scalars:
    """Measured values: ``values[i]``, a float tensor of shape (len(keys),) on any device, belongs to ``keys[i]``.

    Raises:
        ValueError: there are not as many values as keys.
    """

    keys: tuple[SeriesKey, ...]
    values: Tensor
    across: Across = Across.MEAN

    def __post_init__(self) -> None:
        if self.values.shape != (len(self.keys),):
            raise ValueError(f"{len(self.keys)} keys need values of shape ({len(self.keys)},), got {tuple(self.values.shape)}")


@dataclass(frozen=True, slots=True)
class Sums:
    """Values that are no plain means over tokens: ``finish(sums)`` gives them, shape (len(keys),).

    Ranks add their sums first, so that what is finished (a standard deviation, a share, its diversity) is the whole batch's.

    Attributes:
        sums: float tensor of any shape, additive over tokens.
        finish: a pure function of tensors on one device; it may also run on the host.
    """

    keys: tuple[SeriesKey, ...]
    sums: Tensor
    finish: Callable[[Tensor], Tensor]

    def finished(self) -> Scalars:
        """Return the values of this rank's own tokens."""
        return Scalars(self.keys, self.finish(self.sums))


@dataclass(frozen=True, slots=True)
class Counts:
    """Histograms: ``counts`` of shape (len(keys), bins) over equal bins of [low, high]; outliers lie in the end bins.

    Raises:
        ValueError: there are not as many rows of counts as keys.
    """

    keys: tuple[SeriesKey, ...]
    low: float
    high: float
    counts: Tensor

    def __post_init__(self) -> None:
        if self.counts.dim() != 2 or len(self.counts) != len(self.keys):
            raise ValueError(f"{len(self.keys)} keys need counts of shape ({len(self.keys)}, bins), got {tuple(self.counts.shape)}")


Block = Scalars | Sums | Counts


class Probe(ABC):
    """Measures one thing on sampled steps. A new probe is one file in this folder: it is found by its ``name``.

    Every method may raise: the collector counts the fault, says so once, and training goes on.
    """

    name: ClassVar[str]
    """What users write in ``watch(probes=[...])``."""
    presets: ClassVar[frozenset[str]]
    """The presets it belongs to: of ``light``, ``default``, ``full``."""
    signals: ClassVar[tuple[str, ...]]
    """The signals it may give."""

    def __init__(self) -> None:
        self.guard: Guard = unguarded
        """Set by the collector; every callback placed in the model runs inside it."""

    @abstractmethod
    def attach(self, model: WatchedModel) -> None:
        """Learn the model's layers. Called once; places no hook."""

    @abstractmethod
    def arm(self, step: int) -> None:
        """Prepare for the sampled step to come: place hooks; weights are those the next forward pass uses."""

    @abstractmethod
    def collect(self, step: int) -> Iterator[Block]:
        """Yield what the sampled step showed. Called once, after the optimizer step."""

    @abstractmethod
    def disarm(self) -> None:
        """Remove every hook and let go of every tensor of the step. Called also after a fault, and twice without harm."""

    def rebind(self) -> None:  # noqa: B027 - most probes keep nothing that outlives a step
        """Forget what was learned of the weights (they were replaced from outside)."""
