"""Images for the zoo's vision models: 32 drawn characters, each shifted, turned, scaled, of other contrast and noisy.

The characters stand in ``data/glyphs.txt``, drawn for this project (5 by 7 dots each) and given to the public domain.
"""

import functools
from importlib.resources import files

import torch
import torch.nn.functional as F
from torch import Tensor

CLASSES = 32
SIZE = 12
_NOISE = 0.3


@functools.cache
def glyphs() -> Tensor:
    """Return the characters as drawn: (32, 7, 5), 0 or 1."""
    lines = (files(__package__) / "data" / "glyphs.txt").read_text("ascii").splitlines()
    rows = [[[float(dot == "#") for dot in row] for row in line.split()[1:]] for line in lines]
    return torch.tensor(rows)


@functools.cache
def data_set(count: int = 4096, seed: int = 0, noise: float = _NOISE) -> tuple[Tensor, Tensor]:
    """Return images (count, 1, 12, 12) of mean about 0 and standard deviation about 1, and their labels (count,), int64.

    The same for the same arguments. Not to be written to: it is shared.
    """
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=random)

    def draw() -> Tensor:
        return torch.rand(count, generator=random) * 2 - 1

    turn, scale = 0.2 * draw(), 1.5 * (1 + 0.15 * draw())
    cos, sin = scale * turn.cos(), scale * turn.sin()
    moves_N23 = torch.stack([torch.stack([cos, -sin, 0.35 * draw()], 1), torch.stack([sin, cos, 0.35 * draw()], 1)], 1)
    square = F.pad(glyphs()[labels][:, None], (1, 1))  # 5 by 7 becomes 7 by 7, so that turning keeps the shape
    grid = F.affine_grid(moves_N23, [count, 1, SIZE, SIZE], align_corners=False)
    images = F.grid_sample(square, grid, align_corners=False) * (1 + 0.3 * draw())[:, None, None, None]
    images += noise * torch.randn(images.shape, generator=random)
    return (images - images.mean()) / images.std(), labels


def batch_of(size: int, order: torch.Generator, count: int = 4096) -> tuple[Tensor, Tensor]:
    """Draw ``size`` images and their labels from the first ``count`` of the data set."""
    images, labels = data_set()
    drawn = torch.randint(count, (size,), generator=order)
    return images[drawn], labels[drawn]
