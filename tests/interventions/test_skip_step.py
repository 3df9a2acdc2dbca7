"""No update that is not finite or wild reaches weights or moments: training is, bit by bit, as if the user had left it out."""

import copy
import math
from collections.abc import Callable
from typing import Any

import foreshock
import numpy as np
import pytest
import torch
from foreshock.interventions.base import Training
from foreshock.interventions.foretold import update_norm
from foreshock.interventions.gradient_judge import FINE, GIVEN_WAY, HELD, NOT_FINITE, WILD, GradientJudge, norm_of
from foreshock.interventions.skip_step import SkipStep
from foreshock.storage.records import Run
from torch import Tensor, nn
from torch.optim import Optimizer

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "fused adamw": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "sgd momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.1),
    "fused sgd momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, fused=True),
    "muon": lambda p: torch.optim.Muon([w for w in p if w.dim() == 2], lr=0.01),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
}
STEPS = 80
BAD = {0: math.nan, 5: math.inf, 50: math.nan, 60: 1e9, 61: -math.inf, 70: 1e9}


def state_of(model: nn.Module, optimizer: Optimizer) -> list[Tensor]:
    moments = [v for state in optimizer.state_dict()["state"].values() for v in state.values() if isinstance(v, Tensor)]
    return [t.clone() for t in [*model.parameters(), *moments]]


