"""Adam's moments: whether the second one has fallen behind the gradients, and how large both are.

Trouble it reveals: the second moment is an average over the past 1 / (1 - beta2) steps. Where gradients grow faster than it
follows, it divides them by too little, updates are too large, and the loss spikes: a known precursor. The lag is about 1 or less
while the gradients are like those of the past, and at most 1 / sqrt(1 - beta2): 32 for a beta2 of 0.999, 4.5 for 0.95.

Formula: ``adam.second_moment_lag = sqrt(mean(g^2 / max(v_hat, eps^2)))`` over the entries of a module's own parameters, where
v_hat is the second moment after this step's update, its bias corrected (with amsgrad: the largest so far, which is what
divides), and g the gradient as Adam takes it: after clipping, without a loss scale, with coupled weight decay.
``adam.first_moment_norm`` and ``adam.second_moment_norm`` are 2-norms of both as the optimizer holds them, bias and all.
For Adam and AdamW in all their variants; other optimizers, and steps that a GradScaler skips, give nothing.

Over several ranks sums are added: of moments that are sharded with the weights (FSDP2) or shared out (ZeroRedundancyOptimizer) the
values are those of the whole, and where ranks hold copies (DDP) each counts once; n/a where a rank's part is missing.

Cost: one read of both moments, and two subsamples of at most 4,096 entries of each parameter (see samples.py). A few very large
entries make the mean noisier than its usual 2 %: where only one in a thousand is at the ceiling, half of it.

Source: Wortsman et al., arXiv 2304.13013, whose RMS_t this is.
"""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer
from typing_extensions import override

from ..storage.records import SeriesKey
from .base import Block, Probe, Sums
from .distributed.shard_samples import shard_of
from .model import WatchedModel
from .module_gradients import norms
from .statistics.not_applicable import not_applicable
from .statistics.own_parameters import ModuleSums, OwnParameters
from .taps.optimizer import Stepping, UpdateTap, vector

_SIGNALS = ("adam.second_moment_lag", "adam.first_moment_norm", "adam.second_moment_norm")

Stepped = tuple[nn.Parameter, dict[str, Any]]


class AdamProbe(Probe):
    """How far Adam's second moment lags behind the gradients, and the norms of both moments, for every module."""

    name = "adam"
    presets = frozenset({"default", "full"})
    signals = ("adam.second_moment_lag", "adam.first_moment_norm", "adam.second_moment_norm")

    def __init__(self) -> None:
        super().__init__()
        self._own: OwnParameters | None = None
        self._tap = UpdateTap()
        # Gradients of the step under way: parameters of one size, and their samples.
        self._gradients: list[tuple[list[Stepped], Tensor]] = []
        self._sums = ModuleSums()
        # Entries of the whole parameters stepped, by module.
        self._sizes: Counter[str] = Counter()

    @override
    def attach(self, model: WatchedModel) -> None:
        self._own = OwnParameters(model)

    @override
    def arm(self, step: int) -> None:
        assert self._own is not None
        self._tap.place(self._own.owners(), self.guard, self._before, self._after, sharded=True)

    @override
    @torch.no_grad()
    def collect(self, step: int) -> Iterator[Block]:
        for modules, sums in self._sums.take():
            keys = tuple(SeriesKey(signal, name) for signal in _SIGNALS for name in modules)
            yield Sums(keys, sums, partial(_finished, tuple(self._sizes[name] for name in modules)))

    @override
    def disarm(self) -> None:
        self._tap.remove()
        self._gradients.clear()
        self._sums.clear()
        self._sizes.clear()

    def _before(self, stepping: Stepping) -> None:
        """Keep samples of the gradients: a fused optimizer divides the loss scale out in place while it steps."""
        self._gradients.clear()
        assert self._own is not None
        here = stepping.held_here()
        if not isinstance(here.optimizer, Adam | AdamW):
            return
        # Known to every rank, whatever part of it is its own: all have the same series, in the same order.
        whole = [p for p, _ in stepping.parameters if _has_moments(p)]
        names = self._own.names_of(whole)
        for p, name in zip(whole, names, strict=True):
            self._sizes[name] += p.numel()
        if whole:
            self._sums.add(names, torch.zeros(4, len(names), dtype=torch.float64, device=whole[0].device))
        for device, part in here.by_device().items():
            scale = part.loss_scale(device)
            for stepped in _of_one_kind(part.parameters):
                gradients = torch.stack([shard_of(p.grad).entries() for p, _ in stepped])
                if not isinstance(scale, float):
                    gradients = gradients / scale
                decays = [_coupled_weight_decay(group, here.optimizer) for _, group in stepped]
                if any(isinstance(decay, Tensor) or decay != 0 for decay in decays):
                    weights = torch.stack([shard_of(p).entries() for p, _ in stepped])
                    gradients = gradients + vector(decays, device)[:, None] * weights
                self._gradients.append((stepped, gradients))

    def _after(self, stepping: Stepping) -> None:
        assert self._own is not None
        here = stepping.held_here()
        for stepped, gradients in self._gradients:
            states = [here.optimizer.state.get(p, {}) for p, _ in stepped]
            held = [i for i, state in enumerate(states) if {"step", "exp_avg", "exp_avg_sq"} <= state.keys()]
            if len(held) == len(states):
                self._sums.add(self._own.names_of(p for p, _ in stepped), _sums(stepped, gradients, states, here))
        self._gradients.clear()


