"""Norm and stable rank of the weight of every linear layer.

Trouble it reveals: weights that grow without end, and layers that fall back on a few directions: the stable rank, which is never
above the rank, sinks towards 1 as one singular value outgrows the others.

Formula: ``weight.norm = |W|_F``, ``weight.stable_rank = |W|_F^2 / sigma_1^2``; n/a for a weight of zeros. Of the weights that the
sampled step's forward pass uses. sigma_1 is the spectral probe's, measured once for both. For entries between 1e-18 and 1e18, whose
squares float32 holds; not of sharded weights.

Cost: one read of each weight; without the spectral probe its iteration, seven more. Memory: that probe's.

Source: Rudelson and Vershynin 2007 for the stable rank.
"""

from collections.abc import Iterator

import torch
from typing_extensions import override

from ..storage.records import SeriesKey
from .base import Across, Block, Probe, Scalars
from .model import LinearLayer, WatchedModel
from .module_gradients import norms
from .statistics.not_applicable import not_applicable
from .taps.optimizer import is_sharded
from .taps.singular_pairs import SingularPairs

_SIGNALS = ("weight.norm", "weight.stable_rank")
# Below it squares vanish in float32.
_SMALLEST = 1e-18


class WeightProbe(Probe):
    """Frobenius norm and stable rank of each linear layer's weight."""

    name = "weights"
    presets = frozenset({"default", "full"})
    signals = ("weight.norm", "weight.stable_rank")

    def __init__(self) -> None:
        super().__init__()
        self._layers: list[LinearLayer] = []
        self._followed = SingularPairs()
        self._blocks: list[Scalars] = []

    @override
    def attach(self, model: WatchedModel) -> None:
        self._followed = SingularPairs.of(model)
        self._layers = [layer for layer in model.linear_layers() if not is_sharded(layer.stored())]

    @override
    def rebind(self) -> None:
        self._followed.forget()

    @override
    @torch.no_grad()
    def arm(self, step: int) -> None:
        by_device: dict[torch.device, list[LinearLayer]] = {}
        for layer in self._layers:
            by_device.setdefault(layer.stored().device, []).append(layer)
        self._blocks = [self._measured(step, layers, device) for device, layers in by_device.items()]

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
