"""How models name and lay out their attention: the one table that q, k and v are found by.

A layer's own name decides, beside the module that attends; sizes that do not fit the layout are not believed. A family that is
not here needs a name in one of these sets. Of a model that names nothing so everything else is measured all the same: its layers
keep the names of their module paths, and attention itself is seen by its calls.

    separate     q_proj, k_proj, v_proj        Llama, Mistral, Qwen, Gemma, OLMo, ...;  query, key, value: BERT, ViT, RoBERTa
    fused        c_attn, qkv_proj, Wqkv        GPT-2, nanoGPT, Phi, ModernBERT: rows of q, then k, then v; fewer of k and v where
                                               several heads share them (grouped queries)
    by head      query_key_value               GPT-NeoX, BLOOM, Falcon: (q, k, v) of the first head, of the second head, ...
"""

from collections.abc import Sequence
from typing import Literal

from torch import nn

Part = Literal["", "q", "k", "v"]
QKV: tuple[Part, ...] = ("q", "k", "v")

_SEPARATE: dict[Part, frozenset[str]] = {
    "q": frozenset({"q", "q_proj", "query", "wq", "w_q", "to_q", "q_lin", "linear_q", "query_proj"}),
    "k": frozenset({"k", "k_proj", "key", "wk", "w_k", "to_k", "k_lin", "linear_k", "key_proj"}),
    "v": frozenset({"v", "v_proj", "value", "wv", "w_v", "to_v", "v_lin", "linear_v", "value_proj"}),
}
_FUSED = frozenset({"c_attn", "qkv", "qkv_proj", "to_qkv", "wqkv", "in_proj"})
_BY_HEAD = "query_key_value"
_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head")
_KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "kv_n_heads", "n_local_heads")


def role(name: str) -> Part:
    """Return which of q, k and v a whole layer of this own name makes, '' for none."""
    return next((part for part, names in _SEPARATE.items() if name.lower() in names), "")


def parts(name: str, parent: nn.Module | None, out: int, into: int) -> list[tuple[Part, int, int, int]]:
    """Return what a layer consists of: part, first output, outputs, and heads where the parts lie head by head.

    Args:
        name: the layer's own.
        parent: the module it belongs to, which may know of heads, or whose ``config`` does.
        out, into: outputs and inputs of the layer.
    """
    whole: list[tuple[Part, int, int, int]] = [("", 0, 0, 0)]
    heads, groups = number_of(parent, _HEADS), number_of(parent, _KEY_VALUE_HEADS)
    if name == _BY_HEAD:
        # ChatGLM gives the same name to q, k and v one after the other, and says so by this attribute.
        known = heads and into % heads == 0 and out == 3 * into and not hasattr(parent, "multi_query_attention")
        return [(part, 0, into, heads) for part in QKV] if known else whole
    # InternLM2's `wqkv` interleaves group by group; it alone of that name counts its groups.
    if name.lower() not in _FUSED or (name == "wqkv" and hasattr(parent, "num_key_value_groups")):
        return whole
    if heads and groups and groups < heads and heads % groups == 0 and out % (heads + 2 * groups) == 0:
        head = out // (heads + 2 * groups)
        if number_of(parent, ("head_dim",)) == head or heads * head == into:
            q, kv = heads * head, groups * head
            return [("q", 0, q, 0), ("k", q, kv, 0), ("v", q + kv, kv, 0)]
    return [(part, i * into, into, 0) for i, part in enumerate(QKV)] if out == 3 * into else whole


def number_of(module: nn.Module | None, names: Sequence[str]) -> int:
    """Return the first of these attributes, of the module or of its ``config``, that is a positive whole number, else 0."""
    for holder in (module, getattr(module, "config", None)):
        for name in names:
            value = getattr(holder, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return 0
