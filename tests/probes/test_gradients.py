"""The gradient norm before and after clipping, against the norm of all gradients in float64 when the optimizer steps."""

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.utils.clip_grad as clip_grad
from foreshock.probes.base import unguarded
from foreshock.probes.step.gradient_norm import GradientNorm, joined
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_ as imported_by_name
from torch.optim.optimizer import _global_optimizer_pre_hooks


@pytest.fixture
def watch() -> Iterator:
    """Make a ``GradientNorm``; it is removed in the end."""
    made: list[GradientNorm] = []

    def make(model: nn.Module, *optimizers: torch.optim.Optimizer) -> GradientNorm:
        made.append(GradientNorm((p for p in model.parameters() if p.requires_grad), optimizers, unguarded))
        return made[-1]

    yield make
    for each in made:
        each.remove()


class Training:
    """A small model, its optimizer, and the true norms."""

    def __init__(self, optimizer: type[torch.optim.Optimizer] = torch.optim.SGD) -> None:
        self.model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
        self.optimizer = optimizer(self.model.parameters(), lr=0.1)

    def backward(self, scale: float = 10.0) -> None:
        self.optimizer.zero_grad()
        (self.model(torch.randn(4, 5)).square().sum() * scale).backward()


def true_norm(*modules: nn.Module | Tensor) -> float:
    """2-norm of all gradients, in float64."""
    tensors = [p for module in modules for p in (module.parameters() if isinstance(module, nn.Module) else [module])]
    return math.sqrt(sum(p.grad.double().square().sum().item() for p in tensors if p.grad is not None))


def taken(norm: GradientNorm) -> tuple[float, float]:
    both = joined(norm.take())
    assert both is not None
    assert not isinstance(both[0], Tensor)
    return both


