"""The global gradient norm at every step, before and after clipping, at next to no cost.

Whoever clips computes the norm anyway: ``torch.nn.utils.clip_grad_norm_`` calls two helpers of its own module, and these are what
is wrapped, so that it does not matter how the user imported the function. Where nothing is clipped, or by another norm, or with
parameters of others, one fused norm over our gradients is taken, before the clip or in the optimizer's step pre-hook. Gradients
changed by ``clip_grad_value_`` or by hand are seen as changed; of several clips of a parameter the first of the step is seen.

Where gradients are sharded over the ranks (FSDP2), a clip's norm is that of the whole gradient, and is taken. Without a clip each
rank knows the norm of its own part only: on sampled steps the parts are added up with everything else that ranks exchange, and on
other steps there is no gradient norm. Nothing of ours is ever reduced here: that would hang where one rank is not watched.
"""

import math
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.utils.clip_grad as clip_grad
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from ...storage.records import SeriesKey
from ..base import Block, Guard, Sums
from ..statistics.not_applicable import not_applicable
from ..taps.closure import with_gradients
from ..taps.optimizer import is_sharded

Norm = tuple[float | Tensor, float | Tensor, float]
"""The 2-norm of some gradients, the norm a clip judged them by, and what it clipped that to (inf: not at all)."""


def joined(norms: list[Norm]) -> tuple[float | Tensor, float | Tensor] | None:
    """Return the norm over all of a step's gradients before and after clipping; None where no optimizer stepped.

    Clipping scales gradients by min(max_norm / (norm judged + 1e-6), 1); a norm that is not finite stays so.
    """
    if not norms:
        return None
    before: list[float] = []
    after: list[float] = []
    for norm, judged, limit in norms:
        if isinstance(norm, Tensor) or isinstance(judged, Tensor):
            return _joined_on_device(norms)
        before.append(norm)
        if limit == math.inf:
            after.append(norm)
        else:
            after.append(norm * min(1.0, limit / (judged + 1e-6)) if math.isfinite(judged) else math.nan)
    return math.hypot(*before), math.hypot(*after)


def _joined_on_device(norms: list[Norm]) -> tuple[Tensor, Tensor]:
    device = next(norm.device for both in norms for norm in both[:2] if isinstance(norm, Tensor))
    before, judged = (torch.stack([torch.as_tensor(both[i], device=device, dtype=torch.float32) for both in norms]) for i in (0, 1))
    limits = torch.tensor([limit for _, _, limit in norms], dtype=torch.float32, device="cpu").to(device, non_blocking=True)
    scales = torch.where(limits.isinf(), 1.0, torch.clamp(limits / (judged + 1e-6), max=1.0))
    return before.norm(), (before * scales).norm()


