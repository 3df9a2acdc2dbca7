"""The gradient norm of every module that has parameters of its own.

Trouble it reveals: the layer where an exploding or vanishing gradient begins, which the norm over the whole model hides.

Formula: the 2-norm over all of the module's own parameters, those of its children not counted; a shared parameter counts in the
first module that has it. Measured when the optimizer is about to step, so *after* clipping, and with the loss scale of a
GradScaler divided out. Parameters without a gradient, and steps that a GradScaler skips, give nothing. Of parameters sharded over
ranks (FSDP2) each rank squares its part, and the squares are added.

Cost: one read of every gradient, and a few kernels in all. Gradients of a sparse embedding are added up by row, in as much memory
as they take themselves.

Source: common practice.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from typing_extensions import override

from ..storage.records import SeriesKey
from .base import Block, Probe, Sums
from .distributed.shard_samples import shard_of
from .model import WatchedModel
from .statistics.not_applicable import not_applicable
from .statistics.own_parameters import ModuleSums, OwnParameters
from .taps.optimizer import Stepping, UpdateTap, vector


class ModuleGradientProbe(Probe):
    """Norm of the gradient of each module's own parameters, after clipping."""

    name = "gradients"
    presets = frozenset({"light", "default", "full"})
    signals = ("gradient.module_norm",)

    def __init__(self) -> None:
        super().__init__()
        self._own: OwnParameters | None = None
        self._tap = UpdateTap()
        self._sums = ModuleSums()
        # Entries of the whole gradients, by module.
        self._sizes: Counter[str] = Counter()

    @override
    def attach(self, model: WatchedModel) -> None:
        self._own = OwnParameters(model)

    @override
    def arm(self, step: int) -> None:
        assert self._own is not None
        self._tap.place(self._own.owners(), self.guard, self._measure, sharded=True)

    @override
    @torch.no_grad()
    def collect(self, step: int) -> Iterator[Block]:
        for modules, sums in self._sums.take():
            keys = tuple(SeriesKey("gradient.module_norm", name) for name in modules)
            yield Sums(keys, sums, partial(_finished, tuple(self._sizes[name] for name in modules)))

    @override
    def disarm(self) -> None:
        self._tap.remove()
        self._sums.clear()
        self._sizes.clear()

    def _measure(self, stepping: Stepping) -> None:
        assert self._own is not None
        for device, part in stepping.by_device().items():
            parts = [shard_of(p.grad) for p, _ in part.parameters]
            squares = (norms([each.local for each in parts]).double() / part.loss_scale(device)).square()
            entries = vector([float(each.local.numel()) for each in parts], device)
            # What a skipped step leaves out counts neither in the sum nor in the number of what is summed.
            values = torch.where(part.takes_place(device), torch.stack([squares, entries]), 0.0)
            names = self._own.names_of(p for p, _ in part.parameters)
            for name, each in zip(names, parts, strict=True):
                self._sizes[name] += each.total
            self._sums.add(names, values)


def _finished(sizes: tuple[int, ...], sums: Tensor) -> Tensor:
    """The norms (modules,) from sums (2, modules) over all ranks: of squares, and of entries, of modules with so many."""
    squares, entries = sums
    # Ranks that hold copies count each entry several times.
    copies = entries / torch.tensor(sizes, dtype=torch.float64, device="cpu").to(sums.device, non_blocking=True)
    missing = (entries == 0) | ((copies - copies.round()).abs() > 1e-6)
    return torch.where(missing, not_applicable(sums.device), (squares / copies).sqrt().float())


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return the 2-norms (n,) of tensors on one device, some of which may be sparse; in float32, or float64 where one is."""
    dense = [_added_up(each) if each.layout == torch.sparse_coo else each for each in tensors]
    wide = any(each.dtype == torch.float64 for each in dense)
    return torch.stack(torch._foreach_norm(dense, 2.0, dtype=torch.float64 if wide else torch.float32))


def _added_up(gradient: Tensor) -> Tensor:
    """Return a sparse gradient's rows, those of the same place added up; ``coalesce`` would make the host wait for a GPU."""
    values = gradient._values()
    if gradient.is_coalesced() or len(values) == 0:
        return values
    indices = gradient._indices()
    place = indices[0]
    for size, index in zip(gradient.shape[1:], indices[1:], strict=False):
        place = place * size + index
    place, order = place.sort()
    # Rows of one place come one after the other now and share a number.
    number = torch.cat([place.new_zeros(1), (place[1:] != place[:-1]).long()]).cumsum(0)
    return torch.zeros_like(values).index_add_(0, number, values.index_select(0, order))
