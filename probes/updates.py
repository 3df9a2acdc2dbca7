"""How far the optimizer moved the weights of layers, recurrent cells and embeddings, which way, and what was rounded away.

Trouble it reveals: layers that move too far in one step (``update.ratio`` far above that of the others); updates that have sunk to
a few directions (``update.stable_rank`` near 1), as when rounding errors of one sign add up in W_q; updates that lead uphill
(``update.descent`` below 0), as those of a momentum that overshoots; and weights in low precision that training no longer moves
(``numerics.stale_update_fraction`` near 1).

Formula: with dW the weight after the optimizer's step minus that before, ``update.rms = sqrt(mean(dW^2))`` and ``update.ratio =
|dW| / |W|``, from at most 4,096 entries. ``update.stable_rank = |dW|_F^2 / sigma_1(dW)^2`` of a block of at most 64 x 64 of it: an
update of low rank has the same there (in 256-wide layers of a GPT in training 0.92 to 1.02 times the whole update's, in the
median), one without any structure has about a quarter of the block's side (17), whatever the layer's size.
With g the gradient that the optimizer was given, ``update.descent = -<g, dW> / (|g| |dW|)`` of the same entries: 1 for plain
gradient descent, near sqrt(1 - m) where a momentum m averages over noise, and 0 or less where what is remembered opposes g.
``numerics.stale_update_fraction``: of the entries that have a non-zero gradient, those which are the same after the step, bit for
bit, in the dtype of the weight: of float32 weights hardly any. Float32 weights that before a later sample's step still all have
bfloat16 values are kept in bfloat16 by somebody who rounds them after the step, and are judged in it. It is n/a at a learning rate
of zero. Steps that are skipped, by a GradScaler or an intervention, give nothing. Of weights sharded over ranks (FSDP2) each rank
adds up its part of the entries, which gives the same values; the stable rank is n/a, and all are where a rank's part is missing.

Noise floor: of a root mean square 1.1 % for normally distributed updates, 3 % for those of rank one (see samples.py); of the
stable rank some 5 % for updates without structure; of a cosine 0.016.

Cost: per layer two subsamples of the weight and one of its gradient, of 32 KB each in float32 while the optimizer steps, and eleven
products of 64 x 64 matrices, all layers at once.

Source: the ratio is common practice; a low-rank error in W_q is what arXiv 2510.04212 found.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from ..storage.records import SeriesKey
from .base import Across, Block, Probe, Scalars, Sums
from .distributed.shard_samples import sampled_places, shard_of
from .model import LinearLayer, WatchedModel
from .statistics.not_applicable import not_applicable
from .statistics.precision import without_autocast
from .statistics.samples import entries_and_block, entries_at
from .taps.optimizer import Stepping, UpdateTap, is_sharded, vector

_SIGNALS = ("update.rms", "update.ratio", "update.stable_rank", "update.descent", "numerics.stale_update_fraction")
# The Gram matrix is raised to the power 2^10: sigma_1 is exact to 0.1 % even where many singular values crowd below it.
_SQUARINGS = 10


_Kind = tuple[tuple[int, int], torch.dtype, torch.device, torch.dtype]


@dataclass(frozen=True, slots=True)
class _Before:
    """Layers of one shape: (layers, places) of their weights before the step, and of their entries the gradients."""

    layers: list[LinearLayer]
    weights: Tensor
    gradients: Tensor
    rates: Tensor


@dataclass(frozen=True, slots=True)
class _ShardsBefore:
    """The same of sharded layers; ``sampled`` places on all ranks, those here ``places``."""

    layers: list[LinearLayer]
    places: Tensor
    sampled: int
    weights: Tensor
    gradients: Tensor
    rates: Tensor


class UpdateProbe(Probe):
    """Size, direction and stable rank of the updates of weights, and the share of weights that rounding kept."""

    name = "updates"
    presets = frozenset({"default", "full"})
    signals = ("update.rms", "update.ratio", "update.stable_rank", "update.descent", "numerics.stale_update_fraction")

    def __init__(self) -> None:
        super().__init__()
        self._all: list[LinearLayer] = []
        self._layers: dict[int, list[LinearLayer]] = {}
        self._tap = UpdateTap()
        self._before: list[_Before] = []
        self._shards_before: list[_ShardsBefore] = []
        self._later = False
        self._blocks: list[Block] = []

    @override
    def attach(self, model: WatchedModel) -> None:
        self._all = model.weight_matrices()

    @override
    def arm(self, step: int) -> None:
        self._layers = {}
        for layer in self._all:
            self._layers.setdefault(id(layer.stored()), []).append(layer)
        weights = [layer.stored() for layer in self._all]
        self._tap.place(weights, self.guard, self._keep, self._compare, sharded=True)

    @override
    def collect(self, step: int) -> Iterator[Block]:
        yield from self._blocks

    @override
    def disarm(self) -> None:
        self._tap.remove()
        self._before.clear()
        self._shards_before.clear()
        self._blocks.clear()

    def _keep(self, stepping: Stepping) -> None:
        groups: dict[_Kind, list[tuple[LinearLayer, Tensor, Tensor, float | Tensor]]] = {}
        self._keep_shards([(p, group) for p, group in stepping.parameters if is_sharded(p)])
        for p, group in stepping.parameters:
            assert p.grad is not None
            rate = group.get("lr")
            for layer in () if is_sharded(p) else self._layers[id(p)]:
                w = layer.view()
                # Optimizers without a learning rate of their own, None, do move.
                each = layer, w, layer.view_of(p.grad), 1.0 if rate is None else rate
                groups.setdefault((_shape(w), w.dtype, w.device, p.grad.dtype), []).append(each)
        self._before = []
        for (shape, _, device, _), members in groups.items():
            places, entries, _ = entries_and_block(*shape, device)
            samples = torch.stack([entries_at(w, places) for _, w, _, _ in members])
            gradients = torch.stack([entries_at(gradient, places[:entries]) for _, _, gradient, _ in members])
            rates = vector([rate for _, _, _, rate in members], device)
            self._before.append(_Before([layer for layer, *_ in members], samples, gradients, rates))

    def _compare(self, stepping: Stepping) -> None:
        for before in self._before:
            device = before.weights.device
            shape = _shape(before.layers[0].view())
            places, entries, block = entries_and_block(*shape, device)
            after = torch.stack([entries_at(layer.view(), places) for layer in before.layers])
            with without_autocast(device):
                values = _statistics(before, after, entries, block, later=self._later)
            values = torch.where(stepping.takes_place(device), values, not_applicable(device))
            keys = tuple(SeriesKey(signal, layer.name) for signal in _SIGNALS for layer in before.layers)
            self._blocks.append(Scalars(keys, values.flatten(), Across.SAME))
        self._before = []
        for shards in self._shards_before:
            after = torch.stack([shard_of(layer.stored()).local.take(shards.places) for layer in shards.layers])
            sums = _shard_sums(shards, after, later=self._later)
            sums = torch.where(stepping.takes_place(after.device), sums, 0.0)
            keys = tuple(SeriesKey(signal, layer.name) for signal in _SUMMED for layer in shards.layers)
            self._blocks.append(Sums(keys, sums, _finished))
        self._shards_before = []
        self._later = True

    def _keep_shards(self, parameters: list[tuple[Tensor, dict[str, Any]]]) -> None:
        groups: dict[tuple[Any, ...], list[tuple[LinearLayer, Tensor, Tensor, float | Tensor]]] = {}
        for p, group in parameters:
            weight, gradient, rate = shard_of(p), shard_of(p.grad), group.get("lr")
            for layer in self._layers[id(p)]:
                if (sampled := sampled_places(layer, weight)) is not None:
                    # Equal on all ranks, but for what lies here: so ranks form the same groups.
                    kind = *p.shape, layer.transposed, layer.part, layer.heads, layer.first, p.dtype, p.device, gradient.local.dtype
                    each = layer, weight.local, gradient.local, 1.0 if rate is None else rate
                    groups.setdefault((kind, sampled[1]), []).append(each)
        for (_, count), members in groups.items():
            found = sampled_places(members[0][0], shard_of(members[0][0].stored()))
            assert found is not None
            samples = torch.stack([w.take(found[0]) for _, w, _, _ in members])
            gradients = torch.stack([gradient.take(found[0]) for _, _, gradient, _ in members])
            rates = vector([rate for _, _, _, rate in members], samples.device)
            self._shards_before.append(_ShardsBefore([layer for layer, *_ in members], found[0], count, samples, gradients, rates))


def _shape(w: Tensor) -> tuple[int, int]:
    return w.shape[:-1].numel(), w.shape[-1]


def _statistics(before: _Before, after: Tensor, entries: int, block: tuple[int, int], *, later: bool) -> Tensor:
    """The statistics (5, layers) from samples (layers, places), of which the first are entries and the rest a block."""
    wide = torch.promote_types(after.dtype, torch.float32)
    none = not_applicable(after.device)
    update = after.to(wide) - before.weights.to(wide)
    size = update[:, :entries].double().square().mean(1).sqrt()
    weight = before.weights[:, :entries].double().square().mean(1).sqrt()
    moved = update[:, entries:].unflatten(1, block).float()
    rank = torch.where((moved == 0).all(2).all(1), none, stable_rank_of_blocks(moved))
    same = _same(before.weights[:, :entries], after[:, :entries], later)
    moves = (before.gradients != 0).sum(1)
    stale = torch.where(before.gradients != 0, same, 0.0).sum(1) / moves
    stale = torch.where((moves == 0) | (before.rates == 0), none, stale.float())
    ratio = torch.where(weight == 0, none, (size / weight).float())
    gradients = before.gradients.double()
    descent = _descent((gradients * update[:, :entries]).sum(1), gradients.square().sum(1), size.square() * entries)
    return torch.stack([size.float(), ratio, rank, descent, stale])


def _descent(product: Tensor, gradients: Tensor, updates: Tensor) -> Tensor:
    """Cosine of update and descent (layers,) from <g, dW>, |g|^2 and |dW|^2, float64; n/a where one is zero."""
    size = (gradients * updates).sqrt()
    return torch.where(size == 0, not_applicable(size.device), (-product / size).float())


def _same(before: Tensor, after: Tensor, later: bool) -> Tensor:
    """Which entries (layers, places) did not move, as float64 0 and 1, NaN of NaN; in bfloat16 where a layer is kept in it.

    Not at the first sample: weights loaded from a bfloat16 checkpoint, or all ones, have such values without being kept so.
    """
    same = after == before
    if later and before.dtype == torch.float32:
        rounded = before.bfloat16()
        kept = (rounded.float() == before).all(1, keepdim=True)
        same = torch.where(kept, after.bfloat16() == rounded, same)
    return torch.where(torch.isnan(after), torch.nan, same.double())


# Of sharded weights; the order of what ``_finished`` gives.
_SUMMED = ("update.rms", "update.ratio", "update.descent", "numerics.stale_update_fraction")


def _shard_sums(shards: _ShardsBefore, after: Tensor, *, later: bool) -> Tensor:
    """Sums (9, layers), float64, over this rank's entries of each layer's sample.

    Squares of update, weight and gradient, update times gradient, entries with a gradient that stayed and all with one, entries,
    these over those sampled on all ranks, and of each such share the part that has a learning rate of zero.
    """
    wide = torch.promote_types(after.dtype, torch.float32)
    update = (after.to(wide) - shards.weights.to(wide)).double()
    same = _same(shards.weights, after, later)
    gradients = shards.gradients.double()
    stayed = torch.where(gradients != 0, same, 0.0).sum(1)
    entries = torch.full_like(stayed, after.shape[1])
    share = entries / shards.sampled
    resting = torch.where(shards.rates == 0, share, 0.0)
    squares = [each.square().sum(1) for each in (update, shards.weights.double(), gradients)]
    moves = (gradients != 0).sum(1).double()
    return torch.stack([*squares, (update * gradients).sum(1), stayed, moves, entries, share, resting])


def _finished(sums: Tensor) -> Tensor:
    """The statistics (4 * layers,) from sums (9, layers) over all ranks."""
    updates, weights, gradients, product, stayed, moves, entries, share, resting = sums
    none = not_applicable(sums.device)
    ratio = torch.where(weights == 0, none, (updates / weights).sqrt().float())
    stale = torch.where((moves == 0) | (resting > 0), none, (stayed / moves).float())
    values = torch.stack([(updates / entries).sqrt().float(), ratio, _descent(product, gradients, updates), stale])
    return torch.where((share - 1.0).abs() > 1e-6, none, values).flatten()


def stable_rank_of_blocks(blocks: Tensor) -> Tensor:
    """Return ``|A|_F^2 / sigma_1(A)^2`` of float32 matrices (L, m, n), in one go, without a host sync; NaN of one that is zero."""
    scaled = blocks / blocks.abs().amax((1, 2), keepdim=True)
    short = scaled if scaled.shape[1] <= scaled.shape[2] else scaled.mT
    gram = short @ short.mT
    power = gram
    for _ in range(_SQUARINGS):
        power = power / power.diagonal(dim1=1, dim2=2).amax(1)[:, None, None]
        power = power @ power
    # The mean of the eigenvalues, each weighted by its own power: of the largest alone, in effect.
    largest = (power * gram).sum((1, 2)) / _trace(power)
    return _trace(gram) / largest


def _trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=1, dim2=2).sum(1)
