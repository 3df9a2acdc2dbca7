"""The biased rounding, measured: error of O and of delta in every variant, on crafted inputs and on ones captured in training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...kernels.reference import Precision, reference_attention
from .capture import Captured

KEYS = WIDTH = 64
ROWS_A_HEAD = 64


@dataclass(frozen=True, slots=True)
class Inputs:
    """What attention is given: q, k, v and dO, (B, H, T, D) float32. ``scale`` and ``is_causal`` as for attention."""

    q: Tensor
    k: Tensor
    v: Tensor
    do: Tensor
    scale: float
    is_causal: bool = False


def crafted(heads: int, seed: int = 0) -> Inputs:
    """Make the worst case: 64 keys a row, two of them tied for the maximum, the others 12 to 14 nats below, V and dO of one sign.

    K is the identity, so that q holds the scores themselves; every number is one of bfloat16's. Each head has a V of its own.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    highest = uniform(5.0, 20.0, heads, ROWS_A_HEAD, 1).bfloat16().float()
    scores = highest - uniform(12.0, 14.0, heads, ROWS_A_HEAD, KEYS)
    pairs = torch.rand(heads, ROWS_A_HEAD, KEYS, generator=generator).topk(2).indices
    scores = scores.bfloat16().float().scatter(-1, pairs, highest.expand(-1, -1, 2))
    k = torch.eye(KEYS).expand(1, heads, KEYS, WIDTH)
    v = -uniform(1.0, 2.0, 1, heads, KEYS, WIDTH).bfloat16().float()
    do = -uniform(0.5, 1.5, 1, heads, ROWS_A_HEAD, WIDTH).div(WIDTH).bfloat16().float()
    return Inputs(scores[None], k.contiguous(), v, do, scale=1.0)


def variants(bits: int) -> dict[str, Precision]:
    """Return what is compared: the failing algorithm, the standard one, and each with the ingredients of the cure."""
    standard = Precision.flash(output=bits)
    failing = replace(standard, products=bits, accumulator=bits)
    return {
        "low-precision accumulator": failing,
        "the same, dynamic maximum, beta 2": replace(failing, dynamic_maximum=True),
        "the same, dynamic maximum, beta 4": replace(failing, dynamic_maximum=True, beta=4.0),
        "the same, beta 2, row sum of unrounded P": replace(failing, dynamic_maximum=True, sum_rounded=False),
        "float32 accumulator (standard)": standard,
        "standard, dynamic maximum": replace(standard, dynamic_maximum=True),
        "standard, float32 delta": replace(standard, delta_from="float32"),
        "stabilised: both": replace(standard, delta_from="float32", dynamic_maximum=True),
    }


def compare(given: Inputs, precisions: dict[str, Precision], bits: int) -> list[dict[str, Any]]:
    """Return a record a variant: its errors against float64.

    Args:
        given: the inputs; every sequence and head counts as one independent draw in the z-scores.
        precisions: the variants by name.
        bits: of O, which set the ulp: that of the row's root mean square.
    """
    exact = _float64(given)
    # What the layer is given is rounded on its way in, the same in all variants; dO as it is taken.
    ulp = torch.exp2(torch.floor(torch.log2(exact.square().mean(-1, keepdim=True).sqrt()))) * 2.0**-bits
    records = []
    for name, precision in precisions.items():
        out = _attend(given, precision)
        used = _attend(given, replace(precision, output=23)) if precision.delta_from == "float32" else out
        error = (out.double() - exact) / ulp
        delta = (given.do.double() * (used.double() - exact)).sum(-1)
        positive, negative = float((delta > 0).sum()), float((delta < 0).sum())
        size = (given.do.double() * exact).sum(-1).abs().mean()
        records.append(
            {
                "variant": name,
                "output_error_ulp": float(error.mean()),
                "output_z": _z(error.mean((2, 3))),
                "output_rms_ulp": float(error.square().mean().sqrt()),
                "delta_error": float(delta.mean()),
                "delta_error_relative": float(delta.mean() / size),
                "delta_z": _z(delta.mean(2)),
                "same_sign": max(positive, negative) / max(positive + negative, 1.0),
                "rows": delta.numel(),
            }
        )
    return records


def ties(given: Inputs) -> float:
    """Return the share of rows whose maximum is attained more than once, within 1e-3."""
    scores = _scores(given)
    return float(((scores.amax(-1, keepdim=True) - scores <= 1e-3).sum(-1) > 1).double().mean())


def captured_inputs(found: Captured) -> dict[str, Inputs]:
    """Return what was captured in training as inputs, by module; q, k, v and dO rounded to bfloat16 as every variant takes them."""
    named: dict[str, Inputs] = {}
    for module, tensors in found.items():
        q, k, v, do = (tensors[name].bfloat16().float() for name in ("q", "k", "v", "do"))
        named[module] = Inputs(q, k, v, do, scale=q.shape[-1] ** -0.5, is_causal=True)
    return named


def _attend(given: Inputs, precision: Precision) -> Tensor:
    return reference_attention(given.q, given.k, given.v, is_causal=given.is_causal, scale=given.scale, precision=precision)


def _scores(given: Inputs) -> Tensor:
    scores = given.scale * (given.q.double() @ given.k.double().mT)
    if given.is_causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), float("-inf"))
    return scores


def _float64(given: Inputs) -> Tensor:
    return _scores(given).softmax(-1) @ given.v.double()


def _z(draws: Tensor) -> float:
    """Return how many standard errors the mean of independent draws is from 0."""
    values: Sequence[float] = draws.flatten().tolist()
    spread = torch.tensor(values, dtype=torch.float64).std() / len(values) ** 0.5
    return float(sum(values) / len(values) / spread.clamp_min(1e-300))
