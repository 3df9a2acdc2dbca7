"""Switch a process over to stabilised attention, live, and back: nothing of the model is touched or made anew.

Mechanism: a kernel of our own for ``aten::scaled_dot_product_attention`` in torch's dispatcher, for CPU and CUDA (also ROCm)
tensors. It lies below the name, so it is met however the function was imported: ``F.scaled_dot_product_attention``,
``from torch.nn.functional import ...``, ``nn.MultiheadAttention``, Hugging Face's ``sdpa`` attention; in every thread; and probes
see the call as before. Autocast has cast its inputs by then. Taking it out restores torch's own table. A forward pass decides for
its backward pass, so switching between the two is safe; weights and optimizer states are not involved.
Calls of ``reference_attention`` continue with delta from the float32 output, whatever their ``Precision`` says.

Not reached, because they never call the function: fused inference (``nn.TransformerEncoder`` in ``eval()`` without gradients),
attention written out by hand, other libraries' kernels (flash-attn), and CUDA graphs that were captured before.
Left as they were, and logged once, as foreshock's attention cannot run them: masks that require a gradient, ``torch.func``
transforms, sharded and other wrapped tensors, and arguments that SDPA itself refuses.

Compiled models: what was compiled has the old attention inside. All compiled code of the process is dropped
(``torch.compiler.reset()``) whenever the state changes, and compiled anew at its next call, once; torch's caches on disk keep the
two apart. ``compiled="refuse"`` raises instead.
"""

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from . import reference
from .drop_in import attention, wrong_arguments
from .options import Variant

log = logging.getLogger("foreshock")

Compiled = Literal["recompile", "refuse"]

_KEYS = ("CPU", "AutogradCPU", "CUDA", "AutogradCUDA")
_TAG = "foreshock-stabilized"

_lock = threading.RLock()
_lasting = False
_contexts = 0
_library: torch.library.Library | None = None
_tag_before: str | None = None
_told: set[str] = set()


def install(*, compiled: Compiled = "recompile") -> None:
    """Switch this process over until ``uninstall()``; nothing more happens if it is already.

    Args:
        compiled: what to do if there is compiled code: ``"recompile"`` drops all of it, to be compiled anew at its next call;
            ``"refuse"`` raises.

    Raises:
        RuntimeError: called inside compiled code, or ``"refuse"`` with compiled code there; nothing is changed then.
    """
    _change(True, 0, compiled)


def uninstall(*, compiled: Compiled = "recompile") -> None:
    """Undo ``install()``, exactly, however often it was called; nothing happens without it.

    Inside ``stabilized_attention()`` the switch stays on until that ends.

    Args:
        compiled: as for ``install``.

    Raises:
        RuntimeError: as ``install``.
    """
    _change(False, 0, compiled)


@contextmanager
def stabilized_attention(*, compiled: Compiled = "recompile") -> Iterator[None]:
    """Switch this process over for the length of a ``with`` block, also if it ends in an exception; also a decorator.

    Blocks may be nested, and overlap between threads: the switch is on as long as any is open. It is the forward pass that counts,
    and activation checkpoints run it again within the backward pass: enclose both then. With compiled models prefer
    ``install()``: entering and leaving has all compiled code made anew.

    Args:
        compiled: as for ``install``.

    Raises:
        RuntimeError: as ``install``.
    """
    _change(None, 1, compiled)
    try:
        yield
    finally:
        _change(None, -1, "recompile")


def installed() -> bool:
    """Tell whether the switch is on, by ``install()`` or inside ``stabilized_attention()``."""
    return _library is not None


def takes_float32_delta(function: Callable[..., Any], stabilize: bool | Variant = True) -> bool:
    """Tell whether a call of SDPA, or of ``attention(..., stabilize=)``, takes delta from the float32 output just now."""
    if function is attention:
        return stabilize.float32_delta if isinstance(stabilize, Variant) else stabilize
    return function is F.scaled_dot_product_attention and installed()


def _change(lasting: bool | None, contexts: int, compiled: Compiled) -> None:
    """Set what wants the switch on, and turn it if that changes anything."""
    global _lasting, _contexts
    if compiled not in ("recompile", "refuse"):
        raise ValueError(f"compiled is {compiled!r}; it is 'recompile' or 'refuse'")
    if torch.compiler.is_compiling():
        raise RuntimeError("attention cannot be switched from inside compiled code; call it between steps, outside the model")
    with _lock:
        wanted = _lasting if lasting is None else lasting
        open_now = _contexts + contexts
        on = wanted or open_now > 0
        if on != installed():
            if compiled == "refuse" and _anything_compiled():
                raise RuntimeError(
                    "this process holds compiled code, which has its attention inside; compiled='recompile' drops all of it, "
                    "and it is compiled anew at its next call"
                )
            _turn(on)
        _lasting, _contexts = wanted, open_now


def _turn(on: bool) -> None:
    global _library, _tag_before
    if on:
        _library = torch.library.Library("aten", "IMPL")
        for key in _KEYS:
            _library.impl("scaled_dot_product_attention", _substitute, key)
    elif _library is not None:
        _library._destroy()
        _library = None
    reference.stabilised = on
    # What the dispatcher's Python side remembers of the operator, for compilers, is not told of new kernels.
    torch.ops.aten.scaled_dot_product_attention.default._dispatch_cache.clear()
    config: Any = getattr(torch.compiler, "config", None)
    if hasattr(config, "cache_key_tag"):
        # The graph that compilers cache under is the same with either attention: without a tag they would find the other's code.
        if on:
            _tag_before = config.cache_key_tag
            config.cache_key_tag = f"{_tag_before}{_TAG}"
        elif config.cache_key_tag == f"{_tag_before}{_TAG}":
            config.cache_key_tag = _tag_before
    if _anything_compiled():
        torch.compiler.reset()


def _anything_compiled() -> bool:
    """Tell whether this process holds anything compiled by now."""
    dynamo = sys.modules.get("torch._dynamo")
    return dynamo is not None and bool(dynamo.convert_frame.input_codes.seen)


def _substitute(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Stand in for ``aten::scaled_dot_product_attention``."""
    reason = _left_alone(query, key, value, attn_mask, dropout_p, enable_gqa)
    if reason is None:
        return attention(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    if reason not in _told:
        _told.add(reason)
        log.warning("stabilised attention is on, but some calls keep torch's own: %s", reason)
    # torch's own kernel, which decomposes into the flash, efficient or math one.
    return torch.ops.aten.scaled_dot_product_attention.default.decompose(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )


def _left_alone(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout_p: float, enable_gqa: bool) -> str | None:
    """Say why a call is left to torch, if it is."""
    if mask is not None and mask.requires_grad and torch.is_grad_enabled():
        return "their mask requires a gradient"
    if torch._C._are_functorch_transforms_active():
        return "they are under a torch.func transform"
    if any(is_traceable_wrapper_subclass(x) for x in (query, key, value)):
        return f"their tensors are of the subclass {type(query).__name__}"
    return wrong_arguments(query, key, value, mask, enable_gqa, dropout_p)
