"""Norm and stable rank of the weight of every linear layer, recurrent cell and embedding.

Trouble it reveals: weights that grow without end, and layers that fall back on a few directions: the stable rank, which is never
above the rank, sinks towards 1 as one singular value outgrows the others.

Formula: ``weight.norm = |W|_F``, ``weight.stable_rank = |W|_F^2 / sigma_1^2``; n/a for a weight of zeros. Of the weights that the
sampled step's forward pass uses. sigma_1 is the spectral probe's, measured once for both. For entries between 1e-18 and 1e18, whose
squares float32 holds. Of weights sharded over ranks (FSDP2) each rank squares its part; their stable rank is n/a without the
spectral probe, and where they are stored (in, out).

Cost: one read of each weight; without the spectral probe its iteration, seven more. Memory: that probe's.

Source: Rudelson and Vershynin 2007 for the stable rank.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from typing_extensions import override

from ..storage.records import SeriesKey
from .base import Across, Block, Probe, Scalars, Sums
from .distributed.shard_samples import shard_of
from .distributed.sharded import is_sharded_by_rows, rows_of
from .model import LinearLayer, WatchedModel
from .module_gradients import norms
from .statistics.not_applicable import not_applicable
from .taps.optimizer import is_sharded
from .taps.singular_pairs import SingularPairs

_SIGNALS = ("weight.norm", "weight.stable_rank")
# Below it squares vanish in float32.
_SMALLEST = 1e-18


class WeightProbe(Probe):
    """Frobenius norm and stable rank of the weight of each linear layer, recurrent cell and embedding."""

    name = "weights"
    presets = frozenset({"default", "full"})
    signals = ("weight.norm", "weight.stable_rank")

    def __init__(self) -> None:
        super().__init__()
        self._layers: list[LinearLayer] = []
        self._linear: set[LinearLayer] = set()
        self._sharded: list[LinearLayer] = []
        self._followed = SingularPairs()
        self._blocks: list[Block] = []

    @override
    def attach(self, model: WatchedModel) -> None:
        self._followed = SingularPairs.of(model)
        self._linear = set(model.linear_layers())
        layers = model.weight_matrices()
        self._layers = [layer for layer in layers if not is_sharded(layer.stored())]
        self._sharded = [layer for layer in layers if is_sharded(layer.stored())]

    @override
    def rebind(self) -> None:
        self._followed.forget()

    @override
    @torch.no_grad()
    def arm(self, step: int) -> None:
        # What has no inputs of its own apart: the pairs of the linear layers of a device are the spectral probe's, all together.
        groups: dict[tuple[torch.device, bool], list[LinearLayer]] = {}
        for layer in self._layers:
            groups.setdefault((layer.stored().device, layer in self._linear), []).append(layer)
        self._blocks = [self._measured(step, layers, device) for (device, _), layers in groups.items()]
        if self._sharded:
            # The spectral probe is armed first: probes are in the order of their names.
            self._blocks.append(self._sums(step))

    @override
    def collect(self, step: int) -> Iterator[Block]:
        yield from self._blocks

    @override
    def disarm(self) -> None:
        self._followed.release()
        self._blocks.clear()

    def _measured(self, step: int, layers: list[LinearLayer], device: torch.device) -> Scalars:
        sigma = self._followed.measure(step, layers).sigma[:, 0]
        norm = norms([layer.view() for layer in layers]).double()
        rank = torch.where(norm < _SMALLEST, not_applicable(device), (norm / sigma).square().float())
        keys = tuple(SeriesKey(signal, layer.name) for signal in _SIGNALS for layer in layers)
        return Scalars(keys, torch.cat([norm.float(), rank]), Across.SAME)

    def _sums(self, step: int) -> Sums:
        """Sums over ranks, (3, layers): |W|_F^2, that over sigma_1^2, and whether sigma_1 is not known."""
        squares = norms([_part_here(layer) for layer in self._sharded]).double().square()
        known = self._followed.largest(step)
        sigma = torch.stack([known.get(layer.name, squares.new_tensor(torch.nan)).double() for layer in self._sharded])
        unknown = torch.isnan(sigma)
        ranks = torch.where(unknown, 0.0, squares / sigma.square())
        keys = tuple(SeriesKey(signal, layer.name) for signal in _SIGNALS for layer in self._sharded)
        return Sums(keys, torch.stack([squares, ranks, unknown.double()]), _finished)


def _part_here(layer: LinearLayer) -> Tensor:
    """Return what lies on this rank of a sharded layer's weight."""
    return rows_of(layer).weight if is_sharded_by_rows(layer) else layer.view_of(shard_of(layer.stored()).local)


def _finished(sums: Tensor) -> Tensor:
    """Norm and stable rank (2 * layers,) from the sums (3, layers) over all ranks."""
    squares, ranks, unknown = sums
    norm = squares.sqrt()
    ranks = torch.where((norm < _SMALLEST) | (unknown > 0), not_applicable(sums.device), ranks.float())
    return torch.cat([norm.float(), ranks])
