"""What is kept for how long: classes, what a policy takes and leaves, and that charts still draw what was thinned out."""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from foreshock.storage import Store
from foreshock.storage.database import Database
from foreshock.storage.pruning import PRUNED, plan, prune
from foreshock.storage.records import Batch, Histogram, Run, RunStatus, SeriesKey, StepRecord, new_id
from foreshock.storage.retention import CLASSES, WORDS, Policy, class_of, seconds_of
from foreshock.storage.sqlalchemy_store import SQLAlchemyStore

DAY = 86_400.0
SIGNALS = ("loss", "weight.norm", "monitor.overhead", "mark")


def database_of(store: Store) -> Database:
    assert isinstance(store, SQLAlchemyStore)
    return store.database


def filled(store: Store, run: Run, now: float, total: int = 300) -> None:
    """A run of one step an hour that ended now; every 50th value is not a number."""
    store.create_run(run)
    keys = tuple(SeriesKey(signal, "layer" if signal == "weight.norm" else "") for signal in SIGNALS)
    shape = Histogram(SeriesKey("alignment", "layer"), 0.0, 1.0, (1, 2))
    for segment in (0, 1):
        records = tuple(
            StepRecord(
                step, now - (total - step) * 3600.0, keys, [math.nan if step % 50 == 7 else float(step)] * len(keys), (shape,)
            )
            for step in range(total)
        )
        store.write(Batch(new_id(), run.id, segment, records))


def counts(store: Store, run: Run) -> dict[str, int]:
    frame = store.frame(run)
    found: dict[str, int] = frame.groupby("signal").size().to_dict()
    return found | {"histograms": len(store.histograms(run.id, "alignment", "layer"))}


