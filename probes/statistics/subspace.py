"""The leading singular triplets of many matrices by warm-started block Krylov iteration: no copy of a matrix, no host sync.

From two vectors q, the pair of the last sample, the space spanned by q, A q, A^2 q, ... with A = W^T W is built, and the best
pair in it is taken (Rayleigh-Ritz). It costs the reads of the weight that power iteration costs, which keeps only the space's
last member: weights that move fast early in training are followed to 1e-3 with three iterations, where power iteration was off
by up to a tenth. Bases are kept as rows, (k, in): on a CPU a product of two contiguous rows with the weight is several times
faster than one with two columns.

Source: Musco and Musco, arXiv 1504.05477.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Elements of a low-precision weight converted to float32 at a time: bounds the temporary to 16 MiB.
_CHUNK_ELEMENTS = 1 << 22
_TINY = torch.finfo(torch.float32).tiny
# A small matrix is raised to the power 2^10 to find its leading eigenvector.
_SQUARINGS = 10


@dataclass(frozen=True, slots=True)
class LeadingPairs:
    """The leading singular pairs of L matrices.

    Attributes:
        sigma: (L, 2), float32, sigma_1 >= sigma_2 >= 0 (sigma_2 is 0 for a matrix of width one).
        turn: (L,), ``1 - |<v_1, v_1 given>|``.
        bases: L tensors (k, in), orthonormal rows; the first is v_1, its sign continuous with the basis given.
        left: L tensors (out,), u_1 = W v_1 / |W v_1|; zeros where W is, not finite where W is not.
        valid: bool of shape (), false where a rank failed on which a part of the matrices lies; None where there is none such.
    """

    sigma: Tensor
    turn: Tensor
    bases: list[Tensor]
    left: list[Tensor]
    valid: Tensor | None = None


def starting_basis(name: str, width: int, device: torch.device) -> Tensor:
    """Return a random orthonormal basis, (min(2, width), width), that depends on ``name`` only; a private generator is used."""
    generator = torch.Generator("cpu").manual_seed(zlib.crc32(name.encode()))
    rows = torch.randn(min(2, width), width, generator=generator, dtype=torch.float32, device="cpu")
    return orthonormal(rows).to(device)


def leading_pairs(weights: Sequence[Tensor], bases: Sequence[Tensor], iterations: int) -> LeadingPairs:
    """Refine each basis by ``iterations`` passes of W^T W and read off the leading singular pair.

    Costs 2 * iterations + 1 reads of each weight. Where a result is not finite, the basis given is handed back, so that a NaN
    shows in sigma but does not poison the next sample; so it is for a matrix of zeros, which has no direction to offer.

    Args:
        weights: L matrices (out, in), any floating dtype, on one device; read only. A matrix may also be given head by head, as
            (heads, out / heads, in): rows that lie so in a larger matrix have no view of two dimensions.
        bases: L tensors (k, in) with orthonormal rows, k 1 or 2.
        iterations: 3 once warm; 16 from a random start.
    """
    # Matrices of one shape are taken together, but for the products with them: joined they would be copied.
    groups: dict[tuple[torch.Size, torch.Size], list[int]] = {}
    for place, (weight, basis) in enumerate(zip(weights, bases, strict=True)):
        groups.setdefault((weight.shape, basis.shape), []).append(place)
    starts = [torch.stack([bases[place] for place in places]) for places in groups.values()]
    spaces, images, grams = [], [], []
    for places, start in zip(groups.values(), starts, strict=True):
        space, image, gram = _krylov([weights[place] for place in places], start, iterations)
        spaces.append(space)
        images.append(image)
        grams.append(gram)
    pairs = pairs_in(spaces, images, stacked(grams), starts)
    lefts = iter(pairs.left)
    left = [u for places in groups.values() for u in units(torch.stack([next(lefts) for _ in places])).unbind()]
    # Back from the order of the groups to the order given.
    order = [place for places in groups.values() for place in places]
    found = dict(zip(order, zip(pairs.sigma.unbind(), pairs.turn.unbind(), pairs.bases, left, strict=True), strict=True))
    sigma, turn, chosen, unit = zip(*(found[place] for place in range(len(found))), strict=True)
    return LeadingPairs(torch.stack(sigma), torch.stack(turn), list(chosen), list(unit))


def stacked(grams: Sequence[Tensor]) -> Tensor:
    """Return symmetric matrices, (l, n, n) each, as one, (L, n, n), the smaller ones filled up with zeros; n is at least 2."""
    size = max(2, *(gram.shape[1] for gram in grams))
    return torch.cat([F.pad(gram, (0, size - gram.shape[1]) * 2) for gram in grams])


def pairs_in(
    spaces: Sequence[Tensor],
    images: Sequence[Tensor],
    grams: Tensor,
    bases: Sequence[Tensor],
) -> LeadingPairs:
    """Return the best pairs in these spaces, one group of matrices after the other; ``left`` is W v_1, not made a unit vector.

    Args:
        spaces: of each group of l matrices the orthonormal bases, (l, n, in).
        images: of these under W, (l, n, out), or some columns of that; ``left`` then has the same.
        grams: (L, n, n), the Gram matrices of the whole images, ``stacked``.
        bases: of the last sample, (l, k, in).
    """
    sigma, rotations = _ritz(grams)
    zero = sigma[:, 0] == 0
    found = torch.isfinite(sigma).all(1) & ~zero
    sizes = [len(space) for space in spaces]
    overlaps: list[Tensor] = []
    chosen: list[Tensor] = []
    left: list[Tensor] = []
    for space, image, before, rotation, there in zip(
        spaces, images, bases, rotations.split(sizes), found.split(sizes), strict=True
    ):
        n = space.shape[1]
        after = rotation[:, : before.shape[1], :n] @ space
        overlap = (after[:, 0] * before[:, 0]).sum(1)
        # The sign of a singular pair is arbitrary; keep it continuous in time.
        turned = (overlap < 0)[:, None, None]
        chosen.extend(torch.where(there[:, None, None], torch.where(turned, -after, after), before).unbind())
        # W v_1 without another read of W.
        first = (rotation[:, :1, :n] @ image)[:, 0]
        left.extend(torch.where(turned[:, 0], -first, first).unbind())
        overlaps.append(overlap)
    return LeadingPairs(sigma, torch.where(zero, 0.0, 1.0 - torch.cat(overlaps).abs()), chosen, left)


def units(vectors: Tensor) -> Tensor:
    """Return vectors (..., n) divided by their norms; zeros stay zeros."""
    # Scaled before its norm is taken: squares of small numbers would vanish.
    scaled = vectors / vectors.abs().amax(-1, keepdim=True).clamp_min(_TINY)
    length: Tensor = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    return scaled / length.clamp_min(_TINY)


def _krylov(weights: Sequence[Tensor], bases: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return of l weights of one shape orthonormal bases (l, n, in) of the Krylov spaces, their images under W (l, n, out), and
    the Gram matrices of these, float64.

    n is k * (iterations + 1), or ``in`` where that is less.
    """
    spaces, images = bases, [_each(times_transposed, bases, weights)]
    for _ in range(iterations):
        known = spaces.shape[1]
        if known == spaces.shape[2]:
            break
        y = images[-1]
        # Scaled: sigma squared would leave float32's range from 2e19 upwards and 1e-19 downwards.
        again = _each(times, y / y.abs().amax((1, 2), keepdim=True).clamp_min(_TINY), weights)
        added = orthonormal(torch.cat([spaces, again], 1))[:, known:]
        spaces = torch.cat([spaces, added], 1)
        images.append(_each(times_transposed, added, weights))
    joined = torch.cat(images, 1)
    y = joined.double()
    return spaces, joined, y @ y.mT


