"""Foreshock's attention under a name in Hugging Face transformers: ``from_pretrained(..., attn_implementation="foreshock")``."""

import importlib
from typing import Any

from torch import Tensor, nn

from .drop_in import attention


def register_with_transformers(name: str = "foreshock") -> None:
    """Add foreshock's attention to transformers' attention functions, with the masks its ``sdpa`` attention gets.

    A model takes it by ``attn_implementation=name`` when it is made, or live by ``model.set_attn_implementation(name)``.

    Args:
        name: to register under.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        ImportError: it is older than 4.50, and has no attention interface.
    """
    try:
        importlib.import_module("transformers")
        interface = importlib.import_module("transformers.modeling_utils").AttentionInterface
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise ModuleNotFoundError(
            "transformers is not installed: pip install 'foreshock[transformers]'", name="transformers"
        ) from None
    except AttributeError:
        raise ImportError("this transformers has no attention interface: pip install 'transformers>=4.50'") from None
    interface.register(name, huggingface_attention)
    try:
        masking = importlib.import_module("transformers.masking_utils")
    except ModuleNotFoundError:
        return  # before 4.53 masks were made for SDPA whatever the attention
    masking.AttentionMaskInterface.register(name, masking.ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


def huggingface_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Compute attention as transformers calls for it.

    Args:
        module: the layer; its ``is_causal`` holds where the argument is None.
        query: (B, H, T, D).
        key: (B, G, S, D).
        value: (B, G, S, E).
        attention_mask: broadcastable to (B, H, T, S); sliding windows are in it. It may be longer than S.
        dropout: probability that a probability is dropped.
        scaling: factor on the scores.
        is_causal: without a mask, whether later keys are hidden from more than one query.
        softcap: bound on the scores.

    Returns:
        (B, T, H, E), and no attention weights.
    """
    if attention_mask is not None:
        attention_mask = attention_mask[..., : key.shape[-2]]
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    out = attention(
        query,
        key,
        value,
        attention_mask,
        dropout,
        # A single query is the last one: it sees every key of the cache.
        causal and attention_mask is None and query.shape[2] > 1,
        scaling,
        enable_gqa=query.shape[1] != key.shape[1],
        softcap=softcap,
    )
    return out.transpose(1, 2).contiguous(), None