def train(
    make: Callable[[Any], Optimizer], *, guard: bool, url: str = "", accumulate: int = 1, closure: bool = False
) -> tuple[list[Tensor], int]:
    """Train with bad gradients in BAD steps; unguarded, the user leaves these out by hand."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3))
    optimizer = make(model.parameters())
    skipping = SkipStep()
    monitor = foreshock.watch(model, optimizer, store=url, every=5, interventions=[skipping]) if guard else None
    for step in range(STEPS):

        def backward(step: int = step) -> Tensor:
            optimizer.zero_grad()
            for part in range(accumulate):
                factor = BAD.get(step, 1.0) if part == 0 else 1.0
                loss = model(torch.randn(8, 6)).square().mean() / accumulate
                (loss * factor).backward()
            return loss

        if closure and (guard or step not in BAD):
            optimizer.step(backward)
        else:
            backward()
            if guard or step not in BAD:
                optimizer.step()
        if monitor is not None:
            assert all(p.grad is not None for p in model.parameters()), "gradients are back after the step"
            monitor.step()
    if monitor is not None:
        monitor.close()
        assert monitor.faults.total == 0
    return state_of(model, optimizer), skipping.skipped


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_weights_and_moments_are_as_if_the_bad_steps_had_not_been(kind: str, url: str) -> None:
    guarded, skipped = train(OPTIMIZERS[kind], guard=True, url=url)
    by_hand, _ = train(OPTIMIZERS[kind], guard=False)
    assert skipped == len(BAD)
    assert len(guarded) == len(by_hand)
    for ours, theirs in zip(guarded, by_hand, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", ["fused adamw", "fused sgd momentum"])
def test_the_same_by_found_inf_which_is_how_a_gpu_is_told(kind: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foreshock.interventions.skip_step._may_read", lambda device: False)
    guarded, skipped = train(OPTIMIZERS[kind], guard=True, url=url)
    by_hand, _ = train(OPTIMIZERS[kind], guard=False)
    assert skipped == len(BAD)
    # What is left out by found_inf in a first step has its state made all the same, at zero.
    assert len(guarded) == len(by_hand)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(guarded, by_hand, strict=True))


@pytest.mark.parametrize("may_read", [True, False])
def test_running_statistics_of_a_bad_batch_are_put_back(may_read: bool, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foreshock.interventions.skip_step._may_read", lambda device: may_read)

    def trained(guard: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, 3))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
        monitor = foreshock.watch(model, optimizer, store=url, every=10, interventions=["skip_step"]) if guard else None
        for step in range(50):
            x = torch.randn(8, 6) * {40: math.nan, 45: 1e30}.get(step, 1.0)
            if guard or step not in (40, 45):
                model(x).square().mean().mul(1e12 if step == 45 else 1.0).backward()
                optimizer.step()
                optimizer.zero_grad()
                if monitor is not None:
                    monitor.step()
        if monitor is not None:
            monitor.close()
        return [*model.state_dict().values()]

    assert all(torch.equal(ours, theirs) for ours, theirs in zip(trained(True), trained(False), strict=True))


@pytest.mark.parametrize("options", [{"accumulate": 3}, {"closure": True}])
def test_accumulated_gradients_and_closures_are_judged_too(options: dict[str, Any], url: str) -> None:
    guarded, skipped = train(OPTIMIZERS["adamw"], guard=True, url=url, **options)
    by_hand, _ = train(OPTIMIZERS["adamw"], guard=False, **options)
    assert skipped == len(BAD)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(guarded, by_hand, strict=True))


def test_every_skip_is_an_event_with_step_and_reason(url: str) -> None:
    train(OPTIMIZERS["adamw"], guard=True, url=url)
    store = foreshock.open_store(url)
    events = [event for event in store.events(store.runs()[0].id) if event.kind == "intervention"]
    assert [event.step for event in events] == list(BAD)
    assert "not finite" in events[0].message
    assert events[0].data["norm"] == "nan"
    assert "is far above those before" in events[3].message
    assert events[-1].message.endswith("6 skipped so far.")
    store.close()


def skipping_updates(skipping: SkipStep, gradients: list[float]) -> tuple[list[bool], list[str]]:
    """Which of the updates by these gradients took place, and what was told."""
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=1e-3)
    told: list[str] = []
    skipping.attach(Training({}, [optimizer], Run("r", "r"), tell=lambda kind, message, **data: told.append(message)))
    moved = []
    for gradient in gradients:
        weight.grad = torch.full((3,), gradient)
        before = weight.detach().clone()
        optimizer.step()
        moved.append(not torch.equal(weight, before))
    assert bool(weight.isfinite().all())
    skipping.close()
    assert not optimizer._optimizer_step_pre_hooks
    return moved, told


def test_it_gives_way_to_a_lasting_change_of_level_and_says_so() -> None:
    moved, told = skipping_updates(SkipStep(limit=3, warmup=4, ceiling=math.inf), [1.0] * 6 + [1e3] * 6)
    assert moved == [True] * 6 + [False] * 3 + [True] * 3
    assert len(told) == 4
    assert "3 updates in a row were wild" in told[-1]


def test_it_never_gives_way_to_an_update_far_larger_than_any_before() -> None:
    moved, told = skipping_updates(SkipStep(limit=3, warmup=4), [1.0] * 6 + [1e3] * 60 + [9.0] * 9 + [1.0])
    assert moved[:66] == [True] * 6 + [False] * 60
    assert moved[66:] == [True] * 10, "nine times the largest is given way to: more than three before it were skipped"
    assert "Training stands still" in told[3]
    assert "more than 10 times as much as any before" in told[3]
    assert "50 skipped so far" in told[4]
    assert len(told) == 3 + 1 + 1 + 1, "three one by one, that it stands still, the fiftieth, and that it gives way"


def test_a_lasting_change_of_gradients_is_given_way_to_where_the_update_stays_usual() -> None:
    """Adam divides by their size: gradients a thousand times as large move the weights about three times as far."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.ones(8))
    optimizer = torch.optim.AdamW([weight], lr=1e-3)
    skipping = SkipStep(limit=3)
    skipping.attach(Training({}, [optimizer], Run("r", "r")))
    moved = []
    for step in range(60):
        weight.grad = torch.randn(8) * (1.0 if step < 50 else 1000.0)
        before = weight.detach().clone()
        optimizer.step()
        moved.append(not torch.equal(weight, before))
    skipping.close()
    assert moved == [True] * 50 + [False] * 3 + [True] * 7


def test_what_is_not_finite_is_skipped_however_long_it_lasts() -> None:
    """It neither counts towards giving way to what is wild, nor begins that count anew."""
    moved, told = skipping_updates(
        SkipStep(limit=3, warmup=4, ceiling=math.inf), [1.0] * 6 + [math.nan, math.inf] * 20 + [1e3, 1e3, math.nan, 1e3, 1e3]
    )
    assert moved == [True] * 6 + [False] * 44 + [True]
    assert "not finite" in told[0]