def _each(product: Callable[[Tensor, Tensor], Tensor], rows: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Return the products of rows (l, k, n) with one weight each."""
    return torch.stack([product(*pair) for pair in zip(rows.unbind(), weights, strict=True)])


def _ritz(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values (L, 2) and row rotations (L, 2, n) of matrices with these Gram matrices, float64 (L, n, n), n at least 2.

    ``eigh`` would make the host wait for a GPU; squaring the matrix again and again leaves its leading eigenvector, and within
    the leading two the answer is closed. Where more than two are nearly equal, the first two are some of them, and sigma is
    exact all the same to second order.
    """
    first = leading_eigenvector(gram)
    # What the first leaves of the space; raised beyond rounding errors, so that there is a second where the matrix has rank one.
    rest = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device) - first[:, :, None] * first[:, None, :]
    trace = gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    second = leading_eigenvector(rest @ gram @ rest + 1e-12 * trace * rest)
    pair = torch.stack([first, second], 1)
    inner = pair @ gram @ pair.mT
    a, b, c = inner[:, 0, 0], inner[:, 0, 1], inner[:, 1, 1]
    angle = 0.5 * torch.atan2(2 * b, a - c)
    cos, sin = torch.cos(angle), torch.sin(angle)
    rotation = torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], -2)
    larger = a * cos * cos + 2 * b * cos * sin + c * sin * sin
    smaller = (a + c - larger).clamp_min(0.0)
    return torch.stack([larger, smaller], -1).sqrt().float(), (rotation @ pair).float()


