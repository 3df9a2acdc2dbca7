"""How trouble began, from the last points of loss, gradient and weights: at once or by degrees, forward or backward first."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import median

from .tracks import Track
from .wording import number, step_number

NAMES = frozenset(
    {"sudden_break", "loss_broke_first", "gradient_broke_first", "weights_start_large", "weights_start_small", "token_inputs"}
)
STEADY = "inputs_steady"
"""What is so now, and need not stay."""
"""Every observation of this module. They are facts about a moment: true from then on, though the run moves on."""

_LEAST_POINTS = 20
_CALM_POINTS = 10
_CALM = 3.0
_BREAK = 3.0
_AT_START = 20
_LARGE_START = 5.0
_STEADY = 1.25
_SMALL_START = 0.2

Points = Sequence[tuple[int, float]]
Seen = tuple[str, str, int]
"""Name, text and step of an observation."""


def observe(tracks: Iterable[Track]) -> list[Seen]:
    """Return what the tracks of a run tell. Costs a pass over some hundred points."""
    loss: Points = ()
    gradient: Points = ()
    norms: list[Points] = []
    sizes: list[Points] = []
    for track in tracks:
        if track.key.signal == "loss" and not track.key.module:
            loss = list(track.points)
        elif track.key.signal == "gradient.norm" and not track.key.module:
            gradient = list(track.points)
        elif track.key.signal == "weight.spectral_norm" and track.points:
            norms.append(track.points)
        elif track.key.signal == "input.rms":
            sizes.append(track.points)
    return [
        *_first_not_finite(loss, gradient, bool(sizes) or not norms),
        *_steady(sizes),
        *_sudden(loss, gradient),
        *_weights_at_start(norms),
    ]


def _first_not_finite(loss: Points, gradient: Points, sized: bool) -> list[Seen]:
    """Say which of the two was first not finite. Nothing where the points reach no further back than that.

    Where inputs may be numbers (``sized``), the data may have broken the loss; token ids are always finite.
    """
    of_loss, of_gradient = _broke(loss), _broke(gradient)
    if of_gradient is not None and (of_loss is None or of_gradient < of_loss) and (not loss or loss[0][0] < of_gradient):
        at = step_number(of_gradient)
        return [("gradient_broke_first", f"the gradient was not finite at step {at}, when the loss still was", of_gradient)]
    if of_loss is not None and (of_gradient is None or of_loss <= of_gradient):
        at = step_number(of_loss)
        found = [("loss_broke_first", f"the loss was not finite at step {at}, and no gradient before it", of_loss)]
        return (
            found if sized else [*found, ("token_inputs", "no input was seen that could be without a number: token ids", of_loss)]
        )
    return []


def _steady(sizes: Sequence[Points]) -> list[Seen]:
    """Say whether inputs have kept their size, to a quarter, for as long as the points reach back."""
    held = [[value for _, value in points] for points in sizes if len(points) >= _CALM_POINTS]
    if not held or not all(math.isfinite(value) and value > 0.0 for values in held for value in values):
        return []
    if all(max(values) <= _STEADY * min(values) for values in held):
        step = max(points[-1][0] for points in sizes)
        return [(STEADY, "the inputs have kept their size", step)]
    return []


def _broke(points: Points) -> int | None:
    """Return the first step that was not finite after one that was."""
    return next(
        (step for (_, before), (step, value) in pairwise(points) if math.isfinite(before) and not math.isfinite(value)), None
    )


def _sudden(loss: Points, gradient: Points) -> list[Seen]:
    """Say whether the loss left its usual level from one step to the next, and neither it nor the gradient stirred before."""
    for place in range(_LEAST_POINTS, len(loss)):
        step, value = loss[place]
        before = [one for _, one in loss[:place]]
        usual = median(before)
        if not math.isfinite(usual) or usual <= 0.0:
            return []
        if math.isfinite(value) and value <= _BREAK * usual:
            continue
        norms = [one for at, one in gradient if at < step]
        calm = _is_calm(before) and _is_calm(norms)
        text = f"the loss left its usual {number(usual)} in a single step, {step_number(step)}, and nothing had stirred before"
        return [("sudden_break", text, step)] if calm else []
    return []


def _is_calm(values: Sequence[float]) -> bool:
    """Say whether the last of the values are finite and not far above what they were."""
    if len(values) < _LEAST_POINTS:
        return False
    return all(math.isfinite(value) for value in values) and max(values[-_CALM_POINTS:]) <= _CALM * median(values[:-_CALM_POINTS])


def _weights_at_start(norms: Sequence[Points]) -> list[Seen]:
    """Say whether most layers began with weights far from size 1, which passes signals on. Nothing once that is forgotten."""
    starts = [points[0][1] for points in norms if points[0][0] <= _AT_START and math.isfinite(points[0][1])]
    if not starts:
        return []
    usual = median(starts)
    if _SMALL_START < usual < _LARGE_START:
        return []
    name, words = ("weights_start_large", "large") if usual >= _LARGE_START else ("weights_start_small", "small")
    at_start = f"the median layer's largest singular value was {number(usual)}, where about 1 is usual"
    text = f"the weights were {words} at the start: {at_start}"
    return [(name, text, 0)]
