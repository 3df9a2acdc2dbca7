"""Judges the rounding hypothesis from the re-computed rows of a key head.

The hypothesis (arXiv 2510.04212): the layer takes delta = rowsum(dO * O) from its rounded O, and the errors e of delta, which that
makes, add up in W_q until the logits explode. Judged for each key head over all captured steps, in this order:

1. Is there more rounding error than chance leaves? ``excess``: the residual r = sum_j dK_j that the layer itself left (exactly 0
   without rounding, see recomputation.py), over what independent rounding errors of dS and dK, as large as the layer's format
   makes them, would leave. ``p`` of it: from 1,000 draws of such errors.
2. Is it that error? ``coupling``: the slope, by generalised least squares, of r on the residual ``-scale sum_i e_i q_i`` that the
   layer's own rounded output predicts. 1: delta was taken from it. 0: it was not, and the error comes from elsewhere. ``p`` of it,
   and its standard error: from 1,000 draws in which every e_i is given a random sign. That the forward pass has gone on with the
   very error that delta has is what makes it dangerous: its product with the gradient has a positive part by construction
   (docs/delta_sign.md), and the same error, unrelated to the forward pass, does no harm.
3. Is it large enough to matter? ``part``: |scale sum_i e_i (P K)_i| over |sum_i dQ_i|, root mean squares over the steps: the part
   of the gradient of q's bias that is rounding error if delta is taken from the rounded output, and, W_q's inputs not being
   captured, an estimate for W_q.

Confirmed: all three. Small: the first two. Other: the first, large, and not the second. Rejected: not the first. Undecided: too
few rows or steps to tell. Beside them stand two numbers that decide nothing, for in one bundle they do not tell failing runs from
others (docs/interventions.md): ``z``, the sum of e over its root of squares, and ``coherence`` of r's direction over the steps.
"""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Literal

import torch
from torch import Tensor

from .bundle import AttentionSlice
from .recomputation import Recomputed, Residuals, recomputed

LEAST_EXCESS = 3.0
LEAST_COUPLING = 0.5
LEAST_PART = 0.1
LEAST_STEPS = 3
MOST_P = 0.01
_MOST_DOUBT = 0.25
_MOST_DISTANCE = 0.3
_DRAWS = 1000

Verdict = Literal["confirmed", "small", "other", "rejected", "undecided", "not applicable"]


@dataclass(frozen=True, slots=True)
class Numbers:
    """What was measured: see the module's head.

    ``excess_p`` and ``coupling_p`` are at least 1/1001. ``excess_steps`` is the share of steps whose own p is below 0.01.
    ``coupling_doubt`` is a standard error. ``other_part`` is how large the layer's residual, whatever made it, would be as a part.
    ``coherence`` is the mean resultant length of r's direction, ``coherence_p`` that of random signs reaching it.
    ``z_float32``, ``z_low`` are z of O re-computed; residuals are medians over the steps.
    """

    excess: float
    excess_p: float
    excess_steps: float
    coupling: float
    coupling_p: float
    coupling_doubt: float
    part: float
    other_part: float
    z: float
    z_float32: float
    z_low: float
    coherence: float
    coherence_p: float
    residuals: Residuals


@dataclass(frozen=True, slots=True)
class Finding:
    """What a key head's captured rows show; ``numbers`` is None where nothing could be computed, and ``reason`` says why."""

    module: str
    head: int
    steps: int
    rows: int
    verdict: Verdict
    reason: str
    numbers: Numbers | None = None


def judged(module: str, head: int, parts: Sequence[tuple[AttentionSlice, int]]) -> Finding:
    """Judge one key head from its place in the captured calls of all steps."""
    if all(call.k.shape[2] < 2 for call, _ in parts):
        return Finding(module, head, 0, 0, "not applicable", "there is but one key, and nothing to attend to")
    computed = [recomputed(call, place) for call, place in parts]
    steps = [each for each in computed if each.finite and float(each.expected.sum()) > 0]
    rows = sum(len(each.errors) for each in steps)
    if not steps:
        return Finding(module, head, 0, 0, "not applicable", "no step has finite numbers and gradients")
    if min(each.distance for each in steps) > _MOST_DISTANCE:
        reason = "its output is not softmax(Q K^T) V of what was captured (dropout, a cap or a sink, perhaps)"
        return Finding(module, head, len(steps), rows, "not applicable", reason)
    numbers = measured(steps)
    return Finding(module, head, len(steps), rows, *verdict_of(numbers, len(steps)), numbers)


def verdict_of(found: Numbers, steps: int) -> tuple[Verdict, str]:
    """Return the verdict and the reason."""
    if steps < LEAST_STEPS:
        return "undecided", f"{steps} sampled steps are too few, it takes {LEAST_STEPS}: let the run go on before it is captured"
    if found.excess_p > MOST_P or found.excess_steps <= 0.5 or found.excess < LEAST_EXCESS:
        return "rejected", "independent rounding errors leave about as much"
    coupled = found.coupling >= LEAST_COUPLING and found.coupling_p <= MOST_P
    if not coupled and found.coupling_doubt > _MOST_DOUBT:
        return "undecided", "the captured rows are too few to tell where the error comes from: capture more steps, or megabytes"
    if not coupled:
        if found.other_part < LEAST_PART:
            return "rejected", "there is an error, not of the rounded output, and too small to matter"
        return "other", "errors as large as that come from elsewhere, not from the rounded output; random ones do no harm"
    if found.part < LEAST_PART:
        return "small", "delta is taken from the rounded output, and its error is a small part of the gradient"
    return "confirmed", "delta is taken from the rounded output, and its error is a good part of the gradient"