def twin(norms: list[float], *, window: int, warmup: int, threshold: float, floor: float, limit: int, ceiling: float) -> list[int]:
    """The judge in plain numpy."""
    past: list[float] = []
    verdicts, row, largest = [], 0, 0.0
    for norm in norms:
        kept = sorted(past[-window:])
        verdict = FINE
        if not math.isfinite(norm):
            verdict = NOT_FINITE
        elif len(kept) >= warmup:
            median = kept[(len(kept) - 1) // 2]  # torch's: the lower of two in the middle
            deviations = sorted(abs(x - median) for x in kept)
            sigma = max(1.4826 * deviations[(len(kept) - 1) // 2], floor)
            verdict = WILD if (np.log(max(norm, 1.1754944e-38)) - median) / sigma > threshold else FINE
        lasting = verdict == WILD and row >= limit
        if verdict != NOT_FINITE:
            row = row + 1 if verdict == WILD else 0
        if lasting and norm > ceiling * largest:
            verdict = HELD
        elif lasting:
            verdict, past = GIVEN_WAY, []
        if math.isfinite(norm) and norm > 0 and verdict in (FINE, GIVEN_WAY):
            largest = max(largest, norm)
            past.append(float(np.log(np.float32(norm))))
        verdicts.append(verdict)
    return verdicts


@pytest.mark.parametrize("seed", range(4))
def test_the_judge_agrees_with_its_twin(seed: int) -> None:
    random = np.random.default_rng(seed)
    norms = np.exp(random.normal(0, 0.4, 300)).tolist()
    for at in random.integers(0, 300, 25):
        norms[at] = float(random.choice([math.nan, math.inf, 0.0, 1e3, 1e30]))
    norms[180:210] = [norm * 1e6 for norm in norms[180:210]]  # held back
    norms[210:] = [norm * 1e3 for norm in norms[210:]]  # a lasting change of level that is given way to
    options: dict[str, Any] = {"window": 40, "warmup": 10, "threshold": 6.0, "floor": 0.1, "limit": 4}
    judge = GradientJudge(torch.device("cpu"), **options)
    ceiling = 3e4
    verdicts = [int(judge.judge(norm, held=norm > ceiling * judge.largest)) for norm in map(torch.tensor, norms)]
    assert verdicts == twin(norms, ceiling=ceiling, **options)
    assert {FINE, NOT_FINITE, WILD, GIVEN_WAY, HELD} == set(verdicts)
    assert verdicts[-60:].count(FINE) > 45, "the new level was learned"


def test_the_norm_is_that_over_all_gradients_in_any_dtype() -> None:
    sparse = torch.sparse_coo_tensor(torch.tensor([[0, 0, 2]]), torch.tensor([1.0, 2.0, 3.0]), (4,), check_invariants=True)
    gradients = [torch.full((3, 5), 300.0, dtype=torch.float16), torch.randn(7, dtype=torch.float64), sparse]
    exact = math.sqrt(15 * 300.0**2 + float(gradients[1].square().sum()) + 9.0 + 9.0)
    assert float(norm_of(gradients, torch.device("cpu"))) == pytest.approx(exact, rel=1e-6)


class _Wrapper(torch.optim.SGD):
    optim = None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: torch.optim.LBFGS(p), "cannot work with LBFGS"),
        (lambda p: _Wrapper(p, lr=0.1), "each rank holds a part"),
        (lambda p: None, "must know it"),
    ],
)
def test_it_refuses_clearly_where_it_cannot_be_done(make: Callable[[Any], Any], message: str, small: Any, url: str) -> None:
    with pytest.raises(ValueError, match=message):
        foreshock.watch(small.model, make(small.model.parameters()), store=url, interventions=["skip_step"])
    foreshock.watch(small.model, small.optimizer, store=url).close()


def test_a_device_needs_a_fused_optimizer_or_leave_to_wait() -> None:
    weight = nn.Parameter(torch.ones(3, device="meta"))
    with pytest.raises(ValueError, match=r"needs a fused optimizer, such as AdamW\(\.\.\., fused=True\)"):
        SkipStep().attach(Training({}, [torch.optim.AdamW([weight])], Run("r", "r")))
    waiting = SkipStep(wait=True)
    waiting.attach(Training({}, [torch.optim.AdamW([weight])], Run("r", "r")))
    waiting.close()


