"""The mode that sees attention calls and takes bounded copies of what they computed (see attention.py)."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ...kernels.drop_in import attention
from ...kernels.reference import Precision, reference_attention
from ...kernels.switch import takes_float32_delta
from ..base import Guard
from ..statistics.attention import AttentionSample, KeyGradient
from ..statistics.precision import without_autocast
from .attention_calls import LookedAt, SeenCall
from .attention_sampling import Arithmetic, additive_bias, looked_at, picked_rows
from .eager_attention import EagerCall
from .multihead import multihead_inputs
from .written_attention import SOFTMAX, WrittenAttention

_ATTENTION = frozenset({F.scaled_dot_product_attention, F.multi_head_attention_forward, reference_attention, attention})
_LOOKED_AT = _ATTENTION | SOFTMAX


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
        self.written = WrittenAttention()

    def begin_pass(self) -> None:
        """A pass begins: if it is a recomputation, what was seen with gradients before is not seen again."""
        self._known = frozenset(call.name.partition("#")[0] for call in self.calls) | {each.module for each in self.written.seen}

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        # Asked at every operation of the step.
        if func not in _LOOKED_AT or not torch.is_grad_enabled():
            return func(*args, **(kwargs or {}))
        kwargs = dict(kwargs or {})
        if func in SOFTMAX:
            if not self._seen_before(self.running):
                self._guard(partial(self.written.see, self.running, args, kwargs))
            return func(*args, **kwargs)
        attends = func is not F.multi_head_attention_forward and (func is not attention or _as_plain(kwargs))
        if not (attends or func is F.multi_head_attention_forward):
            return func(*args, **kwargs)
        name = self.running
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
        return key.requires_grad and torch.is_grad_enabled() and key.dim() == 4 and not self._seen_before(self.running)

    def saw(self, call: EagerCall) -> None:
        """Take a call of Hugging Face's eager attention."""
        self._guard(partial(self._report_eager, call))

    @property
    def running(self) -> str:
        """Name of the module that runs now, as calls of attention in it are called."""
        return self._current_module() or "attention"

    def _report_eager(self, seen: EagerCall) -> None:
        if not seen.is_softmax_attention:
            return
        (q, k, v), out = seen.inputs, seen.output_BTHD
        arithmetic = Arithmetic.of_matrix_products(out.dtype)
        call = self._sample(self.running, q, k, v, out.transpose(1, 2), arithmetic, **seen.options)
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
