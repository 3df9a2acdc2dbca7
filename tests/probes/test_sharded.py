"""Singular pairs from rows that lie apart: the ranks' rounds are run side by side here, and added up by hand."""

from collections.abc import Callable
from itertools import zip_longest
from typing import Any

import pytest
import torch
from foreshock.probes.distributed import sharded
from foreshock.probes.distributed.sharded import Rows, _buffers, _rounds, rows_of, sharded_pairs
from foreshock.probes.model import LinearLayer, WatchedModel
from foreshock.probes.statistics.subspace import LeadingPairs, leading_pairs, starting_basis
from torch import Tensor, nn


def together(ranks: list[list[Rows]], bases: list[Tensor], iterations: int) -> list[LeadingPairs]:
    """Run every rank's rounds to the next reduction, reduce, go on."""
    found: list[list[LeadingPairs]] = [[] for _ in ranks]
    rounds = [_rounds(layers, bases, iterations, its) for layers, its in zip(ranks, found, strict=True)]
    for length, dtype, largest in _buffers(ranks[0], bases, iterations):
        buffers = [next(each) for each in rounds]
        assert {(len(buffer), buffer.dtype) for buffer in buffers} == {(length, dtype)}
        both = torch.stack(buffers)
        for buffer in buffers:
            buffer.copy_(both.amax(0) if largest else both.sum(0))
    assert [next(each, None) for each in rounds] == [None] * len(ranks)
    return [its[0] for its in found]


def cut(weights: list[Tensor], world: int) -> list[list[Rows]]:
    """The rows of each weight on each rank, as torch.chunk cuts them; the last ranks may have none."""
    ranks: list[list[Rows]] = [[] for _ in range(world)]
    for weight in weights:
        first = 0
        for layers, part in zip_longest(ranks, weight.chunk(world), fillvalue=weight[:0]):
            layers.append(Rows(part, ((first, len(part)),) if len(part) else (), len(weight)))
            first += len(part)
    return ranks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_pairs_of_rows_that_lie_apart_are_those_of_the_whole(world: int, dtype: torch.dtype) -> None:
    """Widths of one and of few among them, whose space is soon full, and heights that leave ranks without a row."""
    weights = [torch.randn(out, into).to(dtype) for out, into in ((40, 30), (5, 20), (17, 1), (3, 4), (1, 9))]
    bases = [starting_basis(str(i), weight.shape[1], weight.device) for i, weight in enumerate(weights)]
    whole = leading_pairs(weights, bases, 6)
    for pairs in together(cut(weights, world), bases, 6):
        assert torch.allclose(pairs.sigma, whole.sigma, rtol=1e-4, atol=1e-5)
        assert torch.allclose(pairs.turn, whole.turn, atol=1e-4)
        assert pairs.valid is not None
        assert pairs.valid.item()
        for mine, theirs in zip(
            [*(b[0] for b in pairs.bases), *pairs.left], [*(b[0] for b in whole.bases), *whole.left], strict=True
        ):
            assert torch.allclose(mine, theirs, atol=2e-3)


@pytest.mark.parametrize("scale", [0.0, 1e-25, 1e25, torch.nan])
def test_zeros_extremes_and_nan_as_in_a_whole_weight(scale: float) -> None:
    weights = [torch.randn(12, 7) * scale]
    bases = [starting_basis("w", 7, weights[0].device)]
    whole = leading_pairs(weights, bases, 4)
    for pairs in together(cut(weights, 3), bases, 4):
        assert torch.allclose(pairs.sigma, whole.sigma, rtol=1e-4, equal_nan=True)
        assert torch.allclose(pairs.bases[0][0], whole.bases[0][0], atol=1e-3)


@pytest.mark.parametrize("failing", range(1, 9))
def test_a_rank_that_fails_still_takes_part_in_every_reduction(failing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = cut([torch.randn(9, 6), torch.randn(4, 6)], 2)
    bases = [starting_basis(str(i), 6, torch.device("cpu")) for i in range(2)]
    reduced: list[int] = []
    calls: list[int] = []
    real: Callable[..., Tensor] = sharded.times_transposed

    def times_transposed(*args: Any) -> Tensor:
        calls.append(1)
        if len(calls) == failing:
            raise RuntimeError("planted")
        return real(*args)

    monkeypatch.setattr(sharded, "times_transposed", times_transposed)
    expected = [length for length, _, _ in _buffers(ranks[0], bases, 2)]

    def reduce(tensor: Tensor, *, largest: bool) -> None:
        reduced.append(len(tensor))

    if failing <= 6:  # two layers, at the start and in each of two passes
        with pytest.raises(RuntimeError, match="planted"):
            sharded_pairs(ranks[0], bases, 2, reduce)
    else:
        sharded_pairs(ranks[0], bases, 2, reduce)
    assert reduced == expected


class Shard(Tensor):
    """What is asked of a DTensor that is sharded by rows."""

    whole: Tensor
    rank: int
    world: int

    @property
    def device_mesh(self) -> "Shard":
        return self

    def get_local_rank(self) -> int:
        return self.rank

    def to_local(self) -> Tensor:
        parts = self.whole.chunk(self.world)
        return parts[self.rank] if self.rank < len(parts) else self.whole[:0]

    def size(self, *_: Any) -> int:
        return self.world


@pytest.mark.parametrize("world", [1, 2, 4, 5])
@pytest.mark.parametrize("name", ["c_attn", "query_key_value"])
def test_the_parts_of_a_fused_projection_cross_the_borders_of_shards(name: str, world: int) -> None:
    parent = nn.Module()
    parent.num_heads = 2
    fused = nn.Linear(6, 18)
    parent.add_module(name, fused)
    layers = WatchedModel(parent).linear_layers()
    assert [layer.part for layer in layers] == ["q", "k", "v"]
    whole = fused.weight.detach().clone()
    weights = [layer.weight().clone() for layer in layers]
    for layer, expected in zip(layers, weights, strict=True):
        gathered = torch.full_like(expected, torch.nan)
        for rank in range(world):
            rows = rows_of(_at(layer, whole, rank, world))
            assert rows.outputs == 6
            for (place, length), part in zip(rows.places, rows.weight.split([length for _, length in rows.places]), strict=True):
                gathered[place : place + length] = part
        assert torch.equal(gathered, expected)


def _at(layer: LinearLayer, whole: Tensor, rank: int, world: int) -> LinearLayer:
    """The layer as a rank sees it."""
    shard = whole.as_subclass(Shard)
    shard.whole, shard.rank, shard.world = whole, rank, world

    class Holder(nn.Module):
        weight = shard

    return LinearLayer(layer.name, Holder(), layer.transposed, layer.part, layer.first, layer.size, layer.heads)
