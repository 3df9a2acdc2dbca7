"""Spectral alignment of every linear layer, with sigma_1 and its growth (arXiv 2510.04202).

Trouble it reveals: while the sign of the alignment differs from token to token, the contributions of a step to sigma_1 cancel;
once nearly all tokens share one sign they add up, sigma_1 grows step after step, outputs align with u_1, representations
collapse, and the loss explodes.

Formula: for ``y = x W^T`` and the leading singular pair u_1, v_1 of W, a token's alignment is ``SA = <x, v_1> / |x|``; on the
output side it is ``<delta, u_1> / |delta|``, delta the gradient at the layer's output. ``d sigma_1 = -lr * sum_t <u_1, delta_t>
<v_1, x_t>`` for plain gradient descent.

Cost: per layer 7 reads of the weight (three iterations and the Ritz step, see subspace.py), which serve the probe of weights too,
and two matrix-vector products with at most 256 tokens. Memory: 2 * in + out floats a layer, 8 * (in + out) while a sample is
prepared (34 times at the first).

Source: arXiv 2510.04202.
"""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from typing_extensions import override

from ..storage.records import SeriesKey
from .base import Across, Block, Counts, Probe, Scalars, Sums
from .distributed.company import Meeting
from .distributed.sharded import is_sharded_by_rows, ranks_of, reduction_over, rows_of, sharded_pairs
from .model import LinearLayer, WatchedModel
from .statistics.not_applicable import not_applicable
from .statistics.precision import without_autocast
from .statistics.subspace import LeadingPairs
from .statistics.tokens import sample_inputs, sample_outputs
from .taps.modules import InputTap, OutputTap
from .taps.optimizer import is_sharded
from .taps.singular_pairs import SingularPairs

TOKENS = 256
BINS = 64
# Range of asinh(sqrt(d) * SA): random tokens lie within +-1.8, a fully aligned one at d = 16,384 reaches 5.6.
HISTOGRAM_RANGE = 6.0

_WEIGHT_SIGNALS = ("weight.spectral_norm", "spectral_alignment.gap", "spectral_alignment.turn")
_ALIGNMENT_SIGNALS = tuple(
    f"spectral_alignment.{name}" for name in ("mean", "std", "mean_abs", "positive_fraction", "sign_diversity")
)


_OUTPUT_SIGNALS = ("spectral_alignment.output_mean", "spectral_alignment.output_sign_diversity")


