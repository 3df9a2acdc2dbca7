"""How large an optimizer's update will be, told before it moves: from gradients, moments and learning rate, without a wait.

An ordinary gradient can make a wild update: the learning rate is another, or Adam's second moment was lost at a resume. So what a
step would change is reckoned first, of 64 tensors and 256 entries of each, as

    Adam and its kind   lr * m_hat / (sqrt(v_hat) + eps),  with m, v (or the largest v), and their bias corrections after this step
    SGD                 lr * (momentum buffer after this step; with Nesterov what it looks ahead to)
    any other           lr * 1 an entry: what it makes of gradients is not known, and with most it is a size that lr alone decides

and summed up to the 2-norm of the whole update. Weight decay is left out.

Cost: for each tensor three strided reads, and some operations on 16,384 numbers. Source: Kingma and Ba 2015, Algorithm 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

_TENSORS = 64
_ENTRIES = 256


@torch.no_grad()
def update_norm(optimizer: Optimizer, device: torch.device) -> Tensor:
    """Return the 2-norm of the update that the optimizer is about to make, 0-d float32 on ``device``; 0 where there is none."""
    scale = getattr(optimizer, "grad_scale", None)
    squares = [_of_group(optimizer, group, scale, device) for group in optimizer.param_groups]
    return torch.stack(squares).sum().sqrt() if squares else torch.zeros((), device=device)


def _of_group(optimizer: Optimizer, group: Mapping[str, Any], scale: Tensor | None, device: torch.device) -> Tensor:
    trained = [p for p in group["params"] if p.grad is not None and not p.grad.is_sparse and not p.is_complex() and p.numel()]
    rate = group.get("lr")
    if not trained or rate is None:
        return torch.zeros((), device=device)
    chosen = sorted(trained, key=lambda p: -p.numel())[:_TENSORS]
    sizes = torch.tensor([float(p.numel()) for p in chosen]) * (sum(p.numel() for p in trained) / sum(p.numel() for p in chosen))
    gradients = _entries([p.grad for p in chosen], device)
    if scale is not None:
        gradients = gradients / scale.to(device)
    direction = _direction(optimizer, group, chosen, gradients)
    squares = direction.square().mean(1) @ sizes.to(device, non_blocking=True)
    total: Tensor = _on(rate, device).square() * squares
    return total


def _direction(optimizer: Optimizer, group: Mapping[str, Any], chosen: Sequence[Tensor], g: Tensor) -> Tensor:
    """Return what the learning rate is multiplied with, (tensors, entries)."""
    states = [optimizer.state.get(p) or {} for p in chosen]
    if "betas" in group and "eps" in group and all("exp_avg_sq" in state or not state for state in states):
        return _adam(group, states, g)
    if isinstance(optimizer, SGD):
        momentum = group["momentum"]
        if not momentum:
            return g
        kept = [state.get("momentum_buffer") for state in states]
        new = torch.tensor([float(buffer is None) for buffer in kept]).to(g.device, non_blocking=True)[:, None]
        buffers = _moments(kept, g)
        buffers = torch.where(new > 0, g, momentum * buffers + (1 - group["dampening"]) * g)
        return g + momentum * buffers if group["nesterov"] else buffers
    return torch.ones_like(g)


def _adam(group: Mapping[str, Any], states: Sequence[Mapping[str, Any]], g: Tensor) -> Tensor:
    beta1, beta2 = (_on(beta, g.device) for beta in group["betas"])
    m = beta1 * _moments([state.get("exp_avg") for state in states], g) + (1 - beta1) * g
    v = beta2 * _moments([state.get("exp_avg_sq") for state in states], g) + (1 - beta2) * g.square()
    if group.get("amsgrad"):
        v = torch.maximum(v, _moments([state.get("max_exp_avg_sq") for state in states], g))
    steps = _steps([state.get("step", 0) for state in states]).to(g.device, non_blocking=True)[:, None] + 1
    moved = (m / (1 - beta1**steps)) / ((v / (1 - beta2**steps)).sqrt() + group["eps"])
    return torch.where(m == 0, 0.0, moved)  # 0 / 0 where eps is 0 and an entry never had a gradient


def _steps(counts: Sequence[Any]) -> Tensor:
    """Return step counts, float32, where the optimizer keeps them: one copy takes all to another device."""
    place = next((count.device for count in counts if isinstance(count, Tensor)), torch.device("cpu"))
    return torch.stack([_on(count, place) for count in counts])


def _moments(kept: Sequence[Tensor | None], like: Tensor) -> Tensor:
    """Return entries of moments, (tensors, entries); 0 where there are none yet."""
    if all(tensor is None for tensor in kept):
        return torch.zeros_like(like)
    rows = [None if tensor is None else _some(tensor) for tensor in kept]
    return torch.stack([torch.zeros_like(like[0]) if row is None else row.to(like.device, like.dtype) for row in rows])


def _entries(tensors: Sequence[Tensor | None], device: torch.device) -> Tensor:
    return torch.stack([_some(tensor).to(device, torch.float32) for tensor in tensors if tensor is not None])


def _some(tensor: Tensor) -> Tensor:
    """Return 256 entries, in the order of rows whatever the layout: evenly spread, or all of them again and again.

    The step is odd, so that they lie in many columns.
    """
    flat = tensor.detach().reshape(-1)
    if flat.numel() < _ENTRIES:
        return flat.repeat(-(-_ENTRIES // flat.numel()))[:_ENTRIES]
    step = flat.numel() // _ENTRIES
    return flat[:: step - (step % 2 == 0)][:_ENTRIES]


def _on(number: Any, device: torch.device) -> Tensor:
    """Return a number, or a 0-d tensor, as float32 on a device. Filled there: a number that is copied to a GPU is waited for."""
    if isinstance(number, Tensor):
        return number.detach().reshape(()).to(device, torch.float32, non_blocking=True)
    return torch.full((), float(number), device=device)
