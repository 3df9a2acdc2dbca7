"""The first value of a step that is not finite: in which module, and in which direction.

Trouble it reveals: where an overflow or a 0/0 begins. One step later all that follows it is not finite either, and nothing
tells any more what was the cause.

Formula: ``nonfinite.count`` is the number of rows (tokens: all but the last dimension) of a tensor that hold a value which is not
finite (told by their sum, which is cheap). What is looked at, in the order in which it comes about, and under which name:

    <module>.optimizer   its parameters, as earlier steps left them
    <module>.input       what it was given, if that is no other module's output: model inputs, or what the code of its parent made
    <module>.forward     its output
    <module>.backward    the gradient at its output
    <module>.optimizer   its parameters after this step

The first of them that holds such a value is stored, and from then on at every sample, so that it is seen to heal; a healthy step
stores nothing, nor does what follows from a weight that is still broken. Modules are those with parameters of their own or without
children; what a module without any does in between shows at the next one's input. The first micro-batch of the step is looked at;
steps that are not sampled are not, but a loss or gradient norm that is not finite has the next step sampled (step/alarm.py). Of a
sharded tensor each rank looks at its own part.

Cost: one pass over each output, each gradient at an output, and twice over the parameters. Memory: at most 16 KiB of each, within
a sample.

Source: common practice.
"""

import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from ..storage.records import SeriesKey
from .base import Across, Block, Probe, Scalars
from .model import WatchedModel
from .statistics.not_applicable import not_applicable
from .taps.compiled import Hooks
from .taps.modules import OutputTap, tensors_in
from .taps.optimizer import is_sharded

_DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
# What is kept of a tensor until the step's end: 16 KiB at most.
_ROWS_KEPT = 4096
# These hand on what they are given.
_NOTHING_NEW = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity, nn.Flatten, nn.Unflatten)


