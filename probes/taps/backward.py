"""The loss of a training step, as its backward passes tell it: for loops that are not ours and show us no loss.

``Tensor.backward`` and everything that wraps it call ``torch.autograd.backward``; while somebody listens, that is what is wrapped,
as is ``GradScaler.scale``, so that a scaled loss is known by what it was. What is propagated back within one step adds up, as its
gradients do: losses divided by the number of micro-batches give the mean over these.

Not counted are tensors of more than one element, ``torch.autograd.grad``, and what an activation checkpoint propagates inside a
backward pass. A loss that was changed after a GradScaler had scaled it cannot be told from one that was not scaled.
"""

import threading
import weakref
from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.utils.weak import WeakTensorKeyDictionary

from ..base import Guard


class BackwardLoss:
    """Adds up what is propagated back, from its making until ``remove``.

    Args:
        guard: runs the adding; a fault in it never reaches the backward pass.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._sum: float | Tensor | None = None
        self._still: int | None = None
        _listen(self)

    def take(self) -> float | Tensor | None:
        """Return the loss since this was last asked; None where nothing was propagated back. A tensor where it is on a device."""
        taken, self._sum = self._sum, None
        return taken

    def start_with(self, loss: float | Tensor | None) -> None:
        """Count what another one took of this step."""
        self._sum = loss

    def allow(self, count: int | None) -> None:
        """Take so many losses from now on, None: all. One step of an optimizer with a closure may compute several."""
        self._still = count

    def remove(self) -> None:
        """Listen no more."""
        _unlisten(self)

    def on_backward(self, loss: Tensor) -> None:
        """Take a loss, before its gradients are computed."""
        self._guard(lambda: self._add(loss.detach()))

    def _add(self, loss: Tensor) -> None:
        if self._still is not None:
            if self._still == 0:
                return
            self._still -= 1
        # In host memory nothing is waited for, and adding is exact enough in double precision.
        value = loss.item() if loss.is_cpu else loss.reshape(()).float()
        self._sum = value if self._sum is None else self._sum + value


_listeners: "weakref.WeakSet[BackwardLoss]" = weakref.WeakSet()
_lock = threading.Lock()
_unscaled: "WeakTensorKeyDictionary" = WeakTensorKeyDictionary()
"""Scaled loss -> the loss."""
_backward, _scale = torch.autograd.backward, GradScaler.scale


def _listen(listener: BackwardLoss) -> None:
    with _lock:
        _listeners.add(listener)
        # Somebody else's wrapper is left alone: it calls ours, or what ours would.
        if torch.autograd.backward is _backward:
            torch.autograd.backward = _shown_backward
        if GradScaler.scale is _scale:
            GradScaler.scale = _shown_scale  # type: ignore[method-assign]


def _unlisten(listener: BackwardLoss) -> None:
    with _lock:
        _listeners.discard(listener)
        if not _listeners:
            if torch.autograd.backward is _shown_backward:
                torch.autograd.backward = _backward
            if GradScaler.scale is _shown_scale:
                GradScaler.scale = _scale  # type: ignore[method-assign]


def _shown_backward(tensors: Any, *args: Any, **kwargs: Any) -> None:
    # Within another backward pass an activation checkpoint goes on with its own.
    if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() == -1:
        for root in (tensors,) if isinstance(tensors, Tensor) else tensors if isinstance(tensors, (tuple, list)) else ():
            if isinstance(root, Tensor) and root.numel() == 1 and not hasattr(root, "placements"):
                loss = _unscaled.get(root, root)
                for listener in list(_listeners):
                    listener.on_backward(loss)
    _backward(tensors, *args, **kwargs)


def _shown_scale(self: GradScaler, outputs: Any) -> Any:
    scaled = _scale(self, outputs)
    if isinstance(outputs, Tensor) and scaled is not outputs and not torch.compiler.is_compiling():
        _unscaled[scaled] = outputs.detach()
    return scaled
