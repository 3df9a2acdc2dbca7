"""The loss as backward passes tell it, and gradients that an optimizer's closure computes."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from foreshock.probes.base import unguarded
from foreshock.probes.step.gradient_norm import GradientNorm, joined
from foreshock.probes.taps.backward import BackwardLoss
from foreshock.probes.taps.optimizer import Stepping, UpdateTap
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@pytest.fixture
def loss() -> Iterator[BackwardLoss]:
    listening = BackwardLoss(unguarded)
    yield listening
    listening.remove()
    assert torch.autograd.backward.__module__ == "torch.autograd"
    assert torch.amp.GradScaler.scale.__module__ == "torch.amp.grad_scaler"


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 1)


def test_what_is_propagated_back_adds_up_until_it_is_taken(loss: BackwardLoss, model: nn.Module) -> None:
    assert loss.take() is None
    given = []
    for _ in range(3):
        one = model(torch.randn(8, 4)).square().mean() / 3
        given.append(one.item())
        one.backward()
    assert loss.take() == sum(given)
    assert loss.take() is None
    torch.autograd.grad(model(torch.randn(8, 4)).sum(), list(model.parameters()))
    y = model(torch.randn(8, 4))
    y.backward(torch.ones_like(y))
    assert loss.take() is None
    torch.autograd.backward([model(torch.ones(1, 4)).sum(), model(torch.ones(1, 4)).sum()])
    assert loss.take() == pytest.approx(2 * model(torch.ones(1, 4)).item())


def test_a_scaled_loss_is_known_by_what_it_was(loss: BackwardLoss, model: nn.Module) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    one = model(torch.randn(8, 4)).square().mean()
    scaler.scale(one).backward()
    assert loss.take() == one.item()
    off = torch.amp.GradScaler("cpu", enabled=False)
    one = model(torch.randn(8, 4)).square().mean()
    off.scale(one).backward()
    assert loss.take() == one.item()


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_add_nothing(reentrant: bool, loss: BackwardLoss, model: nn.Module) -> None:
    x = torch.randn(1, 4, requires_grad=True)
    one = checkpoint(model, x, use_reentrant=reentrant).sum() * 2
    one.backward()
    assert loss.take() == one.item()


def test_a_fault_stays_with_us(model: nn.Module) -> None:
    caught: list[Exception] = []

    def guard(work: Callable[[], None]) -> None:
        try:
            work()
        except ZeroDivisionError as error:
            caught.append(error)

    listening = BackwardLoss(guard)
    listening._add = lambda value: 1 / 0  # type: ignore[assignment, method-assign, return-value]
    model(torch.randn(8, 4)).sum().backward()
    listening.remove()
    assert len(caught) == 1
    assert model.weight.grad is not None


def test_gradients_of_a_closure_are_seen_when_they_are_there(model: nn.Module) -> None:
    """Those of the step before lie there when it begins; LBFGS computes new ones several times, and the first count."""
    x, expected, seen = torch.randn(8, 4), [], []
    norm, tap = GradientNorm(model.parameters(), [], unguarded), UpdateTap()
    optimizers: list[Any] = [torch.optim.SGD(model.parameters(), lr=0.1), torch.optim.LBFGS(model.parameters(), max_iter=5)]
    for optimizer in optimizers:
        for clipped in (False, True):
            model(100 * x).sum().backward()  # stale
            calls: list[float] = []

            def closure(clipped: bool = clipped, calls: list[float] = calls, optimizer: Any = optimizer) -> Tensor:
                optimizer.zero_grad()
                one = model(x).square().mean()
                one.backward()
                calls.append(nn.utils.get_total_norm([p.grad for p in model.parameters()]).item())
                if clipped:
                    nn.utils.clip_grad_norm_(model.parameters(), 0.01)
                return one

            def before(stepping: Stepping, optimizer: Any = optimizer) -> None:
                seen.append(nn.utils.get_total_norm([p.grad for p, _ in stepping.parameters]).item())

            tap.place(model.parameters(), unguarded, before)
            optimizer.step(closure)
            tap.remove()
            found = joined(norm.take()[:1])
            assert found is not None
            assert found[0] == pytest.approx(calls[0], rel=1e-5)
            assert found[1] == pytest.approx(min(calls[0], 0.01) if clipped else calls[0], rel=1e-3)
            expected.append(found[1])
    assert seen == pytest.approx(expected, rel=1e-3)
    norm.remove()