class NonfiniteProbe(Probe):
    """The first module whose parameters, input, output or output gradient are not finite, and how many rows of them."""

    name = "nonfinite"
    presets = frozenset({"default", "full"})
    signals = ("nonfinite.count",)

    def __init__(self) -> None:
        super().__init__()
        self._model: WatchedModel | None = None
        self._names: dict[nn.Module, str] = {}
        self._gradients = OutputTap()
        self._hooks = Hooks()
        # In the order of time, by name, the rows of what was looked at; parameters come first, and once more at the end.
        self._entries: list[tuple[str, list[Tensor]]] = []
        self._parameters = 0
        self._outputs: dict[int, weakref.ref[Tensor]] = {}
        # Whether a name was the first one in any sample yet.
        self._told: dict[str, Tensor] = {}

    @override
    def attach(self, model: WatchedModel) -> None:
        self._model = model
        self._names = {
            module: name
            for name, module in model.named_modules()
            if (next(module.parameters(recurse=False), None) is not None or next(module.children(), None) is None)
            and not isinstance(module, _NOTHING_NEW)
        }

    @override
    def arm(self, step: int) -> None:
        self._look_at_parameters()
        self._parameters = len(self._entries)
        compiled = self._model.compiled_modules() if self._model is not None else set()
        forward: set[nn.Module] = set()
        backward: set[nn.Module] = set()

        def on_output(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if not module.training:
                return
            # A reentrant checkpoint runs forward without gradients first, and with them when it is too late for the order.
            if module not in forward:
                forward.add(module)
                self.guard(partial(self._look_at_call, self._names[module], args, output))
            if module not in backward and torch.is_grad_enabled():
                backward.add(module)
                self.guard(partial(self._wait_for_gradient, self._names[module], output))

        for module in self._names.keys() - compiled:
            self._hooks.after(module, on_output)

    @override
    @torch.no_grad()
    def collect(self, step: int) -> Iterator[Block]:
        if not self._entries:
            return
        self._look_at_parameters()
        counts = _counts([rows for _, rows in self._entries])
        device, bad = counts.device, counts > 0
        never = torch.zeros_like(bad[0])
        told = torch.stack([self._told.get(name, never) for name, _ in self._entries])
        # A weight that was told of and is still broken explains whatever else is.
        explained = (told & bad)[: self._parameters].any()
        first = bad & (bad.cumsum(0) == 1) & ~explained
        told = told | first
        shown = torch.where(told, counts, not_applicable(device)).unbind()
        # Of parameters, counts after the step are told, unless it was those before it that came first.
        values: dict[str, Tensor] = {}
        for (name, _), is_first, is_told, value in zip(self._entries, first.unbind(), told.unbind(), shown, strict=True):
            values[name] = torch.where(is_first | (value > 0), value, values[name]) if name in values else value
            self._told[name] = is_told | self._told.get(name, never)
        keys = tuple(SeriesKey("nonfinite.count", name) for name in values)
        yield Scalars(keys, torch.stack(list(values.values())), Across.SUM)

    @override
    def disarm(self) -> None:
        self._hooks.remove()
        self._gradients.remove()
        self._entries.clear()
        self._outputs.clear()

    @torch.no_grad()
    def _look_at_parameters(self) -> None:
        for module, name in self._names.items():
            rows = [_rows(local) for p in module.parameters(recurse=False) if _is_looked_at(local := _local(p))]
            if rows:
                self._entries.append((_series(name, "optimizer"), rows))

    @torch.no_grad()
    def _look_at_call(self, name: str, given: Any, output: Any) -> None:
        outputs = tensors_in(output)
        for x in tensors_in(given):
            known = self._outputs.get(id(x))
            if (known is None or known() is not x) and not any(x is y for y in outputs) and not isinstance(x, nn.Parameter):
                self._note(_series(name, "input"), x)
        for y in outputs:
            self._outputs[id(y)] = weakref.ref(y)
            self._note(_series(name, "forward"), y)

    def _wait_for_gradient(self, name: str, output: Any) -> None:
        for y in tensors_in(output):
            self._gradients.place_on_gradient(y, partial(self._note, _series(name, "backward")), self.guard)

    @torch.no_grad()
    def _note(self, name: str, x: Tensor) -> None:
        if _is_looked_at(local := _local(x)):
            self._entries.append((name, [_rows(local)]))


def _series(module: str, direction: str) -> str:
    return f"{module}.{direction}" if module else direction


def _local(x: Tensor) -> Tensor:
    """Return this rank's part of a sharded tensor, any other as it is: reductions of the whole would wait for the other ranks."""
    part: Tensor = x.to_local() if is_sharded(x) else x  # type: ignore[attr-defined]
    return part


def _is_looked_at(x: Tensor) -> bool:
    return x.dtype in _DTYPES and x.layout == torch.strided and x.numel() > 0 and not isinstance(x, nn.UninitializedParameter)


def _rows(x: Tensor) -> Tensor:
    """Return for each row of ``x`` a number that is finite if the row is, float32, (rows,); of many rows how many are not, ()."""
    x = x.detach() if x.dim() else x.detach()[None]
    # A sum is finite where all its terms are, unless they come near the end of the format's range: float16's is a short one.
    sums = x.sum(-1, dtype=torch.float32 if x.dtype == torch.float16 else x.dtype).flatten()
    # Which are not is told of all together, at the end: that saves three operations each.
    return sums.float() if len(sums) <= _ROWS_KEPT else _is_not_finite(sums).sum(dtype=torch.float32)


def _is_not_finite(x: Tensor) -> Tensor:
    return x * 0 != 0


def _counts(entries: list[list[Tensor]]) -> Tensor:
    """Return how many rows of each entry are not finite, float32."""
    device = entries[0][0].device
    here = [[rows.to(device, non_blocking=True) for rows in entry] for entry in entries]
    nothing = torch.zeros((), device=device)
    counted = torch.stack([sum((rows for rows in entry if not rows.dim()), start=nothing) for entry in here])
    kept = [[rows for rows in entry if rows.dim()] for entry in here]
    until = F.pad(_is_not_finite(torch.cat([nothing[None], *(rows for entry in kept for rows in entry)])).cumsum(0), (1, 0))
    ends = torch.tensor([1, *(sum(map(len, entry)) for entry in kept)], dtype=torch.int64, device="cpu").cumsum(0)
    return counted + until.index_select(0, ends.to(device, non_blocking=True)).diff()
