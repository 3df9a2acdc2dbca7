"""Attention seen from inside: logits, entropy, the common shift of the logits, and the shift-invariance residual.

Trouble it reveals: logits that grow without bound and rows that collapse onto one key (entropy near 0), both of which come well
before the loss turns; and the low-precision bias of arXiv 2510.04212, whose gradient error shows as a gradient of the one
direction that softmax cannot feel, a common shift of all keys. No second, more precise run is needed for that.

Attention is seen by its calls (SDPA, ``nn.MultiheadAttention``, Hugging Face's eager functions). Of attention written by hand the
softmax is seen, and with it logits and entropy; what needs q, k and v is told by ``monitor.attention(q, k, v, out, name=...)``.

Formula: ``key_shift_residual = |sum_j dK_j| / |dK|`` per head and sequence, zero in exact arithmetic; ``key_shift_excess`` divides
it by what random rounding of dS and dK would leave; ``key_shift_coherence = |sum r| / sum |r|`` over the last 8 samples of
``r = sum_j dK_j``. ``common_logit_shift = mean_i |q_i . mean_j k_j| * scale``.

Cost: on a sampled step, per call one (2, H, 64, S) matrix of scores, two products with v of that size, and copies of k and v of
two sequences. Memory: taps/attention.py; 8 * G * D floats a call are kept from sample to sample.

Source: arXiv 2510.04212; the residual is our own, see docs/chain.md.
"""

from collections import deque
from collections.abc import Iterator

import torch
from typing_extensions import override

from .base import Across, Block, Scalars
from .statistics.attention import coherence, forward_statistics, key_shift_statistics, score_statistics
from .statistics.precision import without_autocast
from .taps.attention import AttentionObserver
from .taps.attention_calls import AttentionGroup

# Samples over which residuals are compared: random ones come to 0.35.
WINDOW = 8

_ACROSS = {"max_logit": Across.MAX, "entropy_min": Across.MIN}


class AttentionProbe(AttentionObserver):
    """Per head: max logit, entropy (mean, minimum), common logit shift, key-shift residual, its excess and its coherence."""

    name = "attention"
    presets = frozenset({"default", "full"})
    signals = (
        "attention.max_logit",
        "attention.entropy_mean",
        "attention.entropy_min",
        "attention.common_logit_shift",
        "rounding.key_shift_residual",
        "rounding.key_shift_excess",
        "rounding.key_shift_coherence",
    )

    def __init__(self) -> None:
        super().__init__()
        self._shifts: dict[tuple[str, ...], deque[torch.Tensor]] = {}

    @override
    def rebind(self) -> None:
        self._shifts.clear()

    @override
    @torch.no_grad()
    def collect(self, step: int) -> Iterator[Block]:
        for group in self._tap.groups() if self._tap else ():
            with without_autocast(group.sample.q.device):
                blocks = list(self._blocks(group))
            yield from blocks
        for seen in self._tap.written() if self._tap else ():
            with without_autocast(seen.scores.device):
                found = score_statistics(seen.scores)
            for name, values in found.items():
                yield Scalars(seen.keys(f"attention.{name}"), values, _ACROSS.get(name, Across.MEAN))

    def _blocks(self, group: AttentionGroup) -> Iterator[Block]:
        for name, values in forward_statistics(group.sample, group.rows).items():
            yield Scalars(group.keys(f"attention.{name}"), values, _ACROSS.get(name, Across.MEAN))
        gradient, grad_out = group.key_gradient, group.grad_out
        if gradient is None or grad_out is None:
            return
        found = key_shift_statistics(group.sample, group.rows, gradient, grad_out, group.grad_p)
        if found:
            window = self._shifts.setdefault(tuple(call.name for call in group.calls), deque(maxlen=WINDOW))
            window.append(gradient.shift.sum(0))
            if len(window) == WINDOW:
                found["key_shift_coherence"] = coherence(torch.stack(tuple(window)))
        for name, values in found.items():
            yield Scalars(group.keys(f"rounding.{name}", "key"), values)
