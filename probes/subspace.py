"""The leading singular triplets of a matrix by warm-started subspace iteration: no copy of the matrix, no host sync.

Two columns are iterated instead of one: the second gives the spectral gap, and the error of the first then shrinks by
(sigma_3 / sigma_1)^2 an iteration instead of (sigma_2 / sigma_1)^2, which matters where the two lie close.
"""

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

# Elements of a low-precision weight converted to float32 at a time: bounds the temporary to 16 MiB.
_CHUNK_ELEMENTS = 1 << 22


@dataclass(frozen=True, slots=True)
class LeadingPair:
    """The two leading singular values and the first pair of vectors of W (out, in).

    Attributes:
        sigma: (2,), float32, sigma_1 >= sigma_2 >= 0.
        u: (out,), unit, output side.
        basis: (in, 2), orthonormal; its first column is v_1, input side.
    """

    sigma: Tensor
    u: Tensor
    basis: Tensor


def starting_basis(name: str, width: int, device: torch.device) -> Tensor:
    """Return a random orthonormal (width, min(2, width)) basis that depends on ``name`` only; a private generator is used."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    basis = torch.linalg.qr(torch.randn(width, min(2, width), generator=generator))[0]
    return basis.to(device)


def leading_pair(weight: Tensor, basis: Tensor, iterations: int) -> LeadingPair:
    """Refine ``basis`` by ``iterations`` passes of W^T W and read off the leading singular pair (Rayleigh-Ritz).

    Costs 2 * iterations + 1 reads of the weight. Where the result is not finite, the basis given is handed back, so that
    a NaN passes through the statistics but does not poison the next sample.

    Args:
        weight: (out, in), any floating dtype; read only.
        basis: (in, k) orthonormal, k 1 or 2.
        iterations: 1 or 2 once warm; 64 from a random start.
    """
    q = basis
    for _ in range(iterations):
        q = torch.linalg.qr(_product_transposed(weight, _product(weight, q)))[0]
    y = _product(weight, q)
    sigma, rotation = _ritz(y)
    basis_new = q @ rotation
    u = (y @ rotation)[:, 0]
    u = u / u.norm().clamp_min(torch.finfo(torch.float32).tiny)
    # The sign of a singular pair is arbitrary; keep it continuous in time.
    sign = torch.where((basis_new[:, 0] * basis[:, 0]).sum() < 0, -1.0, 1.0)
    basis_new = torch.where(torch.isfinite(basis_new).all(), basis_new * sign, basis)
    return LeadingPair(sigma, u * sign, basis_new)


def _ritz(y: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values and right rotation of ``y`` (out, k) for k 1 or 2, in closed form: ``eigh`` would sync on a GPU."""
    if y.shape[1] == 1:
        return torch.cat([y.norm().reshape(1), y.new_zeros(1)]), y.new_ones(1, 1)
    # Scaled first, so that squaring neither overflows nor underflows.
    scale = y.abs().amax().clamp_min(torch.finfo(torch.float32).tiny)
    g = (y / scale).double()
    g = g.t() @ g
    a, b, c = g[0, 0], g[0, 1], g[1, 1]
    angle = 0.5 * torch.atan2(2 * b, a - c)
    cos, sin = torch.cos(angle), torch.sin(angle)
    rotation = torch.stack([torch.stack([cos, -sin]), torch.stack([sin, cos])])
    lam_1 = a * cos * cos + 2 * b * cos * sin + c * sin * sin
    lam_2 = (a + c - lam_1).clamp_min(0.0)
    return torch.stack([lam_1, lam_2]).sqrt().float() * scale, rotation.float()


def _product(weight: Tensor, x: Tensor) -> Tensor:
    """``W @ x`` in float32, (out, k)."""
    if weight.dtype == torch.float32:
        return weight @ x
    return torch.cat([rows.float() @ x for rows in weight.split(_rows_per_chunk(weight))])


def _product_transposed(weight: Tensor, y: Tensor) -> Tensor:
    """``W^T @ y`` in float32, (in, k)."""
    if weight.dtype == torch.float32:
        return weight.t() @ y
    size = _rows_per_chunk(weight)
    total = torch.zeros(weight.shape[1], y.shape[1], device=y.device)
    for rows, part in zip(weight.split(size), y.split(size), strict=True):
        total += rows.float().t() @ part
    return total


def _rows_per_chunk(weight: Tensor) -> int:
    return max(1, _CHUNK_ELEMENTS // max(1, weight.shape[1]))
