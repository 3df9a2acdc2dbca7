"""The spectrum of the weight of every linear layer: its singular values as a histogram, and its power-law exponent.

Trouble it reveals: a layer whose spectrum stops following that of its likes. In well-trained layers the eigenvalues of W^T W are
heavy-tailed, with alpha between 2 and 4 or so; below that a few directions dominate, far above it little was learned. In the
histogram the bulk of a layer falls back as one singular value outgrows the others.

Formula: ``weight.alpha = 1 + k / sum_{i<=k} ln(lambda_i / lambda_k)`` with lambda_i = sigma_i^2 falling and k half their number:
Hill's estimator over the top half. Up to 64 singular values are computed, all of them (small_spectra.py). Those of a larger
matrix are not to be had without waiting for the device, so both the median lambda_k and the sum are taken from stochastic Lanczos
quadrature: 24 steps of Golub-Kahan bidiagonalisation from each of 8 fixed random vectors, whose small spectra stand for the whole.

``weight.spectrum`` is the histogram of ``log10(sigma_i / sigma_1)`` in 60 bins from -3 to 0: counts of singular values, from the
quadrature's weights where they are not all computed, rounded to whole numbers.

Error against dense SVD: up to 64 singular values 1e-3. Beyond, up to 128, 8 % root mean square and 20 % at worst; from 256 on 4 %
and 12 %: of random matrices, and of layers in training. 6 to 11 % too large where the spectrum is a power law over two decades.
The vectors stay the same, so that a series does not jump where the weights do not. They make no difference to larger changes: over
100 steps of training in which alpha fell by a fifth, each layer's change was off by 3 to 8 % of alpha, root mean square, which is
what two independent errors add up to; with the exact changes they correlated to between 0.92 and 0.99. n/a with fewer than
8 singular values, where rounding hides half of them (a rank below half), and where they are all equal (an orthogonal
matrix). Of the weights that the sampled step's forward pass uses, and not of sharded ones.

Cost: of large layers 48 reads of each weight, and 138 rounds of rotations of small matrices, all layers at once; of small ones 315
rounds for each shape. Memory: 32 * (in + out) floats a layer.

Source: Martin and Mahoney, JMLR 22 (2021); Ubaru, Chen and Saad, SIAM J. Matrix Anal. Appl. 38 (2017) for the quadrature.
"""

import zlib
from collections.abc import Iterator

import torch
from torch import Tensor
from typing_extensions import override

from ..storage.records import SeriesKey
from .base import Across, Block, Counts, Probe, Scalars
from .model import LinearLayer, WatchedModel
from .statistics.not_applicable import not_applicable
from .statistics.precision import without_autocast
from .statistics.small_spectra import singular_values, spectral_measure
from .statistics.spectrum_histogram import HIGH, LOW, estimated_spectrum, exact_spectrum
from .statistics.subspace import times, times_transposed
from .taps.optimizer import is_sharded

VECTORS = 8
STEPS = 24
SMALLEST_SIDE = 8
# Matrices with no more singular values and no more entries are copied and taken apart as they are.
LARGEST_EXACT = 64
LARGEST_COPIED = 1 << 18
# Singular values below this share of the largest are rounding errors.
_RESOLUTION = 1e-5
# A mean logarithm above the median that is no more than this is that of equal singular values.
_EQUAL = 1e-3
_TINY = torch.finfo(torch.float32).tiny


class WeightTailProbe(Probe):
    """Histogram and power-law exponent of each linear layer's spectrum, the exponent to within some per cent."""

    name = "weight_tail"
    presets = frozenset({"full"})
    signals = ("weight.alpha", "weight.spectrum")

    def __init__(self) -> None:
        super().__init__()
        self._layers: list[LinearLayer] = []
        self._blocks: list[Scalars | Counts] = []

    @override
    def attach(self, model: WatchedModel) -> None:
        self._layers = [layer for layer in model.linear_layers() if not is_sharded(layer.stored())]

    @override
    @torch.no_grad()
    def arm(self, step: int) -> None:
        groups: dict[tuple[int, int, torch.device], list[LinearLayer]] = {}
        for layer in self._layers:
            w = layer.view()
            out, into = w.shape[:-1].numel(), w.shape[-1]
            if min(out, into) >= SMALLEST_SIDE:
                groups.setdefault((out, into, w.device), []).append(layer)
        # The small matrices of all layers are taken apart together: they are many, and cheap.
        small: dict[tuple[int, torch.device], list[tuple[list[LinearLayer], int, Tensor]]] = {}
        for (out, into, device), layers in groups.items():
            if min(out, into) <= LARGEST_EXACT and out * into <= LARGEST_COPIED:
                sigma = singular_values(torch.stack([layer.weight().float() for layer in layers]))
                self._keep(layers, exact_hill_exponent(sigma), exact_spectrum(sigma))
                continue
            with without_autocast(device):
                bidiagonal = _bidiagonals([layer.view() for layer in layers], _starts(layers, min(out, into), device))
            small.setdefault((bidiagonal.shape[-1], device), []).append((layers, min(out, into), bidiagonal))
        for each in small.values():
            sigma, weights = spectral_measure(torch.cat([bidiagonal for _, _, bidiagonal in each]))
            sizes = [len(layers) for layers, _, _ in each]
            for (layers, count, _), *nodes in zip(each, sigma.split(sizes), weights.split(sizes), strict=True):
                self._keep(layers, hill_exponent(nodes[0], nodes[1], count), estimated_spectrum(nodes[0], nodes[1], count))

    @override
    def collect(self, step: int) -> Iterator[Block]:
        yield from self._blocks

    @override
    def disarm(self) -> None:
        self._blocks.clear()

    def _keep(self, layers: list[LinearLayer], alpha: Tensor, counts: Tensor) -> None:
        of_alpha, of_spectrum = (tuple(SeriesKey(signal, layer.name) for layer in layers) for signal in self.signals)
        self._blocks += [Scalars(of_alpha, alpha, Across.SAME), Counts(of_spectrum, LOW, HIGH, counts)]


