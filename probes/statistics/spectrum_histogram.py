"""A spectrum as a histogram of ``log10(sigma_i / sigma_1)``: how many directions stand how far behind the leading one."""

import torch
from torch import Tensor

BINS = 60
LOW, HIGH = -3.0, 0.0
"""Powers of ten: a bin is a factor of 1.12 wide. What lies below counts in the lowest bin, sigma_1 itself in the highest."""
_TINY = torch.finfo(torch.float32).tiny


def exact_spectrum(sigma: Tensor) -> Tensor:
    """Return counts (L, BINS), int64, of spectra (L, n) of which all singular values are known; zeros for a matrix of zeros."""
    return _counts(sigma, torch.full_like(sigma, 1.0 / sigma.shape[1]), sigma.shape[1])


def estimated_spectrum(sigma: Tensor, weights: Tensor, count: int) -> Tensor:
    """Return counts (L, BINS) of spectra of ``count`` values each, told by nodes and weights (L, vectors, nodes), to whole numbers.

    Each vector's weights stand for the whole spectrum; what they leave out is at zero.
    """
    return _counts(sigma.flatten(1), weights.flatten(1) / sigma.shape[1], count)


def _counts(sigma: Tensor, share: Tensor, count: int) -> Tensor:
    largest = sigma.amax(1, keepdim=True)
    place = (sigma / largest.clamp_min(_TINY)).clamp_min(_TINY).log10()
    # Sorted and searched, not scattered: deterministic on every device.
    place, order = place.sort(1)
    below = torch.nn.functional.pad(share.gather(1, order).cumsum(1), (1, 0))
    edges = torch.linspace(LOW, HIGH, BINS + 1, dtype=place.dtype, device=place.device)[1:-1]
    at = torch.searchsorted(place, edges.expand(len(place), -1).contiguous())
    mass = torch.nn.functional.pad(below.gather(1, at), (1, 1))
    mass[:, -1] = below[:, -1]
    whole = mass.diff(dim=1)
    whole[:, 0] += 1.0 - below[:, -1]
    known = torch.isfinite(largest) & (largest > 0)
    return torch.where(known, whole * count, 0.0).round().long()
