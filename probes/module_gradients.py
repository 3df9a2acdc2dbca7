"""The gradient norm of every module that has parameters of its own.

Trouble it reveals: the layer where an exploding or vanishing gradient begins, which the norm over the whole model hides.

Formula: the 2-norm over all of the module's own parameters, those of its children not counted; a shared parameter counts in the
first module that has it. Measured when the optimizer is about to step, so *after* clipping, and with the loss scale of a
GradScaler divided out. Parameters without a gradient, and steps that a GradScaler skips, give nothing.

Cost: one read of every gradient, and a few kernels in all. Gradients of a sparse embedding are added up by row, in as much memory
as they take themselves.

Source: common practice.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from typing_extensions import override

from ..storage.records import SeriesKey
from .base import Across, Block, Probe, Scalars
from .model import WatchedModel
from .statistics.not_applicable import not_applicable
from .statistics.own_parameters import ModuleSums, OwnParameters
from .taps.optimizer import Stepping, UpdateTap


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

    @override
    def attach(self, model: WatchedModel) -> None:
        self._own = OwnParameters(model)

    @override
    def arm(self, step: int) -> None:
        assert self._own is not None
        self._tap.place(self._own.owners(), self.guard, self._measure)

    @override
    @torch.no_grad()
    def collect(self, step: int) -> Iterator[Block]:
        for modules, (squares, counted) in self._sums.take():
            norms = torch.where(counted == 0, not_applicable(squares.device), squares.sqrt().float())
            yield Scalars(tuple(SeriesKey("gradient.module_norm", name) for name in modules), norms, Across.SAME)

    @override
    def disarm(self) -> None:
        self._tap.remove()
        self._sums.clear()

    def _measure(self, stepping: Stepping) -> None:
        assert self._own is not None
        for device, part in stepping.by_device().items():
            gradients = [p.grad for p, _ in part.parameters if p.grad is not None]
            squares = (norms(gradients).double() / part.loss_scale(device)).square()
            # What a skipped step leaves out counts neither in the sum nor in the number of what is summed.
            taken = part.takes_place(device)
            values = torch.where(taken, torch.stack([squares, torch.ones_like(squares)]), 0.0)
            self._sums.add(self._own.names_of(p for p, _ in part.parameters), values)


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
