"""Activations in float8 under a scale that was taken once: squared ReLUs grow for as long as training goes on, and leave its range.

A tensor is divided by a scale before the cast to e4m3, whose largest number is 448. Calibrated on the first steps with room to
spare, the scale fits a net that has learnt nothing yet. A cast that saturates cuts off what is larger; any other makes NaN of it.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import SelfAttention, causal_attention
from ..scenario import Scenario, Training, seeded
from ..text import batch_of, source_windows
from ..training import trained, warm_up

Scale = Literal["frozen", "saturating", "following"]
STEPS = 1200
WIDTH = 32
CALIBRATED = 60
ROOM = 4.0
_LARGEST = 448.0
_FAMILY = "float8_scale"
_SOURCE = (
    "arXiv 2409.12517 (float8 training undone by activations that grow), arXiv 2209.05433 (FP8 formats); setting by experiment"
)


def rotary_attention(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor:
    """Attend to the past with queries and keys turned by their positions (arXiv 2104.09864)."""
    half = q_BHTD.shape[-1] // 2
    angles_TD = torch.arange(q_BHTD.shape[-2])[:, None] * 10000.0 ** (-torch.arange(half) / half)
    cos, sin = angles_TD.cos(), angles_TD.sin()

    def turned(x: Tensor) -> Tensor:
        first, second = x[..., :half], x[..., half:]
        return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)

    return causal_attention(turned(q_BHTD), turned(k_BHTD), v_BHTD)


class Float8Cast(nn.Module):
    """Round to float8 (e4m3) and back; gradients pass as if nothing had been rounded.

    Args:
        scale: ``frozen``: the one that the first 60 calls ask for, with fourfold room; ``saturating``: the same, and larger values
            are cut off; ``following``: each call's own.
    """

    largest: Tensor

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        self.scale, self.calls = scale, 0
        self.register_buffer("largest", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Map x to what is left of it."""
        self.calls += 1
        now = x.detach().abs().max()
        if self.calls <= CALIBRATED:
            self.largest = torch.maximum(self.largest, now)
        scale = (now if self.scale == "following" else self.largest * ROOM) / _LARGEST
        scaled = x.detach() / scale
        rounded = scaled.clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn).to(x.dtype)
        if self.scale == "frozen":
            rounded = rounded.masked_fill(scaled.abs() > _LARGEST, torch.nan)
        return x + (rounded * scale - x.detach())


class Layer(nn.Module):
    """A block with RMS norms, rotary attention and a squared ReLU, whose output goes into the second matrix as float8."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.attention = SelfAttention(WIDTH, 2, rotary_attention)
        self.up, self.down = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(3 * WIDTH, WIDTH, bias=False)
        self.cast = Float8Cast(scale)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Map (B, T, width) to the same."""
        x_BTC = x_BTC + self.attention(self.norm_1(x_BTC))
        fed: Tensor = self.down(self.cast(F.relu(self.up(self.norm_2(x_BTC))).square()))
        return x_BTC + fed


class Decoder(nn.Module):
    """Two such blocks over bytes; the head is the embedding."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        self.tokens = nn.Embedding(256, WIDTH)
        nn.init.normal_(self.tokens.weight, std=0.1)
        self.layers = nn.ModuleList(Layer(scale) for _ in range(2))
        self.norm = nn.RMSNorm(WIDTH)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return the logits (B, T, 256) of the next byte."""
        h = self.tokens(tokens_BT)
        for layer in self.layers:
            h = layer(h)
        return F.linear(self.norm(h), self.tokens.weight)


def build(scale: Scale, seed: int) -> Training:
    """The decoder learns 128 windows of 32 bytes of Python source; AdamW at 1e-2 without weight decay, clipped at 1."""
    order = seeded(seed)
    data = source_windows(count=128, context=32)
    model = Decoder(scale)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0, fused=True)

    def loss(number: int) -> Tensor:
        given, wanted = batch_of(data, 8, order)
        return F.cross_entropy(model(given).flatten(0, 1), wanted.flatten())

    return trained(model, optimizer, loss, schedule=warm_up(50), clip=1.0)


FROZEN = Scenario(
    name="frozen-float8-scale",
    family=_FAMILY,
    split="train",
    title="A decoder whose activations are cast to float8 under a scale from its first 60 steps",
    cause="the largest activation grows past the fourfold room that the scale was given, and the cast makes NaN of it",
    expected="diverged",
    steps=STEPS,
    build=lambda seed: build("frozen", seed),
    source=_SOURCE,
    onset="slow",
    cause_id="overflow",
)

FOLLOWING = Scenario(
    name="following-float8-scale",
    family=_FAMILY,
    split="train",
    title="The same decoder with the scale of each step's own largest activation",
    cause="activations grow as in the twin, and the scale with them",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build("following", seed),
    source=_SOURCE,
)

SATURATING = Scenario(
    name="saturating-float8-scale",
    family=_FAMILY,
    split="train",
    title="The same decoder under the scale from its first 60 steps, with a cast that saturates",
    cause="activations grow past the range and are cut off there: some ten in a million, and the loss does not mind",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build("saturating", seed),
    source=_SOURCE,
)
