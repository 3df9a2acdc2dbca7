"""The risk of real runs: followed by the engine, kept as a series of the run, the same when the run is replayed."""

import json
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from foreshock import watch
from foreshock.analyzer.engine import Engine
from foreshock.analyzer.risk import SIGNAL, RiskModel
from foreshock.analyzer.risk_course import RiskCourse, RiskPoints
from foreshock.analyzer.rules import RuleSet
from foreshock.monitor import Monitor
from foreshock.storage import Store, open_store
from foreshock.storage.records import Batch, Run, SeriesKey, StepRecord
from foreshock.storage.writer import Writer
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

STEPS = 150
LOSS, NORM = SeriesKey("loss"), SeriesKey("gradient.norm")


def train(url: str, name: str, **options: Any) -> tuple[Monitor, list[float | None]]:
    """Train a small net whose learning rate is multiplied by 3,000 at step 100; return the monitor and its risk at each step."""
    torch.manual_seed(0)
    model = nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    inputs = torch.randn(16, 8)
    targets = inputs.sum(1, keepdim=True) + 0.3 * torch.randn(16, 1)
    seen = []
    with watch(model, optimizer, run=name, store=url, every=5, notify=[], **options) as monitor:
        for step in range(STEPS):
            if step == 100:
                optimizer.param_groups[0]["lr"] *= 3000
            loss = nn.functional.mse_loss(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            monitor.step(loss)
            seen.append(monitor.risk)
        monitor.state_dict()  # waits until everything is written
        seen.append(monitor.risk)
    return monitor, seen


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Monitor, list[float | None]]]:
    url = f"sqlite:///{tmp_path_factory.mktemp('risk')}/runs.db"
    logging.getLogger("foreshock").setLevel(logging.CRITICAL)
    monitor, seen = train(url, "explodes")
    logging.getLogger("foreshock").setLevel(logging.NOTSET)
    with closing(open_store(url)) as store:
        yield store, monitor, seen


def points(store: Store, run: str) -> list[tuple[int, float]]:
    frame = store.frame(run, signal="risk")
    assert set(frame["module"]) <= {""}
    return list(zip(frame["step"].tolist(), frame["value"].tolist(), strict=True))


def test_a_monitored_run_has_a_risk_and_keeps_its_course(kept: tuple[Store, Monitor, list[float | None]]) -> None:
    store, monitor, seen = kept
    drawn = points(store, monitor.run.id)
    assert seen[-1] == monitor.risk == drawn[-1][1] == 100.0  # the loss is not finite any more
    assert all(value is None or 0.0 <= value <= 100.0 for value in seen)
    calm = [value for step, value in drawn if step < 60]
    assert len(calm) == 6  # one in ten steps
    assert max(calm) < 50.0
    assert len(drawn) <= STEPS // 10 + 2 * len(monitor.alerts) + 3


def test_replayed_in_any_batches_it_is_the_same(kept: tuple[Store, Monitor, list[float | None]]) -> None:
    store, monitor, _ = kept
    for size in (7, 1000):
        engine = Engine.replay(monitor.run.id, store.batches(monitor.run.id, steps_per_batch=size))
        assert engine.risk.take_points() == points(store, monitor.run.id)
        assert [alert.id for alert in engine.alerts] == [alert.id for alert in monitor.alerts]


def test_the_stored_risk_is_never_an_input(kept: tuple[Store, Monitor, list[float | None]]) -> None:
    store, monitor, _ = kept
    on_risk = {"detector": "level", "signals": {"value": "risk"}, "parameters": {"level": 0.0, "direction": "above"}}
    described = {"title": "Risky", "severity": "warning", "message": "{value}", "remedy": "None."}
    engine = Engine.replay(monitor.run.id, store.batches(monitor.run.id), RuleSet.load({"risky": on_risk | described}))
    assert "risky" not in {alert.rule for alert in engine.alerts}


def test_a_metric_of_that_name_is_the_users_own() -> None:
    own, other = (LOSS, SeriesKey(SIGNAL)), (LOSS,)
    batch = Batch("b", "run", 0, (StepRecord(0, 0.0, own, (1.0, 7.0)), StepRecord(1, 0.0, other, [1.0])))
    adder = RiskPoints()
    first, second = adder.added(batch, {0: 12.0, 1: 13.0}).steps
    assert tuple(first.values) == (1.0, 7.0)
    assert (second.keys, tuple(second.values)) == (own, (1.0, 13.0))
    again = adder.added(batch, {1: 14.0}).steps
    assert again[1].keys is second.keys  # one tuple for the same tuple, so that the store knows its rows
    assert again[0] is batch.steps[0]


