"""A fixed, bounded subsample of the entries of a tensor: what weights, gradients and optimizer states are looked at by.

Entries are taken in runs of four neighbours: on a CPU nearly all of the time goes into waiting for the memory, once a run.

The noise floor: a mean of squares over n entries drawn from many has a relative standard deviation of sqrt((kappa - 1) / n), kappa
the entries' kurtosis; its root has half of it. With 4,096 entries that is 1.1 % for normally distributed ones; for products of two
normal numbers (a matrix of rank one), where neighbours share one of them, 3 %. The entries are always the same, so that a series
does not jump by it. A tensor with no more entries is looked at whole.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from .tokens import scattered_rows

ENTRIES = 4096
BLOCK = 64
_RUN = 4
_BLOCK_RUN = 16
_CPU = torch.device("cpu")


@functools.lru_cache(maxsize=256)
def scattered_entries(count: int, device: torch.device) -> Tensor | None:
    """Return at most 4,096 numbers below ``count``, rising, in runs of four, or None for "take all"."""
    return None if count <= ENTRIES else _at_most(count, ENTRIES, _RUN).to(device)


@functools.lru_cache(maxsize=256)
def entries_and_block(rows: int, columns: int, device: torch.device) -> tuple[Tensor, int, tuple[int, int]]:
    """Return places in a flattened matrix: those of ``scattered_entries``, then those of a block of at most 64 x 64.

    The block's rows are scattered over the matrix; so are its columns, in runs of sixteen.

    Returns:
        The places, how many of them are entries, and the shape of the block.
    """
    entries = _at_most(rows * columns, ENTRIES, _RUN)
    down, across = _at_most(rows, BLOCK, 1), _at_most(columns, BLOCK, _BLOCK_RUN)
    block = down[:, None] * columns + across
    return torch.cat([entries, block.flatten()]).to(device), len(entries), (len(down), len(across))


def sample_entries(x: Tensor) -> Tensor:
    """Return at most 4,096 entries of ``x``, (n,) in its own dtype: a copy, unless all are taken."""
    places = scattered_entries(x.numel(), x.device)
    return x.reshape(-1) if places is None else entries_at(x, places)


def entries_at(x: Tensor, places: Tensor) -> Tensor:
    """Return the entries of ``x`` at places of it flattened, (n,): a copy of these, and of nothing else."""
    # take() counts the entries of a view too, such as the columns of a projection; where they lie in a row it is the slower one.
    return x.detach().view(-1).index_select(0, places) if x.is_contiguous() else x.take(places)


def stacked_samples(tensors: Sequence[Tensor]) -> Tensor:
    """Return samples of tensors with the same number of entries, (len(tensors), n): always a copy."""
    return torch.stack([sample_entries(each) for each in tensors])


def _at_most(count: int, limit: int, run: int) -> Tensor:
    if count <= limit:
        return torch.arange(count, dtype=torch.int64, device=_CPU)
    starts = scattered_rows(count // run, limit // run, _CPU)
    if starts is None:
        starts = torch.arange(count // run, dtype=torch.int64, device=_CPU)
    return (starts[:, None] * run + torch.arange(run, dtype=torch.int64, device=_CPU)).flatten()
