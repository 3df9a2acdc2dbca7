"""Adam's moments and its lag against a plain Adam in float64."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from foreshock.probes.adam import AdamProbe
from foreshock.probes.model import WatchedModel
from foreshock.probes.statistics.samples import ENTRIES, sample_entries
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

LAG, FIRST, SECOND = "adam.second_moment_lag", "adam.first_moment_norm", "adam.second_moment_norm"


class Twin:
    """Adam's moments the slow way: one parameter, float64."""

    def __init__(self, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, amsgrad: bool = False) -> None:
        self.betas, self.eps, self.amsgrad = (beta1, beta2), eps, amsgrad
        self.steps, self.m, self.v, self.largest = 0, 0.0, 0.0, 0.0
        self.gradient = torch.zeros(())

    def step(self, gradient: Tensor) -> None:
        self.gradient = g = gradient.double()
        self.steps += 1
        self.m = self.betas[0] * self.m + (1 - self.betas[0]) * g
        self.v = self.betas[1] * self.v + (1 - self.betas[1]) * g.square()
        self.largest = torch.maximum(torch.as_tensor(self.largest), self.v)

    def ratios(self) -> Tensor:
        v_hat = (self.largest if self.amsgrad else self.v) / (1 - self.betas[1] ** self.steps)
        return self.gradient.square() / v_hat.clamp_min(self.eps**2)


def lag(*twins: Twin) -> float:
    return torch.cat([twin.ratios().flatten() for twin in twins]).mean().sqrt().item()


def norm(*moments: Tensor) -> float:
    return math.sqrt(sum(moment.square().sum().item() for moment in moments))


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "amsgrad": {"amsgrad": True},
    "fused amsgrad": {"amsgrad": True, "fused": True},
    "tensor lr": {"lr": torch.tensor(0.01), "foreach": False},
    "maximize": {"maximize": True},
    "other betas": {"betas": (0.8, 0.95), "eps": 1e-3},
}


@pytest.mark.parametrize("cls", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("variant", VARIANTS)
def test_against_the_twin(sampler, cls: type[torch.optim.Adam], variant: str) -> None:
    model = nn.Sequential(nn.Linear(12, 30), nn.Linear(30, 7, bias=False))
    options = {"lr": 0.01} | VARIANTS[variant]
    optimizer = cls(model.parameters(), **options)
    beta1, beta2 = options.get("betas", (0.9, 0.999))
    twins = {p: Twin(beta1, beta2, options.get("eps", 1e-8), options.get("amsgrad", False)) for p in model.parameters()}
    sample = sampler(AdamProbe(), model).sample

    def step() -> None:
        for p, twin in twins.items():
            p.grad = torch.randn_like(p) * 10 ** torch.randn(()).item()
            twin.step(p.grad)
        optimizer.step()

    for _ in range(4):
        found = sample(step)
        assert len(found) == 6
        for name, module in (("0", model[0]), ("1", model[1])):
            own = [twins[p] for p in module.parameters()]
            assert found.of(LAG, name) == pytest.approx(lag(*own), rel=2e-5)
            assert found.of(FIRST, name) == pytest.approx(norm(*(twin.m for twin in own)), rel=1e-5)
            assert found.of(SECOND, name) == pytest.approx(norm(*(twin.v for twin in own)), rel=1e-5)
        step()  # and one that is not sampled


def steady(model: nn.Module, optimizer: torch.optim.Optimizer, gradient: Callable[[nn.Parameter], Tensor]) -> Callable[[], None]:
    def step() -> None:
        for p in model.parameters():
            p.grad = gradient(p)
        optimizer.step()

    return step


@pytest.mark.parametrize("beta2", [0.0, 0.9, 0.95, 0.999])
def test_the_lag_is_one_in_a_steady_state_and_reaches_its_ceiling_after_a_leap(sampler, beta2: float) -> None:
    model = nn.Linear(5, 5)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, beta2))
    sample = sampler(AdamProbe(), model).sample
    assert sample(steady(model, optimizer, torch.ones_like)).of(LAG, "") == pytest.approx(1.0, rel=1e-5)
    for _ in range(60):
        steady(model, optimizer, torch.ones_like)()
    assert sample(steady(model, optimizer, torch.ones_like)).of(LAG, "") == pytest.approx(1.0, rel=1e-4)
    leap = sample(steady(model, optimizer, lambda p: torch.full_like(p, 1e6))).of(LAG, "")
    assert leap == pytest.approx(math.sqrt((1 - beta2 ** (62 + 1)) / (1 - beta2)), rel=1e-4)
    assert leap <= 1 / math.sqrt(1 - beta2) * (1 + 1e-6)
    fading = sample(steady(model, optimizer, lambda p: torch.full_like(p, 1e-3))).of(LAG, "")
    assert fading == pytest.approx(1.0 if beta2 == 0 else 0.0, abs=1e-5)


