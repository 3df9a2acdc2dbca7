"""Sees attention calls during a sampled forward pass, and takes bounded copies of what they computed.

Seen are ``F.scaled_dot_product_attention`` (which Hugging Face's ``sdpa`` attention calls), ``nn.MultiheadAttention`` and our own
reference attention, through a TorchFunctionMode that exists only while a watched root runs its forward pass, or an activation
checkpoint recomputes a part of it; Hugging Face's ``eager`` attention in the same passes (see eager_attention.py). Of attention
written by hand the softmax is seen (see written_attention.py); ``monitor.attention(q, k, v, out, name=...)`` tells the whole of it.

One tap serves all probes that look at attention: copies are taken, and the softmax recomputed, once.
Memory: at most 64 MiB a call (2^24 floats: copies of k, v and the rows, and the scores of the rows); of long contexts fewer
sequences and heads are looked at, and none where one head of one sequence is more than that.
"""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..base import Probe
from ..model import WatchedModel
from .attention_calls import AttentionGroup, SeenCall, grouped
from .attention_mode import AttentionCalls
from .attention_sampling import ROWS, SEQUENCES
from .eager_attention import EagerAttention
from .modules import RunningModules
from .query_projection import QueryInputs
from .written_attention import SeenSoftmax

_FUSED_IN_EVALUATION = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)


class AttentionTap:
    """The attention calls of a watched model's sampled step, for all the probes that look at them."""

    def __init__(self, model: WatchedModel) -> None:
        self.queries = QueryInputs(SEQUENCES, ROWS)
        self.queries.attach(model)
        self._running = RunningModules(self._enter, self._leave)
        self._fusable = [module for _, module in model.named_modules() if isinstance(module, _FUSED_IN_EVALUATION)]
        self._eager = EagerAttention(module for _, module in model.named_modules())
        self._users: dict[Probe, bool] = {}
        self._mode: AttentionCalls | None = None
        self._entered = False
        self._groups: list[AttentionGroup] | None = None

    @property
    def calls(self) -> list[SeenCall]:
        """The calls seen so far in this step."""
        return self._mode.calls if self._mode else []

    def groups(self) -> list[AttentionGroup]:
        """Return the step's calls, those of one shape side by side; made once, when first asked for."""
        if self._groups is None:
            for call in self.calls:
                self._add_query(call)
            self._groups = grouped(self.calls)
        return self._groups

    def written(self) -> list[SeenSoftmax]:
        """Return the softmaxes of attention that nothing else has shown."""
        if self._mode is None:
            return []
        return self._mode.written.unknown({call.name.partition("#")[0] for call in self.calls})

    def arm(self, user: Probe, model: WatchedModel, *, queries: bool = False) -> None:
        """Look at the step to come; ``queries``: at the inputs of the query projections too."""
        if model.is_compiled():
            return
        if self._mode is None:
            self._mode = AttentionCalls(lambda: self._running.innermost, lambda: self._running.recomputing, user.guard)
            self._running.place(model.roots.values(), model.named_modules())
        if queries and not any(self._users.values()):
            self.queries.place(user.guard)
        self._users[user] = queries

    def disarm(self, user: Probe) -> None:
        """Let go of the step, as soon as no other probe looks at it."""
        self._users.pop(user, None)
        if not self._users:
            self._leave()
            self._running.remove()
            self.queries.remove()
            self._mode = self._groups = None

    def tell(self, name: str, q: Tensor, k: Tensor, v: Tensor, out: Tensor, **options: Any) -> None:
        """Take a hand-written call, in the first micro-batch of a sampled step, with gradients on."""
        if self._mode is not None and torch.is_grad_enabled() and not self._running.between_passes:
            self._mode.written.told.add(self._mode.running)
            self._mode.report(name, q, k, v, out, **options)

    def _add_query(self, call: SeenCall) -> None:
        given = self.queries.of(call.name)
        batch, heads, rows, width = call.q_shape
        if call.x is not None or given is None or (given.batch, given.tokens) != (batch, rows):
            return
        call.x = given.x[: call.at.sequences]
        if given.q.shape[-1] == heads * width:
            projected = given.q[: call.at.sequences].unflatten(-1, (heads, width)).transpose(1, 2)
            call.projected = projected if call.at.heads is None else projected.index_select(1, call.at.heads)

    def _enter(self) -> None:
        # A mode keeps torch's fused inference path from being taken, whose results differ in the last bits.
        fused = any(not module.training for module in self._fusable)
        if self._mode is not None and not self._entered and not fused:
            self._mode.begin_pass()
            self._mode.__enter__()  # type: ignore[no-untyped-call]
            self._eager.enter(self._mode)
            self._entered = True

    def _leave(self) -> None:
        if self._mode is not None and self._entered:
            self._entered = False
            self._eager.leave(self._mode)
            self._mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]


# A tap holds modules, never the WatchedModel, which thus can go, and its tap with it.
_TAPS: WeakKeyDictionary[WatchedModel, AttentionTap] = WeakKeyDictionary()


class AttentionObserver(Probe):
    """A probe that looks at attention calls. Those of one model share its tap."""

    needs_queries = False
    """Whether it looks at the inputs of the query projections."""

    def __init__(self) -> None:
        super().__init__()
        self._model: WatchedModel | None = None
        self._tap: AttentionTap | None = None

    @override
    def attach(self, model: WatchedModel) -> None:
        self._model, self._tap = model, _TAPS.get(model)
        if self._tap is None:
            self._tap = _TAPS[model] = AttentionTap(model)

    @override
    def arm(self, step: int) -> None:
        assert self._tap is not None
        assert self._model is not None
        self._tap.arm(self, self._model, queries=self.needs_queries)

    @override
    def disarm(self) -> None:
        if self._tap is not None:
            self._tap.disarm(self)

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
        """Report a hand-written attention call to all probes of the model; tell one of them. It does nothing on a step that is
        not sampled, without gradients, or in a micro-batch after the first."""
        if self._tap is not None:
            self._tap.tell(name, q, k, v, out, is_causal=is_causal, attn_mask=attn_mask, scale=scale)
