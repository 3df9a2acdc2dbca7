"""What ``nn.MultiheadAttention`` attends with, worked out from the arguments of its functional form.

Under a TorchFunctionMode the module is one call of ``F.multi_head_attention_forward``: q, k and v exist only inside it. They are
projected here once more from the inputs of a few sequences, so the forward statistics can be given; the heads' outputs and the
gradient of the keys stay out of reach, and what needs them (``rounding.*``) does not apply.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_SIGNATURE = inspect.signature(F.multi_head_attention_forward)


@dataclass(frozen=True, slots=True)
class MultiheadInputs:
    """The arguments that matter; inputs are (tokens, batch, width), with a batch axis also where none was given."""

    query: Tensor
    key: Tensor
    value: Tensor
    options: dict[str, Any]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, H, the larger of query rows and keys, D)."""
        tokens = max(self.query.shape[0], self.key.shape[0] + self._added)
        return self.query.shape[1], self._heads, tokens, self.query.shape[2] // self._heads

    @property
    def is_causal(self) -> bool:
        """Whether the causal hint takes the mask's place, as it does inside."""
        hidden = self.options["key_padding_mask"] is None and not self.options["need_weights"]
        return bool(self.options["is_causal"]) and hidden

    def input_rows(self, sequences: int, rows: Tensor | None) -> Tensor:
        """Return some rows of the query projection's input, (B, R, C), a float32 copy."""
        x = self.query[:, :sequences].transpose(0, 1)
        return (x.clone() if rows is None else x.index_select(1, rows)).float()

    def weights(self) -> tuple[Tensor, Tensor]:
        """Return W_q and W_k, views of the live parameters."""
        q, k, _ = self._weights()
        return q.detach(), k.detach()

    def projected(self, sequences: int) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return q (B, H, T, D), k and v (B, H, S, D) and the mask as a bias (B, H or 1, T or 1, S) of the first sequences."""
        bias = self.options["in_proj_bias"]
        biases = (None, None, None) if bias is None else bias.chunk(3)
        given = (self.query, self.key, self.value)
        q, k, v = (
            F.linear(x[:, :sequences].float(), w.float(), None if b is None else b.float())
            for x, w, b in zip(given, self._weights(), biases, strict=True)
        )
        for added in ("bias", "zero"):
            if added == "bias" and self.options["bias_k"] is not None:
                k = torch.cat([k, self.options["bias_k"].float().expand(1, k.shape[1], -1)])
                v = torch.cat([v, self.options["bias_v"].float().expand(1, v.shape[1], -1)])
            if added == "zero" and self.options["add_zero_attn"]:
                k, v = F.pad(k, (0, 0, 0, 0, 0, 1)), F.pad(v, (0, 0, 0, 0, 0, 1))
        by_head = tuple(x.unflatten(2, (self._heads, -1)).permute(1, 2, 0, 3) for x in (q, k, v))
        return (*by_head, self._bias(sequences))

    @property
    def _heads(self) -> int:
        return int(self.options["num_heads"])

    @property
    def _added(self) -> int:
        """How many keys are added behind the given ones; every query sees them."""
        return (self.options["bias_k"] is not None) + bool(self.options["add_zero_attn"])

    def _weights(self) -> tuple[Tensor, Tensor, Tensor]:
        if self.options["use_separate_proj_weight"]:
            q, k, v = (self.options[f"{part}_proj_weight"] for part in "qkv")
        else:
            q, k, v = self.options["in_proj_weight"].chunk(3)
        return q, k, v

    def _bias(self, sequences: int) -> Tensor | None:
        mask = None if self.is_causal else self.options["attn_mask"]
        padding = self.options["key_padding_mask"]
        if mask is not None:
            mask = _additive(mask)
            # (T, S), or (B * H, T, S).
            mask = mask[None, None] if mask.dim() == 2 else mask.unflatten(0, (-1, self._heads))[:sequences]
        if padding is not None:
            padding = _additive(padding if padding.dim() == 2 else padding[None])[:sequences, None, None]
        given = [each for each in (mask, padding) if each is not None]
        return F.pad(sum(given[1:], given[0]), (0, self._added)) if given else None


def multihead_inputs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> MultiheadInputs | None:
    """Return the arguments of a call of ``F.multi_head_attention_forward``; None where keys were given ready-made."""
    bound = _SIGNATURE.bind(*args, **kwargs)
    bound.apply_defaults()
    options = dict(bound.arguments)
    q, k, v = (options.pop(name).detach() for name in ("query", "key", "value"))
    if options["static_k"] is not None or options["static_v"] is not None:
        return None
    if q.dim() == 2:
        q, k, v = (x[:, None] for x in (q, k, v))
    return MultiheadInputs(q, k, v, options)


def _additive(mask: Tensor) -> Tensor:
    """Here True in a boolean mask means "not this one", the opposite of what it means to SDPA."""
    return torch.where(mask.detach(), float("-inf"), 0.0).float() if mask.dtype == torch.bool else mask.detach().float()
