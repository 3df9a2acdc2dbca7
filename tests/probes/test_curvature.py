"""Sharpness against the dense Hessian in float64; training is left as it was."""

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from foreshock.probes.curvature import sharpness
from foreshock.zoo.models import GPT
from torch import Tensor, nn


def dense(loss: Any, model: nn.Module) -> float:
    """The largest eigenvalue, float64."""
    model = copy.deepcopy(model).double()
    names, values = zip(*model.named_parameters(), strict=True)
    sizes = [value.numel() for value in values]

    def of(flat: Tensor) -> Tensor:
        parts = flat.split(sizes)
        return loss(
            lambda *x: torch.func.functional_call(
                model, {n: p.view(v.shape) for n, p, v in zip(names, parts, values, strict=True)}, x
            )
        )

    hessian = torch.autograd.functional.hessian(of, torch.cat([v.detach().flatten() for v in values]))
    return torch.linalg.eigvalsh(hessian)[-1].item()


@pytest.mark.parametrize("trained", [False, True], ids=["random", "trained"])
def test_a_small_net_equals_its_dense_hessian(trained: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    x, labels = torch.randn(40, 4), torch.randint(0, 3, (40,))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(200 if trained else 0):
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
    found = sharpness(lambda: F.cross_entropy(model(x), labels), model, iterations=100)
    expected = dense(lambda forward: F.cross_entropy(forward(x.double()), labels), model)
    assert found.item() == pytest.approx(expected, rel=5e-3)
    assert found.dtype == torch.float32
    assert not found.requires_grad


def test_the_default_number_of_iterations_finds_a_clear_eigenvalue() -> None:
    model = nn.Linear(10, 1, bias=False)
    x = torch.randn(200, 10) * torch.linspace(3, 0.5, 10)
    found = sharpness(lambda: model(x).square().mean(), model)
    assert found.item() == pytest.approx(torch.linalg.eigvalsh(2 * x.double().t() @ x.double() / 200)[-1].item(), rel=1e-2)


def test_the_edge_of_stability() -> None:
    """Gradient descent on a parabola diverges beyond 2 / sharpness and not before."""
    model = nn.Linear(5, 1, bias=False)
    x = torch.randn(50, 5)
    limit = 2 / sharpness(lambda: model(x).square().mean(), model, iterations=200).item()
    for share, grows in ((0.95, False), (1.05, True)):
        trial = copy.deepcopy(model)
        optimizer = torch.optim.SGD(trial.parameters(), lr=share * limit)
        before = trial(x).square().mean().item()
        for _ in range(200):
            optimizer.zero_grad()
            trial(x).square().mean().backward()
            optimizer.step()
        assert (trial(x).square().mean().item() > before) is grows


def test_at_a_saddle_the_steepest_valley_counts() -> None:
    model = nn.Linear(2, 1, bias=False)
    found = sharpness(lambda: model.weight[0, 0] ** 2 - 3 * model.weight[0, 1] ** 2, model)
    assert found.item() == pytest.approx(2.0, rel=1e-3)


def test_what_is_not_curved() -> None:
    model = nn.ModuleDict({"used": nn.Linear(3, 1), "unused": nn.Linear(3, 1), "frozen": nn.Linear(3, 3).requires_grad_(False)})
    x = torch.randn(5, 3)
    assert sharpness(lambda: model["used"](x).sum(), model).item() == 0.0
    assert sharpness(lambda: model["used"](model["frozen"](x)).square().mean(), model).item() > 0.0


def test_a_loss_that_is_not_a_number_shows() -> None:
    model = nn.Linear(3, 1)
    assert sharpness(lambda: (model(torch.randn(5, 3)) * float("nan")).square().mean(), model).isnan()


class Noisy(nn.Module):
    """Draws from every generator there is, and keeps means."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.drop = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.norm(self.layer(x))) * (1 + random.random() + np.random.rand())


def test_training_is_bit_identical() -> None:
    kept = []
    for asked in (False, True):
        torch.manual_seed(3)
        random.seed(3)
        np.random.seed(3)
        model, x = Noisy(), torch.randn(20, 6)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            loss = model(x).square().mean()
            if asked:  # at the worst place: between forward and backward
                assert sharpness(lambda model=model, x=x: model(x).square().mean(), model, iterations=3).isfinite()
            loss.backward()
            optimizer.step()
        kept.append([torch.get_rng_state(), *model.state_dict().values(), *(p.grad for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*kept, strict=True))


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
def test_fused_attention_is_differentiated_twice(autocast: bool) -> None:
    model = GPT(16, 2, 1, 12, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True))
    tokens = torch.arange(24).reshape(2, 12)

    def loss() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = model(tokens)
        return F.cross_entropy(logits.float().flatten(0, 1), tokens.flatten())

    assert sharpness(loss, model, iterations=20).item() > 0.0
    assert all(p.grad is None for p in model.parameters())