@given(st.floats(-6, 6), st.integers(0, 2**16))
def test_the_lag_does_not_depend_on_the_scale_of_gradients(exponent: float, seed: int) -> None:
    """Down to gradients of eps: 1e-8."""
    found = []
    for scale in (1.0, 10**exponent):
        model = nn.Linear(6, 6)
        optimizer = torch.optim.AdamW(model.parameters())
        generator = torch.Generator().manual_seed(seed)
        probe = AdamProbe()
        step = steady(
            model,
            optimizer,
            lambda p, s=scale, g=generator: s * (1 + torch.rand(p.shape, generator=g)),  # type: ignore[misc]
        )
        found.append(sampled_lag(probe, model, step))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def sampled_lag(probe: AdamProbe, model: nn.Module, step: Callable[[], None]) -> float:
    probe.attach(WatchedModel(model))
    for number in range(3):
        probe.arm(number)
        step()
        (block,) = probe.collect(number)
        probe.disarm()
    assert [key.signal for key in block.keys] == [LAG, FIRST, SECOND]
    return float(block.finished().values[0])


def test_a_subsample_of_large_parameters(sampler) -> None:
    """Its error is within the noise floor: here five times 2 %."""
    model = nn.Linear(300, 300)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95))
    twins = [Twin(beta2=0.95) for _ in model.parameters()]

    def step() -> None:
        for p, twin in zip(model.parameters(), twins, strict=True):
            p.grad = torch.randn_like(p)
            twin.step(p.grad)
        optimizer.step()

    sample = sampler(AdamProbe(), model).sample
    for _ in range(5):
        found = sample(step)
    assert model.weight.numel() > ENTRIES
    assert found.of(LAG, "") == pytest.approx(lag(*twins), rel=0.1)
    assert found.of(LAG, "") != pytest.approx(lag(*twins), rel=1e-7), "it is a subsample"
    sampled = torch.cat([sample_entries(twin.ratios()) for twin in twins[:1]]).mean() * 90000 + twins[1].ratios().sum()
    assert found.of(LAG, "") == pytest.approx(math.sqrt(sampled / 90300), rel=1e-5)
    assert found.of(FIRST, "") == pytest.approx(norm(*(twin.m for twin in twins)), rel=1e-5), "norms are exact"


