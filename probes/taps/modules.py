"""Hooks that exist only during a sampled step: what layers take in and give out, and which one runs. They hand over, and go."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..base import Guard
from ..model import WatchedModel
from .compiled import Hooks


class InputTap:
    """Calls back with the first input of chosen modules, once per module and sampled step, while training with gradients on.

    The first forward pass of the step is the one seen: further micro-batches, validation passes and the recomputation of
    activation checkpoints add nothing.
    """

    def __init__(self) -> None:
        self._hooks = Hooks()

    def place(
        self,
        modules: Iterable[nn.Module],
        callback: Callable[[nn.Module, Tensor], None],
        guard: Guard,
        model: WatchedModel | None = None,
    ) -> None:
        """Hook the modules; ``callback(module, input)`` must neither keep nor change the input.

        With ``model``, inputs of matrix products are handed over from inside its compiled parts too, where its setting allows
        it; without, modules of a model that has such parts must be left out.
        """
        seen: set[nn.Module] = set()

        def on_input(module: nn.Module, given: Tensor) -> None:
            if module.training and module not in seen:
                seen.add(module)
                guard(lambda: callback(module, given))

        inside = set() if model is None else model.compiled_modules()
        for module in dict.fromkeys(modules):
            device = None if model is None else model.device_to_tap(module)
            if module not in inside or device is not None:
                self._hooks.on_input(module, partial(on_input, module), device, stays=module in inside)

    def remove(self) -> None:
        """Remove the hooks, but for those that would have a compiled part compiled anew."""
        self._hooks.remove()


class OutputTap:
    """Calls back with the output of chosen modules, once per module and sampled step, as ``InputTap`` does with inputs.

    Gradients come by a tensor hook on the output: a module's backward hook would raise where an activation works in place.
    """

    def __init__(self) -> None:
        self._hooks = Hooks()
        self._handles: list[RemovableHandle] = []

    def place(self, modules: Iterable[nn.Module], callback: Callable[[nn.Module, Tensor], None], guard: Guard) -> None:
        """Hook the modules; ``callback(module, output)`` must neither keep nor change the output. No tensor, no call."""

        def if_whole(module: nn.Module, output: Any) -> None:
            # Of a sharded tensor any reduction would wait for the other ranks.
            if isinstance(output, Tensor) and not hasattr(output, "placements"):
                callback(module, output)

        self.place_on_any(modules, if_whole, guard)

    def place_on_any(self, modules: Iterable[nn.Module], callback: Callable[[nn.Module, Any], None], guard: Guard) -> None:
        """Hook modules whose output may be anything: tuples, dictionaries, objects (see ``tensors_in``)."""
        seen: set[nn.Module] = set()

        def on_output(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if module in seen or not module.training or not torch.is_grad_enabled():
                return
            seen.add(module)
            guard(lambda: callback(module, output))

        for module in dict.fromkeys(modules):
            self._hooks.after(module, on_output)

    def place_on_gradient(self, output: Tensor, callback: Callable[[Tensor], None], guard: Guard) -> None:
        """Wait for the first gradient of ``output``; ``callback(gradient)`` must neither keep nor change it."""
        if not output.requires_grad:
            return

        def on_gradient(gradient: Tensor) -> None:
            # The hook goes first: a graph kept for several backward passes gives several gradients.
            handle.remove()
            guard(lambda: callback(gradient))

        handle = output.register_hook(on_gradient)
        self._handles.append(handle)

    def remove(self) -> None:
        """Remove the hooks."""
        self._hooks.remove()
        while self._handles:
            self._handles.pop().remove()


def tensors_in(output: Any) -> list[Tensor]:
    """Return the tensors of a module's output, in its order: of tuples, lists, mappings and data classes, however deep."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, (str, bytes)) or output is None:
        return []
    if isinstance(output, Mapping):
        output = list(output.values())
    elif is_dataclass(output) and not isinstance(output, type):
        output = [getattr(output, field.name) for field in fields(output)]
    return [tensor for each in output for tensor in tensors_in(each)] if isinstance(output, (tuple, list)) else []


class RunningModules:
    """Knows the innermost module that is running its forward pass, so that a call deep inside can be named.

    The first forward pass of the step is followed, of each root, or where a training loop calls parts of the model and never the
    whole (as a LightningModule's training_step may), of each part: further micro-batches add nothing. So is, once per module,
    what an activation checkpoint recomputes within the backward pass: of a reentrant checkpoint that is the pass which has
    gradients.

    Args:
        on_enter: called when such a pass begins, training with gradients on.
        on_leave: called when that forward ends, also by an exception.
    """

    def __init__(self, on_enter: Callable[[], None], on_leave: Callable[[], None]) -> None:
        self._on_enter, self._on_leave = on_enter, on_leave
        self.recomputing = False
        """Whether the pass followed now, or last, is a recomputation."""
        self._hooks = Hooks()
        self._stack: list[tuple[nn.Module, str]] = []
        # Where a pass that was followed began, and all that ran in one.
        self._followed: set[nn.Module] = set()
        self._ran: set[nn.Module] = set()

    @property
    def innermost(self) -> str | None:
        """Name of the innermost running module, None outside the forward passes followed."""
        return self._stack[-1][1] if self._stack else None

    @property
    def between_passes(self) -> bool:
        """Whether a forward pass was followed, and none is now: what runs in a root belongs to a further micro-batch."""
        return bool(self._followed) and not self._stack

    def place(self, roots: Iterable[nn.Module], named_modules: Iterable[tuple[str, nn.Module]]) -> None:
        """Hook roots and every module below them that has children or no parameters of its own to offer a better name."""
        names = {module: name for name, module in named_modules}
        root_set = set(roots)
        for module, name in names.items():
            is_root = module in root_set
            if not is_root and not any(True for _ in module.children()):
                continue
            self._hooks.before(module, self._entering(name, is_root))
            self._hooks.after(module, self._leave, always=True)

    def remove(self) -> None:
        """Remove the hooks."""
        self._hooks.remove()
        self._stack.clear()
        self._followed.clear()
        self._ran.clear()

    def _entering(self, name: str, is_root: bool) -> Callable[..., None]:
        def enter(module: nn.Module, args: Any) -> None:
            if not self._stack:
                # Checked in this order: the last asks whether a backward pass is running.
                if not (module.training and torch.is_grad_enabled()) or module in self._followed:
                    return
                recomputing = not is_root and bool(self._followed) and torch._C._current_graph_task_id() != -1
                if not recomputing and any(part in self._ran for part in (module.modules() if is_root else (module,))):
                    return
                self.recomputing = recomputing
                self._followed.add(module)
                self._on_enter()
            elif self.recomputing:
                self._followed.add(module)  # a further micro-batch's backward pass enters it again, perhaps on its own
            self._ran.add(module)
            self._stack.append((module, name))

        return enter

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        # Found, not assumed on top: a module leaves without having entered where a hook before ours raised.
        for depth in reversed(range(len(self._stack))):
            if self._stack[depth][0] is module:
                del self._stack[depth:]
                if not self._stack:
                    self._on_leave()
                return
