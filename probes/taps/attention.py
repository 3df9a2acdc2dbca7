"""Sees attention calls during a sampled forward pass, and takes bounded copies of what they computed.

Seen are ``F.scaled_dot_product_attention`` (which Hugging Face's ``sdpa`` attention calls), ``nn.MultiheadAttention`` and our own
reference attention, through a TorchFunctionMode that exists only while a watched root runs its forward pass, or an activation
checkpoint recomputes a part of it; Hugging Face's ``eager`` attention in the same passes (see eager_attention.py); hand-written
attention is told by ``monitor.attention(q, k, v, out, name=...)``.

One tap serves all probes that look at attention: copies are taken, and the softmax recomputed, once.
Memory: at most 64 MiB a call (2^24 floats: copies of k, v and the rows, and the scores of the rows); of long contexts fewer
sequences and heads are looked at, and none where one head of one sequence is more than that.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from ...kernels.drop_in import attention
from ...kernels.reference import Precision, reference_attention
from ...kernels.switch import takes_float32_delta
from ..base import Guard, Probe
from ..model import WatchedModel
from ..statistics.attention import AttentionSample, KeyGradient
from ..statistics.precision import without_autocast
from .attention_calls import AttentionGroup, LookedAt, SeenCall, grouped
from .attention_sampling import ROWS, SEQUENCES, Arithmetic, additive_bias, looked_at, picked_rows
from .eager_attention import EagerAttention, EagerCall
from .modules import RunningModules
from .multihead import multihead_inputs
from .query_projection import QueryInputs

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


class AttentionCalls(TorchFunctionMode):
    """The mode: passes every call through unchanged and reports attention calls.

    Args:
        current_module: names the module that is running.
        recomputing: tells whether it runs for an activation checkpoint, a second time.
        guard: runs the reporting so that a fault in it never reaches the model.
    """

    def __init__(self, current_module: Callable[[], str | None], recomputing: Callable[[], bool], guard: Guard) -> None:
        super().__init__()
        self._current_module, self._recomputing, self._guard = current_module, recomputing, guard
        self._known: frozenset[str] = frozenset()
        # Layers usually share a mask: the rows of it that are looked at are taken once.
        self._biases: dict[tuple[Any, ...], tuple[Tensor | None, Tensor | None]] = {}
        self.calls: list[SeenCall] = []

    def begin_pass(self) -> None:
        """A pass begins: if it is a recomputation, what was seen with gradients before is not seen again."""
        self._known = frozenset(call.name.partition("#")[0] for call in self.calls)

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        attends = func in (F.scaled_dot_product_attention, reference_attention) or (func is attention and _as_plain(kwargs))
        if not (attends or func is F.multi_head_attention_forward) or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        name = self._name
        if not attends:
            result = func(*args, **kwargs)  # the call within is not seen: a mode does not see what it calls itself
            self._guard(lambda: self._report_multihead(name, args, kwargs))
            return result
        q, k, v, options = _arguments(func, args, kwargs)
        if not self.wants(k):
            return func(*args, **kwargs)
        # A node of its own for the keys: its gradient is this call's alone, whatever else the keys are used for.
        k = k.view_as(k)
        out = func(q, k, v, **options)
        cured = takes_float32_delta(func, options.get("stabilize", True))
        self._guard(lambda: self.report(name, q, k, v, out, float32_delta=cured, **_described(options)))
        return out

    def report(
        self,
        name: str,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        *,
        is_causal: bool = False,
        attn_mask: Tensor | None = None,
        scale: float | None = None,
        precision: Precision | None = None,
        float32_delta: bool = False,
    ) -> None:
        """Take the sample of one call and wait for its gradients.

        Args:
            name: of the module; a second call under the same name becomes ``name#2``.
            q: (B, H, T, D).
            k: (B, G, S, D), whose gradient is this call's alone.
            v: (B, G, S, D).
            out: (B, H, T, D).
            is_causal, attn_mask, scale: as ``F.scaled_dot_product_attention`` takes them.
            precision: where the layer rounds, if it does so explicitly; by default its arithmetic is that of the output's dtype
                (autocast rounds q, k and v on their way in).
            float32_delta: delta is taken from the output before it was rounded: stabilised attention.
        """
        if any(x.dim() != 4 for x in (q, k, v, out)):
            shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v, out))
            raise ValueError(f"attention {name!r}: q, k, v and out must be (batch, heads, tokens, head_dim); got {shapes}")
        if self._seen_before(name):
            return
        arithmetic = Arithmetic.of(q.dtype, out.dtype, precision)
        if float32_delta:
            arithmetic = replace(arithmetic, delta_from_output=False)
        call = self._sample(name, q, k, v, out, arithmetic, is_causal=is_causal, attn_mask=attn_mask, scale=scale)
        if call is not None:
            self.calls.append(call)
            self._await_gradients(call, arithmetic, k, out, transposed=False)

    def wants(self, key: Tensor) -> bool:
        """Tell whether the call of attention that the running module is about to make is one to look at."""
        # Other ranks than (B, H, T, D) are allowed, rare, and have no heads to speak of: not looked at.
        return key.requires_grad and torch.is_grad_enabled() and key.dim() == 4 and not self._seen_before(self._name)

    def saw(self, call: EagerCall) -> None:
        """Take a call of Hugging Face's eager attention."""
        self._guard(partial(self._report_eager, call))

    @property
    def _name(self) -> str:
        return self._current_module() or "attention"

    def _report_eager(self, seen: EagerCall) -> None:
        if not seen.is_softmax_attention:
            return
        (q, k, v), out = seen.inputs, seen.output_BTHD
        arithmetic = Arithmetic.of_matrix_products(out.dtype)
        call = self._sample(self._name, q, k, v, out.transpose(1, 2), arithmetic, **seen.options)
        if call is not None:
            self.calls.append(call)
            self._await_gradients(call, arithmetic, k, out, transposed=True)

    def _await_gradients(self, call: SeenCall, arithmetic: Arithmetic, k: Tensor, out: Tensor, *, transposed: bool) -> None:
        """Wait for the gradients of the keys and of the output, (B, H, T, D), or ``transposed``: (B, T, H, D)."""

        def keep_key_gradient(grad: Tensor) -> None:
            part = picked_rows(grad, call.at.sequences, call.at.key_heads, None)
            call.key_gradients.append(KeyGradient(part.sum(2), part.norm(dim=(2, 3))))

        def keep_output_gradient(grad: Tensor) -> None:
            grad = grad.transpose(1, 2) if transposed else grad
            call.grad_out.append(arithmetic.taken(picked_rows(grad, call.at.sequences, call.at.heads, call.at.rows)))

        # A tensor hook's result would replace the gradient: these return None.
        def on_key_gradient(grad: Tensor) -> None:
            self._guard(partial(keep_key_gradient, grad))

        def on_output_gradient(grad: Tensor) -> None:
            self._guard(partial(keep_output_gradient, grad))

        if k.requires_grad and out.requires_grad:
            k.register_hook(on_key_gradient)
            out.register_hook(on_output_gradient)

    def _seen_before(self, name: str) -> bool:
        return self._recomputing() and name in self._known

    @torch.no_grad()
    def _report_multihead(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._seen_before(name):
            return
        given = multihead_inputs(args, kwargs)
        if given is None:
            return
        at = looked_at(given.shape, given.shape, given.query.device)
        if at is not None:
            with without_autocast(given.query.device):
                q, k, v, bias = given.projected(at.sequences)
                exact = Arithmetic.of(torch.float32, torch.float32, None)
                call = self._sample(name, q, k, v, None, exact, attn_mask=bias, is_causal=given.is_causal)
                if call is not None:
                    call.weights = given.weights()
                    call.x = given.input_rows(call.at.sequences, call.at.rows)
                    self.calls.append(call)

    @torch.no_grad()
    def _sample(
        self,
        name: str,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor | None,
        arithmetic: Arithmetic,
        *,
        is_causal: bool = False,
        attn_mask: Tensor | None = None,
        scale: float | None = None,
    ) -> SeenCall | None:
        if 0 in q.shape or 0 in k.shape:
            return None
        at = looked_at(tuple(q.shape), tuple(k.shape), q.device)
        if at is None:
            return None
        picked = partial(picked_rows, sequences=at.sequences)
        sample = AttentionSample(
            q=arithmetic.taken(picked(q, heads=at.heads, rows=at.rows)),
            k=arithmetic.taken(picked(k, heads=at.key_heads, rows=None)),
            v=arithmetic.taken(picked(v, heads=at.key_heads, rows=None)),
            out=None if out is None else picked(out, heads=at.heads, rows=at.rows),
            bias=self._bias(attn_mask, is_causal, at, q.shape[2], k.shape[2], q.device),
            scale=1.0 / math.sqrt(q.shape[-1]) if scale is None else float(scale),
            roundoff=arithmetic.roundoff,
            output_spacing=arithmetic.output_spacing,
            delta_from_output=arithmetic.delta_from_output,
            row_share=(q.shape[2] if at.rows is None else at.rows.shape[0]) / q.shape[2],
        )
        same = sum(1 for call in self.calls if call.name.partition("#")[0] == name)
        return SeenCall(f"{name}#{same + 1}" if same else name, sample, at, tuple(q.shape))

    def _bias(
        self, mask: Tensor | None, is_causal: bool, at: LookedAt, rows_there: int, keys: int, device: torch.device
    ) -> Tensor | None:
        """Return the mask's rows as a float32 bias, (B, 1 or H, R, S) by broadcasting, -inf where a key is masked."""
        if mask is None and not is_causal:
            return None
        version = None if mask is None else (id(mask), mask._version)
        key = (version, is_causal, at.sequences, at.head_numbers, rows_there, keys, device)
        if key not in self._biases:
            bias = None if mask is None else additive_bias(mask.detach(), at, rows_there, keys)
            if is_causal:
                where = torch.arange(rows_there, device=device) if at.rows is None else at.rows
                after = torch.arange(keys, device=device)[None, :] > where[:, None]
                causal = torch.where(after, float("-inf"), 0.0).float()
                bias = causal if bias is None else bias + causal
            # The mask is kept beside its bias: as long as it lives, no other has its id.
            self._biases[key] = mask, bias
        return self._biases[key][1]


_SDPA = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


def _arguments(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    """Return q, k, v and the remaining arguments by name, however they were passed."""
    names = _SDPA if func is F.scaled_dot_product_attention else tuple(inspect.signature(func).parameters)
    named = dict(zip(names, args, strict=False)) | kwargs
    return named.pop("query"), named.pop("key"), named.pop("value"), named


def _as_plain(options: Mapping[str, Any]) -> bool:
    """Tell whether a call of foreshock's attention is one that SDPA could have been asked for: no window, cap or packing."""
    return all(options.get(name) is None for name in ("window", "softcap", "cu_seqlens_q"))


def _described(options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``report`` that follow from a call's own."""
    return {name: options[name] for name in ("is_causal", "attn_mask", "scale", "precision") if options.get(name) is not None}
