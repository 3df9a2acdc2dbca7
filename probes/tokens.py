"""Which tokens of a layer's input are looked at: a bounded, evenly scattered, reproducible subsample."""

import functools

import torch
from torch import Tensor

_GOLDEN_RATIO = 0.6180339887498949


@functools.lru_cache(maxsize=256)
def scattered_rows(count: int, limit: int, device: torch.device) -> Tensor | None:
    """Return at most ``limit`` row numbers below ``count``, rising, scattered by the golden ratio, or None for "take all".

    Where ``count`` is little above ``limit`` some fall together, and fewer are left. Not a fixed stride: that may hit the same
    position of every sequence, and positions differ (attention sinks, the first token).
    """
    if count <= limit:
        return None
    rows = (torch.arange(limit, dtype=torch.float64, device="cpu") * _GOLDEN_RATIO % 1.0 * count).long()
    distinct: Tensor = torch.unique(rows)
    return distinct.to(device)


def sample_tokens(x: Tensor, limit: int) -> Tensor:
    """Return at most ``limit`` tokens of ``x`` (..., d) as float32 (n, d), detached, copied: in-place changes do no harm."""
    tokens = x.detach().reshape(-1, x.shape[-1])
    rows = scattered_rows(tokens.shape[0], limit, tokens.device)
    picked = tokens if rows is None else tokens.index_select(0, rows)
    return picked.float() if picked.dtype != torch.float32 else picked.clone() if rows is None else picked