def measured(steps: Sequence[Recomputed]) -> Numbers:
    """Return the numbers of one key head; draws come from a private generator, the same ones each time."""
    draw = torch.Generator().manual_seed(0)
    observed, chance = [], []  # squares of the residual, over what is expected: of each step, and (draws,) of each
    common, commons, whole = 0.0, torch.zeros(_DRAWS, dtype=torch.float64), 0.0  # of the least-squares slope, and of its draws
    sizes, left = 0.0, 0.0
    direction, directions = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    moved, power = 0.0, 0.0
    for step in steps:
        expected = step.expected.sum()
        observed.append(float(step.shift.square().sum() / expected))
        drawn = _normal(draw, step.chance) + _noise(draw, step)
        chance.append(drawn.square().sum((1, 2)) / expected)
        predicted, signed = step.parts.sum(1), _signed(draw, step.parts)
        if (size := float(predicted.square().sum())) > 0:
            # Generalised least squares: a direction counts by what it would hold if the signs were random, and so does a step.
            weight = step.covariance().inverse()
            toward = torch.einsum("bde,be->bd", weight, step.shift)
            common += float((toward * predicted).sum())
            commons += (signed * toward).sum((1, 2))
            whole += float(torch.einsum("bd,bde,be->", predicted, weight, predicted))
            power_of_signs = float(step.parts.square().sum())
            sizes += size / power_of_signs
            left += float(step.shift.square().sum()) / power_of_signs
        direction = direction + _unit(step.shift.sum(0))
        directions = directions + _unit(signed.sum(1))
        moved += float((step.errors[:, None] * step.effects).sum(0).square().sum())
        power += step.gradient**2
    n = len(steps)
    squares, draws = torch.tensor(observed), torch.stack(chance)  # (n,), (n, draws)
    part = math.sqrt(moved / power) if power > 0 else 0.0
    coherence = float(direction.norm()) / n
    return Numbers(
        excess=math.sqrt(float(squares.mean())),
        excess_p=_p(draws.mean(0), float(squares.mean())),
        excess_steps=sum(_p(drawn, each) < MOST_P for drawn, each in zip(draws, observed, strict=True)) / n,
        coupling=common / whole if whole > 0 else 0.0,
        coupling_p=_p(commons.abs(), abs(common)),
        coupling_doubt=float(commons.square().mean().sqrt()) / whole if whole > 0 else math.inf,
        part=part,
        other_part=part * math.sqrt(left / sizes) if sizes > 0 else 0.0,
        z=_z([step.errors for step in steps]),
        z_float32=_z([step.errors_float32 for step in steps]),
        z_low=_z([step.errors_low for step in steps]),
        coherence=coherence,
        coherence_p=_p(directions.norm(dim=-1) / n, coherence),
        residuals=Residuals(*torch.tensor([astuple(step.residuals) for step in steps]).median(0).values.tolist()),
    )


def _normal(draw: torch.Generator, chance_BND: Tensor) -> Tensor:
    """Return draws of the sum over rows of normal errors, (draws, B, D)."""
    b, n, _ = chance_BND.shape
    return torch.einsum("xbn,bnd->xbd", torch.randn(_DRAWS, b, n, generator=draw, dtype=torch.float64), chance_BND)


def _noise(draw: torch.Generator, step: Recomputed) -> Tensor:
    return torch.randn(_DRAWS, *step.shift.shape, generator=draw, dtype=torch.float64) * step.key_chance[:, None]


def _signed(draw: torch.Generator, parts_BND: Tensor) -> Tensor:
    """Return draws of the sum over rows, each given a random sign, (draws, B, D)."""
    b, n, _ = parts_BND.shape
    signs = torch.randint(0, 2, (_DRAWS, b, n), generator=draw).double() * 2 - 1
    return torch.einsum("xbn,bnd->xbd", signs, parts_BND)


def _unit(x: Tensor) -> Tensor:
    size: Tensor = x.norm(dim=-1, keepdim=True)
    return x / size.clamp_min(torch.finfo(torch.float64).tiny)


def _p(drawn: Tensor, found: float) -> float:
    return (1 + int((drawn >= found).sum())) / (1 + len(drawn))


def _z(errors: Sequence[Tensor]) -> float:
    """Return the sum of errors over the root of the sum of their squares, each step scaled by its own size first."""
    sizes = [float(e.square().mean().sqrt()) for e in errors]
    scaled = torch.cat([e / size if size > 0 else e for e, size in zip(errors, sizes, strict=True)])
    return float(scaled.sum() / scaled.square().sum().sqrt()) if float(scaled.square().sum()) > 0 else 0.0
