"""The leading singular triplets of many matrices by warm-started subspace iteration: no copy of a matrix, no host sync.

Two vectors are iterated instead of one: the second gives the spectral gap, and the error of the first then shrinks by
(sigma_3 / sigma_1)^2 an iteration instead of (sigma_2 / sigma_1)^2, which matters where the two lie close. Bases are kept as rows,
(k, in): on a CPU a product of two contiguous rows with the weight is several times faster than one with two columns.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Elements of a low-precision weight converted to float32 at a time: bounds the temporary to 16 MiB.
_CHUNK_ELEMENTS = 1 << 22
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, slots=True)
class LeadingPairs:
    """The leading singular pairs of L matrices.

    Attributes:
        sigma: (L, 2), float32, sigma_1 >= sigma_2 >= 0 (sigma_2 is 0 for a matrix of width one).
        turn: (L,), ``1 - |<v_1, v_1 given>|``.
        bases: L tensors (k, in), orthonormal rows; the first is v_1, its sign continuous with the basis given.
    """

    sigma: Tensor
    turn: Tensor
    bases: list[Tensor]


def starting_basis(name: str, width: int, device: torch.device) -> Tensor:
    """Return a random orthonormal basis, (min(2, width), width), that depends on ``name`` only; a private generator is used."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return _orthonormal(torch.randn(min(2, width), width, generator=generator)).to(device)


def leading_pairs(weights: Sequence[Tensor], bases: Sequence[Tensor], iterations: int) -> LeadingPairs:
    """Refine each basis by ``iterations`` passes of W^T W and read off the leading singular pair (Rayleigh-Ritz).

    Costs 2 * iterations + 1 reads of each weight. Where a result is not finite, the basis given is handed back, so that a NaN
    shows in sigma but does not poison the next sample; so it is for a matrix of zeros, which has no direction to offer.

    Args:
        weights: L matrices (out, in), any floating dtype, on one device; read only.
        bases: L tensors (k, in) with orthonormal rows, k 1 or 2.
        iterations: 1 or 2 once warm; 64 from a random start.
    """
    refined, grams = [], []
    for weight, basis in zip(weights, bases, strict=True):
        q = basis
        for _ in range(iterations):
            y = _times_transposed(q, weight)
            # Scaled: sigma squared would leave float32's range from 2e19 upwards and 1e-19 downwards.
            q = _orthonormal(_times(y.div_(y.abs().amax().clamp_min_(_TINY)), weight))
        y = _times_transposed(q, weight).double()
        gram = y @ y.t()
        refined.append(q)
        grams.append(gram if gram.shape[0] == 2 else torch.nn.functional.pad(gram, (0, 1, 0, 1)))
    sigma, rotations = _ritz(torch.stack(grams))
    zero = sigma[:, 0] == 0
    found = torch.isfinite(sigma).all(1) & ~zero
    overlaps, chosen = [], []
    for i, (q, before) in enumerate(zip(refined, bases, strict=True)):
        k = q.shape[0]
        after = rotations[i, :k, :k] @ q
        overlap = torch.dot(after[0], before[0])
        # The sign of a singular pair is arbitrary; keep it continuous in time.
        chosen.append(torch.where(found[i], torch.where(overlap < 0, -after, after), before))
        overlaps.append(overlap)
    return LeadingPairs(sigma, torch.where(zero, 0.0, 1.0 - torch.stack(overlaps).abs()), chosen)


def _ritz(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values (L, 2) and row rotations (L, 2, 2) of matrices with these Gram matrices, float64 (L, 2, 2), in closed form:
    ``eigh`` would make the host wait for a GPU."""
    a, b, c = gram[:, 0, 0], gram[:, 0, 1], gram[:, 1, 1]
    angle = 0.5 * torch.atan2(2 * b, a - c)
    cos, sin = torch.cos(angle), torch.sin(angle)
    rotation = torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], -2)
    first = a * cos * cos + 2 * b * cos * sin + c * sin * sin
    second = (a + c - first).clamp_min(0.0)
    return torch.stack([first, second], -1).sqrt().float(), rotation.float()


def _orthonormal(rows: Tensor) -> Tensor:
    """Orthonormalise rows (k, n); rows that are dependent or zero are replaced by something orthonormal."""
    q: Tensor = torch.linalg.qr(rows.t())[0]
    return q.t()


def _times_transposed(rows: Tensor, weight: Tensor) -> Tensor:
    """``rows @ W^T`` in float32: (k, in) to (k, out)."""
    if weight.dtype == torch.float32:
        return rows @ weight.t()
    return torch.cat([rows @ part.float().t() for part in weight.split(_rows_per_chunk(weight))], 1)


def _times(rows: Tensor, weight: Tensor) -> Tensor:
    """``rows @ W`` in float32: (k, out) to (k, in)."""
    if weight.dtype == torch.float32:
        return rows @ weight
    size = _rows_per_chunk(weight)
    total = torch.zeros(rows.shape[0], weight.shape[1], device=rows.device)
    for part, share in zip(weight.split(size), rows.split(size, 1), strict=True):
        total += share @ part.float()
    return total


def _rows_per_chunk(weight: Tensor) -> int:
    return max(1, _CHUNK_ELEMENTS // max(1, weight.shape[1]))
