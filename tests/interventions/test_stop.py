"""Training ends when it was asked to, the run says why, and nothing else ever comes out of ``step``."""

from pathlib import Path
from typing import Any

import foreshock
import pytest
from foreshock.interventions.checkpoint import Checkpoint
from foreshock.interventions.rollback import Rollback
from foreshock.interventions.stop import Stop


def test_the_loop_ends_and_the_script_goes_on(small: Any, url: str) -> None:
    trained = 0
    with foreshock.watch(small.model, small.optimizer, store=url, interventions="stop") as monitor:
        for step in range(100):
            monitor.step(float("nan") if step == 5 else small.step())
            monitor.flush()
            trained += 1
    assert trained == 6
    assert monitor.should_stop
    store = foreshock.open_store(url)
    run = store.run(monitor.run.id)
    assert (run.status, run.last_step) == ("terminated", 6), "the step that it ended with is kept"
    (event,) = [event for event in store.events(run.id) if event.kind == "intervention"]
    assert event.message == "Training was stopped at step 6: non_finite gave a critical at step 5."
    assert not [event for event in store.events(run.id) if event.kind == "crashed"]
    store.close()


def test_without_a_with_it_is_an_exception_and_comes_again_where_it_is_swallowed(small: Any, url: str) -> None:
    monitor = foreshock.watch(small.model, small.optimizer, store=url, interventions=["stop"])
    monitor.step(float("nan"))
    monitor.flush()
    for _ in range(2):
        with pytest.raises(foreshock.StopTraining, match="non_finite gave a critical at step 0"):
            monitor.step(small.step())
    store = foreshock.open_store(url)
    assert store.run(monitor.run.id).status == "terminated"
    store.close()


def test_another_runs_end_is_not_taken_for_ones_own(small: Any, fresh_small: Any, url: str) -> None:
    other = fresh_small()
    inner = foreshock.watch(other.model, other.optimizer, store=url, interventions=["stop"])
    outer = foreshock.watch(small.model, small.optimizer, store=url)
    inner.step(float("nan"))
    inner.flush()
    with pytest.raises(foreshock.StopTraining), outer:
        inner.step(1.0)
    store = foreshock.open_store(url)
    assert {store.run(each.run.id).status for each in (inner, outer)} == {"terminated", "crashed"}
    store.close()


def test_a_flag_leaves_it_to_the_loop(small: Any, url: str) -> None:
    steps = 0
    with foreshock.watch(small.model, small.optimizer, store=url, interventions=[Stop(how="flag")]) as monitor:
        while not monitor.should_stop and steps < 50:
            monitor.step(float("nan") if steps == 3 else small.step())
            monitor.flush()
            steps += 1
    assert steps == 5
    store = foreshock.open_store(url)
    assert store.run(monitor.run.id).status == "terminated"
    store.close()


def test_a_warning_is_no_reason_to_stop_and_a_roll_back_comes_first(small: Any, url: str, tmp_path: Path) -> None:
    chosen = [Checkpoint(tmp_path / "kept", every=2, settle=2), Rollback(most=1), "stop"]
    rules = {"loss_spike": {"severity": "warning", "warmup": 0}}
    steps = 0
    with foreshock.watch(small.model, small.optimizer, store=url, rules=rules, interventions=chosen) as monitor:
        for step in range(80):
            loss = small.step().item()
            monitor.step(float("nan") if step in (50, 60) else 50.0 if step == 40 else loss)
            monitor.flush()
            steps += 1
    store = foreshock.open_store(url)
    assert "loss_spike" in {alert.rule for alert in store.alerts(monitor.run.id)}
    told = [event.message for event in store.events(monitor.run.id) if event.kind == "intervention"]
    store.close()
    kinds = [message.split(" at ")[0].split(" from ")[0] for message in told if not message.startswith(("Saved", "The checkpoint"))]
    assert kinds == ["Rolled back", "Not rolled back after non_finite", "Training was stopped"]
    assert steps == 61


def test_ways_that_there_are_not_are_refused() -> None:
    with pytest.raises(ValueError, match="it is 'raise' or 'flag'"):
        Stop(how="gently")  # type: ignore[arg-type]