def _starts(layers: list[LinearLayer], width: int, device: torch.device) -> Tensor:
    """Unit vectors of random signs (L, 8, width) that depend on the layers' names only; a private generator is used."""
    signs = []
    for layer in layers:
        generator = torch.Generator("cpu").manual_seed(zlib.crc32(layer.name.encode()))
        signs.append(torch.randint(0, 2, (VECTORS, width), generator=generator, dtype=torch.int8, device="cpu"))
    starts: Tensor = (torch.stack(signs).to(device).float() * 2 - 1) / width**0.5
    return starts


def _bidiagonals(weights: list[Tensor], right: Tensor) -> Tensor:
    """Upper bidiagonal matrices (L, 8, m, m), m even, of Golub-Kahan steps from unit vectors of each weight's shorter side.

    The vectors are not made orthogonal to all before: values found twice share their weight, which quadrature does not mind.
    """
    wide = weights[0].shape[:-1].numel() < weights[0].shape[-1]
    forth, back = (times, times_transposed) if wide else (times_transposed, times)
    steps = min(STEPS, right.shape[-1] // 2 * 2)
    diagonal, beside = [], [torch.zeros_like(right[..., :1])]
    scale = left = torch.zeros_like(right[:, :1, :1])
    for step in range(steps):
        image = torch.stack([forth(rows, w) for rows, w in zip(right, weights, strict=True)])
        if step == 0:
            # Squares of very small and very large numbers have no place in float32.
            scale = image.abs().amax((1, 2), keepdim=True).clamp_min(_TINY)
        left, length = _unit(image / scale - beside[-1] * left)
        diagonal.append(length)
        image = torch.stack([back(rows, w) for rows, w in zip(left, weights, strict=True)])
        right, length = _unit(image / scale - length * right)
        beside.append(length)
    return torch.diag_embed(torch.cat(diagonal, -1)) + torch.diag_embed(torch.cat(beside[1:-1], -1), 1)


def _unit(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the vectors scaled to length 1, zeros where they are zero, and their lengths (..., 1)."""
    lengths: Tensor = vectors.norm(dim=-1, keepdim=True)
    return vectors / lengths.clamp_min(_TINY), lengths


def exact_hill_exponent(sigma: Tensor) -> Tensor:
    """Return alpha (L,) of spectra of which all singular values are known, (L, n), falling."""
    half = sigma.shape[1] // 2
    above = 2.0 * (sigma[:, :half] / sigma[:, half - 1 : half]).log().mean(1)
    hidden = (sigma[:, half - 1] < _RESOLUTION * sigma[:, 0]) | (sigma[:, 0] == 0)
    return torch.where(hidden | (above < _EQUAL), not_applicable(sigma.device), 1.0 + 1.0 / above)


def hill_exponent(sigma: Tensor, weights: Tensor, count: int) -> Tensor:
    """Return alpha (L,) of spectra of ``count`` singular values each, told by nodes and weights (L, vectors, nodes)."""
    sigma, order = sigma.sort(-1, descending=True)
    smallest = _RESOLUTION * sigma.amax((1, 2), keepdim=True)
    weights = torch.where(sigma < smallest, 0.0, weights.gather(-1, order))
    # What the nodes do not account for lies below the smallest of them, or at zero.
    missing = (1.0 - weights.sum(-1)).clamp_min(0.0)
    weights = torch.cat([weights[..., :-1], (weights[..., -1] + missing)[..., None]], -1)
    logs = 2.0 * sigma.clamp_min(_TINY).log()
    half = count // 2
    # A node stands in the middle of the mass it stands for, and the k-th of n values at (k - 1/2) / n.
    middles = weights.cumsum(-1) - 0.5 * weights
    target = (half - 0.5) / count
    below = (middles < target).sum(-1, keepdim=True).clamp(1, sigma.shape[-1] - 1)
    (x0, x1), (y0, y1) = ((each.gather(-1, below - 1), each.gather(-1, below)) for each in (middles, logs))
    share = ((target - x0) / (x1 - x0).clamp_min(_TINY)).clamp(0.0, 1.0)
    median = (y0 + (y1 - y0) * share).mean((1, 2), keepdim=True)
    above = (weights * (logs - median).clamp_min(0.0)).sum(-1).mean(1) * (count / half)
    hidden = (y1 < 2.0 * smallest.clamp_min(_TINY).log()).any(1)[:, 0]
    return torch.where(hidden | (above < _EQUAL), not_applicable(sigma.device), 1.0 + 1.0 / above)
