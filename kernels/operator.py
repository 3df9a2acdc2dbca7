"""Attention as operators of torch: ``foreshock::attention_forward`` and ``foreshock::attention_backward``.

What runs them, Triton or the torch body, is chosen when they run, from the tensors: a compiler that traces them need not know. Both
bodies return the same tensors, with the same strides.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from . import torch_body
from .options import Options, Variant


@torch.library.custom_op("foreshock::attention_forward", mutates_args=())
def attention_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    seed: Tensor | None,
    scale: float,
    is_causal: bool,
    window: int | None,
    softcap: float | None,
    dropout_p: float,
    dynamic_maximum: bool,
    float32_delta: bool,
    low_precision_accumulator: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return O, (B, H, T, E); log-sum-exp, (B, H, T); what is to be added to O for delta, empty if nothing."""
    options = Options(scale, is_causal, window, softcap)
    variant = Variant(dynamic_maximum, float32_delta, low_precision_accumulator)
    packed: dict[str, Any] = {"mask": mask, "cu_seqlens_q": cu_seqlens_q, "cu_seqlens_k": cu_seqlens_k}
    with _without_autocast(q.device):
        if _on_triton(backend, q, k, v, options, dropout_p, packed):
            from .flash import launch

            found = launch.forward(q, k, v, options, variant, **packed)
            out, log_sum_exp, residual = found.out, found.log_sum_exp, found.residual
        else:
            dice: dict[str, Any] = {"dropout_p": dropout_p, "seed": 0 if seed is None else int(seed)}
            out, log_sum_exp, residual = torch_body.forward(q, k, v, options, variant, **packed, **dice)
    return out, log_sum_exp, q.new_empty(0) if residual is None else residual


@torch.library.custom_op("foreshock::attention_backward", mutates_args=())
def attention_backward(
    do: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    log_sum_exp: Tensor,
    residual: Tensor,
    mask: Tensor | None,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    seed: Tensor | None,
    scale: float,
    is_causal: bool,
    window: int | None,
    softcap: float | None,
    dropout_p: float,
    dynamic_maximum: bool,
    float32_delta: bool,
    low_precision_accumulator: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return dQ, dK and dV."""
    options = Options(scale, is_causal, window, softcap)
    variant = Variant(dynamic_maximum, float32_delta, low_precision_accumulator)
    packed: dict[str, Any] = {"mask": mask, "cu_seqlens_q": cu_seqlens_q, "cu_seqlens_k": cu_seqlens_k}
    kept = residual if torch_body.keeps_residual(q.dtype, variant) else None
    with _without_autocast(q.device):
        if _on_triton(backend, q, k, v, options, dropout_p, packed):
            from .flash import launch

            return launch.backward(do, q, k, v, out, kept, log_sum_exp, options, variant, **packed)
        dice: dict[str, Any] = {"dropout_p": dropout_p, "seed": 0 if seed is None else int(seed)}
        return torch_body.backward(do, q, k, v, out, kept, log_sum_exp, options, variant, **packed, **dice)


@attention_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    _, float32_delta, _, _ = rest[-4:]
    out = torch_body.empty_output(q, v)
    log_sum_exp = q.new_empty(q.shape[:3], dtype=torch.float64 if q.dtype == torch.float64 else torch.float32)
    keeps = torch_body.keeps_residual(q.dtype, Variant(float32_delta=float32_delta))
    return out, log_sum_exp, torch.empty_like(out) if keeps else q.new_empty(0)


@attention_backward.register_fake
def _(do: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, v, mask, cu_seqlens_q, cu_seqlens_k, seed, *ctx.settings = inputs
    ctx.save_for_backward(q, k, v, *output, mask, cu_seqlens_q, cu_seqlens_k, seed)


def _differentiate(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, out, log_sum_exp, residual, *tensors = ctx.saved_tensors
    gradients = attention_backward(grads[0], q, k, v, out, log_sum_exp, residual, *tensors, *ctx.settings)
    return *gradients, *[None] * (len(tensors) + len(ctx.settings))


def _refuse_second_derivative(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    raise NotImplementedError(
        "foreshock's attention has no second derivative. Where one is needed (create_graph=True, Hessians, gradient penalties), "
        "use F.scaled_dot_product_attention under sdpa_kernel(SDPBackend.MATH), with foreshock.kernels.uninstall() before"
    )


attention_forward.register_autograd(_differentiate, setup_context=_keep)
attention_backward.register_autograd(_refuse_second_derivative)


def _refuse_vmap(info: Any, in_dims: Any, *args: Any) -> Any:
    raise NotImplementedError(
        "foreshock's attention cannot be mapped by torch.func.vmap: its batch is the first dimension of (B, H, T, D); put the "
        "mapped dimension there, or use F.scaled_dot_product_attention"
    )


attention_forward.register_vmap(_refuse_vmap)
attention_backward.register_vmap(_refuse_vmap)


def _on_triton(
    backend: str, q: Tensor, k: Tensor, v: Tensor, options: Options, dropout_p: float, packed: dict[str, Tensor | None]
) -> bool:
    """Tell whether Triton runs this call. Raises ValueError where it was asked for and cannot, with the reason."""
    if backend == "torch" or (backend == "auto" and q.device.type != "cuda"):
        return False
    from .flash import launch

    reason = launch.obstacle(q, k, v, options, dropout_p=dropout_p, **packed)
    if reason is not None and backend == "triton":
        raise ValueError(f"backend='triton' was asked for, but {reason}")
    return reason is None


def _without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Keep the bodies' arithmetic as written: autocast would reach the matrix products within."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
