"""A run that has failed is put back to where it was sound, in place and to the bit, and goes on."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreshock
import pytest
import torch
import torch.nn.functional as F
from foreshock.analyzer.engine import Engine
from foreshock.interventions.base import Training
from foreshock.interventions.checkpoint import Checkpoint
from foreshock.interventions.learning_rate import LowerLearningRate
from foreshock.interventions.restoring import restore
from foreshock.interventions.rollback import Rollback, RolledBack
from foreshock.storage.records import Alert, AlertState, Batch, Run, SeriesKey, Severity, StepRecord
from torch import Tensor, nn

Alarm = Callable[..., Alert]


class Run_:
    """A small run with a batch norm, whose batches may be bad."""

    def __init__(self, optimizer: Callable[[Any], Any] = lambda p: torch.optim.AdamW(p, lr=0.01)) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 3))
        self.optimizer = optimizer(self.model.parameters())
        self.data = torch.Generator().manual_seed(0)

    def step(self, *, bad: bool = False) -> Tensor:
        x = torch.randn(8, 6, generator=self.data) * (math.nan if bad else 1.0)
        loss = F.cross_entropy(self.model(x), torch.randint(3, (8,), generator=self.data))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss

    def tensors(self) -> list[Tensor]:
        moments = [value for state in self.optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
        return [*self.model.state_dict().values(), *moments]


def test_a_run_that_met_a_nan_is_sound_again_and_both_courses_are_kept(url: str, tmp_path: Path) -> None:
    run, heard = Run_(), list[RolledBack]()
    keeping = Checkpoint(tmp_path / "kept", every=5, settle=4)
    rolling = Rollback(on_rollback=heard.append)
    at_checkpoint: dict[int, list[Tensor]] = {}
    with foreshock.watch(run.model, run.optimizer, store=url, every=3, interventions=[keeping, rolling]) as monitor:
        before = [t.data_ptr() for t in run.tensors()]
        for number in range(40):
            monitor.step(run.step(bad=number == 22))
            if number < 22:
                at_checkpoint[number] = [t.clone() for t in run.tensors()]
            monitor.flush()
            if len(heard) and len(at_checkpoint) == 22:
                at_checkpoint[99] = [t.clone() for t in run.tensors()]
    assert monitor.faults.total == 0
    (back,) = heard
    assert (back.step, back.to, back.rule) == (23, 14, "non_finite")
    assert rolling.done == heard
    assert all(torch.equal(a, b) for a, b in zip(at_checkpoint[14], at_checkpoint[99], strict=True)), "moments and statistics too"
    assert before == [t.data_ptr() for t in run.tensors()][: len(before)], "in place"
    assert all(t.isfinite().all() for t in run.tensors())
    store = foreshock.open_store(url)
    assert [(each.segment, each.start_step) for each in store.segments(monitor.run.id)] == [(0, 0), (1, 15)]
    losses = store.frame(monitor.run.id, "loss")
    first, second = (losses[losses["segment"] == number] for number in (0, 1))
    assert first["step"].tolist() == list(range(24))
    assert second["step"].tolist() == list(range(15, 15 + 16))
    assert second["value"].notna().all()
    sampled = store.frame(monitor.run.id, "weight.spectral_norm")
    assert 15 in set(sampled[sampled["segment"] == 1]["step"]), "the first step of the new course is sampled"
    assert {alert.rule: alert.state for alert in store.alerts(monitor.run.id)}["non_finite"] is AlertState.RESOLVED
    (event,) = [each for each in store.events(monitor.run.id) if each.message.startswith("Rolled back")]
    assert event.message.startswith("Rolled back from step 23 to the checkpoint of step 14: non_finite gave a critical at step 22")
    assert (event.segment, event.step, event.data["to"]) == (0, 23, 14)
    batches = [record.step for batch in store.batches(monitor.run.id) for record in batch.steps]
    assert batches == [*range(24), *range(15, 31)]
    replayed = Engine.replay(monitor.run.id, store.batches(monitor.run.id))
    replayed.finish(0.0)
    assert {(a.id, a.first_step, a.state) for a in replayed.alerts} == {
        (a.id, a.first_step, a.state) for a in store.alerts(monitor.run.id)
    }
    store.close()


@pytest.mark.parametrize(
    ("bad", "rolled_back", "why"),
    [((1,), 0, "no checkpoint has proved good yet"), ((12, 20, 28), 2, "the run was rolled back 2 times already")],
)
def test_where_it_cannot_help_it_says_so_once(bad: tuple[int, ...], rolled_back: int, why: str, url: str, tmp_path: Path) -> None:
    run = Run_()
    chosen = [Checkpoint(tmp_path / "kept", every=2, settle=2), Rollback(most=2)]
    with foreshock.watch(run.model, run.optimizer, store=url, interventions=chosen) as monitor:
        for number in range(bad[-1] + 5):
            monitor.step(run.step(bad=number in bad))
            monitor.flush()
    store = foreshock.open_store(url)
    told = [event.message for event in store.events(monitor.run.id) if event.kind == "intervention"]
    store.close()
    (message,) = (message for message in told if message.startswith("Not rolled back"))
    assert why in message
    assert sum(message.startswith("Rolled back") for message in told) == rolled_back


@pytest.mark.parametrize("trouble", ["gone", "garbled", "other"])
def test_a_checkpoint_that_cannot_be_had_costs_nothing_but_the_roll_back(trouble: str, url: str, tmp_path: Path) -> None:
    run = Run_()
    keeping, rolling = Checkpoint(tmp_path / "kept", every=5, settle=4), Rollback()
    with foreshock.watch(run.model, run.optimizer, store=url, interventions=[keeping, rolling]) as monitor:
        for number in range(20):
            monitor.step(run.step(bad=number == 15) if number != 16 else math.nan)
            monitor.flush()
            if number == 14 and keeping.good is not None:
                if trouble == "gone":
                    keeping.good.unlink()
                elif trouble == "garbled":
                    keeping.good.write_bytes(b"garbled")
                else:
                    torch.save({"step": 9, "models": {"other": {}}, "optimizers": [], "extra": {}}, keeping.good)
    assert not rolling.done
    store = foreshock.open_store(url)
    told = " ".join(event.message for event in store.events(monitor.run.id))
    assert store.run(monitor.run.id).status == "finished"
    store.close()
    assert ("cannot be read, nothing was rolled back" in told) == (trouble != "other")
    assert ("the checkpoint is of models ['other']" in told) == (trouble == "other")


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "fused adam": lambda p: torch.optim.Adam(p, lr=0.01, fused=True, amsgrad=True),
    "sgd momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("trained", [0, 5])
def test_what_comes_after_is_as_if_nothing_had_happened(name: str, trained: int, tmp_path: Path) -> None:
    """``trained``: steps before the checkpoint; at 0 the optimizer had no state yet."""

    def saved(run: Run_) -> dict[str, Any]:
        torch.save(
            {"models": {"m": run.model.state_dict()}, "optimizers": [run.optimizer.state_dict()], "extra": {}}, tmp_path / "f"
        )
        return torch.load(tmp_path / "f", map_location="cpu")

    def go(run: Run_, steps: int) -> None:
        for _ in range(steps):
            if name == "lbfgs":
                x, y = torch.randn(8, 6, generator=run.data), torch.randint(3, (8,), generator=run.data)

                def closure() -> Tensor:
                    run.optimizer.zero_grad()
                    loss = F.cross_entropy(run.model(x), y)  # noqa: B023 - called at once
                    loss.backward()
                    return loss

                run.optimizer.step(closure)
            else:
                run.step()

    ours, twin = Run_(OPTIMIZERS[name]), Run_(OPTIMIZERS[name])
    go(ours, trained)
    state = saved(ours)
    go(ours, 4)
    restore(state, {"m": ours.model}, [ours.optimizer], {}, groups=False, ranks=False)
    ours.data.manual_seed(5)
    go(ours, 4)
    go(twin, trained)
    twin.data.manual_seed(5)
    go(twin, 4)
    assert all(torch.equal(a, b) for a, b in zip(ours.tensors(), twin.tensors(), strict=True))


def test_the_schedule_goes_on_unless_its_scheduler_was_given(tmp_path: Path, alarm: Alarm) -> None:
    def rates(extra: bool) -> list[float]:
        run = Run_(lambda p: torch.optim.SGD(p, lr=1.0))
        scheduler = torch.optim.lr_scheduler.ExponentialLR(run.optimizer, 0.5)
        keeping = Checkpoint(tmp_path / str(extra), every=2, settle=1, extra={"scheduler": scheduler} if extra else None)
        rolling, number, alerts = Rollback(), 0, list[Alert]()
        training = Training(
            {"model": run.model},
            [run.optimizer],
            Run("run1", "r"),
            step=lambda: number,
            alerts=lambda: alerts,
            asked=(keeping, rolling),
        )
        keeping.attach(training)
        rolling.attach(training)
        found = []
        for _ in range(6):
            run.step()
            scheduler.step()
            if number == 4:
                rolling.on_alert(alarm(severity=Severity.CRITICAL))
            keeping.after_step(number)
            rolling.after_step(number)
            found.append(run.optimizer.param_groups[0]["lr"])
            number += 1
        assert len(rolling.done) == 1
        return found

    assert rates(extra=False) == [2.0**-n for n in range(1, 7)]
    assert rates(extra=True) == [0.5, 0.25, 0.125, 0.0625, 0.0625, 0.03125]


def test_a_roll_back_cuts_the_rate_where_that_was_asked_for(url: str, tmp_path: Path) -> None:
    run = Run_()
    lowering = LowerLearningRate(rules=["no_such_alert"])
    chosen = [Checkpoint(tmp_path / "kept", every=5, settle=4), lowering, Rollback()]
    with foreshock.watch(run.model, run.optimizer, store=url, interventions=chosen) as monitor:
        for number in range(30):
            monitor.step(run.step(bad=number == 20))
            monitor.flush()
        assert lowering.factor == 0.25


def test_which_alerts_set_it_off(tmp_path: Path, alarm: Alarm) -> None:
    def set_off(alert: Alert, **options: Any) -> bool:
        rolling = Rollback(load=lambda path: None, **options)
        keeping = Checkpoint(tmp_path, save=lambda path: None)
        keeping.good = tmp_path
        rolling.attach(Training({}, [], Run("r", "r"), asked=(keeping, rolling)))
        rolling.on_alert(alert)
        return rolling.takes(alert)

    warning, critical = alarm("broken_by_update"), alarm("non_finite", Severity.CRITICAL)
    assert [set_off(each) for each in (warning, critical, alarm("loss_stays_high"))] == [True, True, False]
    assert [set_off(each, rules=["non_finite"]) for each in (warning, critical)] == [False, True]
    assert not set_off(alarm("broken_by_update", Severity.INFO))


def test_alerts_of_an_undone_course_are_closed_and_may_come_again_at_once() -> None:
    key = (SeriesKey("loss"),)

    def batch(name: str, segment: int, first: int, values: list[float]) -> Batch:
        return Batch(name, "run", segment, tuple(StepRecord(first + i, 1.0 + i, key, [value]) for i, value in enumerate(values)))

    engine = Engine("run")
    engine.feed(batch("a", 0, 0, [1.0] * 50 + [math.nan] * 5))
    (alert,) = engine.alerts
    assert (alert.rule, alert.state, alert.first_step) == ("non_finite", AlertState.FIRING, 50)
    changed = engine.feed(batch("b", 1, 40, [1.0]))
    assert [(a.id, a.state) for a in changed] == [(alert.id, AlertState.RESOLVED)]
    engine.feed(batch("c", 1, 41, [1.0, math.nan]))
    assert [(a.episode, a.segment, a.first_step, a.state) for a in engine.alerts][1:] == [(1, 1, 42, AlertState.FIRING)]
    engine.feed(batch("d", 2, 45, [math.nan]))
    assert [a.state for a in engine.alerts] == [AlertState.RESOLVED, AlertState.FIRING], "raised before the new course begins"


def test_it_refuses_clearly_where_it_cannot_be_done(small: Any, url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'interventions=\["checkpoint", "rollback"\]'):
        foreshock.watch(small.model, small.optimizer, store=url, interventions=["rollback"])
    own = Checkpoint(tmp_path, save=lambda path: None)
    with pytest.raises(ValueError, match=r"pass Rollback\(load=\.\.\.\)"):
        foreshock.watch(small.model, small.optimizer, store=url, interventions=[own, "rollback"])
    with pytest.raises(ValueError, match="at least 1"):
        Rollback(most=0)
    with pytest.raises(TypeError, match="'scheduler' is int"):
        Checkpoint(extra={"scheduler": 3})
    sharded = nn.Linear(2, 2)
    sharded.weight.device_mesh = "a mesh"  # type: ignore[assignment]
    training = Training({"m": sharded}, [], Run("r", "r"), asked=(Checkpoint(tmp_path), Rollback()))
    with pytest.raises(ValueError, match="cannot put sharded weights"):
        training.asked[1].attach(training)
    foreshock.watch(small.model, small.optimizer, store=url).close()


def test_files_of_the_users_own_are_loaded_by_the_user(tmp_path: Path, alarm: Alarm) -> None:
    loaded: list[Path] = []
    keeping = Checkpoint(tmp_path, every=2, settle=1, save=lambda path: path.write_text("mine"))
    rolling = Rollback(load=loaded.append)
    training = Training({}, [], Run("run1", "r"), asked=(keeping, rolling))
    keeping.attach(training)
    rolling.attach(training)
    for step in range(4):
        keeping.after_step(step)
    rolling.on_alert(alarm(severity=Severity.CRITICAL))
    rolling.after_step(4)
    assert loaded == [tmp_path / "run1" / "step-000000001.pt"]