def test_failing_code_costs_neither_samples_nor_alerts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(RiskModel, "reading", lambda self, odds: 1 / 0)
    url = f"sqlite:///{tmp_path}/runs.db"
    monitor, seen = train(url, "explodes")
    assert set(seen) == {None}
    assert sum("the risk of this run is not told" in message for message in caplog.messages) == 1
    with closing(open_store(url)) as store:
        assert points(store, monitor.run.id) == []
        assert len(store.frame(monitor.run.id, signal="loss")) == STEPS
        assert "non_finite" in {alert.rule for alert in store.alerts(monitor.run.id)}


def test_what_cannot_be_completed_is_saved_as_it_is(tmp_path: Path) -> None:
    troubles: list[str] = []

    def broken(batch: Batch) -> Batch:
        raise RuntimeError("no")

    with closing(open_store(f"sqlite:///{tmp_path}/runs.db")) as store:
        run = Run("a" * 32, "run", created_at=1.0, heartbeat_at=1.0)
        writer = Writer(
            store, run, 0, analyze=lambda batch: (), complete=broken, on_trouble=lambda message, error: troubles.append(message)
        )
        writer.start()
        for step in range(5):
            writer.put(StepRecord(step, 1.0, (LOSS,), (1.0,)))
        assert writer.close(10.0)
        assert len(store.frame(run.id)) == 5
        assert writer.stats.errors >= 1
    assert len(troubles) == 1
    assert "kept all the same" in troubles[0]


# -- through the engine --------------------------------------------------------------------------------------------------


def records(steps: int) -> list[StepRecord]:
    """A run that meets a spike, lost gradients, and a loss that leaves its best, comes back and is lost."""
    made = []
    for step in range(steps):
        loss = 6.0 if step in (120, 121) else 3.0 if 200 <= step < 300 else math.nan if step >= 380 else 1.0
        norm = math.inf if 150 <= step < 180 else 1.0
        made.append(StepRecord(step, float(step), (LOSS, NORM), (loss + 0.01 * math.sin(step), norm)))
    return made


RECORDS = records(420)


def fed(engine: Engine, cuts: Sequence[int], first: int = 0, segment: int = 0) -> list[tuple[int, float]]:
    edges = [first, *sorted({cut for cut in cuts if first < cut < len(RECORDS)}), len(RECORDS)]
    for begin, end in pairwise(edges):
        engine.feed(Batch(f"b{begin}", "run", segment, tuple(RECORDS[begin:end])))
    return engine.risk.take_points()


WHOLE = fed(Engine("run"), ())


def test_the_course_of_a_troubled_run() -> None:
    at = dict(WHOLE)
    quiet, worst = at[0], max(value for step, value in WHOLE if step < 380)
    assert quiet < worst < 100.0
    assert WHOLE[-1][1] == 100.0
    assert [step for step, _ in WHOLE] == sorted({step for step, _ in WHOLE})


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, len(RECORDS) - 1), max_size=40))
def test_it_does_not_depend_on_how_steps_are_cut_into_batches(cuts: list[int]) -> None:
    assert fed(Engine("run"), cuts) == WHOLE


@pytest.mark.parametrize("cut", [10, 155, 250, 400])
def test_it_carries_on_from_a_checkpoint(cut: int) -> None:
    first, second = Engine("run"), Engine("run")
    first.feed(Batch("a", "run", 0, tuple(RECORDS[:cut])))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.risk.value == first.risk.value
    assert first.risk.take_points() + fed(second, (), cut) == WHOLE


def test_a_state_of_before_there_was_a_risk_begins_anew() -> None:
    first, second = Engine("run"), Engine("run")
    first.feed(Batch("a", "run", 0, tuple(RECORDS[:100])))
    state = first.state_dict()
    del state["risk"]
    second.load_state_dict(state)
    fed(second, (), 100)
    assert second.risk.value == 100.0


def test_a_run_that_resumes_at_an_earlier_step_is_followed_from_there() -> None:
    engine = Engine("run")
    fed(engine, ())
    assert engine.risk.value == 100.0
    engine.feed(Batch("again", "run", 1, tuple(RECORDS[50:100])))
    assert engine.risk.value is not None
    assert engine.risk.value < 100.0
    new = engine.risk.take_points()
    assert new[0][0] == 50
    fed(engine, (), 100, segment=1)
    assert engine.risk.value == 100.0


def test_an_adopted_alert_counts_until_it_clears() -> None:
    first, second = Engine("run"), Engine("run")
    first.feed(Batch("a", "run", 0, tuple(RECORDS[:250])))
    still_open = [alert for alert in first.alerts if alert.state != "resolved"]
    assert still_open
    second.adopt(first.alerts)
    second.feed(Batch("b", "run", 1, tuple(RECORDS[250:252])))
    assert set(second.risk.evidence()) == {alert.rule for alert in still_open}


def test_a_course_needs_no_loss() -> None:
    followed = RiskCourse()
    followed.feed(0, None)
    assert followed.value is not None
