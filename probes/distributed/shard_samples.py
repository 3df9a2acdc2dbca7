"""The fixed subsample of a tensor's entries (statistics/samples.py) where the tensor is cut in shards: each rank has a part of it.

Sums over the parts are sums over the whole's own subsample, so that sharded weights measure as whole ones do, and nothing is
gathered. Which entries lie here follows from shapes alone.
"""

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..model import LinearLayer, is_channels_last
from ..statistics.samples import entries_and_block, scattered_entries
from ..taps.optimizer import is_sharded

_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Shard:
    """What lies on this rank of a tensor that may be sharded by its first dimension.

    Attributes:
        local: this rank's part, or the whole tensor.
        first: of its entries, the first one's place in the whole.
        total: entries of the whole.
    """

    local: Tensor
    first: int
    total: int

    @property
    def kind(self) -> tuple[Any, ...]:
        """Shards of one kind are subsampled alike."""
        return self.first, self.local.numel(), self.total, self.local.dtype, self.local.device

    @property
    def sampled(self) -> int:
        """How many entries of the whole are looked at, on all ranks together."""
        every = scattered_entries(self.total, _CPU)
        return self.total if every is None else len(every)

    def entries(self) -> Tensor:
        """Return those that lie here, (n,)."""
        places = _places_here(self.total, self.first, self.local.numel(), self.local.device)
        return self.local.reshape(-1) if places is None else self.local.take(places)


def shard_of(tensor: Any) -> Shard:
    """Return what lies here of a tensor."""
    x: Tensor = tensor.detach()
    if not is_sharded(x):
        return Shard(x, 0, x.numel())
    rows, per_row = x.shape[0], x.shape[1:].numel()
    each = -(-rows // tensor.device_mesh.size())  # as torch.chunk cuts
    return Shard(tensor.to_local().detach(), min(rows, each * tensor.device_mesh.get_local_rank()) * per_row, x.numel())


@functools.lru_cache(maxsize=1024)
def _places_here(total: int, first: int, count: int, device: torch.device) -> Tensor | None:
    every = scattered_entries(total, _CPU)
    if every is None:
        return None
    return (every[(every >= first) & (every < first + count)] - first).to(device)


def sampled_places(layer: LinearLayer, shard: Shard) -> tuple[Tensor, int] | None:
    """Return where entries of a sharded layer's subsample lie in this rank's part, and how many it has on all ranks.

    None of a convolution that lies with its channels last: its part lies otherwise.
    """
    stored = layer.stored()
    if stored.dim() == 4 and is_channels_last(stored):
        return None
    view = layer.view_of(torch.empty(stored.shape, device="meta"))
    return _layer_places(tuple(view.shape), view.stride(), view.storage_offset(), *shard.kind[:2], shard.local.device)


@functools.lru_cache(maxsize=1024)
def _layer_places(
    shape: tuple[int, ...], strides: tuple[int, ...], offset: int, first: int, count: int, device: torch.device
) -> tuple[Tensor, int]:
    rows, columns = torch.Size(shape[:-1]).numel(), shape[-1]
    places, entries, _ = entries_and_block(rows, columns, _CPU)
    rest, stored = places[:entries], torch.full((entries,), offset)
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        stored, rest = stored + rest % size * stride, rest // size
    return (stored[(stored >= first) & (stored < first + count)] - first).to(device), entries
