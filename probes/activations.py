"""The sizes of what layers give out: RMS, largest value, kurtosis, outlier channels, dead units.

Trouble it reveals: representations that swell from layer to layer or step to step; a few channels that outgrow all others, which
low precision cannot hold beside the rest; and units of a ReLU that no token reaches any more and that learn nothing from then on.

Formula: over the entries x of at most 256 tokens of the output, ``rms = sqrt(mean x^2)``, ``max = max |x|``, and ``kurtosis =
mean (x - m)^4 / (mean (x - m)^2)^2`` with m the mean of x: 3 for normal numbers, far more where few entries hold the energy.
``outlier_channels`` counts the channels whose RMS exceeds 6 times the median channel's. ``dead_fraction``, of activation modules
only, is the share of units that are zero for every one of these tokens.

Looked at are the outputs of linear layers and convolutions, which is where values grow and channels stand out, and those of
activation modules (``nn.ReLU``, ``nn.GELU``, ...), which alone are zero for a reason. An activation that is called as a function is
not seen, and a module that serves in several places is seen in the first.

Cost: a copy of 256 tokens of each output and some eight passes over it. Memory: eight numbers an output.

Source: Dettmers and others, arXiv 2208.07339, on channels that stand out; dead units are common practice.
"""

from collections.abc import Iterator

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


class ActivationsProbe(Probe):
    """RMS, largest magnitude and kurtosis of layer outputs, outlier channels, and dead units of activation modules."""

    name = "activations"
    presets = frozenset({"default", "full"})
    signals = ("activation.rms", "activation.max", "activation.kurtosis", "activation.outlier_channels", "activation.dead_fraction")

    def __init__(self) -> None:
        super().__init__()
        self._model: WatchedModel | None = None
        self._layers: dict[nn.Module, list[LinearLayer]] = {}
        self._activations: dict[nn.Module, str] = {}
        self._tap = OutputTap()
        self._image_dimensions = 0
        self._found: dict[str, tuple[int, list[Tensor]]] = {}

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
        names = list(self._found)
        values = torch.stack([value for _, each in self._found.values() for value in each]).unflatten(0, (len(names), -1))
        counts = torch.tensor([count for count, _ in self._found.values()], dtype=torch.float64, device="cpu")
        mean, m2, m3, m4, top, outliers, dead = values.unbind(1)
        sums = _power_sums(counts.to(values.device, non_blocking=True), mean, m2, m3, m4)
        yield Sums(_keys(("rms", "kurtosis"), names), sums, _finished)
        yield Scalars(_keys(("max",), names), top, Across.MAX)
        yield Scalars(_keys(("outlier_channels",), names), outliers)
        places = [i for i, name in enumerate(names) if name in self._activations.values()]
        if places:
            # A unit is dead if it is on every rank: the smallest share is what is known of that.
            yield Scalars(_keys(("dead_fraction",), [names[i] for i in places]), torch.stack([dead[i] for i in places]), Across.MIN)

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
                self._found[self._activations[module]] = tokens.numel(), _shape_of(tokens)
                return
            self._image_dimensions = y.dim() if isinstance(module, nn.Conv2d) else 0
            tokens = sample_outputs(module, y, TOKENS)
            for layer in self._layers[module]:
                own = layer.own(tokens)
                self._found[layer.name] = own.numel(), _shape_of(own)


def _is_activation(module: nn.Module) -> bool:
    return type(module).__module__ in _ACTIVATION_FILES and not isinstance(module, _NO_ACTIVATIONS)


def _shape_of(tokens: Tensor) -> list[Tensor]:
    """Return of tokens (n, d): mean, central moments 2 to 4, largest magnitude, outlier channels, share of dead units."""
    peaks = tokens.abs().amax(0)
    top = peaks.amax()
    energies = tokens.square().sum(0)
    middle = energies.median()
    outliers = torch.where(middle == 0, not_applicable(middle.device), (energies > OUTLIER**2 * middle).sum() + 0.0 * top)
    mean = tokens.mean()
    centred = (tokens - mean).flatten()
    square = centred * centred
    moments = [torch.dot(a, b) / centred.numel() for a, b in ((centred, centred), (square, centred), (square, square))]
    # NaN is not zero, and must not count as alive.
    return [mean, *moments, top, outliers, (peaks == 0).float().mean() + 0.0 * top]


def _power_sums(count: Tensor, mean: Tensor, m2: Tensor, m3: Tensor, m4: Tensor) -> Tensor:
    """Return the sums of the powers 0 to 4 of the entries, (5, layers), float64, from their moments about the mean."""
    mean, m2, m3, m4 = (x.double() for x in (mean, m2, m3, m4))
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
