"""All singular values of many small matrices, without waiting for the device as ``torch.linalg.svd`` does.

One-sided Jacobi: rows are turned in pairs until they are orthogonal; their lengths then are the singular values. All matrices of
a batch and all disjoint pairs of a round turn together, and the number of sweeps is fixed. Against float64 SVD the values are off
by less than 1e-5 of the largest (measured over random, low-rank, graded, constant and one-hot matrices of up to 64).

Cost: two QR factorisations a matrix, then for n = the smaller side 5 * (n - 1) rounds of 17 operations on the whole batch: some
25 ms for 128 matrices of 32 x 200 on one CPU core.

Source: Drmac and Veselic, SIAM J. Matrix Anal. Appl. 29 (2008); the order of the pairs is Brent and Luk's (1985).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Beyond the fifth nothing changes in float32, once a second QR factorisation has brought the large rows to the top.
_SWEEPS = 5
_TINY = torch.finfo(torch.float32).tiny


def singular_values(matrices: Tensor) -> Tensor:
    """Return the singular values, falling, (..., min(m, n)), of float32 matrices (..., m, n); NaN where an entry is not finite."""
    size = matrices.abs().amax((-2, -1), keepdim=True)
    # Scaled to 1, so that squares neither underflow nor overflow.
    scaled = matrices / size.clamp_min(_TINY)
    tall = scaled if scaled.shape[-2] >= scaled.shape[-1] else scaled.mT
    count = tall.shape[-1]
    rows = torch.linalg.qr(torch.linalg.qr(tall, mode="r")[1].mT, mode="r")[1]
    rows = F.pad(rows, (0, 0, 0, count % 2))
    top, bottom = rows.chunk(2, -2)
    for _ in range(_SWEEPS * (rows.shape[-2] - 1)):
        top, bottom = _next_pairs(*_orthogonal(top, bottom))
    lengths: Tensor = torch.cat([top, bottom], -2).norm(dim=-1)
    # Sorted, NaN would stand first among numbers; it stands everywhere, as in the matrix's other statistics.
    lengths = lengths + 0.0 * lengths.sum(-1, keepdim=True)
    falling: Tensor = lengths.sort(-1, descending=True).values[..., :count] * size[..., 0]
    return falling


def spectral_measure(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Return the singular values of square float32 matrices (..., n, n), n even, and the weight of the first unit vector in each.

    The weights, squares of the right singular vectors' first entries, both (..., n), add up to 1, less what lies in the null
    space. In no order. Turning rows leaves the right singular vectors what they are; without a QR factorisation it takes one
    sweep more.
    """
    size = matrices.abs().amax((-2, -1), keepdim=True)
    top, bottom = (matrices / size.clamp_min(_TINY)).chunk(2, -2)
    for _ in range((_SWEEPS + 1) * (matrices.shape[-1] - 1)):
        top, bottom = _next_pairs(*_orthogonal(top, bottom))
    rows = torch.cat([top, bottom], -2)
    sigma: Tensor = rows.norm(dim=-1)
    return sigma * size[..., 0], torch.where(sigma == 0, 0.0, (rows[..., 0] / sigma).square())


def stable_rank(sigma: Tensor) -> Tensor:
    """Return ``|A|_F^2 / |A|_2^2`` from falling singular values (..., n); NaN for a matrix of zeros."""
    return (sigma / sigma[..., :1]).square().sum(-1)


def effective_rank(sigma: Tensor) -> Tensor:
    """Return ``exp(H(p))``, ``p_i = sigma_i / sum sigma`` (Roy and Vetterli 2007), of (..., n); NaN for a matrix of zeros."""
    entropy: Tensor = torch.special.entr(sigma / sigma.sum(-1, keepdim=True)).sum(-1)
    return entropy.exp()


def _orthogonal(top: Tensor, bottom: Tensor) -> tuple[Tensor, Tensor]:
    """Turn each row of ``top`` with its partner in ``bottom`` by at most 45 degrees, which makes them orthogonal."""
    difference = top.square().sum(-1) - bottom.square().sum(-1)
    product = (top * bottom).sum(-1)
    angle = 0.5 * torch.atan2(torch.where(difference < 0, -2.0, 2.0) * product, difference.abs())
    cos, sin = torch.cos(angle)[..., None], torch.sin(angle)[..., None]
    return torch.addcmul(cos * top, sin, bottom), torch.addcmul(cos * bottom, sin, top, value=-1)


def _next_pairs(top: Tensor, bottom: Tensor) -> tuple[Tensor, Tensor]:
    """Move the rows round one place, the first one staying: after n - 1 rounds each row has met every other."""
    if top.shape[-2] == 1:
        return top, bottom
    return (
        torch.cat([top[..., :1, :], bottom[..., :1, :], top[..., 1:-1, :]], -2),
        torch.cat([bottom[..., 1:, :], top[..., -1:, :]], -2),
    )