def leading_eigenvector(symmetric: Tensor) -> Tensor:
    """Unit eigenvectors (L, n) to the largest eigenvalues of positive semidefinite (L, n, n); zero where all is zero."""
    power = symmetric
    for _ in range(_SQUARINGS):
        power = power / power.abs().amax((1, 2), keepdim=True).clamp_min(torch.finfo(power.dtype).tiny)
        power = power @ power
    # All its columns are multiples of the eigenvector; the largest one is the most exact.
    largest = power.diagonal(dim1=1, dim2=2).argmax(1)
    column = power.gather(2, largest[:, None, None].expand(-1, power.shape[1], 1))[..., 0]
    norm: Tensor = torch.linalg.vector_norm(column, dim=1, keepdim=True)
    return column / norm.clamp_min(torch.finfo(power.dtype).tiny)


def orthonormal(rows: Tensor) -> Tensor:
    """Orthonormalise rows (..., k, n); rows that are dependent or zero are replaced by something orthonormal."""
    q: Tensor = torch.linalg.qr(rows.mT)[0]
    return q.mT


def times_transposed(rows: Tensor, weight: Tensor) -> Tensor:
    """``rows @ W^T`` in float32: (k, in) to (k, out)."""
    parts = (weight,) if weight.dtype == torch.float32 else weight.split(_rows_per_chunk(weight))
    # Of a weight given head by head, (heads, k, out / heads) becomes (k, out).
    found = [(rows @ part.float().mT).movedim(-2, 0).flatten(1) for part in parts]
    return torch.cat(found, 1) if len(found) > 1 else found[0]


def times(rows: Tensor, weight: Tensor) -> Tensor:
    """``rows @ W`` in float32: (k, out) to (k, in)."""
    if weight.dim() == 3:
        rows = rows.unflatten(1, weight.shape[:2]).transpose(0, 1)  # (heads, k, out / heads)
        parts = zip(rows.split(_rows_per_chunk(weight)), weight.split(_rows_per_chunk(weight)), strict=True)
        return torch.stack([(share @ part.float()).sum(0) for share, part in parts]).sum(0)
    if weight.dtype == torch.float32:
        return rows @ weight
    size = _rows_per_chunk(weight)
    total = torch.zeros(rows.shape[0], weight.shape[1], dtype=rows.dtype, device=rows.device)
    for part, share in zip(weight.split(size), rows.split(size, 1), strict=True):
        total += share @ part.float()
    return total


def _rows_per_chunk(weight: Tensor) -> int:
    """Return how many rows, or heads, of a weight are converted at a time."""
    return max(1, _CHUNK_ELEMENTS // max(1, weight[:1].numel()))