@pytest.mark.parametrize(
    ("signal", "name"),
    [
        ("loss", "core"),
        ("gradient.norm", "core"),
        ("gradient.module_norm", "layers"),
        ("attention.max_logit", "layers"),
        ("monitor.dropped", "monitor"),
        ("validation_loss", "metrics"),
        ("train/accuracy", "metrics"),
    ],
)
def test_every_signal_has_a_class(signal: str, name: str) -> None:
    assert class_of(signal) == name
    assert CLASSES.keys() == WORDS.keys()


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"cores": {"keep": "1d"}}, "no class 'cores'; allowed: core, layers"),
        ({"core": "1d"}, r"takes a table, such as { keep = \"90d\" }"),
        ({"core": {"kept": "1d"}}, "no key 'kept'; allowed: keep, thin"),
        ({"captures": {"thin": "1d"}}, "no key 'thin'; allowed: keep"),
        ({"core": {"keep": "soon"}}, "'soon' is no span of time; write hours, days or weeks: 12h, 90d, 2w"),
        ({"core": {"keep": 90}}, "90 is no span of time"),
        ({"core": {"keep": "0d"}}, "'0d' is no span of time"),
    ],
)
def test_a_policy_that_cannot_be_says_what_can(table: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Policy.of(table)


def test_spans_of_time() -> None:
    assert [seconds_of(span) for span in ("12h", "90d", "2w", "0.5 D")] == [12 * 3600, 90 * DAY, 14 * DAY, DAY / 2]


def test_a_class_goes_at_its_age_and_nothing_else_does(store: Store, new_run: Callable[..., Run]) -> None:
    now = time.time()
    run = new_run("old", status=RunStatus.FINISHED)
    filled(store, run, now)
    before = counts(store, run)
    pieces = plan(database_of(store), [run], Policy.of({"metrics": {"keep": "100h"}, "histograms": {"keep": "250h"}}), now + 1)
    assert [(piece.name, piece.segment, piece.rows) for piece in pieces] == [
        ("metrics", 0, 201),
        ("metrics", 1, 201),
        ("histograms", 0, 51),
        ("histograms", 1, 51),
    ]
    assert counts(store, run) == before  # a plan changes nothing
    assert prune(database_of(store), pieces) == sum(piece.rows for piece in pieces)
    assert counts(store, run) == before | {"mark": before["mark"] - 402, "histograms": before["histograms"] - 102}
    (mark,) = store.read(store.series(run.id, signal="mark"), segment=0, max_points=1000)
    assert (mark.steps[0], mark.steps[-1]) == (200, 299)  # a rollup at the edge stays while it tells of something that does
    assert plan(database_of(store), [run], Policy.of({"metrics": {"keep": "100h"}}), now + 1) == []


def test_what_is_thinned_out_is_drawn_by_its_rollups(store: Store, new_run: Callable[..., Run]) -> None:
    now = time.time()
    run = new_run("old", status=RunStatus.FINISHED)
    filled(store, run, now)
    pieces = plan(database_of(store), [run], Policy.of({"core": {"thin": "100h"}}), now + 1)
    told = sum(piece.rows for piece in pieces)
    done = prune(database_of(store), pieces)
    assert done > 0
    assert abs(done - told) <= 20
    (loss,) = store.read(store.series(run.id, signal="loss"), segment=1, max_points=500)
    assert (loss.steps[0], loss.steps[-1]) == (0, 299)
    assert [step for step, value in zip(loss.steps, loss.values, strict=True) if math.isnan(value)] == [7, 57, 107, 157, 207, 257]
    finite = np.array([(step, value) for step, value in zip(loss.steps, loss.values, strict=True) if math.isfinite(value)])
    assert (finite[:, 0] == finite[:, 1]).all()
    assert len(finite) > 100 + 30
    assert counts(store, run)["weight.norm"] == 600


def test_what_was_thinned_out_goes_whole_at_its_age(store: Store, new_run: Callable[..., Run]) -> None:
    """Of thinned points rollups are all there is: they too must go, though there is no point left to count."""
    now = time.time()
    run = new_run("old", status=RunStatus.FINISHED)
    store.create_run(run)
    records = tuple(StepRecord(step, now - 3600.0 * (300 - step), (SeriesKey("loss"),), [float(step)]) for step in range(300))
    store.write(Batch(new_id(), run.id, 0, records))
    prune(database_of(store), plan(database_of(store), [run], Policy.of({"core": {"thin": "1h"}}), now + DAY))
    assert store.frame(run).empty
    (piece,) = plan(database_of(store), [run], Policy.of({"core": {"keep": "200h"}}), now)
    assert (piece.rows, piece.rollups) == (0, 10)
    assert piece.bytes > 0
    prune(database_of(store), [piece])
    (loss,) = store.read(store.series(run.id), max_points=50)
    assert (loss.steps[0], loss.steps[-1]) == (100, 299)
    assert plan(database_of(store), [run], Policy.of({"core": {"keep": "200h"}}), now) == []
    told = [(event.data["class"], event.data["thin"], event.data["rows"]) for event in store.events(run.id, kind=PRUNED)]
    assert ("core", True, 300) in told


def test_a_living_run_is_left_alone(store: Store, new_run: Callable[..., Run]) -> None:
    now = time.time()
    run = new_run("living", heartbeat_at=now)
    filled(store, run, now)
    assert plan(database_of(store), [store.run(run.id)], Policy.all_after(1.0), now + 1) == []


def test_a_prune_that_was_interrupted_is_gone_on_with(
    store: Store, new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    from foreshock.storage import deleting

    monkeypatch.setattr(deleting, "ROWS", 50)
    now = time.time()
    run = new_run("old", status=RunStatus.FINISHED)
    filled(store, run, now)
    policy = Policy.all_after(100 * 3600.0)

    class Stop(Exception):
        pass

    def stop(rows: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        prune(database_of(store), plan(database_of(store), [run], policy, now + 1), stop)
    prune(database_of(store), plan(database_of(store), [run], policy, now + 1))
    assert set(counts(store, run).values()) == {198}