def _sums(stepped: list[Stepped], gradients: Tensor, states: list[dict[str, Tensor]], stepping: Stepping) -> Tensor:
    """Sums of each parameter, (4, parameters), float64: of g^2 / v_hat over its entries, the entries, |m|^2, |v|^2.

    Of a sharded one they are this rank's; those over entries are of the sampled ones, made up to all.
    """
    device = gradients.device
    # On the host with most variants, on the device with the capturable and the fused ones.
    steps = torch.stack([state["step"].reshape(()) for state in states]).to(device, non_blocking=True).double()
    beta2, eps = (vector(each, device) for each in zip(*((g["betas"][1], g["eps"]) for _, g in stepped), strict=True))
    seconds = [shard_of(state.get("max_exp_avg_sq", state["exp_avg_sq"])) for state in states]
    v_hat = torch.stack([second.entries() for second in seconds]).double() / (1 - beta2**steps)[:, None]
    squares = gradients.double().square()
    # An entry without a gradient lags by nothing, even where eps and v are zero.
    ratios = torch.where(squares == 0, 0.0, squares / torch.maximum(v_hat, eps.square()[:, None])).sum(1)
    one = seconds[0]
    sampled = torch.stack([ratios, torch.full_like(ratios, squares.shape[1])]) * (one.total / one.sampled)
    both = norms([shard_of(state[name]).local for name in ("exp_avg", "exp_avg_sq") for state in states])
    values = torch.cat([sampled, both.double().square().unflatten(0, (2, -1))])
    return torch.where(stepping.takes_place(device), values, 0.0)


def _finished(sizes: tuple[int, ...], sums: Tensor) -> Tensor:
    """The statistics (3 * modules,) from sums (4, modules) over all ranks, of modules with so many entries."""
    ratios, entries, first, second = sums
    # Ranks that hold copies count each entry several times.
    copies = entries / torch.tensor(sizes, dtype=torch.float64, device="cpu").to(sums.device, non_blocking=True)
    missing = (copies - copies.round()).abs() > 1e-6
    values = torch.stack([(ratios / entries).sqrt(), (first / copies).sqrt(), (second / copies).sqrt()]).float()
    return torch.where((entries == 0) | missing, not_applicable(values.device), values).flatten()


def _has_moments(p: Tensor) -> bool:
    return p.numel() > 0 and p.is_floating_point() and p.grad is not None and p.grad.layout == torch.strided


def _of_one_kind(parameters: list[Stepped]) -> list[list[Stepped]]:
    groups: dict[tuple[Any, ...], list[Stepped]] = {}
    for stepped in parameters:
        if _has_moments(stepped[0]):
            groups.setdefault(shard_of(stepped[0]).kind, []).append(stepped)
    return list(groups.values())


def _coupled_weight_decay(group: dict[str, Any], optimizer: Optimizer) -> float | Tensor:
    """Return the weight decay that is added to the gradients, as Adam does and AdamW does not."""
    decoupled = group.get("decoupled_weight_decay", isinstance(optimizer, AdamW))
    decay: float | Tensor = 0.0 if decoupled else group.get("weight_decay", 0.0)
    return decay
