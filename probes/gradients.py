"""The global gradient norm at every step, before and after clipping, at next to no cost.

Whoever clips computes the norm anyway: ``torch.nn.utils.clip_grad_norm_`` calls two helpers of its own module, and these are what
is wrapped, so that it does not matter how the user imported the function. Where nothing is clipped, one fused norm over the
gradients runs in the optimizer's step pre-hook. Gradients changed by ``clip_grad_value_`` or by hand are seen as changed.
"""

import math
import threading
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.utils.clip_grad as clip_grad
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from .base import Guard

Norm = tuple[float | Tensor, float]
"""The norm of some gradients, and what it is clipped to (inf: not at all)."""


def joined(norms: list[Norm]) -> tuple[float | Tensor, float | Tensor] | None:
    """Return the norm over all of a step's gradients before and after clipping; None where no optimizer stepped.

    Clipping makes |g| to |g| * min(max_norm / (|g| + 1e-6), 1); a norm that is not finite stays so.
    """
    if not norms:
        return None
    before: list[float] = []
    after: list[float] = []
    for norm, limit in norms:
        if isinstance(norm, Tensor):
            return _joined_on_device(norms)
        before.append(norm)
        after.append(norm * min(1.0, limit / (norm + 1e-6)) if math.isfinite(norm) else math.nan if math.isfinite(limit) else norm)
    return math.hypot(*before), math.hypot(*after)


def _joined_on_device(norms: list[Norm]) -> tuple[Tensor, Tensor]:
    device = next(norm.device for norm, _ in norms if isinstance(norm, Tensor))
    before = torch.stack([torch.as_tensor(norm, device=device, dtype=torch.float32) for norm, _ in norms])
    limits = torch.tensor([limit for _, limit in norms]).to(device, non_blocking=True)
    return before.norm(), (before * torch.clamp(limits / (before + 1e-6), max=1.0)).norm()


class GradientNorm:
    """Measures the gradient norm of some parameters in every step.

    Args:
        parameters: those whose gradients count.
        optimizers: the optimizers that step them; empty means "whichever optimizer holds them", found when it first steps.
        guard: runs the measuring; a fault in it never reaches the optimizer.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        optimizers: Iterable[Optimizer],
        guard: Guard,
    ) -> None:
        self._parameters = list(parameters)
        self._ids = frozenset(map(id, self._parameters))
        self.guard = guard
        # This step's norms so far, and the parameters already counted by a clip.
        self._norms: list[Norm] = []
        self._clipped_ids: set[int] = set()
        self._clipped_all = False
        self.on_device = False
        """Whether a norm of this step lies on a device: it must start towards the host when the step ends."""
        self.optimizers: list[Optimizer] = list(optimizers)
        if self.optimizers:
            self._handles: list[RemovableHandle] = [o.register_step_pre_hook(self._on_step) for o in self.optimizers]
        else:
            self._handles = [register_optimizer_step_pre_hook(self._on_any_step)]
        _listen(self)

    def take(self) -> list[Norm]:
        """Return this step's norms, to be ``joined``, and begin the next step."""
        norms, self._norms, self._clipped_all, self.on_device = self._norms, [], False, False
        if self._clipped_ids:
            self._clipped_ids.clear()
        return norms

    def remove(self) -> None:
        """Remove every hook."""
        while self._handles:
            self._handles.pop().remove()
        _unlisten(self)

    def on_clip(self, parameters: list[Tensor], total: Tensor, max_norm: float) -> None:
        """Note a call of ``clip_grad_norm_`` that found ``total`` as the 2-norm of the gradients of ``parameters``."""
        if len(parameters) == len(self._parameters) and parameters[0] is self._parameters[0]:
            self._clipped_all = True
        else:
            ours = [p for p in parameters if id(p) in self._ids]
            if len(ours) != len(parameters) or not ours:
                return
            self._clipped_ids.update(map(id, ours))
        self._note(total, max_norm)

    def _note(self, norm: Tensor, max_norm: float) -> None:
        if norm.is_cpu:
            self._norms.append((norm.item(), max_norm))  # in host memory already: nothing is waited for
        else:
            self._norms.append((norm.detach(), max_norm))
            self.on_device = True

    def _on_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self._clipped_all:
            self.guard(partial(self._measure, optimizer))

    def _on_any_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if optimizer in self.optimizers:
            self._on_step(optimizer, args, kwargs)
        elif any(id(p) in self._ids for group in optimizer.param_groups for p in group["params"]):
            self.optimizers.append(optimizer)
            self._on_step(optimizer, args, kwargs)

    @torch.no_grad()
    def _measure(self, optimizer: Optimizer) -> None:
        grads = [
            p.grad
            for group in optimizer.param_groups
            for p in group["params"]
            if p.grad is not None and id(p) in self._ids and id(p) not in self._clipped_ids
        ]
        if grads:
            self._note(nn.utils.get_total_norm(grads), math.inf)


_listeners: "weakref.WeakSet[GradientNorm]" = weakref.WeakSet()
_lock = threading.Lock()
_originals: dict[str, Callable[..., Any]] = {}
_last_total = threading.local()


def _listen(listener: GradientNorm) -> None:
    with _lock:
        _listeners.add(listener)
        if not _originals:
            for name, wrapper in (("_get_total_norm", _get_total_norm), ("_clip_grads_with_norm_", _clip_grads_with_norm_)):
                original = getattr(clip_grad, name, None)
                if original is None:  # another torch version: norms are then those the optimizer sees
                    return
                _originals[name] = original
                setattr(clip_grad, name, wrapper)


def _unlisten(listener: GradientNorm) -> None:
    with _lock:
        _listeners.discard(listener)
        if not _listeners and _originals:
            for name, wrapper in (("_get_total_norm", _get_total_norm), ("_clip_grads_with_norm_", _clip_grads_with_norm_)):
                # Another tool may have wrapped it after us: then our wrapper stays, and passes everything through.
                if getattr(clip_grad, name) is wrapper:
                    setattr(clip_grad, name, _originals.pop(name))


def _get_total_norm(tensors: Any, norm_type: float = 2.0, *args: Any, **kwargs: Any) -> Tensor:
    total: Tensor = _originals["_get_total_norm"](tensors, norm_type, *args, **kwargs)
    if not torch.compiler.is_compiling():
        _last_total.value = total if norm_type == 2.0 else None
    return total


def _clip_grads_with_norm_(parameters: Any, max_norm: float, total_norm: Tensor, *args: Any, **kwargs: Any) -> None:
    if not torch.compiler.is_compiling() and getattr(_last_total, "value", None) is total_norm:
        for listener in list(_listeners):
            listener.guard(partial(listener.on_clip, list(parameters), total_norm, float(max_norm)))
        _last_total.value = None
    _originals["_clip_grads_with_norm_"](parameters, max_norm, total_norm, *args, **kwargs)
