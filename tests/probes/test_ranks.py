"""The checksum of the weights: equal for equal weights wherever they lie, different at the flip of a bit."""

import pytest
import torch
from foreshock.probes.model import WatchedModel
from foreshock.probes.ranks import RanksProbe
from torch import nn


def checksum(model: nn.Module) -> float:
    probe = RanksProbe()
    probe.attach(WatchedModel(model))
    probe.arm(0)
    (block,) = probe.collect(0)
    probe.disarm()
    assert [key.signal for key in block.keys] == ["rank.checksum"]
    value = block.values.item()
    assert value == int(value)
    assert 0 <= value < 2**24
    return value


def model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.Linear(7, 3), nn.Linear(3, 7)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_every_bit_counts(dtype: torch.dtype) -> None:
    """Odd numbers of 16-bit weights are among them."""
    before = checksum(model(dtype))
    assert checksum(model(dtype)) == before
    for name, parameter in model(dtype).named_parameters():
        changed = model(dtype)
        own = dict(changed.named_parameters())[name].data.flatten()[-1:]
        own.view(torch.uint8)[0] ^= 1
        assert checksum(changed) != before, (name, parameter.shape)


def test_weights_that_change_places_are_seen() -> None:
    one, other = model(), model()
    other[1].weight.data, other[2].weight.data = one[2].weight.data.reshape(3, 7), one[1].weight.data.reshape(7, 3)
    assert checksum(one) != checksum(other)


def test_how_dense_weights_lie_makes_no_copy_and_odd_places_do_no_harm() -> None:
    channels_last = model().to(memory_format=torch.channels_last)
    assert checksum(channels_last) == checksum(model().to(memory_format=torch.channels_last))
    apart = model(torch.bfloat16)
    storage = torch.zeros(22, dtype=torch.bfloat16)
    storage[1:] = apart[1].weight.data.flatten()
    apart[1].weight.data = storage[1:].view(3, 7)
    assert checksum(apart) == checksum(model(torch.bfloat16))