class SpectralProbe(Probe):
    """Alignment of inputs with v_1: mean, spread, sign diversity, histogram; of output gradients with u_1; sigma_1, its growth."""

    name = "spectral"
    presets = frozenset({"light", "default", "full"})
    signals = (
        "spectral_alignment.mean",
        "spectral_alignment.std",
        "spectral_alignment.mean_abs",
        "spectral_alignment.positive_fraction",
        "spectral_alignment.sign_diversity",
        "spectral_alignment.histogram",
        "spectral_alignment.gap",
        "spectral_alignment.turn",
        "spectral_alignment.output_mean",
        "spectral_alignment.output_sign_diversity",
        "weight.spectral_norm",
        "weight.spectral_growth",
    )

    def __init__(self) -> None:
        super().__init__()
        self._model: WatchedModel | None = None
        self._layers: list[LinearLayer] = []
        self._sharded = False
        self._inputs, self._outputs = InputTap(), OutputTap()
        self._followed = SingularPairs()
        self._pairs: LeadingPairs | None = None
        self._previous: tuple[int, Tensor] | None = None
        self._cosines: dict[str, tuple[Tensor, int]] = {}
        self._output_cosines: dict[str, Tensor] = {}

    @override
    def attach(self, model: WatchedModel) -> None:
        self._model, self._followed = model, SingularPairs.of(model)
        layers = model.linear_layers()
        self._sharded = any(is_sharded(layer.stored()) for layer in layers)
        # Among sharded weights, those that are not could only be measured apart: they are left out.
        self._layers = [layer for layer in layers if is_sharded_by_rows(layer)] if self._sharded else layers

    @override
    def rebind(self) -> None:
        self._followed.forget()
        self._previous = None

    @override
    @torch.no_grad()
    def arm(self, step: int) -> None:
        if not self._layers or self._model is None:
            return
        if is_sharded(self._layers[0].stored()) != self._sharded:
            raise RuntimeError("the model was sharded after watch(): call fully_shard() first")
        meeting = self._model.meeting
        pairs = self._sharded_pairs(step, meeting) if self._sharded else self._followed.measure(step, self._layers)
        if pairs is None:
            return
        self._pairs = pairs
        by_module: dict[torch.nn.Module, list[LinearLayer]] = {}
        for layer in self._layers:
            by_module.setdefault(layer.module, []).append(layer)

        right = {layer.name: basis[0] for layer, basis in zip(self._layers, pairs.bases, strict=True)}
        left = {layer.name: each for layer, each in zip(self._layers, pairs.left, strict=True)}

        def on_input(module: torch.nn.Module, x: Tensor) -> None:
            with torch.no_grad(), without_autocast(x.device):
                tokens = sample_inputs(module, x, TOKENS)
                norms = tokens.norm(dim=1)
                for layer in by_module[module]:
                    self._cosines[layer.name] = _cosines(tokens, norms, right[layer.name]), tokens.shape[1]

        def on_output(module: torch.nn.Module, output: Tensor) -> None:
            self._outputs.place_on_gradient(output, partial(on_gradient, module), self.guard)

        def on_gradient(module: torch.nn.Module, gradient: Tensor) -> None:
            with torch.no_grad(), without_autocast(gradient.device):
                deltas = sample_outputs(module, gradient, TOKENS)
                for layer in by_module[module]:
                    self._output_cosines[layer.name] = _cosines(*_scaled(layer.own(deltas)), left[layer.name])

        self._inputs.place(by_module, on_input, self.guard, self._model)
        self._outputs.place(by_module.keys() - self._model.compiled_modules(), on_output, self.guard)

    @override
    @torch.no_grad()
    def collect(self, step: int) -> Iterator[Block]:
        if self._pairs is None:
            return
        yield from self._weight_scalars(step, self._pairs)
        # Layers with the same number of tokens are reduced together: one kernel for all instead of one each.
        groups: dict[tuple[int, int], list[str]] = {}
        for name, (cosine, width) in self._cosines.items():
            groups.setdefault((cosine.shape[0], width), []).append(name)
        for (_, width), names in groups.items():
            yield from _alignment(names, torch.stack([self._cosines[name][0] for name in names]), width)
        by_count: dict[int, list[str]] = {}
        for name, cosine in self._output_cosines.items():
            by_count.setdefault(cosine.shape[0], []).append(name)
        # A weight of zeros has no u_1: none of its tokens counts.
        sigma = {layer.name: each for layer, each in zip(self._layers, self._pairs.sigma[:, 0].unbind(), strict=True)}
        for names in by_count.values():
            sums = _sums(torch.stack([self._output_cosines[name] for name in names]))
            sums = torch.where(torch.stack([sigma[name] for name in names]) == 0, 0.0, sums)
            yield Sums(_keys(_OUTPUT_SIGNALS, names), sums, _finished_output)

    @override
    def disarm(self) -> None:
        self._inputs.remove()
        self._outputs.remove()
        self._followed.release()
        self._pairs = None
        self._cosines.clear()
        self._output_cosines.clear()

    def _sharded_pairs(self, step: int, meeting: Meeting | None) -> LeadingPairs | None:
        """Measure together with the other ranks; None where they are out of reach."""
        weight, names = self._layers[0].stored(), [layer.name for layer in self._layers]
        iterations = self._followed.iterations(names)
        try:
            rows = [rows_of(layer) for layer in self._layers]
            bases = [self._followed.basis(layer, each.weight) for layer, each in zip(self._layers, rows, strict=True)]
            shapes = [(layer.name, each.outputs, basis.shape) for layer, each, basis in zip(self._layers, rows, bases, strict=True)]
            if ranks_of(weight) > 1 and (meeting is None or not meeting.agree(str(step), f"{iterations} {shapes}")):
                return None
            with without_autocast(rows[0].weight.device):
                pairs = sharded_pairs(rows, bases, iterations, reduction_over(weight))
            self._followed.share(step, names, pairs)
        except Exception:
            # Bases must be the same on all ranks: every one begins anew.
            self.rebind()
            raise
        return pairs

    def _weight_scalars(self, step: int, pairs: LeadingPairs) -> Iterator[Scalars]:
        names = [layer.name for layer in self._layers]
        sigma, tiny = pairs.sigma, torch.finfo(torch.float32).tiny
        gap = torch.where(sigma[:, 1] == 0, not_applicable(sigma.device), sigma[:, 0] / sigma[:, 1].clamp_min(tiny))
        values = torch.stack([sigma[:, 0], gap, pairs.turn])
        if pairs.valid is not None:
            values = torch.where(pairs.valid, values, not_applicable(values.device))
        # The first sample has nothing to have turned from.
        signals = _WEIGHT_SIGNALS if self._followed.samples_of(names[0]) > 1 else _WEIGHT_SIGNALS[:2]
        yield Scalars(_keys(signals, names), values[: len(signals)].flatten(), Across.SAME)
        if self._previous is not None and step > self._previous[0]:
            before_step, before = self._previous
            growth = (sigma[:, 0] - before) / sigma[:, 0].clamp_min(tiny) / (step - before_step)
            if pairs.valid is not None:
                growth = torch.where(pairs.valid & ~torch.isnan(before), growth, not_applicable(growth.device))
            yield Scalars(_keys(("weight.spectral_growth",), names), growth, Across.SAME)
        self._previous = step, sigma[:, 0]


