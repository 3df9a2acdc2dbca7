"""Hands the flight recorder what the probes' tap saw of attention: a probe that yields no values and keeps a few slices."""

from collections.abc import Iterator, Sequence

import torch
from typing_extensions import override

from .interventions.bundle import AttentionSlice
from .probes.base import Block
from .probes.taps.attention import AttentionObserver
from .probes.taps.attention_calls import SeenCall

_HEADS = 2


class SliceProbe(AttentionObserver):
    """Placed by ``watch()`` where ``capture`` was asked for; its cost counts as any probe's. In no preset."""

    name = "capture"
    presets = frozenset()
    signals = ()

    @override
    def collect(self, step: int) -> Iterator[Block]:
        yield from ()

    def slices(self) -> Sequence[AttentionSlice]:
        """Return what was seen in the sampled step that is about to end: two sequences, two heads a call."""
        if self._tap is None:
            return ()
        return [slice_of(call) for call in self._tap.calls if call.sample.out is not None and call.grad_out]


@torch.no_grad()
def slice_of(call: SeenCall) -> AttentionSlice:
    """Copy a part of a call: key heads as many as have two query heads among them, at least one."""
    sample = call.sample
    assert sample.out is not None
    each = sample.q.shape[1] // sample.k.shape[1]
    keys = min(sample.k.shape[1], max(1, _HEADS // each))
    heads = keys * each
    bias = sample.bias
    if bias is not None:
        bias = bias[:, :heads].clone() if bias.dim() == 4 else bias.clone()
    return AttentionSlice(
        module=call.name,
        heads=call.at.head_numbers[:heads],
        q=sample.q[:, :heads].clone(),
        k=sample.k[:, :keys].clone(),
        v=sample.v[:, :keys].clone(),
        out=sample.out[:, :heads].clone(),
        grad_out=call.grad_out[0][:, :heads].clone(),
        bias=bias,
        scale=sample.scale,
        spacing=sample.output_spacing,
        delta_from_output=sample.delta_from_output,
    )
