"""Tile sizes, warps and pipeline stages of each kernel, by architecture, type and head dimension.

Chosen as the largest tiles of a short list that compile without a spill and fit the architecture's shared memory (docs/kernels.md
holds registers and spills of every one, a test bounds them). **None was timed on a GPU.**
"""

from dataclasses import dataclass
from typing import Literal

Kernel = Literal["forward", "keys", "queries"]
ARCHITECTURES = ("sm_80", "sm_86", "sm_90", "sm_100", "gfx942")
"""Those with configurations of their own. Others from NVIDIA are cut like sm_86, which has least memory; from AMD like gfx942."""
SHARED_MEMORY = {"sm_80": 166_912, "sm_86": 101_376, "sm_90": 232_448, "sm_100": 232_448, "gfx942": 65_536}
"""Bytes a program may have."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """How a kernel is cut: tiles of ``block_m`` queries by ``block_n`` keys, warps a program, stages of the load pipeline."""

    block_m: int
    block_n: int
    warps: int
    stages: int


_INTERPRETER = Configuration(32, 32, 4, 1)
# Of 16-bit types; by the width of the head dimension's tile: up to 64, 128, 256.
_HALF: dict[Kernel, dict[str, tuple[Configuration, Configuration, Configuration]]] = {
    "forward": {
        "sm_80": (Configuration(128, 64, 8, 3), Configuration(128, 64, 8, 2), Configuration(64, 64, 8, 2)),
        "sm_86": (Configuration(128, 64, 8, 2), Configuration(128, 32, 8, 2), Configuration(64, 32, 8, 2)),
        "sm_90": (Configuration(128, 64, 8, 3), Configuration(128, 64, 8, 3), Configuration(64, 64, 8, 2)),
        "sm_100": (Configuration(128, 64, 8, 3), Configuration(128, 64, 8, 3), Configuration(64, 64, 8, 2)),
        "gfx942": (Configuration(128, 64, 4, 1), Configuration(128, 64, 8, 1), Configuration(128, 32, 8, 1)),
    },
    "keys": {
        "sm_80": (Configuration(64, 64, 8, 2), Configuration(64, 64, 8, 2), Configuration(32, 32, 8, 2)),
        "sm_86": (Configuration(64, 64, 8, 2), Configuration(64, 64, 8, 2), Configuration(32, 32, 8, 2)),
        "sm_90": (Configuration(64, 128, 8, 2), Configuration(64, 64, 8, 2), Configuration(32, 32, 8, 2)),
        "sm_100": (Configuration(64, 128, 8, 2), Configuration(64, 128, 8, 2), Configuration(32, 64, 8, 2)),
        "gfx942": (Configuration(64, 64, 4, 1), Configuration(32, 64, 8, 1), Configuration(16, 32, 8, 1)),
    },
    "queries": {
        "sm_80": (Configuration(64, 32, 4, 2), Configuration(64, 64, 8, 2), Configuration(64, 64, 8, 2)),
        "sm_86": (Configuration(64, 32, 4, 2), Configuration(64, 64, 8, 2), Configuration(32, 32, 4, 2)),
        "sm_90": (Configuration(128, 64, 8, 2), Configuration(128, 64, 8, 2), Configuration(64, 32, 8, 2)),
        "sm_100": (Configuration(128, 64, 8, 2), Configuration(128, 64, 8, 2), Configuration(64, 32, 8, 2)),
        "gfx942": (Configuration(128, 64, 8, 1), Configuration(64, 32, 8, 1), Configuration(32, 32, 4, 1)),
    },
}
# float32 takes no tensor cores (input_precision "ieee"): small tiles, for it is there to be right.
_FLOAT32 = (Configuration(32, 32, 4, 1), Configuration(32, 32, 4, 1), Configuration(16, 16, 4, 1))


def configuration(kernel: Kernel, architecture: str, itemsize: int, head_dim: int) -> Configuration:
    """Return how ``kernel`` is cut for an ``architecture`` ("sm_90", "interpreter", ...), bytes a number, head dimension."""
    if architecture == "interpreter":
        return _INTERPRETER
    if architecture not in ARCHITECTURES:
        architecture = "gfx942" if architecture.startswith("gfx") else "sm_86"
    by_width = _FLOAT32 if itemsize == 4 else _HALF[kernel][architecture]
    return by_width[0 if head_dim <= 64 else 1 if head_dim <= 128 else 2]


def padded(head_dim: int) -> int:
    """Return the power of two that tiles of this head dimension are wide; a matrix product takes 16 or more."""
    return max(16, 1 << (head_dim - 1).bit_length())