def test_coupled_weight_decay_belongs_to_the_gradient(sampler) -> None:
    """With Adam, not with AdamW; also when the optimizer holds it as a tensor."""
    for cls, decay in [(torch.optim.Adam, 0.5), (torch.optim.AdamW, 0.5)]:
        model = nn.Linear(6, 6)
        optimizer = cls(model.parameters(), lr=0.01, weight_decay=decay)
        twins = [Twin() for _ in range(2)]
        sample = sampler(AdamProbe(), model).sample

        def step(model=model, optimizer=optimizer, twins=twins, cls=cls, decay=decay) -> None:
            for p, twin in zip(model.parameters(), twins, strict=True):
                p.grad = torch.randn_like(p)
                twin.step(p.grad.double() + (decay * p.detach().double() if cls is torch.optim.Adam else 0.0))
            optimizer.step()

        for _ in range(3):
            found = sample(step)
        assert found.of(LAG, "") == pytest.approx(lag(*twins), rel=2e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_the_loss_scale_is_left_out_and_skipped_steps_give_nothing(sampler, fused: bool) -> None:
    model = nn.Linear(6, 6)
    optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    twins = [Twin() for _ in range(2)]
    sample = sampler(AdamProbe(), model).sample
    poison = False

    def step() -> None:
        optimizer.zero_grad()
        scaler.scale(model(torch.randn(5, 6)).square().mean()).backward()
        if poison:
            model.weight.grad[0, 0] = torch.nan
        else:
            for p, twin in zip(model.parameters(), twins, strict=True):
                twin.step(p.grad.double() / 1024)
        scaler.step(optimizer)
        scaler.update(1024.0)

    for _ in range(3):
        found = sample(step)
    assert found.of(LAG, "") == pytest.approx(lag(*twins), rel=2e-5)
    assert found.of(SECOND, "") == pytest.approx(norm(*(twin.v for twin in twins)), rel=1e-5)
    poison = True
    assert sample(step) == {}


def test_other_optimizers_frozen_shared_and_unused_parameters(sampler) -> None:
    """A shared weight counts once, in the first module; what another optimizer steps does not count at all."""
    model = nn.ModuleDict({name: nn.Linear(6, 6) for name in ("first", "tied", "frozen", "unused", "mixed", "other")})
    model["tied"].weight = model["first"].weight
    model["frozen"].requires_grad_(False)
    model["first"].register_parameter("empty", nn.Parameter(torch.zeros(0)))
    ours = [*model["first"].parameters(), model["tied"].bias, *model["unused"].parameters(), model["mixed"].weight]
    optimizers = [
        torch.optim.AdamW(ours),
        torch.optim.NAdam([model["mixed"].bias]),
        torch.optim.SGD(model["other"].parameters(), lr=0.1, momentum=0.9),
    ]
    twins = {p: Twin() for name in ("first", "tied", "mixed") for p in model[name].parameters() if p.numel()}

    def step() -> None:
        for name, p in model.named_parameters(remove_duplicate=True):
            if not name.startswith(("frozen", "unused")):
                p.grad = torch.randn_like(p)
                if p in twins:
                    twins[p].step(p.grad)
        for optimizer in optimizers:
            optimizer.step()

    sample = sampler(AdamProbe(), model).sample
    for _ in range(2):
        found = sample(step)
    expected = {
        "first": [twins[model["first"].weight], twins[model["first"].bias]],
        "tied": [twins[model["tied"].bias]],
        "mixed": [twins[model["mixed"].weight]],
    }
    assert found.modules(LAG) == found.modules(FIRST) == found.modules(SECOND) == expected.keys()
    for name, own in expected.items():
        assert found.of(LAG, name) == pytest.approx(lag(*own), rel=2e-5)
        assert found.of(SECOND, name) == pytest.approx(norm(*(twin.v for twin in own)), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_other_dtypes(sampler, dtype: torch.dtype) -> None:
    """The twin is fed what a bfloat16 Adam really holds: its moments are rounded at every step."""
    model = nn.Linear(20, 20, dtype=dtype)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95))
    found = sampler(AdamProbe(), model).sample(steady(model, optimizer, torch.randn_like))
    states = [optimizer.state[p] for p in model.parameters()]
    ratios = [p.grad.double() ** 2 / (optimizer.state[p]["exp_avg_sq"].double() / (1 - 0.95)) for p in model.parameters()]
    assert found.of(LAG, "") == pytest.approx(torch.cat([r.flatten() for r in ratios]).mean().sqrt().item(), rel=1e-5)
    assert found.of(FIRST, "") == pytest.approx(norm(*(state["exp_avg"].double() for state in states)), rel=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_shows_where_it_is(sampler, value: float) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))

    def gradient(p: nn.Parameter) -> Tensor:
        return torch.full_like(p, value if p is model[1].bias else 1.0)

    found = sampler(AdamProbe(), model).sample(steady(model, torch.optim.AdamW(model.parameters()), gradient))
    assert found.of(LAG, "0") == pytest.approx(1.0, rel=1e-5)
    assert math.isnan(found.of(LAG, "1"))
    assert not math.isfinite(found.of(FIRST, "1"))


@pytest.mark.parametrize("eps", [1e-8, 0.0])
def test_no_gradient_to_speak_of(sampler, eps: float) -> None:
    """Zero gradients lag by nothing, tiny ones are measured by eps."""
    model = nn.Linear(3, 3)
    sample = sampler(AdamProbe(), model).sample
    found = sample(steady(model, torch.optim.AdamW(model.parameters(), eps=eps), torch.zeros_like))
    assert (found.of(LAG, ""), found.of(FIRST, ""), found.of(SECOND, "")) == (0.0, 0.0, 0.0)
    found = sample(steady(model, torch.optim.AdamW(model.parameters(), eps=1e-8), lambda p: torch.full_like(p, 1e-12)))
    assert found.of(LAG, "") == pytest.approx(1e-4, rel=1e-3)
