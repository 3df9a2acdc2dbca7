"""The normaliser of the model's output distribution: log Z of its logits.

Trouble it reveals: logits that drift as a whole. Cross-entropy does not feel a constant added to a token's logits, so log Z is held
by nothing; where it wanders far from zero, low precision rounds the logits coarsely and the loss diverges late in training.

Formula: ``log_z = mean_t log sum_j exp(z_tj)`` over at most 256 tokens t (fewer where the vocabulary is large).

What counts as the head: the layer whose output the model itself returns, on its own or among others, the widest if there are
several; else the last linear layer of the forward pass, if it widens. What it gives out are logits if the loss, like
cross-entropy, does not feel a common shift of them, which the gradient tells: it sums to zero for every token. Anything else, a
regression, say, has no log Z. So has a loss with a z-term of its own, where that term is more than a small part of the gradient.

Cost: a copy of 256 tokens of logits and of their gradient, at most 4 million numbers each, and some four passes over them.

Source: "ST-MoE" (arXiv 2202.08906) and "Small-scale proxies for large-scale Transformer training instabilities" (arXiv 2309.14322).
"""

import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..storage.records import SeriesKey
from .base import Block, Probe, Scalars
from .model import WatchedModel
from .statistics.not_applicable import not_applicable
from .statistics.precision import without_autocast
from .statistics.tokens import sample_outputs
from .taps.modules import OutputTap, tensors_in

TOKENS = 256
# Most logits copied; a vocabulary of 128,000 leaves 32 tokens.
_MOST_LOGITS = 1 << 22
# Most of a gradient's magnitude that its sum may leave: rounding in bfloat16 leaves a few thousandths, a regression with d
# outputs 1 / sqrt(d).
_MOST_SHIFT = 0.02


class OutputProbe(Probe):
    """Mean log Z of the model's output logits."""

    name = "output"
    presets = frozenset({"light", "default", "full"})
    signals = ("output.log_z",)

    def __init__(self) -> None:
        super().__init__()
        self._model: WatchedModel | None = None
        self._heads: dict[nn.Module, str] = {}
        self._tap, self._roots = OutputTap(), OutputTap()
        # Outputs of linear layers by object; kept alive is only the last one.
        self._called: dict[nn.Module, weakref.ref[Tensor]] = {}
        self._last: tuple[nn.Module, Tensor] | None = None
        self._log_z: dict[nn.Module, Tensor] = {}
        self._shift: dict[nn.Module, Tensor] = {}

    @override
    def attach(self, model: WatchedModel) -> None:
        self._model = model
        self._heads = {layer.module: layer.name for layer in model.linear_layers() if not layer.part}

    @override
    def arm(self, step: int) -> None:
        if self._model is None:
            return
        compiled = self._model.compiled_modules()
        # Layers first: a root may be a linear layer itself, and its hooks are called in the order they are placed.
        self._tap.place(self._heads.keys() - compiled, self._on_layer, self.guard)
        self._roots.place_on_any(set(self._model.roots.values()) - compiled, self._on_root, self.guard)

    @override
    @torch.no_grad()
    def collect(self, step: int) -> Iterator[Block]:
        for head, shift in self._shift.items():
            # NaN is not above the bound: where the gradient is not finite, log Z is told as it is.
            log_z = torch.where(shift > _MOST_SHIFT, not_applicable(shift.device), self._log_z[head])
            yield Scalars((SeriesKey("output.log_z", self._heads[head]),), log_z[None])

    @override
    def disarm(self) -> None:
        self._tap.remove()
        self._roots.remove()
        self._called.clear()
        self._last = None
        self._log_z.clear()
        self._shift.clear()

    def _on_layer(self, module: nn.Module, output: Tensor) -> None:
        self._called[module] = weakref.ref(output)
        self._last = module, output

    def _on_root(self, root: nn.Module, output: Any) -> None:
        last, self._last = self._last, None
        returned = {id(tensor) for tensor in tensors_in(output)}
        found = [
            (module, tensor) for module, ref in self._called.items() if (tensor := ref()) is not None and id(tensor) in returned
        ]
        self._called.clear()
        if not found and last is not None and _widens(last[0]):
            found = [last]
        if found:
            self._look_at(*max(found, key=lambda each: _width(*each)))

    @torch.no_grad()
    def _look_at(self, head: nn.Module, logits: Tensor) -> None:
        width = _width(head, logits)
        if width < 2 or logits.numel() == 0 or not logits.is_floating_point() or not logits.requires_grad:
            return
        limit = max(1, min(TOKENS, _MOST_LOGITS // width))
        with without_autocast(logits.device):
            self._log_z[head] = sample_outputs(head, logits, limit).logsumexp(1).mean()
        self._tap.place_on_gradient(logits, partial(self._on_gradient, head, limit), self.guard)

    @torch.no_grad()
    def _on_gradient(self, head: nn.Module, limit: int, gradient: Tensor) -> None:
        with without_autocast(gradient.device):
            deltas = sample_outputs(head, gradient, limit)
            left, whole = deltas.sum(1).abs().sum(), deltas.abs().sum()
            # Without any gradient nothing tells logits from other numbers.
            self._shift[head] = torch.where(whole == 0, torch.inf, left / whole)


def _width(module: nn.Module, output: Tensor) -> int:
    return output.shape[-3 if isinstance(module, nn.Conv2d) else -1]


def _widens(module: nn.Module) -> bool:
    weight = module.weight
    assert isinstance(weight, Tensor)
    if weight.dim() == 4:
        return weight.shape[0] > weight.shape[1]
    return weight.shape[0] > weight.shape[1] if isinstance(module, nn.Linear) else weight.shape[1] > weight.shape[0]
