"""Which linear layers make an attention call's queries and keys, and what the one of the queries was given.

A layer is known by its name beside the module that makes the call (``q_proj``, ``query``, the q rows of ``c_attn``, ...).
Whether its outputs really are the call's queries is not believed but checked, on the device, by who uses it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..base import Guard
from ..model import LinearLayer, WatchedModel
from ..statistics.precision import without_autocast
from ..statistics.tokens import scattered_rows
from .modules import InputTap
from .optimizer import is_sharded

T = TypeVar("T")

# Elements of a low-precision weight converted to float32 at a time: bounds the temporary to 16 MiB.
_CHUNK_ELEMENTS = 1 << 22


@dataclass(frozen=True, slots=True)
class QueryInput:
    """What a query projection was given and gave, in a few sequences and rows; float32 copies.

    Attributes:
        x: (B, R, C), its input.
        q: (B, R, H * D), recomputed from x, the weight and the bias that the forward pass used.
        batch, tokens: how many sequences and rows there were.
    """

    x: Tensor
    q: Tensor
    batch: int
    tokens: int


class QueryInputs:
    """Keeps the inputs of the query projections of a sampled step.

    Args:
        sequences, rows: the most that are kept.
    """

    def __init__(self, sequences: int, rows: int) -> None:
        self._sequences, self._rows = sequences, rows
        self._queries: dict[str, LinearLayer] = {}
        self._keys: dict[str, LinearLayer] = {}
        self._tap = InputTap()
        self._seen: dict[str, QueryInput] = {}

    def attach(self, model: WatchedModel) -> None:
        """Find the projections."""
        for layer in model.linear_layers():
            if layer.role == "q":
                self._queries.setdefault(layer.parent, layer)
            if layer.role == "k":
                self._keys.setdefault(layer.parent, layer)

    def place(self, guard: Guard) -> None:
        """Hook the query projections for the sampled step to come."""
        by_module: dict[nn.Module, list[str]] = {}
        for parent, layer in self._queries.items():
            by_module.setdefault(layer.module, []).append(parent)

        def on_input(module: nn.Module, x: Tensor) -> None:
            for parent in by_module[module]:
                if x.dim() == 3 and not is_sharded(self._queries[parent].stored()):
                    self._seen[parent] = self._sampled(self._queries[parent], x)

        self._tap.place(by_module, on_input, guard)

    def remove(self) -> None:
        """Remove the hooks and let go of the copies."""
        self._tap.remove()
        self._seen.clear()

    def of(self, call: str) -> QueryInput | None:
        """Return what the query projection of the module ``call``, or of the nearest module around it, was given."""
        return _nearest(self._seen, call)

    def weights(self, call: str) -> tuple[Tensor, Tensor] | None:
        """Return W_q (H * D, C) and W_k (G * D, C) of the module ``call``, or of the nearest around it, views as stored.

        None where they are sharded over the ranks.
        """
        query, key = _nearest(self._queries, call), _nearest(self._keys, call)
        if not query or not key or is_sharded(query.stored()) or is_sharded(key.stored()):
            return None
        return query.weight(), key.weight()

    @torch.no_grad()
    def _sampled(self, layer: LinearLayer, x: Tensor) -> QueryInput:
        with without_autocast(x.device):
            rows = scattered_rows(x.shape[1], self._rows, x.device)
            part = x.detach()[: self._sequences]
            picked = (part.clone() if rows is None else part.index_select(1, rows)).float()
            bias = getattr(layer.module, "bias", None)
            own = layer.own(bias.detach()[None])[0].float() if isinstance(bias, Tensor) else None
            weight = layer.weight()
            parts = weight.split(max(1, _CHUNK_ELEMENTS // weight.shape[1]))
            q = torch.cat([F.linear(picked, part.float()) for part in parts], -1)
            return QueryInput(picked, q if own is None else q + own, x.shape[0], x.shape[1])


def _nearest(by_module: Mapping[str, T], name: str) -> T | None:
    name = name.partition("#")[0]
    while name not in by_module:
        if not name:
            return None
        name = name.rpartition(".")[0]
    return by_module[name]
