"""What others watch a run with: simple alarms over recorded series, each as its source has it, for the score to be compared with.

A baseline takes what a run recorded and returns every step at which it alarms. They keep their sources' faults, on purpose: a spike
widens its own sigma, a NaN poisons a mean.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..storage import Store

SIGMA_WINDOW = 128
SIGMAS = 6.0
ZCLIP_WARMUP = 25
ZCLIP_ALPHA = 0.97
ZCLIP_THRESHOLD = 2.5
SPIKE_WINDOW = 100
SPIKE_RATIO = 2.0
SPIKE_PATIENCE = 4
HIGH_LOSS = 10.0
MAX_LOGIT = 300.0
MAX_SPECTRAL_NORM = 30.0
LEAST_DIVERSITY = 0.01
SAMPLED = ("weight.spectral_norm", "attention.max_logit", "spectral_alignment.sign_diversity")


@dataclass(frozen=True, slots=True)
class Series:
    """One recorded series in order of steps; values that are not finite are there as themselves.

    Raises:
        ValueError: there are not as many steps as values.
    """

    steps: Sequence[int]
    values: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.values):
            raise ValueError(f"{len(self.steps)} steps for {len(self.values)} values")


@dataclass(frozen=True, slots=True)
class Recorded:
    """What baselines see of a run.

    Attributes:
        loss, gradient_norm: at every step; the norm before clipping.
        sampled: for each signal of SAMPLED, its series, one a layer or head.
    """

    loss: Series
    gradient_norm: Series
    sampled: dict[str, list[Series]] = field(default_factory=dict)


Baseline = Callable[[Recorded], list[int]]


def recorded(store: Store, run: str) -> Recorded:
    """Read what baselines see of a run from a store; a signal that was not recorded has no points."""

    def read(signal: str) -> list[Series]:
        return [Series(one.steps, one.values) for one in store.read(store.series(run, signal=signal))]

    loss, norm = (next(iter(read(signal)), Series((), ())) for signal in ("loss", "gradient.norm"))
    return Recorded(loss, norm, {signal: read(signal) for signal in SAMPLED})


def six_sigma(series: Series, window: int = SIGMA_WINDOW, sigmas: float = SIGMAS) -> list[int]:
    """Alarm where a value is not within 6 standard deviations of the mean of the 128 before it.

    It begins once half a window is there. A NaN alarms, and so does every step that has one in its window: no comparison with it is
    true. Source: allenai/OLMo-core, ``SkipStepOptimizer``.
    """
    before: deque[float] = deque(maxlen=window)
    alarms = []
    for step, value in zip(series.steps, series.values, strict=True):
        if len(before) + 1 >= max(20, window // 2):
            past = np.asarray(before)
            with np.errstate(all="ignore"):
                within = abs(value - past.mean()) / past.std(ddof=1) <= sigmas
            if not within:
                alarms.append(step)
        before.append(value)
    return alarms


def twice_the_mean(
    series: Series, window: int = SPIKE_WINDOW, ratio: float = SPIKE_RATIO, patience: int = SPIKE_PATIENCE, cap: float = HIGH_LOSS
) -> list[int]:
    """Alarm where the loss was at least twice the mean of the last 100 for five steps in a row, or above 10 for half of them.

    It begins once the window is full, with the cap once it was filled twice. A NaN resets the patience and stays in the mean.
    Source: mosaicml/llm-foundry, ``KillLossSpike``.
    """
    before: deque[float] = deque(maxlen=window)
    alarms, outliers = [], 0
    for place, (step, value) in enumerate(zip(series.steps, series.values, strict=True)):
        if len(before) == window:
            outliers = outliers + 1 if value >= ratio * (math.fsum(before) / window if _finite(before) else math.nan) else 0
            high = place >= 2 * window and sum(one > cap for one in before) >= window / 2
            if outliers > patience or high:
                alarms.append(step)
        before.append(value)
    return alarms


def zclip(series: Series, warmup: int = ZCLIP_WARMUP, alpha: float = ZCLIP_ALPHA, threshold: float = ZCLIP_THRESHOLD) -> list[int]:
    """Alarm where the gradient norm's z-score against exponential averages passes 2.5, which is where ZClip clips.

    In place of an outlier the averages learn ``mean + threshold * std / (z / threshold)``. Source: arXiv 2504.02507.
    """
    alarms = []
    first = list(series.values[:warmup])
    if len(first) < warmup:
        return []
    mean = sum(first) / warmup
    variance = sum((value - mean) ** 2 for value in first) / warmup
    for step, value in zip(series.steps[warmup:], series.values[warmup:], strict=True):
        deviation = variance**0.5
        z = (value - mean) / (deviation + 1e-6)
        if z > threshold:
            alarms.append(step)
            value = mean + threshold * deviation / (z / threshold)
        mean = alpha * mean + (1 - alpha) * value
        # A float's power of two overflows with an exception, a product to infinity.
        variance = alpha * variance + (1 - alpha) * (value - mean) * (value - mean)
    return alarms


def not_finite(series: Series) -> list[int]:
    """Alarm where a value is not finite."""
    return [step for step, value in zip(series.steps, series.values, strict=True) if not math.isfinite(value)]


def above(many: Iterable[Series], limit: float) -> list[int]:
    """Alarm where any of the series is above a fixed limit, or infinite; a NaN is above nothing."""
    return sorted({step for one in many for step, value in zip(one.steps, one.values, strict=True) if value > limit})


def below(many: Iterable[Series], limit: float) -> list[int]:
    """Alarm where any of the series is below a fixed limit."""
    return sorted({step for one in many for step, value in zip(one.steps, one.values, strict=True) if value < limit})


BASELINES: dict[str, Baseline] = {
    "loss 6 sigma": lambda run: six_sigma(run.loss),
    "gradient norm 6 sigma": lambda run: six_sigma(run.gradient_norm),
    "loss twice the mean": lambda run: twice_the_mean(run.loss),
    "gradient norm ZClip": lambda run: zclip(run.gradient_norm),
    "not finite": lambda run: not_finite(run.loss),
    "max logit above 300": lambda run: above(run.sampled.get("attention.max_logit", []), MAX_LOGIT),
    "sigma_1 above 30": lambda run: above(run.sampled.get("weight.spectral_norm", []), MAX_SPECTRAL_NORM),
    "sign collapse": lambda run: below(run.sampled.get("spectral_alignment.sign_diversity", []), LEAST_DIVERSITY),
}
"""The limits of sigma_1 and of sign diversity stand for themselves: no source gives one. They may be set on the split ``train``."""

Swept = Callable[[Recorded, float], list[int]]
SWEEPS: dict[str, tuple[Swept, tuple[float, ...]]] = {
    "loss 6 sigma": (lambda run, limit: six_sigma(run.loss, sigmas=limit), (4.0, 6.0, 9.0, 14.0, 20.0, 30.0, 50.0, 100.0)),
    "gradient norm 6 sigma": (
        lambda run, limit: six_sigma(run.gradient_norm, sigmas=limit),
        (4.0, 6.0, 9.0, 14.0, 20.0, 30.0, 50.0, 100.0),
    ),
    "loss twice the mean": (lambda run, limit: twice_the_mean(run.loss, ratio=limit), (1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)),
    "gradient norm ZClip": (
        lambda run, limit: zclip(run.gradient_norm, threshold=limit),
        (2.5, 4.0, 6.0, 10.0, 16.0, 25.0, 40.0, 80.0, 160.0),
    ),
    "max logit above 300": (
        lambda run, limit: above(run.sampled.get("attention.max_logit", []), limit),
        (30.0, 100.0, 200.0, 300.0, 500.0, 1e3, 3e3, 1e4, 1e5),
    ),
    "sigma_1 above 30": (
        lambda run, limit: above(run.sampled.get("weight.spectral_norm", []), limit),
        (5.0, 10.0, 20.0, 30.0, 50.0, 100.0, 300.0, 1e3, 1e4),
    ),
    "sign collapse": (
        lambda run, limit: below(run.sampled.get("spectral_alignment.sign_diversity", []), limit),
        (0.3, 0.1, 0.03, 0.01, 0.003, 1e-9),
    ),
}
"""Baselines with a threshold that can be moved, from sensitive to dull, to compare all at one rate of false alarms."""


def _finite(values: Iterable[float]) -> bool:
    return all(map(math.isfinite, values))
