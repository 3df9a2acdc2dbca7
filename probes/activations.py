"""The sizes of what layers give out: RMS, largest value, kurtosis, outlier channels, dead units, and how much tokens differ.

Trouble it reveals: representations that swell from layer to layer or step to step; a few channels that outgrow all others, which
low precision cannot hold beside the rest; units of a ReLU that no token reaches any more and that learn nothing from then on; and
representations that have collapsed: outputs that are the same whatever comes in.

Formula: over the entries x of at most 256 tokens of the output, ``rms = sqrt(mean x^2)``, ``max = max |x|``, and ``kurtosis =
mean (x - m)^4 / (mean (x - m)^2)^2`` with m the mean of x: 3 for normal numbers, far more where few entries hold the energy.
``outlier_channels`` counts the channels whose RMS exceeds 6 times the median channel's. ``dead_fraction``, of activation modules
only, is the share of units that are zero for every one of these tokens. ``variation`` is the share of the outputs' energy that
differs from token to token, ``1 - sum_c m_c^2 / mean |x|^2`` with m_c the mean of channel c: near 0 where all tokens look alike.

Looked at are the outputs of linear layers and convolutions, which is where values grow and channels stand out, and those of
activation modules (``nn.ReLU``, ``nn.GELU``, ...), which alone are zero for a reason. An activation that is called as a function is
not seen, and a module that serves in several places is seen in the first.

Cost: a copy of 256 tokens of each output and some eight passes over it. Memory: two numbers a channel of each, within a sample.

Source: Dettmers and others, arXiv 2208.07339, on channels that stand out; dead units are common practice.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..storage.records import SeriesKey
from .base import Across, Block, Probe, Scalars, Sums
from .model import LinearLayer, WatchedModel
from .statistics.not_applicable import not_applicable
from .statistics.precision import without_autocast
from .statistics.tokens import sample_outputs, sample_pixels, sample_tokens
from .taps.modules import OutputTap

TOKENS = 256
OUTLIER = 6.0
# A spread below this share of the size is mostly rounding of the values, and has no shape to speak of.
_LEAST_SPREAD = 1e-3
_ACTIVATION_FILES = ("torch.nn.modules.activation", "transformers.activations")
_NO_ACTIVATIONS = (nn.MultiheadAttention, nn.Softmax, nn.Softmin, nn.LogSoftmax, nn.Softmax2d)


@dataclass(frozen=True, slots=True)
class Shape:
    """What is kept of one output's tokens (n, d) until the step ends.

    Attributes:
        entries: how many there are.
        moments: their mean; the sums of the powers 2, 3 and 4 of what differs from it; shape () each.
        peaks, energies: by channel the largest magnitude, and the sum of squares; (d,).
        means: by channel the mean, (d,); spread: the sum of the squares of what differs from it, shape ().
    """

    entries: int
    moments: tuple[Tensor, Tensor, Tensor, Tensor]
    peaks: Tensor
    energies: Tensor
    means: Tensor
    spread: Tensor


class ActivationsProbe(Probe):
    """RMS, largest magnitude and kurtosis of layer outputs, outlier channels, and dead units of activation modules."""

    name = "activations"
    presets = frozenset({"default", "full"})
    signals = (
        "activation.rms",
        "activation.max",
        "activation.kurtosis",
        "activation.outlier_channels",
        "activation.dead_fraction",
        "activation.variation",
    )

    def __init__(self) -> None:
        super().__init__()
        self._model: WatchedModel | None = None
        self._layers: dict[nn.Module, list[LinearLayer]] = {}
        self._activations: dict[nn.Module, str] = {}
        self._tap = OutputTap()
        self._image_dimensions = 0
        self._found: dict[str, Shape] = {}

    @override
    def attach(self, model: WatchedModel) -> None:
        self._model = model
        for layer in model.linear_layers():
            self._layers.setdefault(layer.module, []).append(layer)
        self._activations = {module: name for name, module in model.named_modules() if _is_activation(module)}

    @override
    def arm(self, step: int) -> None:
        if self._model is not None:
            modules = self._layers.keys() | self._activations.keys()
            self._tap.place(modules - self._model.compiled_modules(), self._on_output, self.guard)

    @override
    @torch.no_grad()
    def collect(self, step: int) -> Iterator[Block]:
        if not self._found:
            return
        names, shapes = list(self._found), list(self._found.values())
        counts = torch.tensor([shape.entries for shape in shapes], dtype=torch.float64, device="cpu")
        moments = torch.stack([part for shape in shapes for part in shape.moments]).unflatten(0, (len(shapes), -1)).T
        yield Sums(_keys(("rms", "kurtosis"), names), _power_sums(counts.to(moments.device, non_blocking=True), moments), _finished)
        # Layers of one width together: one kernel for all instead of one each.
        by_width: dict[int, list[str]] = {}
        for name, shape in self._found.items():
            by_width.setdefault(len(shape.peaks), []).append(name)
        activations = set(self._activations.values())
        for alike in by_width.values():
            peaks = torch.stack([self._found[name].peaks for name in alike])
            energies = torch.stack([self._found[name].energies for name in alike])
            top = peaks.amax(1)
            yield Scalars(_keys(("max",), alike), top, Across.MAX)
            yield Scalars(_keys(("outlier_channels",), alike), _outliers(energies, top))
            yield Sums(_keys(("variation",), alike), _spread_sums([self._found[name] for name in alike], energies), _variation)
            places = [i for i, name in enumerate(alike) if name in activations]
            if places:
                # NaN is not zero, and must not count as alive.
                dead = (peaks == 0).float().mean(1) + 0.0 * top
                # A unit is dead if it is on every rank: the smallest share is what is known of that.
                yield Scalars(
                    _keys(("dead_fraction",), [alike[i] for i in places]), torch.stack([dead[i] for i in places]), Across.MIN
                )

    @override
    def disarm(self) -> None:
        self._tap.remove()
        self._found.clear()
        self._image_dimensions = 0

    @torch.no_grad()
    def _on_output(self, module: nn.Module, y: Tensor) -> None:
        if y.dim() == 0 or y.numel() == 0 or not y.is_floating_point():
            return
        with without_autocast(y.device):
            if module in self._activations:
                # Channels come second after a convolution and last after a linear layer: an activation says nothing of its own.
                tokens = sample_pixels(y, TOKENS) if y.dim() == self._image_dimensions else sample_tokens(y, TOKENS)
                self._found[self._activations[module]] = _shape_of(tokens)
                return
            self._image_dimensions = y.dim() if isinstance(module, nn.Conv2d) else 0
            tokens = sample_outputs(module, y, TOKENS)
            for layer in self._layers[module]:
                self._found[layer.name] = _shape_of(layer.own(tokens))


def _is_activation(module: nn.Module) -> bool:
    return type(module).__module__ in _ACTIVATION_FILES and not isinstance(module, _NO_ACTIVATIONS)


def _shape_of(tokens: Tensor) -> Shape:
    """Return what is to be known of tokens (n, d)."""
    mean = tokens.mean()
    centred = (tokens - mean).flatten()
    square = centred * centred
    moments = (mean, torch.dot(centred, centred), torch.dot(square, centred), torch.dot(square, square))
    means = tokens.mean(0)
    spread = (tokens - means).square().sum()
    return Shape(tokens.numel(), moments, tokens.abs().amax(0), tokens.square().sum(0), means, spread)


def _outliers(energies: Tensor, top: Tensor) -> Tensor:
    """Count the channels of layers (L, d) that stand out, (L,)."""
    middle = energies.median(1, keepdim=True).values
    counts = (energies > OUTLIER**2 * middle).sum(1) + 0.0 * top
    return torch.where(middle[:, 0] == 0, not_applicable(energies.device), counts)


def _spread_sums(shapes: list[Shape], energies: Tensor) -> Tensor:
    """Sums of layers of one width d, (layers, d + 4), float64, from what is known of their n tokens.

    n times the mean token, n times its square, the squares of what differs from it, the squares of all, and n.
    """
    means = torch.stack([shape.means for shape in shapes]).double()
    spread = torch.stack([shape.spread for shape in shapes]).double()
    counts = torch.tensor([shape.entries // len(shape.means) for shape in shapes], dtype=torch.float64, device="cpu")
    n = counts.to(means.device, non_blocking=True)[:, None]
    return torch.cat([n * means, n * means.square().sum(1, keepdim=True), spread[:, None], energies.double().sum(1)[:, None], n], 1)


def _variation(sums: Tensor) -> Tensor:
    """Return the share of the energy that differs from token to token, (layers,); n/a of one token, or of zeros."""
    totals, squares, spread, energy, n = sums[:, :-4], *sums[:, -4:].unbind(1)
    between = (squares - totals.square().sum(1) / n).clamp(min=0.0)
    none = (n < 2) | (energy == 0)
    return torch.where(none, not_applicable(sums.device), ((spread + between) / energy).float())


def _power_sums(count: Tensor, moments: Tensor) -> Tensor:
    """Return the sums of the powers 0 to 4 of the entries, (5, layers), float64.

    Args:
        count: entries, (layers,).
        moments: their mean, and the sums of the powers 2 to 4 of what differs from it, (4, layers).
    """
    mean, *sums = moments.double().unbind()
    m2, m3, m4 = (each / count for each in sums)
    about_zero = [mean, m2 + mean**2, m3 + 3 * mean * m2 + mean**3, m4 + 4 * mean * m3 + 6 * mean**2 * m2 + mean**4]
    return torch.stack([count, *(count * raw for raw in about_zero)])


def _finished(sums: Tensor) -> Tensor:
    """Return RMS and kurtosis of every layer from its power sums."""
    mean, x2, x3, x4 = sums[1:] / sums[0]
    spread = x2 - mean**2
    kurtosis = (x4 - 4 * mean * x3 + 6 * mean**2 * x2 - 3 * mean**4) / spread**2
    # Fourth powers of entries beyond 1e9, or below 1e-7, do not fit into float32's range.
    nothing = (spread <= _LEAST_SPREAD**2 * x2) | (x2 < 1e-14) | (~torch.isfinite(x4) & torch.isfinite(x2))
    kurtosis = torch.where(nothing, not_applicable(sums.device), kurtosis.float())
    return torch.cat([x2.sqrt().float(), kurtosis])


def _keys(statistics: tuple[str, ...], names: list[str]) -> tuple[SeriesKey, ...]:
    return tuple(SeriesKey(f"activation.{statistic}", name) for statistic in statistics for name in names)
