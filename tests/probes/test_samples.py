"""The fixed subsample of a tensor's entries: which entries, and how far it may be off."""

import pytest
import torch
from foreshock.probes.statistics.samples import (
    BLOCK,
    ENTRIES,
    entries_and_block,
    sample_entries,
    scattered_entries,
    stacked_samples,
)
from torch import Tensor

CPU = torch.device("cpu")


@pytest.mark.parametrize("count", [1, 3, 4096, 4097, 4099, 5000, 65536, 2**31 + 5])
def test_at_most_4096_distinct_entries_spread_over_all(count: int) -> None:
    places = scattered_entries(count, CPU)
    if count <= ENTRIES:
        assert places is None
        return
    assert places is not None
    assert places.unique().equal(places), "rising and distinct"
    assert 0.6 * ENTRIES < len(places) <= ENTRIES
    assert places[0] >= 0
    assert places[-1] < count
    assert places.diff().max() <= 0.01 * count + 12


def test_samples_are_the_same_of_a_view_and_of_its_copy() -> None:
    views = [torch.randn(200, 90), torch.randn(90, 200).t(), torch.randn(300, 200)[100:200], torch.randn(4, 9, 3, 700).mT]
    for x in views:
        few = sample_entries(x)
        assert 0.6 * ENTRIES < len(few) <= ENTRIES
        assert torch.equal(few, sample_entries(x.clone(memory_format=torch.contiguous_format)))
        assert torch.equal(few, x.flatten()[scattered_entries(x.numel(), CPU)])
    stacked = stacked_samples([views[0], 2 * views[0]])
    assert torch.equal(stacked[1], 2 * stacked[0])
    small = torch.zeros(3)
    stacked_samples([small])[0, 0] = 1.0
    assert small[0] == 0.0, "always a copy"


@pytest.mark.parametrize("shape", [(1, 1), (1, 9000), (9000, 1), (30, 40), (64, 64), (65, 64), (70, 67), (3000, 200), (200, 3000)])
def test_entries_and_a_block(shape: tuple[int, int]) -> None:
    places, entries, (down, across) = entries_and_block(*shape, CPU)
    count = shape[0] * shape[1]
    assert len(places) == entries + down * across
    whole = scattered_entries(count, CPU)
    assert torch.equal(places[:entries], torch.arange(count) if whole is None else whole)
    block = places[entries:].unflatten(0, (down, across))
    assert torch.equal(block, block[:, :1] + block[:1] - block[0, 0]), "it is a block"
    assert block.max() < count
    for length, found in zip(shape, (down, across), strict=True):
        assert found == length if length <= BLOCK else 0.6 * BLOCK <= found <= BLOCK


def rms(x: Tensor) -> float:
    return x.double().square().mean().sqrt().item()


@pytest.mark.parametrize(("kind", "floor"), [("normal", 0.011), ("rank one", 0.03)])
def test_the_noise_floor(kind: str, floor: float) -> None:
    """Over forty large matrices the standard deviation is what the documents say."""
    generator = torch.Generator().manual_seed(1)
    off = []
    for _ in range(40):
        if kind == "normal":
            x = torch.randn(700, 900, generator=generator)
        else:
            x = torch.randn(700, 1, generator=generator) * torch.randn(1, 900, generator=generator)
        off.append(rms(sample_entries(x)) / rms(x) - 1)
    found = torch.tensor(off)
    assert found.std() < 1.25 * floor
    assert found.mean().abs() < floor
