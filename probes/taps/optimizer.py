"""Sees parameters just before and just after an optimizer steps them, on a sampled step.

The hooks are torch's global ones: whichever optimizer holds a watched parameter is seen, several of them, and one made after the
monitor too. Of a parameter that is stepped more than once in a step, the first time counts. Gradients are those the optimizer is
handed, after clipping; where it calls a closure that computes them, they are looked at when that first returns. Sharded
parameters (DTensor) are left out unless they are asked for: a shard alone says nothing of the whole. An optimizer that shares the
parameters out among ranks (ZeroRedundancyOptimizer) counts as one that steps them all.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from ..base import Guard
from .closure import with_gradients


@dataclass(frozen=True, slots=True)
class Stepping:
    """One call of an optimizer's ``step``.

    Attributes:
        optimizer: the optimizer.
        parameters: what it steps that is watched and has a gradient, with the parameter group that each is in.
    """

    optimizer: Optimizer
    parameters: list[tuple[nn.Parameter, dict[str, Any]]]

    def held_here(self) -> "Stepping":
        """Return what this rank itself steps, and by which optimizer: a part, where ZeroRedundancyOptimizer shares out."""
        inner = getattr(self.optimizer, "optim", None)
        if type(self.optimizer).__name__ != "ZeroRedundancyOptimizer" or not isinstance(inner, Optimizer):
            return self
        groups = {id(p): group for group in inner.param_groups for p in group["params"]}
        return Stepping(inner, [(p, groups[id(p)]) for p, _ in self.parameters if id(p) in groups])

    def loss_scale(self, device: torch.device) -> Tensor | float:
        """Return what gradients are multiplied by before the step: GradScaler leaves dividing them to a fused optimizer."""
        scale = getattr(self.optimizer, "grad_scale", None)
        return scale.to(device, non_blocking=True) if isinstance(scale, Tensor) else 1.0

    def takes_place(self, device: torch.device) -> Tensor:
        """Return whether the optimizer steps, a bool of shape (): a fused one skips the step where a gradient has overflowed."""
        found = getattr(self.optimizer, "found_inf", None)
        if isinstance(found, Tensor):
            return found.to(device, non_blocking=True).reshape(()) == 0
        return torch.ones((), dtype=torch.bool, device=device)

    def by_device(self) -> dict[torch.device, "Stepping"]:
        """Return the part on each device."""
        parts: dict[torch.device, Stepping] = {}
        for parameter, group in self.parameters:
            parts.setdefault(parameter.device, Stepping(self.optimizer, [])).parameters.append((parameter, group))
        return parts


Callback = Callable[[Stepping], None]


class UpdateTap:
    """Calls back before and after watched parameters are stepped, once per parameter and sampled step, without gradients."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._waiting: set[int] = set()
        self._under_way: dict[int, Stepping] = {}

    def place(
        self, parameters: Iterable[Tensor], guard: Guard, before: Callback, after: Callback | None = None, *, sharded: bool = False
    ) -> None:
        """Hook every optimizer there is; the callbacks must neither change nor keep a parameter, a gradient or a state.

        ``sharded``: show sharded parameters too.
        """
        # Identities hold while the hooks do: the model keeps its parameters.
        self._waiting = {id(p) for p in parameters if sharded or not is_sharded(p)}

        def look(optimizer: Optimizer) -> None:
            groups = optimizer.param_groups
            held = [(p, group) for group in groups for p in group["params"] if id(p) in self._waiting and p.grad is not None]
            if held:
                self._waiting.difference_update(id(p) for p, _ in held)
                stepping = self._under_way[id(optimizer)] = Stepping(optimizer, held)
                _call(before, stepping, guard)

        def on_step(optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
            if not self._waiting or _becomes_a_graph():
                return None
            return with_gradients(args, kwargs, partial(look, optimizer))

        def on_stepped(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            stepping = self._under_way.pop(id(optimizer), None)
            # Whoever skips a step takes the gradients away, after we have seen them.
            taken = stepping is not None and any(p.grad is not None for p, _ in stepping.parameters)
            if stepping is not None and after is not None and taken:
                _call(after, stepping, guard)

        self._handles = [register_optimizer_step_pre_hook(on_step), register_optimizer_step_post_hook(on_stepped)]

    def remove(self) -> None:
        """Remove the hooks."""
        while self._handles:
            self._handles.pop().remove()
        self._waiting.clear()
        self._under_way.clear()


def is_sharded(parameter: Tensor) -> bool:
    """Tell a DTensor, without importing all of torch.distributed."""
    return hasattr(parameter, "placements")


def vector(values: Sequence[float | Tensor], device: torch.device) -> Tensor:
    """Return hyperparameters, some of which an optimizer may hold as tensors, as float64 (n,) on ``device``."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    if not tensors:
        return torch.tensor(values, dtype=torch.float64, device="cpu").to(device, non_blocking=True)
    if len(tensors) == len(values) and len({value.device for value in tensors}) == 1:
        return torch.stack([value.reshape(()) for value in tensors]).to(device, non_blocking=True).double()
    each = [value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64, device="cpu") for value in values]
    return torch.stack([value.to(device, torch.float64, non_blocking=True).reshape(()) for value in each])


def _call(callback: Callback, stepping: Stepping, guard: Guard) -> None:
    def work() -> None:
        with torch.no_grad():
            callback(stepping)

    guard(work)


def _becomes_a_graph() -> bool:
    """Tell whether the step is being compiled, or captured as a CUDA graph: what is measured now would run at every replay."""
    return torch.compiler.is_compiling() or (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())
