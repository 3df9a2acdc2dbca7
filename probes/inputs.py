"""The size of what the model is given: the root mean square of its input.

Trouble it reveals: batches in another unit than the others (raw bytes among scaled images), and inputs that drift while training
goes on. Both look from inside like a model that has gone wrong.

Formula: ``input.rms = sqrt(mean x^2)`` over at most 4,096 entries of the first positional input of each root module, if it holds
floating-point numbers: token ids have no size.

Cost: 16 KB copied and reduced. Memory: one number a root module.

Source: common practice.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..storage.records import SeriesKey
from .base import Block, Probe, Sums
from .model import WatchedModel
from .statistics.precision import without_autocast
from .statistics.samples import sample_entries
from .taps.modules import InputTap


class InputProbe(Probe):
    """Root mean square of the input of each root module."""

    name = "inputs"
    presets = frozenset({"light", "default", "full"})
    signals = ("input.rms",)

    def __init__(self) -> None:
        super().__init__()
        self._model: WatchedModel | None = None
        self._roots: dict[nn.Module, str] = {}
        self._tap = InputTap()
        self._sums: dict[str, Tensor] = {}

    @override
    def attach(self, model: WatchedModel) -> None:
        self._model = model
        self._roots = {root: prefix.rstrip(".") for prefix, root in model.roots.items()}

    @override
    def arm(self, step: int) -> None:
        if self._model is not None:
            self._tap.place(self._roots.keys() - self._model.compiled_modules(), self._on_input, self.guard)

    @override
    def collect(self, step: int) -> Iterator[Block]:
        for name, sums in self._sums.items():
            yield Sums((SeriesKey("input.rms", name),), sums, _finished)

    @override
    def disarm(self) -> None:
        self._tap.remove()
        self._sums.clear()

    @torch.no_grad()
    def _on_input(self, module: nn.Module, x: Tensor) -> None:
        if not x.is_floating_point() or x.numel() == 0 or hasattr(x, "placements"):
            return
        with without_autocast(x.device):
            entries = sample_entries(x.detach()).double()
            self._sums[self._roots[module]] = torch.stack([entries.square().sum(), torch.ones_like(entries).sum()])


def _finished(sums: Tensor) -> Tensor:
    return (sums[0] / sums[1]).sqrt().float()[None]
