"""The attention calls of a sampled step, and groups of them that are worked on as one.

Calls of one shape, mask and arithmetic are laid side by side along the axis of heads: on small models a kernel launch costs more
than what it works out, and the layers of a model are mostly alike. What is worked out for one probe is there for the next.
"""

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from ...storage.records import SeriesKey
from ..statistics.attention import AttentionSample, KeyGradient, RecomputedRows, per_query_head, recompute

# Most float32 numbers of calls laid side by side: joining copies them, which large calls are not worth.
_MOST_JOINED = 1 << 22


@dataclass(frozen=True, slots=True)
class LookedAt:
    """Which part of a call is looked at.

    Attributes:
        sequences: how many, the first of the batch.
        heads, key_heads: indices on the device, None for all.
        rows: of the queries, indices on the device, None for all.
        head_numbers, key_head_numbers: the heads, as numbers.
    """

    sequences: int
    heads: Tensor | None
    key_heads: Tensor | None
    rows: Tensor | None
    head_numbers: tuple[int, ...]
    key_head_numbers: tuple[int, ...]


@dataclass(slots=True)
class SeenCall:
    """One attention call: the sample now, the gradients once backward has passed.

    Attributes:
        q_shape: (B, H, T, D) of the whole call.
        x: (B, R, C), the input of the query projection, where it is known.
        projected: (B, H, R, D), what the projection gave, as recomputed from it.
        weights: W_q (all H * D, C) and W_k as stored, where the call itself shows them.
    """

    name: str
    sample: AttentionSample
    at: LookedAt
    q_shape: tuple[int, ...]
    x: Tensor | None = None
    projected: Tensor | None = None
    weights: tuple[Tensor, Tensor] | None = None
    key_gradients: list[KeyGradient] = field(default_factory=list)
    grad_out: list[Tensor] = field(default_factory=list)


class AttentionGroup:
    """Calls that are worked on as one. Shapes as in attention_statistics.py, with H and G the heads of all calls together."""

    def __init__(self, calls: list[SeenCall]) -> None:
        self.calls = calls

    @cached_property
    def sample(self) -> AttentionSample:
        """The samples side by side."""
        samples, first = [call.sample for call in self.calls], self.calls[0].sample
        if len(samples) == 1:
            return first
        q, k, v = (torch.cat([getattr(sample, name) for sample in samples], 1) for name in ("q", "k", "v"))
        outs = [sample.out for sample in samples if sample.out is not None]
        out = torch.cat(outs, 1) if outs else None
        return AttentionSample(
            q, k, v, out, first.bias, first.scale, first.roundoff, first.output_spacing, first.delta_from_output, first.row_share
        )

    @cached_property
    def rows(self) -> RecomputedRows:
        """The softmax of the rows."""
        return recompute(self.sample)

    @cached_property
    def grad_out(self) -> Tensor | None:
        """Gradient of the output, (B, H, R, D). A graph kept for several backward passes gives several; the first is taken."""
        if not self.calls[0].grad_out:
            return None
        return torch.cat([call.grad_out[0] for call in self.calls], 1)

    @cached_property
    def key_gradient(self) -> KeyGradient | None:
        """Gradient of the keys, reduced."""
        if not self.calls[0].key_gradients:
            return None
        found = [call.key_gradients[0] for call in self.calls]
        return KeyGradient(torch.cat([each.shift for each in found], 1), torch.cat([each.norm for each in found], 1))

    @cached_property
    def x(self) -> Tensor | None:
        """Inputs of the query projections, (L, B, R, C) of L calls."""
        found = [call.x for call in self.calls if call.x is not None]
        return torch.stack(found) if found else None

    @cached_property
    def projected(self) -> Tensor | None:
        """What the projections gave, (B, H, R, D)."""
        found = [call.projected for call in self.calls if call.projected is not None]
        return torch.cat(found, 1) if found else None

    @cached_property
    def grad_p(self) -> Tensor:
        """Gradient of the probabilities, dP = dO V^T, (B, H, R, S)."""
        assert self.grad_out is not None
        return self.grad_out @ per_query_head(self.sample.v, self.sample.q).mT

    def keys(self, signal: str, of: Literal["query", "key"] = "query") -> tuple[SeriesKey, ...]:
        """Return the series of a signal that has a value for every query head, or every key head, of every call."""
        return tuple(
            key
            for call in self.calls
            for key in _series(signal, call.name, call.at.head_numbers if of == "query" else call.at.key_head_numbers)
        )


def grouped(calls: list[SeenCall]) -> list[AttentionGroup]:
    """Lay calls side by side that are alike, as many as are small enough together."""
    alike: dict[tuple[Any, ...], list[list[SeenCall]]] = {}
    for call in calls:
        sample = call.sample
        floats = sample.k.numel() + sample.v.numel() + sample.q.shape[:3].numel() * sample.k.shape[2]
        room = max(1, _MOST_JOINED // floats)
        lists = alike.setdefault(_likeness(call), [[]])
        if len(lists[-1]) >= room:
            lists.append([])
        lists[-1].append(call)
    return [AttentionGroup(found) for lists in alike.values() for found in lists if found]


def _likeness(call: SeenCall) -> tuple[Any, ...]:
    sample, bias = call.sample, call.sample.bias
    by_head = bias is not None and bias.dim() == 4 and bias.shape[1] > 1
    return (
        sample.q.shape,
        sample.k.shape,
        sample.q.device,
        None if bias is None else id(call if by_head else bias),
        sample.out is None,
        sample.scale,
        sample.roundoff,
        sample.output_spacing,
        sample.delta_from_output,
        sample.row_share,
        bool(call.grad_out),
        bool(call.key_gradients),
        None if call.x is None else call.x.shape,
        call.projected is None,
    )


@lru_cache(maxsize=4096)
def _series(signal: str, name: str, heads: tuple[int, ...]) -> tuple[SeriesKey, ...]:
    return tuple(SeriesKey(signal, name, head) for head in heads)