WAYS = {
    "by name": imported_by_name,
    "torch.nn.utils": lambda *a, **k: torch.nn.utils.clip_grad_norm_(*a, **k),
    "its module": lambda *a, **k: clip_grad.clip_grad_norm_(*a, **k),
    "one by one": lambda *a, **k: nn.utils.clip_grad_norm_(*a, foreach=False, **k),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("max_norm", [0.5, 1e9], ids=["clips", "leaves"])
def test_norm_before_and_after_whichever_way_clipping_was_imported(way: str, max_norm: float, watch) -> None:
    run = Training()
    norm = watch(run.model, run.optimizer)
    for _ in range(3):
        run.backward()
        before = true_norm(run.model)
        total = WAYS[way](run.model.parameters(), max_norm)
        after = true_norm(run.model)
        run.optimizer.step()
        assert taken(norm) == pytest.approx((before, after), rel=1e-5)
        assert total.item() == pytest.approx(before, rel=1e-5)
        assert (after < before * 0.9) == (max_norm < 1)


def test_without_clipping_both_are_the_norm(watch) -> None:
    run = Training()
    norm = watch(run.model, run.optimizer)
    run.backward()
    run.optimizer.step()
    assert taken(norm) == pytest.approx((true_norm(run.model),) * 2, rel=1e-6)


def test_changes_by_other_means_are_seen_as_changed(watch) -> None:
    run = Training()
    norm = watch(run.model, run.optimizer)
    run.backward()
    nn.utils.clip_grad_value_(run.model.parameters(), 0.01)
    run.optimizer.step()
    assert taken(norm) == pytest.approx((true_norm(run.model),) * 2, rel=1e-6)


def test_a_step_without_an_optimizer_step_has_no_norm(watch) -> None:
    run = Training()
    norm = watch(run.model, run.optimizer)
    run.backward()
    assert joined(norm.take()) is None
    run.optimizer.zero_grad()
    run.optimizer.step()
    assert joined(norm.take()) is None


@pytest.mark.parametrize("clipped", [[0], [2], [0, 2]], ids=str)
def test_clipping_some_of_the_parameters(clipped: list[int], watch) -> None:
    run = Training()
    norm = watch(run.model, run.optimizer)
    run.backward()
    before = true_norm(run.model)
    for i in clipped:
        nn.utils.clip_grad_norm_(run.model[i].parameters(), 0.3)
    run.optimizer.step()
    assert taken(norm) == pytest.approx((before, true_norm(run.model)), rel=1e-5)


def test_clipping_one_tensor_and_parameters_in_another_order(watch) -> None:
    run = Training()
    norm = watch(run.model, run.optimizer)
    for given in (run.model[0].weight, list(run.model.parameters())[::-1], set(run.model.parameters())):
        run.backward()
        before = true_norm(run.model)
        nn.utils.clip_grad_norm_(given, 0.3)
        run.optimizer.step()
        assert taken(norm) == pytest.approx((before, true_norm(run.model)), rel=1e-5)


@pytest.mark.parametrize("norm_type", [math.inf, "inf", 1.0, 3.0], ids=str)
def test_clipping_by_another_norm(norm_type: float | str, watch) -> None:
    run = Training()
    norm = watch(run.model, run.optimizer)
    run.backward()
    before = true_norm(run.model)
    nn.utils.clip_grad_norm_(run.model.parameters(), 0.3, norm_type=norm_type)
    after = true_norm(run.model)
    run.optimizer.step()
    assert after < 0.9 * before
    assert taken(norm) == pytest.approx((before, after), rel=1e-5)


def test_clipping_with_parameters_that_are_frozen_or_have_no_gradient(watch) -> None:
    """Fine-tuning: everything is given to clip_grad_norm_, part of it trains."""
    run = Training()
    run.model.append(nn.Linear(3, 3))
    run.model[0].requires_grad_(False)
    run.optimizer = torch.optim.SGD(run.model.parameters(), lr=0.1)
    norm = watch(run.model, run.optimizer)
    run.optimizer.zero_grad()
    (run.model[:3](torch.randn(4, 5)).square().sum() * 10).backward()
    before = true_norm(run.model)
    nn.utils.clip_grad_norm_(run.model.parameters(), 0.3)
    run.optimizer.step()
    assert taken(norm) == pytest.approx((before, true_norm(run.model)), rel=1e-5)


def test_clipping_together_with_a_model_that_is_not_watched(watch) -> None:
    run, other = Training(), Training()
    norm = watch(run.model, run.optimizer)
    run.backward()
    other.backward(scale=100.0)
    before = true_norm(run.model)
    nn.utils.clip_grad_norm_([*run.model.parameters(), *other.model.parameters()], 0.3)
    run.optimizer.step()
    other.optimizer.step()
    after = true_norm(run.model)
    assert after < 0.2 * 0.3, "the other model has the larger part of the common norm"
    assert taken(norm) == pytest.approx((before, after), rel=1e-5)


def test_an_unrelated_models_clipping_and_steps_are_not_ours(watch) -> None:
    run, other = Training(), Training()
    for optimizers in ([run.optimizer], []):
        norm = watch(run.model, *optimizers)
        run.backward()
        other.backward(scale=1000.0)
        nn.utils.clip_grad_norm_(other.model.parameters(), 0.1)
        other.optimizer.step()
        assert joined(norm.take()) is None
        run.optimizer.step()
        assert taken(norm) == pytest.approx((true_norm(run.model),) * 2, rel=1e-6)
        assert norm.optimizers == [run.optimizer]
        norm.remove()


def test_the_first_of_two_clips_is_seen_and_nothing_is_counted_twice(watch) -> None:
    run = Training()
    norm = watch(run.model, run.optimizer)
    run.backward()
    before = true_norm(run.model)
    for given in (run.model[0].parameters(), run.model[2].parameters(), run.model.parameters(), run.model.parameters()):
        nn.utils.clip_grad_norm_(given, 0.5)
    run.optimizer.step()
    found = taken(norm)
    assert found[0] == pytest.approx(before, rel=1e-5)
    assert found[1] == pytest.approx(math.hypot(0.5, 0.5), rel=1e-4)


def test_a_generator_reaches_the_clip_unspent(watch) -> None:
    run = Training()
    norm = watch(run.model, run.optimizer)
    run.backward()
    before = true_norm(run.model)
    nn.utils.clip_grad_norm_((p for p in run.model.parameters()), 0.5)
    after = true_norm(run.model)
    run.optimizer.step()
    assert after == pytest.approx(0.5, rel=1e-4)
    assert taken(norm) == pytest.approx((before, after), rel=1e-5)


@pytest.mark.parametrize("told", [True, False], ids=["given", "found"])
def test_several_optimizers(told: bool, watch) -> None:
    run = Training()
    optimizers = [torch.optim.SGD(run.model[0].parameters(), lr=0.1), torch.optim.Adam(run.model[2].parameters())]
    norm = watch(run.model, *(optimizers if told else []))
    for clip in (False, True):
        run.backward()
        before = true_norm(run.model)
        if clip:
            nn.utils.clip_grad_norm_(run.model.parameters(), 0.5)
        for optimizer in optimizers:
            optimizer.step()
        assert taken(norm) == pytest.approx((before, true_norm(run.model)), rel=1e-5)
    assert norm.optimizers == optimizers


def test_an_optimizer_that_holds_more_than_is_watched(watch) -> None:
    run = Training()
    norm = watch(run.model[0], run.optimizer)
    run.backward()
    run.optimizer.step()
    assert taken(norm) == pytest.approx((true_norm(run.model[0]),) * 2, rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_gradients_that_are_not_finite(bad: float, watch) -> None:
    run = Training()
    norm = watch(run.model, run.optimizer)
    for clip in (False, True):
        run.backward()
        run.model[0].weight.grad[0, 0] = bad
        before = true_norm(run.model)
        if clip:
            nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
        after = true_norm(run.model)
        assert not math.isfinite(after)
        run.optimizer.step()
        assert taken(norm) == pytest.approx((before, after), nan_ok=True)


def test_sparse_gradients(watch) -> None:
    model = nn.ModuleList([nn.Embedding(9, 4, sparse=True), nn.Linear(4, 2)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norm = watch(model, optimizer)
    model[1](model[0](torch.tensor([1, 1, 5]))).square().sum().backward()
    optimizer.step()
    dense = math.hypot(model[0].weight.grad.to_dense().norm().item(), true_norm(model[1]))
    assert taken(norm) == pytest.approx((dense, dense), rel=1e-6)


def test_a_fused_optimizer_under_a_gradient_scaler_is_seen_unscaled(watch) -> None:
    run = Training()
    run.optimizer = torch.optim.Adam(run.model.parameters(), fused=True)
    norm, scaler = watch(run.model, run.optimizer), torch.amp.GradScaler("cpu")
    scaler.scale(run.model(torch.randn(4, 5)).square().sum()).backward()
    assert true_norm(run.model) > 1e4
    scaler.step(run.optimizer)  # unscales in place, after our hook
    assert taken(norm)[0] == pytest.approx(true_norm(run.model), rel=1e-5)


def test_low_precision_gradients(watch) -> None:
    run = Training()
    run.model.bfloat16()
    norm = watch(run.model, run.optimizer)
    run.optimizer.zero_grad()
    run.model(torch.randn(4, 5).bfloat16()).square().sum().backward()
    run.optimizer.step()
    assert taken(norm) == pytest.approx((true_norm(run.model),) * 2, rel=2e-2)


def test_on_a_device_nothing_is_fetched() -> None:
    """The joining of norms that stay on a device, held against the host's."""
    norms = [(3.0, 3.0, math.inf), (4.0, 8.0, 2.0), (5.0, 5.0, 100.0)]
    away = [(torch.tensor(norm), torch.tensor(judged), limit) for norm, judged, limit in norms]
    for mixed in (away, [norms[0], *away[1:]], [away[0], *norms[1:]]):
        found = joined(mixed)
        assert all(isinstance(x, Tensor) for x in found)
        assert [x.item() for x in found] == pytest.approx(joined(norms), rel=1e-6)
    for bad in (math.inf, math.nan):
        for limit in (math.inf, 1.0):
            found = joined([(torch.tensor(bad), torch.tensor(bad), limit)])
            assert [x.item() for x in found] == pytest.approx(joined([(bad, bad, limit)]), nan_ok=True)


def test_removal_gives_torch_its_functions_back() -> None:
    before = clip_grad._get_total_norm, clip_grad._clip_grads_with_norm_
    first, second = Training(), Training()
    one = GradientNorm(first.model.parameters(), [first.optimizer], unguarded)
    two = GradientNorm(second.model.parameters(), [], unguarded)
    assert clip_grad._get_total_norm is not before[0]
    one.remove()
    one.remove()
    second.backward()
    nn.utils.clip_grad_norm_(second.model.parameters(), 0.5)
    second.optimizer.step()
    assert taken(two)[1] == pytest.approx(0.5, rel=1e-4)
    first.backward()
    first.optimizer.step()
    assert joined(one.take()) is None
    two.remove()
    assert (clip_grad._get_total_norm, clip_grad._clip_grads_with_norm_) == before
    assert not first.optimizer._optimizer_step_pre_hooks
    assert not _global_optimizer_pre_hooks


def test_a_tool_that_wrapped_torch_after_us_keeps_working(watch, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Training()
    norm = watch(run.model, run.optimizer)
    ours, calls = clip_grad._get_total_norm, []
    clip_grad._get_total_norm = lambda *a, **k: (calls.append(1), ours(*a, **k))[1]
    norm.remove()
    run.backward()
    assert nn.utils.clip_grad_norm_(run.model.parameters(), 0.5).item() > 0.5
    again = watch(run.model, run.optimizer)
    run.backward()
    before = true_norm(run.model)
    nn.utils.clip_grad_norm_(run.model.parameters(), 0.5)
    run.optimizer.step()
    assert taken(again) == pytest.approx((before, 0.5), rel=1e-4)
    assert len(calls) == 2
    clip_grad._get_total_norm = ours
    again.remove()


def test_clipping_and_gradients_are_untouched_by_being_watched(watch) -> None:
    torch.manual_seed(1)
    one, two = Training(), Training()
    two.model.load_state_dict(one.model.state_dict())
    watch(two.model, two.optimizer)
    for run in (one, two):
        torch.manual_seed(2)
        for _ in range(3):
            run.backward()
            nn.utils.clip_grad_norm_(run.model.parameters(), 0.5)
            run.optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(one.model.parameters(), two.model.parameters(), strict=True))


def test_a_fault_in_measuring_does_not_reach_clip_or_step() -> None:
    run = Training()
    faults: list[Exception] = []

    def guard(work) -> None:
        try:
            raise RuntimeError("no")
        except RuntimeError as error:
            faults.append(error)

    norm = GradientNorm(run.model.parameters(), [run.optimizer], guard)
    run.backward()
    nn.utils.clip_grad_norm_(run.model.parameters(), 0.5)
    run.optimizer.step()
    norm.remove()
    assert len(faults) == 2
    assert true_norm(run.model) == pytest.approx(0.5, rel=1e-4)
