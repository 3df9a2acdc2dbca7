"""Sizes of what models are given against plain means in float64."""

import math

import pytest
import torch
from foreshock.probes.inputs import InputProbe
from torch import Tensor, nn

RMS = "input.rms"


class Takes(nn.Module):
    """Takes anything, first a tensor, and gives a number back."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, *given: object) -> Tensor:
        first = given[0]
        assert isinstance(first, Tensor)
        return self.gain * first.float().mean()


@pytest.mark.parametrize(
    ("x", "rel"),
    [
        (torch.randn(6, 5) * 3.0, 1e-6),
        (torch.randn(4, 3, 20, 10) + 100.0, 1e-6),
        (torch.tensor(7.0), 1e-6),
        (torch.randn(8, 3, 64, 64) * 1e-3, 0.05),
        (torch.randn(50, 20).bfloat16(), 1e-6),
        (torch.randn(50, 20).double() * 1e200, 1e-6),
    ],
    ids=["matrix", "images", "a number", "more than is looked at", "bfloat16", "beyond float32"],
)
def test_equals_the_plain_root_mean_square(sampler, x: Tensor, rel: float) -> None:
    found = sampler(InputProbe(), model := Takes()).sample(lambda: model(x))
    expected = x.double().abs().square().mean().sqrt().item()
    expected = expected if expected < 3e38 else math.inf
    assert found == {(RMS, "", -1): pytest.approx(expected, rel=rel)}


@pytest.mark.parametrize("given", [torch.arange(9), torch.empty(0, 4)], ids=["token ids", "nothing"])
def test_what_has_no_size_gives_nothing(sampler, given: Tensor) -> None:
    assert sampler(InputProbe(), model := Takes()).sample(lambda: model(given)) == {}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_none_show(sampler, bad: float) -> None:
    found = sampler(InputProbe(), model := Takes()).sample(lambda: model(torch.tensor([1.0, bad])))
    assert not math.isfinite(found.of(RMS, ""))


def test_the_first_batch_of_a_step_in_training_is_looked_at_and_left_as_it_is(sampler) -> None:
    x = torch.randn(4, 4)
    before = x.clone()
    model = Takes()

    def step() -> None:
        model.eval()
        model(100.0 * x)
        model.train()
        model(x)
        model(10.0 * x)

    found = sampler(InputProbe(), model).sample(step)
    assert found.of(RMS, "") == pytest.approx(x.square().mean().sqrt().item(), rel=1e-6)
    assert x.equal(before)


def test_several_models_and_a_batch_in_raw_units(sampler) -> None:
    """One image of four in bytes among scaled ones makes the batch a hundred times as large."""
    models = {"encoder": Takes(), "head": Takes()}
    images = torch.rand(4, 3, 8, 8)
    broken = torch.cat([images[:3], images[3:] * 255.0])
    sample = sampler(InputProbe(), models).sample

    def sizes(batch: Tensor) -> dict[str, float]:
        found = sample(lambda: (models["encoder"](batch), models["head"](batch[0])))
        return {name: found.of(RMS, name) for name in models}

    usual, raw = sizes(images), sizes(broken)
    assert raw["encoder"] > 100 * usual["encoder"]
    assert raw["head"] == usual["head"]