LONGEST_REACH = 1e4
"""Of a momentum of 1, which forgets nothing, no run is long enough to see more."""


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
        self.norms: list[Norm] = []
        """This step's norms so far. Whoever ends the step takes the list and leaves a new one: that alone begins the next step."""
        self.rate: float | Tensor | None = None
        """The learning rate of the last optimizer step, of the first optimizer's first group."""
        self.reach: float | None = None
        """How many times the learning rate a gradient moves the weights in all, where that group has a momentum that sums."""
        # What was noted of a step is tied to its list of norms, and so is over when the list is taken.
        self._clipped_ids: set[int] = set()
        # On a sampled step, the norms of this rank's parts of sharded gradients.
        self._shares: list[Tensor] | None = None
        self._ranks = 1
        self._ids_of = self._clipped_all_of = self._on_device_of = self.norms[:]
        self.optimizers: list[Optimizer] = list(optimizers)
        if self.optimizers:
            # Not compiled: a function of the user's may be, that steps the optimizer.
            on_step = torch.compiler.disable(self._on_step)
            self._handles: list[RemovableHandle] = [o.register_step_pre_hook(on_step) for o in self.optimizers]
        else:
            self._handles = [register_optimizer_step_pre_hook(torch.compiler.disable(self._on_any_step))]
        _listen(self)

    @property
    def on_device(self) -> bool:
        """Whether a norm of this step lies on a device: it must start towards the host when the step ends."""
        return self._on_device_of is self.norms

    def take(self) -> list[Norm]:
        """Return this step's norms, to be ``joined``, and begin the next step."""
        norms, self.norms = self.norms, []
        return norms

    def want_shares(self) -> None:
        """The step to come is sampled: keep the norms of this rank's parts of sharded gradients."""
        self._shares = []

    def shares(self) -> Iterator[Block]:
        """Yield the sampled step's norm as sums over ranks, where each has a part of the gradients. Call after ``take``."""
        shares, self._shares = self._shares, None
        if shares:
            square = torch.stack([share.double() for share in shares]).square().sum()
            keys = (SeriesKey("gradient.norm"), SeriesKey("gradient.norm_clipped"))
            yield Sums(keys, torch.stack([square, torch.ones_like(square)]), partial(_whole_norm, self._ranks))

    def remove(self) -> None:
        """Remove every hook."""
        while self._handles:
            self._handles.pop().remove()
        _unlisten(self)

    def on_clip(self, parameters: list[Tensor], total: Tensor, euclidean: bool, max_norm: float) -> None:
        """Note a call of ``clip_grad_norm_`` before it scales.

        Args:
            parameters: whose gradients are clipped.
            total: their norm.
            euclidean: it is the 2-norm.
            max_norm: what it is clipped to.
        """
        if self._clipped_all_of is self.norms:
            return
        if is_sharded(total):
            whole = _whole_total(total)
            if whole is None or not euclidean or self._ids != {id(p) for p in parameters}:
                self._forget_norm()
            else:
                self._clipped_all_of = self.norms
                self._note(whole, whole, max_norm)
            return
        if self._ids_of is not self.norms:
            self._clipped_ids.clear()
            self._ids_of = self.norms
        if euclidean and self._parameters and len(parameters) == len(self._parameters) and parameters[0] is self._parameters[0]:
            self._clipped_all_of = self._clipped_all_of if self._clipped_ids else self.norms
        if self._clipped_all_of is self.norms:
            norm = total
        else:
            clipped = [p for p in parameters if p.grad is not None]
            ours = [p for p in clipped if id(p) in self._ids and id(p) not in self._clipped_ids]
            if not ours:
                return
            self._clipped_ids.update(map(id, ours))
            norm = total if euclidean and len(ours) == len(clipped) else _norm_of([p.grad for p in ours if p.grad is not None])
        self._note(norm, total, max_norm)

    def _note(self, norm: Tensor, judged: Tensor, max_norm: float) -> None:
        if norm.is_cpu and judged.is_cpu:
            value = norm.item()  # in host memory already: nothing is waited for
            self.norms.append((value, value if judged is norm else judged.item(), max_norm))
        else:
            self.norms.append((norm.detach(), judged.detach(), max_norm))
            self._on_device_of = self.norms

    def _forget_norm(self) -> None:
        """There is no knowing this step's norm without a reduction of ours."""
        self.norms.clear()
        self._clipped_all_of = self.norms
        self._shares = None

    def _on_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        if optimizer is self.optimizers[0]:
            # Read here, where the optimizer is about to: afterwards a scheduler may have set the next step's.
            group = optimizer.param_groups[0]
            self.rate, self.reach = group.get("lr"), _reach(group.get("momentum"), group.get("dampening", 0.0))
        if self._clipped_all_of is self.norms:
            return None
        return with_gradients(args, kwargs, partial(self._measure_unless_clipped, optimizer))

    def _on_any_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        if optimizer in self.optimizers:
            return self._on_step(optimizer, args, kwargs)
        if any(getattr(outer, "optim", None) is optimizer for outer in self.optimizers):
            return None  # within ZeroRedundancyOptimizer's own step, whose gradients were all measured
        if any(id(p) in self._ids for group in optimizer.param_groups for p in group["params"]):
            self.optimizers.append(optimizer)
            return self._on_step(optimizer, args, kwargs)
        return None

    def _measure_unless_clipped(self, optimizer: Optimizer) -> None:
        if self._clipped_all_of is not self.norms:  # a closure that computes the gradients may clip them too
            self.guard(partial(self._measure, optimizer))

    @torch.no_grad()
    def _measure(self, optimizer: Optimizer) -> None:
        counted = self._clipped_ids if self._ids_of is self.norms else ()
        grads = [
            p.grad
            for group in optimizer.param_groups
            for p in group["params"]
            if p.grad is not None and id(p) in self._ids and id(p) not in counted
        ]
        if not grads:
            return
        sharded = [is_sharded(grad) for grad in grads]
        if any(sharded):
            if self.norms or not all(sharded):
                self._forget_norm()
            self._keep_share(optimizer, grads)
            return
        norm = _norm_of(grads)
        scale = getattr(optimizer, "grad_scale", None)
        if scale is not None:  # a fused optimizer under GradScaler takes scaled gradients and divides by itself
            norm = norm / scale.to(norm.device)
        self._note(norm, norm, math.inf)

    def _keep_share(self, optimizer: Optimizer, grads: list[Any]) -> None:
        if self._shares is not None:
            share = _norm_of([grad.to_local() for grad in grads])
            scale = getattr(optimizer, "grad_scale", None)
            self._shares.append(share if scale is None else share / scale.to(share.device))
            self._ranks = grads[0].device_mesh.size()


