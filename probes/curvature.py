"""Sharpness: the top eigenvalue of the loss's Hessian, when it is asked for.

Trouble it reveals: training at the edge of stability. Plain gradient descent with learning rate lr diverges along the sharpest
direction once ``sharpness > 2 / lr``; with momentum and Adam the bound moves, and a run that lives at it spikes.

Formula: the largest eigenvalue of H on the space that power iteration ``v, H v, H^2 v, ...`` passes through (Lanczos, whose last
member alone power iteration keeps, at the same cost), from Hessian-vector products, which a second backward pass gives.

No probe can take it from a training step: the step's graph is gone after its one backward pass, and keeping it for a second would
change what training needs and computes. So it is no part of any preset, and is called with the loss to look at:

    monitor.log(**{"curvature.sharpness": sharpness(lambda: loss_of(model, batch), model)})

between ``optimizer.step()`` and ``monitor.step(loss)``, every few hundred steps. Training is not touched: gradients are not
accumulated, random generators and buffers (batch norms' means) are put back. Dropout is drawn once for the whole iteration.

Cost: one forward pass and, of backward passes, about 2 * iterations + 1; the host waits for a GPU at the end. Memory: the graph of
a double backward and five times the parameters, the one measure here that is not bounded: choose a small batch. Not for models
sharded over ranks, nor for compiled ones.

Source: arXiv 2103.00065 (edge of stability).
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

ITERATIONS = 20
_EPS = 1e-6
Vector = Sequence[Tensor]
"""One tensor for each parameter."""


def sharpness(closure: Callable[[], Tensor], model: nn.Module, *, iterations: int = ITERATIONS) -> Tensor:
    """Return the top Hessian eigenvalue of ``closure()`` over the model's trainable parameters: float32, shape (), on the device.

    Args:
        closure: runs a forward pass and returns the loss, unscaled; it must draw no data from a loader that training reads.
        model: whose parameters count.
        iterations: Hessian-vector products; 20 find an eigenvalue that stands out to a thousandth, a crowded one to some percent.

    Raises:
        RuntimeError: the loss cannot be differentiated twice (a compiled model, a fused kernel without a second derivative).
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    with _put_back(model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        loss = closure()
        gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
        # What the loss does not depend on, or only linearly, has no part in the curvature.
        curved = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None and g.requires_grad]
        if not curved:
            return torch.zeros((), dtype=torch.float32, device=loss.device)
        parameters, gradients = [p for p, _ in curved], tuple(g for _, g in curved)
        return _lanczos(partial(_product, gradients, parameters), _start(parameters), iterations)


def _product(gradients: tuple[Tensor, ...], parameters: list[nn.Parameter], vector: Vector) -> Vector:
    """Return H v: the Hessian is symmetric, so the gradients' own backward pass multiplies by it."""
    product: Vector = torch.autograd.grad(gradients, parameters, vector, retain_graph=True, materialize_grads=True)
    return product


@torch.no_grad()
def _lanczos(times: Callable[[Vector], Vector], start: Vector, iterations: int) -> Tensor:
    """Return the largest Ritz value. No more than three vectors are kept: lost orthogonality repeats values and spoils none."""
    vector, before = _scaled(start, 1.0 / _norm(start)), None
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    for _ in range(iterations):
        product = times(vector)
        diagonal.append(_dot(vector, product))
        rest = [p - diagonal[-1].to(p) * v for p, v in zip(product, vector, strict=True)]
        if before is not None:
            rest = [r - beside[-1].to(r) * b for r, b in zip(rest, before, strict=True)]
        beside.append(_norm(rest))
        # Nothing is left where the space is exhausted; zero vectors then add zeros, which stand apart from the rest.
        vector, before = _scaled(rest, torch.where(beside[-1] <= _EPS * diagonal[0].abs(), 0.0, 1.0 / beside[-1])), vector
    matrix = torch.stack(diagonal).diag() + torch.stack(beside[:-1]).diag(1) + torch.stack(beside[:-1]).diag(-1)
    if not matrix.isfinite().all():
        return torch.full((), torch.nan, dtype=torch.float32, device=matrix.device)
    largest: Tensor = torch.linalg.eigvalsh(matrix.double())[-1]
    return largest.float()


def _start(parameters: list[nn.Parameter]) -> Vector:
    generators = {p.device: torch.Generator(p.device).manual_seed(0) for p in parameters}
    return [torch.randn(p.shape, generator=generators[p.device], dtype=p.dtype, device=p.device) for p in parameters]


def _dot(a: Vector, b: Vector) -> Tensor:
    return torch.stack([(x.float() * y.float()).sum().to(a[0].device) for x, y in zip(a, b, strict=True)]).sum()


def _norm(vector: Vector) -> Tensor:
    norms = [torch.linalg.vector_norm(x, dtype=torch.float32).to(vector[0].device) for x in vector]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm


def _scaled(vector: Vector, factor: Tensor) -> Vector:
    return [x * factor.to(x) for x in vector]


@contextmanager
def _put_back(model: nn.Module) -> Iterator[None]:
    """Put back whatever a forward pass of the user's may draw from or write to."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    states = random.getstate(), np.random.get_state()
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda" and p.device.index is not None})
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        for buffer, before in buffers:
            # Through ``data``: a graph of the user's that holds the buffer must not take it for changed.
            buffer.data.copy_(before)
