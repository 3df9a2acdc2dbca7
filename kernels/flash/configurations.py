"""Tile sizes, warps and pipeline stages of each kernel, by architecture, type and head dimension.

Chosen so that nothing spills (docs/kernels.md holds registers and spills of every one; a test bounds them), and so that the tiles
fit the shared memory of the architecture. None was timed on a GPU.
"""

from dataclasses import dataclass
from typing import Literal

Kernel = Literal["forward", "keys", "queries"]
ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "gfx942")
HEAD_DIMS = (32, 64, 80, 96, 128, 192, 256)
"""Those the table of resources lists; any other is padded to the next power of two like 80 and 96 here."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """How a kernel is cut: tiles of ``block_m`` queries by ``block_n`` keys, warps a program, stages of the load pipeline."""

    block_m: int
    block_n: int
    warps: int
    stages: int


def configuration(kernel: Kernel, architecture: str, itemsize: int, head_dim: int) -> Configuration:
    """Return how ``kernel`` is cut for an ``architecture`` ("sm_90", "gfx942", ..., "interpreter"), bytes a number, head dimension.

    An architecture that is not listed is cut like sm_80, the one with the least shared memory among those listed.
    """
    if architecture == "interpreter":
        return Configuration(32, 32, 4, 1)
    wide = padded(head_dim)
    if itemsize == 4:
        return Configuration(32 if wide <= 128 else 16, 32 if wide <= 128 else 16, 4, 1)
    if kernel == "forward":
        return Configuration(64, 64, 4, 2)
    return Configuration(64 if wide <= 64 else 32, 64 if wide <= 64 else 32, 4, 2)


def padded(head_dim: int) -> int:
    """Return the power of two that tiles of this head dimension are wide; a matrix product takes 16 or more."""
    return max(16, 1 << (head_dim - 1).bit_length())
