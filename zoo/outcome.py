"""How a scenario's run ended: the rule of ``analyzer.failure``, and what that rule cannot see, a run that never learns."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..analyzer.failure import DEGRADATION_RATIO, DEGRADATION_RISE, Failure, date_failure, outcome, running_median
from .scenario import Outcome, Reachable, Scenario, Training

_NON_FINITE_STEPS = 20
"""A loss that was not finite for this long never comes back: the run is over."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended.

    Attributes:
        outcome: as ``Scenario.expected``.
        step: of the failure; None where there is none. A stuck run fails where its sound twin has learnt.
        kind: ``non_finite``, ``spike``, ``degradation``, ``stuck``, or ``""``.
        transient: there was a failure, and it was recovered from.
        best, final: lowest and last running median of the loss; nan where there is none.
    """

    outcome: Outcome
    step: int | None
    kind: str
    transient: bool
    best: float
    final: float


def ending(losses: Sequence[float], reachable: Reachable | None = None) -> Ending:
    """Tell how a run ended.

    Args:
        losses: one a step, from step 0.
        reachable: what a sound twin reaches; without it no run counts as stuck.
    """
    medians = running_median(np.asarray(losses, dtype=np.float64))
    best = float(np.nanmin(medians)) if np.isfinite(medians).any() else math.nan
    final = float(medians[-1]) if len(losses) and math.isfinite(losses[-1]) else math.nan
    failure = date_failure(range(len(losses)), losses)
    if (failure is None or failure.transient) and reachable is not None and _never_near(medians, reachable):
        return Ending("stuck", reachable.step, "stuck", False, best, final)
    return _by_rule(failure, best, final)


def _by_rule(failure: Failure | None, best: float, final: float) -> Ending:
    named = outcome(failure)
    assert named in ("diverged", "degraded", "survived")
    if failure is None or failure.transient:
        return Ending("survived", None, "", failure is not None, best, final)
    return Ending(named, failure.step, failure.kind, False, best, final)  # type: ignore[arg-type]


def _never_near(medians: "np.ndarray[Any, Any]", reachable: Reachable) -> bool:
    """Tell whether the loss is, from the step on where the twin has learnt, never near what the twin has."""
    later = medians[reachable.step :]
    return bool(len(later) and (later > DEGRADATION_RATIO * reachable.loss + DEGRADATION_RISE).all())


def learnt_by(losses: Sequence[float], loss: float) -> int | None:
    """Return the step from which the running median stays at or below ``loss`` to the end; None if it does not end there."""
    medians = running_median(np.asarray(losses, dtype=np.float64))
    above = np.flatnonzero(~(medians <= loss))
    first = int(above[-1]) + 1 if len(above) else 0
    return first if first < len(losses) else None


def train(
    training: Training, steps: int, after: Callable[[int, torch.Tensor], None] = lambda number, loss: None
) -> tuple[list[float], float]:
    """Train to the end, or until the loss has not been finite for 20 steps; return the losses and the seconds taken.

    Args:
        training: what to train.
        steps: at most.
        after: called after each step with its number and loss.
    """
    losses: list[float] = []
    started = time.perf_counter()
    for number in range(steps):
        loss = training.step(number)
        after(number, loss)
        losses.append(float(loss.detach()))
        if len(losses) >= _NON_FINITE_STEPS and not any(map(math.isfinite, losses[-_NON_FINITE_STEPS:])):
            break
    return losses, time.perf_counter() - started


def run(chosen: Scenario, seed: int) -> tuple[list[float], float]:
    """Train a scenario without a monitor; return the losses and the seconds taken."""
    return train(chosen.build(seed), chosen.steps)
