"""Linear attention over exponential features in fp16: queries and keys grow as the text is learnt, until a sum leaves the range.

Attention is linear: ``exp(q)`` meets ``exp(k)`` without a maximum that is taken out first, and what they sum to is stored in fp16.
The largest entries of queries and keys grow from 1 at step 100 to 5 or more before the failure, and the largest feature from 3 to
more than 150, while the loss falls; behind a softmax no feature ever exceeds 1, and with QK-norm entries stay below 4.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..scenario import Scenario, Training, seeded
from ..text import batch_of, windows
from ..training import trained, warm_up

STEPS = 900
CONTEXT = 32
_FAMILY = "exponential_features"
_SOURCE = "arXiv 2402.04347 (Hedgehog: exponential features, and a softmax over them against overflow); setting found by experiment"


def stored(values: Tensor) -> Tensor:
    """Round to fp16, overflow to infinity included; the gradient passes as it is."""
    return values + (values.half().float() - values).detach()


class LinearAttention(nn.Module):
    """Causal linear attention over the features ``exp(x)`` and ``exp(-x)``.

    Args:
        width: of the residual stream.
        heads: number of heads.
        bounded: the features of a token go through a softmax, so that they sum to one.
        normalize: queries and keys have unit RMS.
    """

    def __init__(self, width: int, heads: int, bounded: bool, normalize: bool) -> None:
        super().__init__()
        self.heads, self.bounded, size = heads, bounded, width // heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.norm_q, self.norm_k = ((nn.RMSNorm(size, elementwise_affine=False) if normalize else nn.Identity()) for _ in range(2))

    def features(self, x_BHTD: Tensor) -> Tensor:
        """Return the features (B, H, T, 2 D), all above zero."""
        both = torch.cat([x_BHTD, -x_BHTD], -1)
        return both.softmax(-1) if self.bounded else stored(both.exp())

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Map (B, T, width) to the same."""
        b, t, c = x_BTC.shape
        q, k, v = (p(x_BTC).view(b, t, self.heads, c // self.heads).transpose(1, 2) for p in (self.q, self.k, self.v))
        q, k = self.features(self.norm_q(q)), self.features(self.norm_k(k))
        alike_BHTT = stored((q @ k.transpose(2, 3)).tril())
        out = alike_BHTT @ v / stored(alike_BHTT.sum(-1, keepdim=True))
        mixed: Tensor = self.o(out.transpose(1, 2).reshape(b, t, c))
        return mixed


class LinearTransformer(nn.Module):
    """A language model over bytes: RMS norms, linear attention, gated MLPs, the head tied to the embedding."""

    def __init__(self, width: int, heads: int, layers: int, bounded: bool, normalize: bool) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(256, width), nn.Embedding(CONTEXT, width)
        self.attentions = nn.ModuleList(LinearAttention(width, heads, bounded, normalize) for _ in range(layers))
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(2 * layers + 1))
        self.gates = nn.ModuleList(nn.Linear(width, 4 * width, bias=False) for _ in range(layers))
        self.downs = nn.ModuleList(nn.Linear(2 * width, width, bias=False) for _ in range(layers))
        for name, parameter in self.named_parameters():
            if "norms" not in name:
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if ".o." in name or "downs" in name else 0.02)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return the logits (B, T, 256) of the next byte."""
        h = self.tokens(tokens_BT) + self.positions.weight[: tokens_BT.shape[1]]
        for place, (attention, gate, down) in enumerate(zip(self.attentions, self.gates, self.downs, strict=True)):
            h = h + attention(self.norms[2 * place](h))
            open_, fed = gate(self.norms[2 * place + 1](h)).chunk(2, -1)
            h = h + down(F.silu(open_) * fed)
        logits: Tensor = self.norms[-1](h) @ self.tokens.weight.T
        return logits


def build(bounded: bool, normalize: bool, seed: int) -> Training:
    """2 layers of width 48 learn 64 windows by heart; AdamW, its rate rising for 500 steps.

    Args:
        bounded: features go through a softmax.
        normalize: queries and keys have unit RMS.
        seed: of the run.
    """
    order = seeded(seed)
    data = windows(64, CONTEXT)
    model = LinearTransformer(48, 3, 2, bounded, normalize)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True)

    def loss(number: int) -> Tensor:
        tokens, targets = batch_of(data, 8, order)
        return F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())

    return trained(model, optimizer, loss, schedule=warm_up(500), clip=1.0)


OVERFLOWING = Scenario(
    name="exponential-features",
    family=_FAMILY,
    split="held_out",
    title="Linear attention in fp16 over exponential features of queries and keys",
    cause="queries and keys grow with learning; the exponential of their sum leaves fp16, and infinity is divided by itself",
    expected="diverged",
    steps=STEPS,
    build=lambda seed: build(False, False, seed),
    source=_SOURCE,
    onset="slow",
    cause_id="overflow",
)

BOUNDED = Scenario(
    name="softmax-features",
    family=_FAMILY,
    split="held_out",
    title="The same linear attention at the same rate, its features behind a softmax",
    cause="queries and keys grow as much, but the features of a token sum to one whatever they do",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(True, False, seed),
    source=_SOURCE,
)

NORMALISED = Scenario(
    name="exponential-features-qk-norm",
    family=_FAMILY,
    split="held_out",
    title="The same linear attention over exponential features of normalised queries and keys",
    cause="weights grow as they do without the norm, and features stay below a hundred",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(False, True, seed),
    source=_SOURCE,
)
