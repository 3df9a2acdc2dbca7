"""Attention seen from inside: logits, entropy, the common shift of the logits, and the shift-invariance residual.

Trouble it reveals: logits that grow without bound and rows that collapse onto one key (entropy near 0), both of which come well
before the loss turns; and the low-precision bias of arXiv 2510.04212, whose gradient error shows as a gradient of the one
direction that softmax cannot feel, a common shift of all keys.

Cost: on a sampled step, per call one (2, H, 64, S) matrix of scores and copies of k and v of two sequences.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..storage.records import SeriesKey
from .attention_statistics import forward_statistics, key_shift_statistics, recompute
from .attention_tap import AttentionCalls, SeenCall
from .base import Block, Probe, Scalars
from .model import WatchedModel
from .precision import without_autocast
from .taps import RunningModules

_FUSED_IN_EVALUATION = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)


class AttentionProbe(Probe):
    """Per head: max logit, entropy (mean, minimum), common logit shift, key-shift residual and its excess over rounding."""

    name = "attention"
    presets = frozenset({"default", "full"})

    def __init__(self) -> None:
        super().__init__()
        self._model: WatchedModel | None = None
        self._running = RunningModules(self._enter, self._leave)
        self._mode: AttentionCalls | None = None
        self._entered = False
        self._fusable: list[nn.Module] = []

    @override
    def attach(self, model: WatchedModel) -> None:
        self._model = model
        self._fusable = [module for _, module in model.named_modules() if isinstance(module, _FUSED_IN_EVALUATION)]

    @override
    def arm(self, step: int) -> None:
        assert self._model is not None
        if self._model.is_compiled():
            return
        self._mode = AttentionCalls(lambda: self._running.innermost, self.guard)
        self._running.place(self._model.roots.values(), self._model.named_modules())

    def tell(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        *,
        name: str,
        is_causal: bool = False,
        attn_mask: Tensor | None = None,
        scale: float | None = None,
    ) -> None:
        """Report a hand-written attention call; does nothing on a step that is not sampled, without gradients, or in a
        micro-batch after the first."""
        if self._mode is not None and torch.is_grad_enabled() and not self._running.between_passes:
            self._mode.report(name, q, k, v, out, is_causal=is_causal, attn_mask=attn_mask, scale=scale)

    @override
    @torch.no_grad()
    def collect(self, step: int) -> Iterator[Block]:
        for call in self._mode.calls if self._mode else ():
            with without_autocast(call.sample.q.device):
                found = _statistics(call)
            for signal, values in found.items():
                keys = tuple(SeriesKey(signal, call.name, head) for head in range(values.shape[0]))
                yield Scalars(keys, values)

    @override
    def disarm(self) -> None:
        self._leave()
        self._running.remove()
        self._mode = None

    def _enter(self) -> None:
        # A mode keeps torch's fused inference path from being taken, whose results differ in the last bits.
        fused = any(not module.training for module in self._fusable)
        if self._mode is not None and not self._entered and not fused:
            self._mode.__enter__()  # type: ignore[no-untyped-call]
            self._entered = True

    def _leave(self) -> None:
        if self._mode is not None and self._entered:
            self._entered = False
            self._mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]


def _statistics(call: SeenCall) -> dict[str, Tensor]:
    rows = recompute(call.sample)
    found = {f"attention.{name}": values for name, values in forward_statistics(call.sample, rows).items()}
    # A graph kept for several backward passes gives several gradients; the first belongs to the sampled forward.
    if call.key_gradients and call.grad_out:
        shift = key_shift_statistics(call.sample, rows, call.key_gradients[0], call.grad_out[0])
        found |= {f"rounding.{name}": values for name, values in shift.items()}
    return found
