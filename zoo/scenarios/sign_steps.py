"""Lion without weight decay at a high rate: queries and keys grow by each step, and attention comes to look at one token only.

An update of Lion is as large in every entry of a matrix, so what grows is its largest singular value. Logits grow as the square.
From step 100 to 400 the largest logit of the second layer grows from 50 to between 200 and 1,000, and its attention's entropy falls
from 0.3 to 0.06 or less, while the loss lies flat; with QK-norm logits stay below 4 and the entropy at 1.8.
"""

import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..scenario import Scenario, Training, seeded
from ..text import batch_of, windows
from ..training import trained, warm_up

STEPS = 1000
CONTEXT = 24
_FAMILY = "sign_steps"
_SOURCE = "arXiv 2302.06675 (Lion), arXiv 2303.06296 (entropy collapse), arXiv 2302.05442 (QK-norm); setting found by experiment"


class Lion(torch.optim.Optimizer):
    """Lion (arXiv 2302.06675) without weight decay: the sign of a moving average, times the rate."""

    def __init__(self, params: Iterable[Tensor], lr: float, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        super().__init__(params, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            now, later = group["betas"]
            held = [each for each in group["params"] if each.grad is not None]
            gradients = [each.grad for each in held]
            averages = [self.state[each].setdefault("average", torch.zeros_like(each)) for each in held]
            moves = torch._foreach_sign(torch._foreach_lerp(gradients, averages, now))
            torch._foreach_add_(held, moves, alpha=-group["lr"])
            torch._foreach_lerp_(averages, gradients, 1.0 - later)


def turned(x_BHTD: Tensor) -> Tensor:
    """Return queries or keys with rotary positions (arXiv 2104.09864)."""
    t, d = x_BHTD.shape[-2:]
    angles_TD = torch.arange(t)[:, None] * 100.0 ** (-torch.arange(d // 2) / (d // 2))
    first, second = x_BHTD.chunk(2, -1)
    cos, sin = angles_TD.cos(), angles_TD.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


class RotaryAttention(nn.Module):
    """Causal attention with rotary positions.

    Args:
        width: of the residual stream.
        heads: number of heads.
        normalize: bring queries and keys to unit RMS first.
    """

    def __init__(self, width: int, heads: int, normalize: bool) -> None:
        super().__init__()
        self.heads, size = heads, width // heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.norm_q, self.norm_k = ((nn.RMSNorm(size, elementwise_affine=False) if normalize else nn.Identity()) for _ in range(2))
        self.softmax = nn.Softmax(-1)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Map (B, T, width) to the same."""
        b, t, c = x_BTC.shape
        q, k, v = (p(x_BTC).view(b, t, self.heads, c // self.heads).transpose(1, 2) for p in (self.q, self.k, self.v))
        logits = turned(self.norm_q(q)) @ turned(self.norm_k(k)).transpose(2, 3) / math.sqrt(c // self.heads)
        weights = self.softmax(logits.masked_fill(torch.ones(t, t, dtype=torch.bool).triu(1), -math.inf))
        mixed: Tensor = self.o((weights @ v).transpose(1, 2).reshape(b, t, c))
        return mixed


class RotaryTransformer(nn.Module):
    """A language model over bytes: rotary attention and MLPs on a residual stream with layer norms."""

    def __init__(self, width: int, heads: int, layers: int, normalize: bool) -> None:
        super().__init__()
        self.tokens = nn.Embedding(256, width)
        self.attentions = nn.ModuleList(RotaryAttention(width, heads, normalize) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers + 1))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width)) for _ in range(layers)
        )
        self.head = nn.Linear(width, 256)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return the logits (B, T, 256) of the next byte."""
        h = self.tokens(tokens_BT)
        for place, (attention, mlp) in enumerate(zip(self.attentions, self.mlps, strict=True)):
            h = h + attention(self.norms[2 * place](h))
            h = h + mlp(self.norms[2 * place + 1](h))
        logits: Tensor = self.head(self.norms[-1](h))
        return logits


def build(normalize: bool, rate: float, seed: int) -> Training:
    """2 layers of width 48 learn 32 windows by heart; Lion.

    Args:
        normalize: queries and keys have unit RMS.
        rate: of learning.
        seed: of the run.
    """
    order = seeded(seed)
    data = windows(32, CONTEXT)
    model = RotaryTransformer(48, 3, 2, normalize)
    optimizer = Lion(model.parameters(), lr=rate)

    def loss(number: int) -> Tensor:
        tokens, targets = batch_of(data, 8, order)
        return F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())

    return trained(model, optimizer, loss, schedule=warm_up(50))


SIGN_STEPS = Scenario(
    name="lion-without-decay",
    family=_FAMILY,
    split="held_out",
    title="A rotary transformer under Lion at a high rate, without weight decay and without QK-norm",
    cause="queries and keys grow with every step, logits as their square; attention looks at one token, and nothing leads it on",
    expected="diverged",
    steps=STEPS,
    build=lambda seed: build(False, 8e-3, seed),
    source=_SOURCE,
    onset="slow",
    cause_id="attention_logit_growth",
)

SIGN_STEPS_QK_NORM = Scenario(
    name="lion-with-qk-norm",
    family=_FAMILY,
    split="held_out",
    title="The same transformer at the same rate, with QK-norm",
    cause="weights grow as fast, yet logits cannot, and attention stays as broad as it was",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(True, 8e-3, seed),
    source=_SOURCE,
)

SIGN_STEPS_BEARABLE = Scenario(
    name="lion-at-a-quarter",
    family=_FAMILY,
    split="held_out",
    title="The same transformer without QK-norm at a quarter of the rate",
    cause="logits grow to about a hundred and attention sharpens, as it may where a text is learnt by heart",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(False, 2e-3, seed),
    source=_SOURCE,
)
