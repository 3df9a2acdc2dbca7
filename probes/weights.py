"""Norm and stable rank of the weight of every linear layer.

Trouble it reveals: weights that grow without end, and layers that fall back on a few directions: the stable rank, which is never
above the rank, sinks towards 1 as one singular value outgrows the others.

Formula: ``weight.norm = |W|_F``, ``weight.stable_rank = |W|_F^2 / sigma_1^2``; n/a for a weight of zeros. Of the weights that the
sampled step's forward pass uses. sigma_1 comes from warm-started iteration as in the spectral probe (see subspace.py), with one
pass less: its error stayed below 1e-4 over 300 steps of training at a high learning rate, sampled every ten. For entries between
1e-18 and 1e18, whose squares float32 holds; not of sharded weights. The spectral norm itself is the spectral probe's.

Cost: 6 reads of each weight. Memory: 2 * in floats a layer, 6 * in while a sample is prepared.

Source: Rudelson and Vershynin 2007 for the stable rank.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from typing_extensions import override

from ..storage.records import SeriesKey
from .base import Across, Block, Probe, Scalars
from .model import LinearLayer, WatchedModel
from .module_gradients import norms
from .statistics.not_applicable import not_applicable
from .statistics.precision import without_autocast
from .statistics.subspace import leading_pairs, starting_basis
from .taps.optimizer import is_sharded

# Passes over the weight as in the spectral probe: from a random start, while weights move fastest, and from then on.
ITERATIONS_COLD = (16, *[4] * 9)
ITERATIONS_WARM = 2
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
        self._bases: dict[str, Tensor] = {}
        self._samples = 0
        self._blocks: list[Scalars] = []

    @override
    def attach(self, model: WatchedModel) -> None:
        self._layers = [layer for layer in model.linear_layers() if not is_sharded(layer.stored())]

    @override
    def rebind(self) -> None:
        self._bases.clear()
        self._samples = 0

    @override
    @torch.no_grad()
    def arm(self, step: int) -> None:
        iterations = ITERATIONS_COLD[self._samples] if self._samples < len(ITERATIONS_COLD) else ITERATIONS_WARM
        by_device: dict[torch.device, list[LinearLayer]] = {}
        for layer in self._layers:
            by_device.setdefault(layer.stored().device, []).append(layer)
        for device, layers in by_device.items():
            with without_autocast(device):
                self._blocks.append(self._measured(layers, iterations, device))
        self._samples += 1

    @override
    def collect(self, step: int) -> Iterator[Block]:
        yield from self._blocks

    @override
    def disarm(self) -> None:
        self._blocks.clear()

    def _measured(self, layers: list[LinearLayer], iterations: int, device: torch.device) -> Scalars:
        weights = [layer.view() for layer in layers]
        pairs = leading_pairs(weights, [self._basis(*each) for each in zip(layers, weights, strict=True)], iterations)
        self._bases |= {layer.name: basis for layer, basis in zip(layers, pairs.bases, strict=True)}
        norm = norms(weights).double()
        rank = torch.where(norm < _SMALLEST, not_applicable(device), (norm / pairs.sigma[:, 0]).square().float())
        keys = tuple(SeriesKey(signal, layer.name) for signal in _SIGNALS for layer in layers)
        return Scalars(keys, torch.cat([norm.float(), rank]), Across.SAME)

    def _basis(self, layer: LinearLayer, weight: Tensor) -> Tensor:
        before = self._bases.get(layer.name)
        if before is None or before.device != weight.device or before.shape[1] != weight.shape[-1]:
            return starting_basis(layer.name, weight.shape[-1], weight.device)
        return before
