"""A fixed, bounded subsample of the entries of a tensor: what weights, gradients and optimizer states are looked at by.

The noise floor: a mean over n entries drawn from many has a relative standard deviation of sqrt((kappa - 1) / n) for squares,
kappa the entries' kurtosis; a root mean square has half of it. With 4,096 entries that is 1.1 % for normally distributed ones and
2.2 % for products of two normal numbers (an update of rank one). The entries are always the same, so a series does not jump
by it. A tensor with no more entries is looked at whole.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .tokens import scattered_rows

ENTRIES = 4096


def sample_entries(x: Tensor, limit: int = ENTRIES) -> Tensor:
    """Return at most ``limit`` entries of ``x``, (n,) in its own dtype: a copy, unless all are taken."""
    places = scattered_rows(x.numel(), limit, x.device)
    # take() counts the entries of a view too, such as the rows of a projection, without copying it.
    return x.reshape(-1) if places is None else x.take(places)


def stacked_samples(tensors: Sequence[Tensor], limit: int = ENTRIES) -> Tensor:
    """Return samples of tensors with the same number of entries, (len(tensors), n): always a copy."""
    return torch.stack([sample_entries(each, limit) for each in tensors])
