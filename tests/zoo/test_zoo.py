"""The zoo's runs are what they say they are."""

import math

import pytest
import torch
from foreshock.zoo.scenario import scenario, scenarios
from foreshock.zoo.text import windows


def test_every_scenario_builds_trains_and_repeats_itself() -> None:
    torch.set_num_threads(1)
    assert {"low-precision-attention", "healthy", "stabilised", "bfloat16-attention"} <= set(scenarios())
    for chosen in scenarios().values():
        runs = []
        for _ in range(2):
            training = chosen.build(3)
            runs.append([training.step(number).item() for number in range(3)])
        assert runs[0] == runs[1]
        assert all(math.isfinite(loss) for loss in runs[0])
        assert chosen.build(4).step(0).item() != runs[0][0]


def test_an_unknown_scenario_is_refused_with_the_list() -> None:
    with pytest.raises(ValueError, match=r"there is no scenario 'nope'; there are: .*healthy"):
        scenario("nope")


def test_text_windows_overlap_by_one_byte_and_end_with_the_text() -> None:
    data = windows(count=32, context=64)
    assert data.shape == (32, 65)
    assert bytes(data[0, :16].tolist()) == b"Call me Ishmael."
    assert torch.equal(data[:-1, -1], data[1:, 0])
    with pytest.raises(ValueError, match="the text has"):
        windows(count=1000, context=64)