def _scaled(deltas: Tensor) -> tuple[Tensor, Tensor]:
    """Return gradients (n, d) divided by their largest entry each, and their norms: squares of small numbers would vanish."""
    deltas = deltas / deltas.abs().amax(1, keepdim=True).clamp_min(torch.finfo(deltas.dtype).tiny)
    return deltas, deltas.norm(dim=1)


def _cosines(tokens: Tensor, norms: Tensor, direction: Tensor) -> Tensor:
    """Return each token's cosine with a unit vector. Zero tokens have none: they are marked with 2, outside its range."""
    return torch.where(norms != 0, (tokens @ direction) / norms, 2.0)


def _sums(cosines: Tensor) -> Tensor:
    """Return (count, sum, sum of squares, sum of magnitudes, positive ones) of cosines (layers, tokens), (5, layers), float64."""
    present = cosines != 2.0
    counted = torch.where(present, cosines, 0.0).double()
    # NaN is neither positive nor negative: it must make the sum NaN, not count as negative.
    positive = torch.where(torch.isnan(counted), counted, ((counted > 0) & present).double())
    # In float64 the squares of cosines near 1 leave a small spread between them exact to float32.
    return torch.stack([present.double(), counted, counted.square(), counted.abs(), positive]).sum(2)


def _finished(sums: Tensor) -> Tensor:
    """Return mean, spread, mean magnitude, positive fraction and sign diversity of every layer from its sums, one after another."""
    n = sums[0]
    mean, square, mean_abs, positive = sums[1:] / n
    spread = (square - mean * mean).clamp_min(0.0).sqrt()
    values = torch.stack([mean, spread, mean_abs, positive, 1.0 - (2.0 * positive - 1.0).abs()]).float()
    return torch.where(n == 0, not_applicable(values.device), values).flatten()


def _finished_output(sums: Tensor) -> Tensor:
    """Return mean and sign diversity."""
    return _finished(sums).reshape(5, -1)[::4].flatten()


def _alignment(names: list[str], cosines: Tensor, width: int) -> Iterator[Block]:
    """Statistics of ``cosines`` (layers, tokens); entries of 2 mark tokens without a direction."""
    yield Sums(_keys(_ALIGNMENT_SIGNALS, names), _sums(cosines), _finished)
    present = cosines != 2.0
    place = torch.asinh(cosines * width**0.5)
    # Sorted and searched, not scattered: deterministic on every device, and no host sync. What has no place (zero tokens, NaN) is
    # sorted behind the last edge: a search among NaN finds nothing.
    place = torch.where(present & torch.isfinite(place), place, torch.inf)
    edges = torch.linspace(-HISTOGRAM_RANGE, HISTOGRAM_RANGE, BINS + 1, dtype=place.dtype, device=place.device)
    edges[0], edges[-1] = -torch.inf, torch.finfo(torch.float32).max
    below = torch.searchsorted(place.sort(1).values, edges.expand(len(names), -1).contiguous(), right=True)
    counts = below.diff(dim=1)
    yield Counts(_keys(("spectral_alignment.histogram",), names), -HISTOGRAM_RANGE, HISTOGRAM_RANGE, counts)


def _keys(signals: tuple[str, ...], names: list[str]) -> tuple[SeriesKey, ...]:
    return tuple(SeriesKey(signal, name) for signal in signals for name in names)
