"""The language models of the zoo: small enough for a CPU, built the way the large ones are."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Maps q, k, v of shape (B, H, T, D) to the output of the same shape; masks the future."""


class SelfAttention(nn.Module):
    """Multi-head self-attention with separate q, k, v and o projections.

    Args:
        width: of the residual stream; divisible by ``heads``.
        heads: number of heads.
        attend: the attention itself. May be replaced while training: it holds no parameters.
        normalize: bring every query and key to unit RMS first, with a gain (QK-norm).
    """

    def __init__(self, width: int, heads: int, attend: Attention, normalize: bool = False) -> None:
        super().__init__()
        self.heads, self.attend = heads, attend
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.norm_q, self.norm_k = ((nn.RMSNorm(width // heads) if normalize else nn.Identity()) for _ in range(2))

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Map (B, T, width) to the same."""
        b, t, c = x_BTC.shape
        q, k, v = (p(x_BTC).view(b, t, self.heads, c // self.heads).transpose(1, 2) for p in (self.q, self.k, self.v))
        q, k = self.norm_q(q), self.norm_k(k)
        out: Tensor = self.o(self.attend(q, k, v).transpose(1, 2).reshape(b, t, c))
        return out


def full_attention(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor:
    """Attend to everything; for images."""
    return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD)


def causal_attention(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor:
    """Attend to the past, in float32."""
    return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, is_causal=True)


class Block(nn.Module):
    """A transformer block: pre-LN, or post-LN as the first transformers had it (arXiv 1706.03762)."""

    def __init__(self, width: int, heads: int, attend: Attention, post_norm: bool = False, normalize: bool = False) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, attend, normalize)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Map (B, T, width) to the same."""
        if self.post_norm:
            x_BTC = self.norm_1(x_BTC + self.attention(x_BTC))
            out: Tensor = self.norm_2(x_BTC + self.down(F.gelu(self.up(x_BTC))))
            return out
        x_BTC = x_BTC + self.attention(self.norm_1(x_BTC))
        fed: Tensor = self.down(F.gelu(self.up(self.norm_2(x_BTC))))
        return x_BTC + fed


class GPT(nn.Module):
    """A small GPT over bytes: learned positions, untied head, GPT-2's initialisation.

    Args:
        width, heads, layers, context: its size.
        attend: the attention of every block.
        value_bias: what the value projections' biases start at. Far from zero, it gives V mostly one sign, as trained
            large models have it in places: one of the two ingredients of the low-precision failure (arXiv 2510.04212).
        post_norm: the blocks are post-LN instead of pre-LN.
    """

    vocabulary = 256

    def __init__(
        self,
        width: int,
        heads: int,
        layers: int,
        context: int,
        attend: Attention = causal_attention,
        value_bias: float = 0.0,
        post_norm: bool = False,
    ) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(self.vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads, attend, post_norm) for _ in range(layers))
        self.norm: nn.Module = nn.Identity() if post_norm else nn.LayerNorm(width)  # post-LN blocks end with one
        self.head = nn.Linear(width, self.vocabulary, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                residual = name.endswith(("attention.o.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if residual else 0.02)
            elif "norm" not in name:
                nn.init.zeros_(parameter)
        for block in self.blocks:
            assert isinstance(block, Block)
            nn.init.constant_(block.attention.v.bias, value_bias)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return the logits (B, T, 256) of the next byte."""
        h = self.tokens(tokens_BT) + self.positions(torch.arange(tokens_BT.shape[1], device=tokens_BT.device))
        for block in self.blocks:
            h = block(h)
        logits: Tensor = self.head(self.norm(h))
        return logits
