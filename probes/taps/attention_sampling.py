"""What is copied of an attention call: sequences, heads and rows within a bound, rounded as the layer takes them."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ...kernels.reference import Precision
from ...kernels.rounding import mantissa_bits, round_mantissa
from ..statistics.tokens import scattered_rows
from .attention_calls import LookedAt

SEQUENCES = 2
ROWS = 64
# Most float32 numbers held of one call.
_MOST_FLOATS = 1 << 24


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """In what precision a layer takes its inputs, stores its output and works out its gradients.

    Attributes:
        inputs: dtype, or number of mantissa bits, that q, k, v and dO are rounded to on their way in; None for none.
        output_spacing: distance of 1 to the next number of the output's format.
        roundoff: unit roundoff of dS and dK.
        delta_from_output: whether delta is taken from the output as it is stored.
    """

    inputs: torch.dtype | int | None
    output_spacing: float
    roundoff: float
    delta_from_output: bool

    @classmethod
    def of(cls, given: torch.dtype, out: torch.dtype, precision: Precision | None) -> "Arithmetic":
        """Return that of a layer given q, k and v of one dtype, whose output has another; ``precision`` tells more, if known."""
        spacing = torch.finfo(out).eps
        if precision is None:
            return cls(out if spacing > torch.finfo(given).eps else None, spacing, spacing / 2, True)
        inputs, stored, coarser = (mantissa_bits(x) for x in (precision.inputs, precision.output, precision.score_gradients))
        coarser = min(coarser, mantissa_bits(precision.gradients))
        return cls(inputs, 2.0**-stored, 2.0 ** -(coarser + 1), precision.delta_from == "stored")

    @classmethod
    def of_matrix_products(cls, dtype: torch.dtype) -> "Arithmetic":
        """Return that of attention written out as products and a softmax of this dtype: delta is taken from P and dP."""
        spacing = torch.finfo(dtype).eps
        return cls(dtype, spacing, spacing / 2, False)

    def taken(self, x: Tensor) -> Tensor:
        """Round float32 values as the layer does on their way in."""
        if self.inputs is None:
            return x
        return round_mantissa(x, self.inputs) if isinstance(self.inputs, int) else x.to(self.inputs).float()


def looked_at(q_shape: tuple[int, ...], k_shape: tuple[int, ...], device: torch.device) -> LookedAt | None:
    """Return which sequences, heads and rows of a call are looked at; None for none: too large, or empty."""
    if 0 in q_shape or 0 in k_shape:
        return None
    (batch, heads, rows, width), (_, groups, keys, _) = q_shape, k_shape
    floats = 2 * keys * width + heads // groups * min(ROWS, rows) * (keys + 3 * width)
    most = _MOST_FLOATS // floats
    if most == 0:
        return None
    sequences = min(SEQUENCES, batch, max(1, most // groups))
    picked, key_picked, numbers, key_numbers = _scattered_heads(heads, groups, min(groups, most // sequences), device)
    return LookedAt(sequences, picked, key_picked, scattered_rows(rows, ROWS, device), numbers, key_numbers)


@lru_cache(maxsize=64)
def _scattered_heads(
    heads: int, groups: int, count: int, device: torch.device
) -> tuple[Tensor | None, Tensor | None, tuple[int, ...], tuple[int, ...]]:
    """Return ``count`` key heads, evenly scattered, and their query heads: query first, as indices (None for all), as numbers."""
    each = heads // groups
    key_numbers = tuple(i * groups // count for i in range(count))
    numbers = tuple(group * each + i for group in key_numbers for i in range(each))
    if count == groups:
        return None, None, numbers, key_numbers
    query, key = (torch.tensor(chosen, device="cpu").to(device) for chosen in (numbers, key_numbers))
    return query, key, numbers, key_numbers


def picked_rows(x: Tensor, sequences: int, heads: Tensor | None, rows: Tensor | None) -> Tensor:
    """Return a float32 copy of some sequences, heads and rows of (B, H, T, D)."""
    x = x.detach()[:sequences]
    if heads is not None:
        x = x.index_select(1, heads)
    if rows is not None:
        x = x.index_select(2, rows)
    return x.to(torch.float32, copy=heads is None and rows is None)


# Large negative numbers in an additive mask mean "masked", as -inf does; no bias of a model's own comes near.
_MASKED_BELOW = -1e4


def additive_bias(mask: Tensor, at: LookedAt, rows_there: int, keys: int) -> Tensor:
    """Return some rows of any mask SDPA takes as a float32 bias, (1 or B, 1 or H, R, S), -inf where masked."""
    while mask.dim() < 4:
        mask = mask[None]
    # A static cache's mask is longer than the keys there are.
    mask = mask[: at.sequences, ..., :keys].expand(-1, -1, rows_there, keys)
    if at.heads is not None and mask.shape[1] > 1:
        mask = mask.index_select(1, at.heads)
    if at.rows is not None:
        mask = mask.index_select(2, at.rows)
    if mask.dtype == torch.bool:
        return torch.where(mask, 0.0, float("-inf")).float()
    return torch.where(mask <= _MASKED_BELOW, float("-inf"), mask.float())
