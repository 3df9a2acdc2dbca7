"""A checksum of the weights on every rank of a distributed job, which must be the same on all of them.

Trouble it reveals: a rank whose copy of the weights has silently drifted from the others' (a faulty GPU, a parameter that DDP
does not know of, a broadcast left out): its gradients are of another model, and the loss shows it late or never. Beside it,
``rank.loss`` and ``rank.gradient_norm`` are kept of every rank.

Formula: ``sum_p (2 p + 1) * sum_i bits(w_pi)  mod 2^24`` over the trainable parameters p that lie whole on the rank, ``bits``
being their memory read as 32-bit integers. Copies that differ agree by chance once in 17 million. Not applicable where weights
are sharded: no two ranks hold the same.

Cost: one read of the weights and one sum a parameter; nothing is copied. It runs in every distributed job, whatever the preset.

Source: ours; integer sums do not depend on the order of adding, so that equal weights give equal numbers on any device.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from typing_extensions import override

from ..storage.records import SeriesKey
from .base import Across, Block, Probe, Scalars
from .model import WatchedModel
from .taps.optimizer import is_sharded

# A float32 holds whole numbers up to 2^24.
_MASK = (1 << 24) - 1


class RanksProbe(Probe):
    """Checksum of the weights, one series a rank."""

    name = "ranks"
    presets = frozenset()
    signals = ("rank.checksum", "rank.loss", "rank.gradient_norm")

    def __init__(self) -> None:
        super().__init__()
        self._model: WatchedModel | None = None
        self._armed = False

    @override
    def attach(self, model: WatchedModel) -> None:
        self._model = model

    @override
    def arm(self, step: int) -> None:
        self._armed = True

    @override
    @torch.no_grad()
    def collect(self, step: int) -> Iterator[Block]:
        if not self._armed or self._model is None:
            return
        whole = [p.detach() for p in self._model.parameters() if not is_sharded(p)]
        sums = [_bits(p).sum(dtype=torch.int32) * (2 * place + 1) for place, p in enumerate(whole) if p.numel()]
        if sums:
            total = torch.stack([each.to(sums[0].device, non_blocking=True) for each in sums]).sum(dtype=torch.int32)
            yield Scalars((SeriesKey("rank.checksum"),), (total & _MASK).float().reshape(1), Across.EACH)

    @override
    def disarm(self) -> None:
        self._armed = False


def _bits(tensor: Tensor) -> Tensor:
    """Return a tensor's memory as integers, (n,): a view of it, copied only where it does not lie densely."""
    # In the order it lies in memory: channels_last is dense too.
    strides = tensor.stride()
    flat = tensor.permute(sorted(range(tensor.dim()), key=lambda place: -strides[place])).reshape(-1)
    size = flat.element_size()
    if flat.numel() * size % 4 == 0 and flat.storage_offset() * size % 4 == 0:
        return flat.view(torch.int32)
    return flat.view(torch.int16 if size % 2 == 0 else torch.int8)
