"""What a low-precision format does to the weights and gradients of every linear layer.

Trouble it reveals: a one-sided rounding error of the weights, which adds up where errors should cancel; gradients too small for
the format (underflow) or too large (overflow); gradients about to drown in their own rounding noise, where training loses effect
(below about sqrt(3): "FP4 All the Way"); and, for float16, how much of its range is used up: above a quarter an overflow is near.

Format: the layer's own dtype where that is a low-precision one, else the dtype that autocast runs the layer in, else bfloat16, to
tell what bfloat16 would do. ``watch(probes=[NumericsProbe(weights=..., gradients=...)])`` asks for others.

Formula: with Q rounding to the format, to nearest, ties to even,
of the *weights*, as the forward pass of the step rounded them: ``numerics.rounding_bias``, the mean of (Q(w) - w) in units in the
last place of w, and ``numerics.rounding_bias_z``, the same over its standard error: about normal when errors are random. Over
weights that are neither zero nor overflow; n/a where the format holds all of them exactly.
Of the *gradients* that the optimizer is handed (after clipping; with the loss scale, where GradScaler leaves it to a fused
optimizer to divide it out): ``numerics.underflow_fraction`` and ``numerics.overflow_fraction``, the shares of the non-zero entries
that Q makes zero or infinite; ``numerics.gradient_to_quantization_noise = |g| / |Q(g) - g|``, zero after an overflow, n/a
where the format holds all entries exactly; ``numerics.fp16_range_used = max |g| / 65504``, over all entries and for any dtype.

Cost: two subsamples of at most 4,096 entries a layer (see samples.py) and one read of the gradients.

Source: arXiv 2510.04212 on one-sided errors; arXiv 2505.19115, "FP4 All the Way", on the noise.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..storage.records import SeriesKey
from .base import Across, Block, Probe, Scalars
from .model import LinearLayer, WatchedModel
from .statistics.not_applicable import not_applicable
from .statistics.samples import stacked_samples
from .taps.modules import InputTap
from .taps.optimizer import Stepping, UpdateTap

LOW_PRECISION = (torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2)
_FP16_LARGEST = 65504.0
_E4M3_LIMIT = 464.0
_EXPONENT = 0x7FF << 52

_WEIGHTS = ("numerics.rounding_bias", "numerics.rounding_bias_z")
_GRADIENTS = ("numerics.underflow_fraction", "numerics.overflow_fraction", "numerics.gradient_to_quantization_noise")
_RANGE = "numerics.fp16_range_used"


class NumericsProbe(Probe):
    """Signed rounding error of weights; underflow, overflow and rounding noise of gradients, in the layer's low precision.

    Args:
        weights, gradients: the formats to judge them by, instead of those the layers run in.
    """

    name = "numerics"
    presets = frozenset({"full"})
    signals = (
        "numerics.rounding_bias",
        "numerics.rounding_bias_z",
        "numerics.underflow_fraction",
        "numerics.overflow_fraction",
        "numerics.gradient_to_quantization_noise",
        "numerics.fp16_range_used",
    )

    def __init__(self, weights: torch.dtype | None = None, gradients: torch.dtype | None = None) -> None:
        super().__init__()
        for given in (weights, gradients):
            if given is not None and given not in LOW_PRECISION:
                raise ValueError(f"{given} is not one of the formats known here: {', '.join(map(str, LOW_PRECISION))}")
        self._weights, self._gradients = weights, gradients
        self._model: WatchedModel | None = None
        self._layers: list[LinearLayer] = []
        self._by_parameter: dict[int, list[LinearLayer]] = {}
        self._inputs, self._updates = InputTap(), UpdateTap()
        # What autocast runs a module in, of those it runs in something.
        self._autocast: dict[nn.Module, torch.dtype] = {}
        self._blocks: list[Scalars] = []

    @override
    def attach(self, model: WatchedModel) -> None:
        self._model, self._layers = model, model.linear_layers()

    @override
    def arm(self, step: int) -> None:
        assert self._model is not None
        self._by_parameter = {}
        for layer in self._layers:
            self._by_parameter.setdefault(id(layer.stored()), []).append(layer)
        self._updates.place([layer.stored() for layer in self._layers], self.guard, self._measure)
        if not self._model.is_compiled():
            self._inputs.place([layer.module for layer in self._layers], self._note_autocast, self.guard)

    @override
    def collect(self, step: int) -> Iterator[Block]:
        yield from self._blocks

    @override
    def disarm(self) -> None:
        self._inputs.remove()
        self._updates.remove()
        self._autocast.clear()
        self._blocks.clear()

    def _note_autocast(self, module: nn.Module, x: Tensor) -> None:
        if torch.is_autocast_enabled(x.device.type):
            self._autocast[module] = torch.get_autocast_dtype(x.device.type)

    def _format(self, layer: LinearLayer, own: torch.dtype) -> torch.dtype:
        format_ = own if own in LOW_PRECISION else self._autocast.get(layer.module)
        return format_ if format_ in LOW_PRECISION else torch.bfloat16

    def _measure(self, stepping: Stepping) -> None:
        for device, part in stepping.by_device().items():
            taken, none = part.takes_place(device), not_applicable(device)
            groups: dict[tuple[object, ...], list[tuple[LinearLayer, torch.dtype, Tensor, Tensor]]] = {}
            for p, _ in part.parameters:
                assert p.grad is not None
                for layer in self._by_parameter[id(p)]:
                    each = layer, self._format(layer, p.dtype), layer.view(), layer.view_of(p.grad)
                    groups.setdefault((each[1], p.dtype, p.grad.dtype, each[2].numel()), []).append(each)
            for members in groups.values():
                layers, format_ = [layer for layer, *_ in members], members[0][1]
                gradients = [g for *_, g in members]
                weights = rounding_of(stacked_samples([w for _, _, w, _ in members]), self._weights or format_)
                judged = noise_of(stacked_samples(gradients), self._gradients or format_)
                used = torch.stack([torch.stack(torch.aminmax(g)) for g in gradients]).abs().amax(1).float() / _FP16_LARGEST
                values = torch.where(taken, torch.cat([weights, judged, used[None]]), none)
                keys = tuple(SeriesKey(signal, each.name) for signal in (*_WEIGHTS, *_GRADIENTS, _RANGE) for each in layers)
                self._blocks.append(Scalars(keys, values.flatten(), Across.SAME))


def rounding_of(x: Tensor, format_: torch.dtype) -> Tensor:
    """Return the mean signed rounding error in ulp and its z-score, float32 (2, L), of samples (L, n)."""
    x, q = x.double(), rounded(x, format_)
    none = not_applicable(x.device)
    counts = (x != 0) & ~overflows(x, q)
    n = counts.sum(1)
    error = torch.where(counts, (q - x) / ulp(x, format_), 0.0)
    mean = error.sum(1) / n
    spread = torch.where(counts, error - mean[:, None], 0.0).square().sum(1) / (n - 1)
    exact = (error == 0).all(1)
    return torch.stack([
        torch.where(exact, none, mean.float()),
        # A spread of zero: one weight, or all alike.
        torch.where(exact | (spread == 0) | (n < 2), none, (mean / (spread / n).sqrt()).float()),
    ])  # fmt: skip


def noise_of(x: Tensor, format_: torch.dtype) -> Tensor:
    """Return the shares that underflow and overflow, and the ratio of signal to rounding noise, float32 (3, L), of (L, n)."""
    x, q = x.double(), rounded(x, format_)
    none = not_applicable(x.device)
    present = x != 0
    n = present.sum(1)
    shares = [
        # NaN neither underflows nor overflows: it must make the share NaN.
        torch.where(n == 0, none, (torch.where(torch.isnan(x), x, (present & there).double()).sum(1) / n).float())
        for there in (q == 0, overflows(x, q) | torch.isinf(x))
    ]
    # Scaled by the largest: squares of what is tiny would vanish. An infinite gradient has no ratio: NaN.
    largest = x.abs().amax(1, keepdim=True)
    noise = torch.where(overflows(x, q), torch.inf, (q - x) / largest).square().sum(1).sqrt()
    ratio = (x / largest).square().sum(1).sqrt() / noise
    return torch.stack([*shares, torch.where((noise == 0) | (n == 0), none, ratio.float())])


def rounded(x: Tensor, format_: torch.dtype) -> Tensor:
    """Return ``x`` rounded to the format, as float64; infinite from half a step beyond the format's largest number."""
    q = x.to(format_).double()
    if format_ is torch.float8_e4m3fn:
        # It has no infinity: casts give its largest number there or, in older versions of torch, NaN.
        q = torch.where(x.abs() > _E4M3_LIMIT, torch.where(x > 0, torch.inf, -torch.inf), q)
    return q


def overflows(x: Tensor, q: Tensor) -> Tensor:
    """Tell which finite entries became infinite."""
    return torch.isfinite(x) & torch.isinf(q)


def ulp(x: Tensor, format_: torch.dtype) -> Tensor:
    """Return the distance between neighbours in the format around float64 ``x``; below its normal numbers it stays the same."""
    info = torch.finfo(format_)
    power = x.view(torch.int64).bitwise_and(_EXPONENT).view(torch.float64)  # the largest power of two that is not above |x|
    return power.clamp_min(info.smallest_normal) * info.eps
