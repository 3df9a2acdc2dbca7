"""The numbers of several ranks made one: added before they are finished, by key, with gaps where a probe failed."""

import json
import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
import torch
from foreshock.probes.base import Across, Block, Counts, Scalars, Sums
from foreshock.probes.statistics.not_applicable import not_applicable
from foreshock.probes.step.buffer import pack
from foreshock.probes.step.parts import Found, Part, join, read
from foreshock.storage.records import Histogram, SeriesKey
from torch import Tensor

NOTHING = not_applicable(torch.device("cpu"))


def keys(signal: str, *modules: str) -> tuple[SeriesKey, ...]:
    return tuple(SeriesKey(signal, module) for module in modules)


def joined(*ranks: Sequence[Block], numbers: Sequence[int] | None = None) -> Found:
    packed = {rank: pack(list(blocks)) for rank, blocks in zip(numbers or range(len(ranks)), ranks, strict=True)}
    there = {rank: each for rank, each in packed.items() if each is not None}
    finishers = {
        part: finish
        for each in there.values()
        for part, finish in zip(each.parts, each.finishers, strict=True)
        if finish is not None
    }
    return join({rank: (each.parts, each.copy.numpy()) for rank, each in there.items()}, finishers)


@pytest.mark.parametrize(
    ("across", "expected"),
    [
        (Across.SAME, [1.0, 5.0, math.nan, None]),
        (Across.MEAN, [2.0, 5.0, math.nan, None]),
        (Across.SUM, [4.0, 5.0, math.nan, None]),
        (Across.MAX, [3.0, 5.0, math.nan, None]),
        (Across.MIN, [1.0, 5.0, math.nan, None]),
    ],
)
def test_values_are_joined_as_they_say(across: Across, expected: list[float | None]) -> None:
    """Where one does not apply, those that do; where one is NaN, NaN; where none applies, nothing."""
    first = Scalars(keys("a", *"wxyz"), torch.stack([torch.tensor(1.0), NOTHING, torch.tensor(math.nan), NOTHING]), across)
    second = Scalars(keys("a", *"wxyz"), torch.stack([torch.tensor(3.0), torch.tensor(5.0), torch.tensor(2.0), NOTHING]), across)
    found = joined([first], [second])
    assert found.keys == keys("a", *"wxy")
    assert found.values == pytest.approx([value for value in expected if value is not None], nan_ok=True)


def test_each_rank_may_keep_a_series_of_its_own() -> None:
    found = joined(*[[Scalars(keys("rank.loss", ""), torch.tensor([value]), Across.EACH)] for value in (1.0, 2.0)], numbers=[0, 3])
    assert found.keys == (SeriesKey("rank.loss", rank=0), SeriesKey("rank.loss", rank=3))
    assert found.values == [1.0, 2.0]


def deviation(sums: Tensor) -> Tensor:
    n, total, squares = sums
    return (squares / n - (total / n).square()).sqrt()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_are_added_before_they_are_finished(dtype: torch.dtype) -> None:
    tokens = torch.randn(2, 300, 3, dtype=torch.float64) + torch.tensor([[[0.0]], [[2.0]]])
    sums = [torch.stack([torch.full((3,), 300.0).double(), each.sum(0), each.square().sum(0)]) for each in tokens]
    blocks = [[Sums(keys("std", *"xyz"), each.to(dtype), deviation)] for each in sums]
    found = joined(*blocks)
    assert found.values == pytest.approx(tokens.reshape(-1, 3).std(0, correction=0).tolist(), rel=1e-4)


def test_sums_in_float64_keep_their_precision_on_the_way() -> None:
    """The spread of values near 1000 is lost in float32 sums."""
    tokens = 1000 + torch.randn(400, 1, dtype=torch.float64) * 1e-3
    sums = torch.stack([torch.tensor([400.0]).double(), tokens.sum(0), tokens.square().sum(0)])
    packed = pack([Sums(keys("std", "x"), sums, deviation), Sums(keys("inf", "x"), torch.tensor([math.inf]).double(), lambda s: s)])
    assert packed is not None
    found = read(packed.parts, packed.finishers, packed.copy.numpy())
    assert found.values[0] == pytest.approx(tokens.std(correction=0).item(), rel=1e-2)
    assert found.values[1] == math.inf


def test_histograms_add_up() -> None:
    counts = [Counts(keys("h", "x", "y"), -1.0, 1.0, torch.tensor([[1, 2], [3, 2**24]])) for _ in range(3)]
    assert joined(*[[each] for each in counts]).histograms == (
        Histogram(SeriesKey("h", "x"), -1.0, 1.0, (3, 6)),
        Histogram(SeriesKey("h", "y"), -1.0, 1.0, (9, 3 * 2**24)),
    )


def test_ranks_that_measured_different_things_meet_by_key() -> None:
    """One grouped its layers otherwise, one measured less, one something more, in another order."""
    ranks = [
        [Scalars(keys("a", "x", "y"), torch.tensor([1.0, 2.0])), Counts(keys("h", "x"), 0.0, 1.0, torch.ones(1, 2))],
        [Scalars(keys("a", "y"), torch.tensor([4.0])), Scalars(keys("a", "x"), torch.tensor([3.0]))],
        [Scalars(keys("b", "x"), torch.tensor([9.0])), Counts(keys("h", "x"), 0.0, 1.0, torch.ones(1, 2))],
    ]
    found = joined(*ranks)
    assert dict(zip(found.keys, found.values, strict=True)) == {
        SeriesKey("a", "x"): 2.0,
        SeriesKey("a", "y"): 3.0,
        SeriesKey("b", "x"): 9.0,
    }
    assert found.histograms == (Histogram(SeriesKey("h", "x"), 0.0, 1.0, (2, 2)),)


def test_of_sums_that_do_not_fit_those_of_most_ranks_are_kept() -> None:
    whole = Sums(keys("s", "x", "y"), torch.ones(2), lambda sums: sums)
    less = Sums(keys("s", "x"), torch.full((1,), 5.0), lambda sums: sums)
    found = joined([less], [whole], [whole])
    assert dict(zip(found.keys, found.values, strict=True)) == {SeriesKey("s", "x"): 2.0, SeriesKey("s", "y"): 2.0}


def test_sums_that_nobody_can_finish_are_left_out() -> None:
    packed = pack([Sums(keys("s", "x"), torch.ones(1), partial(torch.mul, 2))])
    assert packed is not None
    assert join({1: (packed.parts, packed.copy.numpy())}, {}).keys == ()


def test_a_part_survives_the_way_as_json() -> None:
    part = Part((SeriesKey("h", "a.b", 3, 1), SeriesKey("h")), (2, 64), "counts", -6.0, 6.0)
    assert Part.from_plain(json.loads(json.dumps(part.to_plain()))) == part


def test_one_rank_joined_is_as_read() -> None:
    blocks: list[Block] = [
        Scalars(keys("a", "x"), torch.tensor([1.5]), Across.MAX),
        Counts(keys("h", "x"), 0.0, 1.0, torch.ones(1, 3)),
        Sums(keys("s", "x"), torch.tensor([2.0], dtype=torch.float64), lambda sums: sums * 2),
    ]
    packed = pack(blocks)
    assert packed is not None
    assert read(packed.parts, packed.finishers, packed.copy.numpy()) == joined(blocks)
    assert np.isfinite(packed.copy.numpy()).all()
