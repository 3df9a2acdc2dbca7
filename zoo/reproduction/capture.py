"""Takes q, k, v and dO of every attention call of one training step, without changing the step."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ..models import Attention, SelfAttention

Captured = dict[str, dict[str, Tensor]]
"""By module: ``q``, ``k``, ``v`` and ``do``, each (B, H, T, D)."""


@contextmanager
def capture(model: nn.Module, file: Path) -> Iterator[None]:
    """Write what attention is given and gets back within the block to a file: a ``Captured``, by ``torch.save``."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, SelfAttention)}
    before = {name: layer.attend for name, layer in layers.items()}
    found: Captured = {}
    for name, layer in layers.items():
        layer.attend = _recording(before[name], found.setdefault(name, {}))
    try:
        yield
    finally:
        for name, layer in layers.items():
            layer.attend = before[name]
    torch.save(found, file)


def load(file: Path) -> Captured:
    """Read what ``capture`` wrote."""
    found: Captured = torch.load(file, weights_only=True)
    return found


def _recording(attend: Attention, found: dict[str, Tensor]) -> Attention:
    def recorded(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        found.update(q=q.detach().clone(), k=k.detach().clone(), v=v.detach().clone())
        out = attend(q, k, v)
        out.register_hook(lambda grad: found.update(do=grad.detach().clone()))
        return out

    return recorded
