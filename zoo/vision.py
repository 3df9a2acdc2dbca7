"""The image classifiers of the zoo, over one-channel images of 12 by 12 points: a residual MLP, a conv net, a ViT."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .images import CLASSES, SIZE
from .models import Block, full_attention


class MLP(nn.Module):
    """A residual MLP: ``x + down(act(up(norm(x))))`` a layer.

    Args:
        width, layers: its size.
        norm: layer normalisation at the head of each branch and before the classifier, or none at all.
        activation: makes what stands between the two linear layers of a branch; a module for each, so that probes see it.
        residual: plain layers ``act(up(norm(x)))`` instead.
        outputs: classes.
        inputs: points of an image.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        *,
        norm: bool,
        activation: Callable[[], nn.Module] = nn.ReLU,
        residual: bool = True,
        outputs: int = CLASSES,
        inputs: int = SIZE * SIZE,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.activations = nn.ModuleList(activation() for _ in range(layers))
        self.first = nn.Linear(inputs, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) if norm else nn.Identity() for _ in range(layers + 1))
        self.ups = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.downs = nn.ModuleList(nn.Linear(width, width) for _ in range(layers if residual else 0))
        self.head = nn.Linear(width, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, ...) to logits (B, outputs)."""
        h = self.first(images.flatten(1))
        for place, (norm, up) in enumerate(zip(self.norms, self.ups, strict=False)):
            branch = self.activations[place](up(norm(h)))
            h = h + self.downs[place](branch) if self.residual else branch
        logits: Tensor = self.head(self.norms[-1](h))
        return logits


class ConvNet(nn.Module):
    """Three convolutions of stride 2, 1, 2 and a linear classifier.

    Args:
        width: channels.
        norm: batch normalisation after each convolution, group normalisation (4 groups), or none.
    """

    def __init__(self, width: int, *, norm: Literal["batch", "group", "none"]) -> None:
        super().__init__()
        strides, channels = (2, 1, 2), (1, width, width, 2 * width)
        shapes = zip(channels[:-1], channels[1:], strides, strict=True)
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, 3, stride, padding=1) for i, o, stride in shapes)
        kinds: dict[str, Callable[[int], nn.Module]] = {
            "batch": nn.BatchNorm2d,
            "group": lambda channels: nn.GroupNorm(4, channels),
            "none": lambda channels: nn.Identity(),
        }
        self.norms = nn.ModuleList(kinds[norm](o) for o in channels[1:])
        self.activations = nn.ModuleList(nn.ReLU() for _ in strides)
        self.head = nn.Linear(2 * width * 9, CLASSES)

    def forward(self, images_B1HW: Tensor) -> Tensor:
        """Map images (B, 1, 12, 12) to logits (B, 32)."""
        h = images_B1HW
        for convolution, norm, activation in zip(self.convolutions, self.norms, self.activations, strict=True):
            h = activation(norm(convolution(h)))
        logits: Tensor = self.head(h.flatten(1))
        return logits


class ViT(nn.Module):
    """A small vision transformer: 9 or 16 patches, pre-LN blocks, the mean of the tokens classified.

    Args:
        width, heads, layers: its size.
        patch: points along a patch's side; divides 12.
        qk_norm: normalise queries and keys.
    """

    def __init__(self, width: int, heads: int, layers: int, *, patch: int = 4, qk_norm: bool = False) -> None:
        super().__init__()
        self.patch = patch
        self.embed = nn.Linear(patch * patch, width)
        self.positions = nn.Parameter(torch.randn((SIZE // patch) ** 2, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads, full_attention, normalize=qk_norm) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, images_B1HW: Tensor) -> Tensor:
        """Map images (B, 1, 12, 12) to logits (B, 32)."""
        patches_BCT = F.unfold(images_B1HW, self.patch, stride=self.patch)
        h = self.embed(patches_BCT.transpose(1, 2)) + self.positions
        for block in self.blocks:
            h = block(h)
        logits: Tensor = self.head(self.norm(h).mean(1))
        return logits
