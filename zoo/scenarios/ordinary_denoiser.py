"""A small diffusion denoiser and a small vision transformer on the settings that most people would choose: nothing is wrong."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..images import batch_of
from ..scenario import Scenario, Training, seeded
from ..training import trained
from ..vision import ViT

STEPS = 800
WARM_UP = 80
_FAMILY = "ordinary_denoiser"
_SOURCE = "the usual recipes: arXiv 2102.09672 (noise prediction, a cosine of noise), arXiv 2106.10270 (how to train a ViT)"


class Residual(nn.Module):
    """Two convolutions on a residual stream, shifted and scaled by an embedding of the noise's level."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.GroupNorm(4, width), nn.GroupNorm(4, width)
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.level = nn.Linear(32, 2 * width)

    def forward(self, h_BCHW: Tensor, level_BE: Tensor) -> Tensor:
        """Map (B, width, H, W) and the level's embedding (B, 32) to the same as the first."""
        scale, shift = self.level(level_BE)[:, :, None, None].chunk(2, 1)
        h = self.norm_2(self.first(F.silu(self.norm_1(h_BCHW))))
        out: Tensor = h_BCHW + self.second(F.silu(h * (1 + scale) + shift))
        return out


class Denoiser(nn.Module):
    """Predicts the noise in an image at half its resolution, from the image and the noise's level between 0 and 1."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.frequencies = nn.Buffer(torch.exp(torch.linspace(0.0, 4.0, 16)))
        self.embed = nn.Sequential(nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 32))
        self.down = nn.Conv2d(1, width, 4, 2, padding=1)
        self.blocks = nn.ModuleList(Residual(width) for _ in range(blocks))
        self.norm, self.up = nn.GroupNorm(4, width), nn.ConvTranspose2d(width, 1, 4, 2, padding=1)

    def forward(self, images_B1HW: Tensor, level_B: Tensor) -> Tensor:
        """Map noisy images (B, 1, 12, 12) and levels (B,) to the noise."""
        angles = level_B[:, None] * self.frequencies
        level = self.embed(torch.cat([angles.sin(), angles.cos()], 1))
        h = self.down(images_B1HW)
        for block in self.blocks:
            h = block(h, level)
        noise: Tensor = self.up(F.silu(self.norm(h)))
        return noise


def cosine(number: int) -> float:
    """Warm up for 80 steps, then fall along half a cosine to a hundredth."""
    if number < WARM_UP:
        return (number + 1) / WARM_UP
    return 0.01 + 0.99 * (1.0 + math.cos(math.pi * (number - WARM_UP) / (STEPS - WARM_UP))) / 2.0


def linear(number: int) -> float:
    """Warm up for 80 steps, then fall linearly to a hundredth."""
    return min((number + 1) / WARM_UP, 0.01 + 0.99 * (STEPS - number) / (STEPS - WARM_UP))


def denoiser(seed: int) -> Training:
    """A conv denoiser of 2 blocks of width 16 on glyphs; AdamW at 2e-3, weight decay 0.01, a warm-up and a cosine, clipped at 1."""
    order = seeded(seed)
    model = Denoiser(16, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01, fused=True)

    def loss(number: int) -> Tensor:
        images, _ = batch_of(32, order)
        level = torch.rand(32, generator=order)
        noise = torch.randn(images.shape, generator=order)
        angle = (level * math.pi / 2)[:, None, None, None]
        return F.mse_loss(model(angle.cos() * images + angle.sin() * noise, level), noise)

    return trained(model, optimizer, loss, schedule=cosine, clip=1.0)


def transformer(seed: int) -> Training:
    """A ViT of 2 layers of width 48 on glyphs; AdamW at 4e-3, weight decay 0.05, a warm-up and a linear fall."""
    order = seeded(seed)
    model = ViT(48, 4, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.05, fused=True)

    def loss(number: int) -> Tensor:
        images, labels = batch_of(32, order)
        return F.cross_entropy(model(images), labels, label_smoothing=0.1)

    return trained(model, optimizer, loss, schedule=linear)


ORDINARY_DENOISER = Scenario(
    name="ordinary-denoiser",
    family=_FAMILY,
    split="held_out",
    title="A small diffusion denoiser under AdamW with a warm-up, a cosine and clipping",
    cause="nothing: the usual settings",
    expected="survived",
    steps=STEPS,
    build=denoiser,
    source=_SOURCE,
)

ORDINARY_TRANSFORMER = Scenario(
    name="ordinary-vision-transformer",
    family=_FAMILY,
    split="held_out",
    title="A small vision transformer under AdamW with a warm-up and a linear fall",
    cause="nothing: the usual settings",
    expected="survived",
    steps=STEPS,
    build=transformer,
    source=_SOURCE,
)
