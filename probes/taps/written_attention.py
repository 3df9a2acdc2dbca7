"""Sees attention that a model writes out itself, by its softmax: the scores are there, whatever they were made of.

Taken for attention is a softmax over the last axis of a square: (B, H, T, T), or (B, T, T) of a single head, with gradients on,
within a module that no other way has shown. Out of reach stay q, k and v, and with them the keys' shift and rounding errors.
Not seen: a softmax in parts (flash attention written out), cross-attention, whose scores are no square and could be anything.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...storage.records import SeriesKey
from .attention_sampling import looked_at, picked_rows

SOFTMAX: frozenset[Callable[..., Any]] = frozenset({F.softmax, torch.softmax, Tensor.softmax})


@dataclass(frozen=True, slots=True)
class SeenSoftmax:
    """The softmax of one attention.

    Attributes:
        module: name of the module that it runs in.
        name: the same, with its number where there are several.
        scores: (B, H, R, S), a bounded float32 copy of what it was given.
        heads: as numbers.
    """

    module: str
    name: str
    scores: Tensor
    heads: tuple[int, ...]

    def keys(self, signal: str) -> tuple[SeriesKey, ...]:
        """Return the series of a signal that has a value for every head."""
        return tuple(SeriesKey(signal, self.name, head) for head in self.heads)


class WrittenAttention:
    """Collects the softmaxes of a sampled step."""

    def __init__(self) -> None:
        self.seen: list[SeenSoftmax] = []
        self.told: set[str] = set()
        """Modules whose attention is known by another way."""

    def unknown(self, others: set[str]) -> list[SeenSoftmax]:
        """Return what was seen in modules that are neither told nor among ``others``."""
        return [each for each in self.seen if each.module not in self.told | others]

    @torch.no_grad()
    def see(self, module: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Take the scores of a call of softmax, if it is one of attention."""
        scores = args[0] if args else kwargs.get("input")
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        if not isinstance(scores, Tensor) or not scores.requires_grad or hasattr(scores, "placements"):
            return
        if scores.dim() not in (3, 4) or dim not in (-1, scores.dim() - 1) or not scores.shape[-1] == scores.shape[-2] > 1:
            return
        scores = scores if scores.dim() == 4 else scores[:, None]
        shape = (*scores.shape[:3], 1)
        if (at := looked_at(shape, shape, scores.device)) is None:
            return
        same = sum(1 for each in self.seen if each.module == module)
        name = f"{module}#{same + 1}" if same else module
        self.seen.append(SeenSoftmax(module, name, picked_rows(scores, at.sequences, at.heads, at.rows), at.head_numbers))