def _whole_total(total: Any) -> Tensor | None:
    """Return the value of a clip's norm over sharded gradients; None where it is not reduced yet."""
    return total.to_local() if all(placement.is_replicate() for placement in total.placements) else None


def _whole_norm(ranks: int, sums: Tensor) -> Tensor:
    """Return the norm before and after clipping, none having been, from the parts' squares; n/a if one of the parts is missing."""
    norm = torch.where(sums[1] == ranks, sums[0].sqrt().float(), not_applicable(sums.device))
    return norm.expand(2)


@torch.no_grad()
def _norm_of(grads: list[Tensor]) -> Tensor:
    """Return the 2-norm over all of ``grads``, 0-d."""
    try:
        return nn.utils.get_total_norm(grads)
    except NotImplementedError:  # sparse ones, of an embedding say, have no norm of their own
        return nn.utils.get_total_norm([grad.coalesce().values() if grad.is_sparse else grad for grad in grads])


_listeners: "weakref.WeakSet[GradientNorm]" = weakref.WeakSet()
_lock = threading.Lock()
_originals: dict[str, Callable[..., Any]] = {}
_placed: set[str] = set()
_last_total = threading.local()


def _listen(listener: GradientNorm) -> None:
    with _lock:
        _listeners.add(listener)
        if not all(hasattr(clip_grad, name) for name in _WRAPPERS):  # another torch version: norms are those the optimizer sees
            return
        for name, wrapper in _WRAPPERS.items():
            if name not in _placed:
                _placed.add(name)
                # Kept for good: somebody may hold our wrapper after we took it back.
                _originals[name] = getattr(clip_grad, name)
                setattr(clip_grad, name, wrapper)


def _unlisten(listener: GradientNorm) -> None:
    with _lock:
        _listeners.discard(listener)
        if _listeners:
            return
        for name, wrapper in _WRAPPERS.items():
            # Another tool may have wrapped it after us: then our wrapper stays, and passes everything through.
            if getattr(clip_grad, name, None) is wrapper:
                setattr(clip_grad, name, _originals[name])
                _placed.discard(name)


def _get_total_norm(tensors: Any, norm_type: float = 2.0, *args: Any, **kwargs: Any) -> Tensor:
    total: Tensor = _originals["_get_total_norm"](tensors, norm_type, *args, **kwargs)
    if not torch.compiler.is_compiling():
        _last_total.value = total, float(norm_type) == 2.0
    return total


def _clip_grads_with_norm_(parameters: Any, max_norm: float, total_norm: Tensor, *args: Any, **kwargs: Any) -> None:
    if not torch.compiler.is_compiling():
        total, euclidean = getattr(_last_total, "value", None) or (None, False)
        if total is total_norm:
            for listener in list(_listeners):
                listener.guard(partial(listener.on_clip, list(parameters), total_norm, euclidean, float(max_norm)))
        _last_total.value = None
    _originals["_clip_grads_with_norm_"](parameters, max_norm, total_norm, *args, **kwargs)


_WRAPPERS: dict[str, Callable[..., Any]] = {
    "_get_total_norm": _get_total_norm,
    "_clip_grads_with_norm_": _clip_grads_with_norm_,
}


def _reach(momentum: object, dampening: object) -> float | None:
    """Return ``(1 - dampening) / (1 - momentum)``, at most ``LONGEST_REACH``: the sum of what one gradient moves."""
    if not (isinstance(momentum, float) and isinstance(dampening, (int, float)) and momentum > 0.0):
        return None
    return min((1.0 - dampening) / max(1.0 - momentum, 1e-9), LONGEST_REACH)