def test_without_a_bad_step_nothing_differs_in_any_bit(url: str) -> None:
    def trained(interventions: list[str]) -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        with foreshock.watch(model, optimizer, store=url, interventions=interventions) as monitor:
            for _ in range(60):
                loss = model(torch.randn(8, 6)).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                monitor.step(loss)
        return [*state_of(model, optimizer), torch.get_rng_state()]

    assert all(torch.equal(a, b) for a, b in zip(trained([]), trained(["skip_step"]), strict=True))


def test_a_scalers_own_skips_are_not_counted(url: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    skipping = SkipStep()
    with foreshock.watch(model, optimizer, store=url, interventions=[skipping]) as monitor:
        for step in range(6):
            before = copy.deepcopy(model.state_dict())
            optimizer.zero_grad()
            loss = model(torch.randn(8, 4)).square().mean() * (math.inf if step == 3 else 1.0)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            monitor.step()
            moved = not all(torch.equal(before[name], value) for name, value in model.state_dict().items())
            assert moved == (step != 3)
    assert skipping.skipped == 0
    assert not hasattr(optimizer, "found_inf")


# -- the size of the update -----------------------------------------------------------------------------------------


def _moved(model: nn.Module, before: list[Tensor]) -> float:
    return math.sqrt(sum((p.detach() - b).square().sum().item() for p, b in zip(model.parameters(), before, strict=True)))


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adam(p, lr=0.01),
        lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.5, 0.9), weight_decay=0.0, fused=True),
        lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01), weight_decay=0.0, amsgrad=True),
        lambda p: torch.optim.SGD(p, lr=0.01),
        lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, dampening=0.1),
        lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    ],
)
def test_the_update_is_foretold_as_the_optimizer_makes_it(make: Callable[[Any], Optimizer]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3))
    optimizer = make(model.parameters())
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(8, 6)).square().mean().backward()
        said = update_norm(optimizer, torch.device("cpu")).item()
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.step()
        # Of tensors of fewer than 256 entries some count once more than others.
        assert said == pytest.approx(_moved(model, before), rel=0.1)
    whole = nn.Linear(16, 16, bias=False)
    optimizer = make(whole.parameters())
    for _ in range(5):
        optimizer.zero_grad()
        whole(torch.randn(8, 16)).square().mean().backward()
        said = update_norm(optimizer, torch.device("cpu")).item()
        before = [whole.weight.detach().clone()]
        optimizer.step()
        assert said == pytest.approx(_moved(whole, before), rel=1e-3), "every entry was looked at"


@pytest.mark.parametrize("may_read", [True, False])
@pytest.mark.parametrize("what", ["rate", "second moment"])
def test_a_wild_update_from_ordinary_gradients_is_skipped(
    what: str, may_read: bool, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A schedule with a mistake in it; a second moment that was lost at a resume."""
    monkeypatch.setattr("foreshock.interventions.skip_step._may_read", lambda device: may_read)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    skipping = SkipStep()
    monitor = foreshock.watch(model, optimizer, store=url, interventions=[skipping])
    largest = 0.0
    for step in range(80):
        if step == 60 and what == "rate":
            optimizer.param_groups[0]["lr"] *= 100
        if step == 61 and what == "rate":
            optimizer.param_groups[0]["lr"] /= 100
        if step == 60 and what == "second moment":
            kept = {p: state["exp_avg_sq"].clone() for p, state in optimizer.state.items()}
            for state in optimizer.state.values():
                state["exp_avg_sq"].mul_(1e-8)
        if step == 61 and what == "second moment":
            for p, state in optimizer.state.items():
                state["exp_avg_sq"].copy_(kept[p])
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.zero_grad()
        model(torch.randn(32, 6)).square().mean().backward()
        optimizer.step()
        largest = max(largest, _moved(model, before))
        monitor.step()
    monitor.close()
    (skipped,) = [event for event in foreshock.open_store(url).events(monitor.run.id, kind="intervention") if event.data.get("at")]
    assert (skipped.data["at"], skipping.skipped) == (60, 1)
    assert "though its gradients are usual" in skipped.message
    assert largest < 0.1
