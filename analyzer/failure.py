"""Dating a failure from the loss alone: what demo, zoo and backtest mean by "the run failed at step N".

A run fails where the loss stays above twice its best running median for 20 samples (``spike``), where its running median over 50
stays above 1.25 times the best plus 0.05 for 50 samples (``degradation``), or where it is not finite (``non_finite``); the first
to be met counts. The step of a failure is the *first* of the window that meets the rule. A failure is *transient* when the loss
ends back near its best. Of several, the first that was never recovered from counts; where all were, the first.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..storage.records import Alert, Severity
from .detectors.rolling import RollingMedian

MEDIAN_WINDOW = 50
SPIKE_WINDOW = 20
DEGRADATION_WINDOW = 50
SPIKE_RATIO = 2.0
DEGRADATION_RATIO = 1.25
DEGRADATION_RISE = 0.05
LEAST_MEDIAN = 10
"""Samples before there is a running median: a run can fail before it has 50."""

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure of a run.

    Args:
        step: first step of the window that meets the rule.
        kind: ``non_finite``, ``spike`` or ``degradation``.
        transient: the loss ended back near its best.
        best: lowest running median of the whole run.
        final: last running median; nan where the loss ended not finite.
    """

    step: int
    kind: str
    transient: bool
    best: float
    final: float


def running_median(losses: Floats) -> Floats:
    """Return the median of the last 50 finite losses at each sample; nan until there are 10."""
    window = RollingMedian(MEDIAN_WINDOW)
    medians = np.full(len(losses), np.nan)
    for place, loss in enumerate(losses.tolist()):
        if math.isfinite(loss):
            window.push(loss)
        if len(window) >= LEAST_MEDIAN:
            medians[place] = window.median()
    return medians


def date_failure(steps: Sequence[int], losses: Sequence[float]) -> Failure | None:
    """Return the run's failure, or None.

    Args:
        steps: in rising order.
        losses: one a step; windows count these samples.

    Raises:
        ValueError: the two differ in length.
    """
    if len(steps) != len(losses):
        raise ValueError(f"{len(steps)} steps for {len(losses)} losses")
    values = np.asarray(losses, dtype=np.float64)
    finite = np.isfinite(values)
    medians = running_median(values)
    if not len(values) or (np.isnan(medians).all() and finite.all()):
        return None
    best_so_far = np.fmin.accumulate(medians)
    near_best = medians <= _above(best_so_far, DEGRADATION_RATIO) + DEGRADATION_RISE
    high = finite & (values > _above(best_so_far, SPIKE_RATIO))
    left = ~np.isnan(medians) & ~near_best
    candidates = [
        *_windows(~finite, 1, "non_finite"),
        *_windows(high, SPIKE_WINDOW, "spike"),
        *_windows(left, DEGRADATION_WINDOW, "degradation"),
    ]
    if not candidates:
        return None
    candidates.sort(key=lambda window: window.met)
    best = float(best_so_far[-1])
    final = float(medians[-1]) if finite[-1] else math.nan
    transient = bool(final <= _above(np.float64(best), DEGRADATION_RATIO) + DEGRADATION_RISE)
    lasting = [] if transient else [window for window in candidates if not near_best[window.last + MEDIAN_WINDOW :].any()]
    window = (lasting or candidates)[0]
    return Failure(int(steps[window.start]), window.kind, transient, best, final)


def outcome(failure: Failure | None) -> str:
    """Name how a run ended.

    ``diverged``: not finite, or final running median above twice the best; ``degraded``: a lasting failure short of that;
    ``survived``: no failure, or a transient one.
    """
    if failure is None or failure.transient:
        return "survived"
    if math.isnan(failure.final) or failure.final > _above(np.float64(failure.best), SPIKE_RATIO):
        return "diverged"
    return "degraded"


def lead_steps(failure_step: int | None, alerts: Iterable[Alert]) -> int | None:
    """Return the steps from the first alert of severity warning or above to the failure; negative where the alert came later.

    None where there is no failure or no such alert.
    """
    fired = [alert.first_step for alert in alerts if alert.severity.rank >= Severity.WARNING.rank]
    return failure_step - min(fired) if failure_step is not None and fired else None


def _above(best: Floats | np.float64, ratio: float) -> Floats:
    """Return ``ratio`` times the best; for a best below zero as far above it as that would be."""
    return np.asarray(best + (ratio - 1.0) * np.abs(best))


class _Window(NamedTuple):
    """A stretch of samples that meets a rule: where it begins, where the rule is met, where it ends."""

    start: int
    met: int
    last: int
    kind: str


def _windows(condition: Mask, length: int, kind: str) -> list[_Window]:
    """Return every stretch of at least ``length`` samples that meets a condition."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], condition, [False])).astype(np.int8)))
    stretches = [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]
    return [_Window(start, start + length - 1, stop - 1, kind) for start, stop in stretches if stop - start >= length]
