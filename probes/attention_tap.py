"""Sees attention calls during a sampled forward pass, and takes bounded copies of what they computed.

``F.scaled_dot_product_attention`` and our own reference attention are seen through a TorchFunctionMode that exists only while a
watched root runs its forward pass; hand-written attention is told by ``monitor.attention(q, k, v, out, name=...)``.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..kernels.reference import Precision, reference_attention
from .attention_statistics import AttentionSample, KeyGradient
from .base import Guard
from .tokens import scattered_rows

SEQUENCES = 2
ROWS = 64
# Most keys times sequences times key heads copied of k and v each.
_MOST_KEYS = 1 << 16


@dataclass(slots=True)
class SeenCall:
    """One attention call: the sample now, the gradients once backward has passed."""

    name: str
    sample: AttentionSample
    rows: Tensor | None
    key_gradients: list[KeyGradient] = field(default_factory=list)
    grad_out: list[Tensor] = field(default_factory=list)


class AttentionCalls(TorchFunctionMode):
    """The mode: passes every call through unchanged and reports attention calls.

    Args:
        current_module: names the module that is running.
        guard: runs the reporting so that a fault in it never reaches the model.
    """

    def __init__(self, current_module: Callable[[], str | None], guard: Guard) -> None:
        super().__init__()
        self._current_module, self._guard = current_module, guard
        self.calls: list[SeenCall] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is not F.scaled_dot_product_attention and func is not reference_attention:
            return func(*args, **kwargs)
        q, k, v, options = _arguments(func, args, kwargs)
        # Other ranks than (B, H, T, D) are allowed, rare, and have no heads to speak of: not looked at.
        if not (torch.is_grad_enabled() and k.requires_grad and k.dim() == 4):
            return func(*args, **kwargs)
        # A node of its own for the keys: its gradient is this call's alone, whatever else the keys are used for.
        k = k.view_as(k)
        out = func(q, k, v, **options)
        name = self._current_module() or "attention"
        self._guard(lambda: self.report(name, q, k, v, out, **_described(options)))
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
        roundoff: float | None = None,
    ) -> None:
        """Take the sample of one call and wait for its gradients.

        Args:
            name: of the module; a second call under the same name becomes ``name#2``.
            q: (B, H, T, D).
            k: (B, G, S, D), whose gradient is this call's alone.
            v: (B, G, S, D).
            out: (B, H, T, D).
            is_causal, attn_mask, scale: as ``F.scaled_dot_product_attention`` takes them.
            roundoff: unit roundoff of the layer's arithmetic; by default that of the output's dtype (autocast rounds q, k and v
                on their way in).
        """
        if any(x.dim() != 4 for x in (q, k, v, out)):
            shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v, out))
            raise ValueError(f"attention {name!r}: q, k, v and out must be (batch, heads, tokens, head_dim); got {shapes}")
        same = sum(1 for call in self.calls if call.name.partition("#")[0] == name)
        call = _sample(f"{name}#{same + 1}" if same else name, q, k, v, out, is_causal, attn_mask, scale, roundoff)
        if call is None:
            return
        self.calls.append(call)
        sequences = call.sample.q.shape[0]

        def keep_key_gradient(grad: Tensor) -> None:
            part = grad.detach()[:sequences].float()
            call.key_gradients.append(KeyGradient(part.sum(2), part.norm(dim=(2, 3))))

        def keep_output_gradient(grad: Tensor) -> None:
            call.grad_out.append(_rows_of(grad[:sequences], call.rows))

        # A tensor hook's result would replace the gradient: these return None.
        def on_key_gradient(grad: Tensor) -> None:
            self._guard(partial(keep_key_gradient, grad))

        def on_output_gradient(grad: Tensor) -> None:
            self._guard(partial(keep_output_gradient, grad))

        if k.requires_grad and out.requires_grad:
            k.register_hook(on_key_gradient)
            out.register_hook(on_output_gradient)


@torch.no_grad()
def _sample(
    name: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    is_causal: bool,
    attn_mask: Tensor | None,
    scale: float | None,
    roundoff: float | None,
) -> SeenCall | None:
    rows_there, keys_there = q.shape[2], k.shape[2]
    if 0 in q.shape or 0 in k.shape:
        return None
    sequences = max(1, min(SEQUENCES, q.shape[0], _MOST_KEYS // max(1, keys_there * k.shape[1])))
    rows = scattered_rows(rows_there, ROWS, q.device)
    where = torch.arange(rows_there, device=q.device) if rows is None else rows
    bias = None if attn_mask is None else _additive(attn_mask.detach(), q, keys_there)[:sequences].index_select(2, where)
    if is_causal:
        after = torch.arange(keys_there, device=q.device)[None, :] > where[:, None]
        causal = torch.where(after, float("-inf"), 0.0).float()
        bias = causal if bias is None else bias + causal
    q_rows = _rows_of(q[:sequences], rows)
    sample = AttentionSample(
        q=q_rows,
        k=k.detach()[:sequences].to(torch.float32, copy=True),
        v=v.detach()[:sequences].to(torch.float32, copy=True),
        out=_rows_of(out[:sequences], rows),
        bias=bias,
        scale=1.0 / math.sqrt(q.shape[-1]) if scale is None else float(scale),
        roundoff=torch.finfo(out.dtype).eps / 2 if roundoff is None else roundoff,
        row_share=where.shape[0] / rows_there,
    )
    return SeenCall(name, sample, rows)


# Large negative numbers in an additive mask mean "masked", as -inf does; no bias of a model's own comes near.
_MASKED_BELOW = -1e4


def _additive(mask: Tensor, q: Tensor, keys: int) -> Tensor:
    """Return any mask SDPA takes as a float32 bias, (B, 1 or H, T, S) by broadcasting, -inf where masked."""
    while mask.dim() < 4:
        mask = mask[None]
    mask = mask.expand(q.shape[0], mask.shape[1], q.shape[2], keys)
    if mask.dtype == torch.bool:
        return torch.where(mask, 0.0, float("-inf")).float()
    return torch.where(mask <= _MASKED_BELOW, float("-inf"), mask.float())


def _rows_of(x: Tensor, rows: Tensor | None) -> Tensor:
    x = x.detach()
    return (x.clone() if rows is None else x.index_select(2, rows)).float()


_SDPA = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


def _arguments(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    """Return q, k, v and the remaining arguments by name, however they were passed."""
    names = _SDPA if func is F.scaled_dot_product_attention else tuple(inspect.signature(func).parameters)
    named = dict(zip(names, args, strict=False)) | kwargs
    return named.pop("query"), named.pop("key"), named.pop("value"), named


def _described(options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``report`` that follow from a call's own."""
    described = {name: options[name] for name in ("is_causal", "attn_mask", "scale") if options.get(name) is not None}
    precision = options.get("precision")
    if isinstance(precision, Precision):
        described["roundoff"] = 2.0 ** -(min(precision.score_gradients, precision.gradients) + 1)
    return described
