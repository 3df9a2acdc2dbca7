"""Which keys a query sees, for the bodies written in PyTorch."""

from functools import lru_cache

import torch
from torch import Tensor

from .options import Options


@lru_cache(maxsize=64)
def _few_hidden_keys(rows: range, keys: range, is_causal: bool, window: int | None, device: torch.device) -> Tensor:
    i = torch.arange(rows.start, rows.stop, dtype=torch.int32, device=device)[:, None]
    j = torch.arange(keys.start, keys.stop, dtype=torch.int32, device=device)
    after = j - i
    hidden = after > 0 if is_causal else torch.zeros_like(after, dtype=torch.bool)
    return hidden if window is None else hidden | (after.abs() >= window)


def hidden_keys(rows: range, keys: range, options: Options, device: torch.device) -> Tensor | None:
    """Return (rows, keys), True where the options hide a key from a query, both counted from their first; None: nowhere."""
    if not options.is_causal and options.window is None:
        return None
    # Small ones are kept: on short rows making one costs as much as using it.
    small = device.type == "cpu" and len(rows) * len(keys) <= 1 << 16
    make = _few_hidden_keys if small and not torch.compiler.is_compiling() else _few_hidden_keys.__wrapped__
    return make(rows, keys, options.is_causal, options.window, device)


def visible_span(rows: range, keys: int, options: Options) -> range:
    """Return the span of keys outside of which no query of ``rows`` sees any; at least one key, if there are any."""
    first = 0 if options.window is None else max(0, rows.start - options.window + 1)
    last = rows.stop if options.is_causal else keys if options.window is None else rows.stop + options.window - 1
    last = min(last, keys)
    return range(min(first, max(last - 1, 0)), last)


def masked(s_BHTS: Tensor, mask: Tensor | None, hidden: Tensor | None) -> Tensor:
    """Return the scores, minus infinity where hidden or where SDPA's mask (boolean: True is seen; else added) says so."""
    if mask is not None:
        s_BHTS = s_BHTS.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else s_BHTS + mask.to(s_BHTS.dtype)
    return s_BHTS if hidden is None else s_BHTS.masked_fill(hidden, float("-inf"))
