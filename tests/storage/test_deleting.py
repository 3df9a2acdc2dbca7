"""Deleting a run: all of it, nothing else, and again after an interruption."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from foreshock.storage import Store, UnknownRunError, deleting
from foreshock.storage.database import Database
from foreshock.storage.errors import RunIsAliveError, StoreUnavailableError
from foreshock.storage.records import (
    BEING_DELETED,
    Alert,
    AlertState,
    Batch,
    Event,
    Histogram,
    Notification,
    RuleVersion,
    Run,
    RunStatus,
    Segment,
    SeriesKey,
    Severity,
    Silence,
    StepRecord,
    analyzer_lease,
    new_id,
)
from foreshock.storage.sqlalchemy_store import SQLAlchemyStore
from foreshock.storage.tables import metadata
from sqlalchemy import func, select

OF_NO_RUN = {"deliveries", "access_tokens", "access_sessions"}


def fill(store: Store, run: Run) -> None:
    """Put something of every kind into a store."""
    store.create_run(run)
    store.add_segment(Segment(run.id, 0, 0, 1000.0))
    keys = (SeriesKey("loss"), SeriesKey("weight.norm", "layer"))
    shape = (Histogram(SeriesKey("alignment", "layer"), 0.0, 1.0, (1, 2)),)
    records = tuple(StepRecord(step, 1000.0 + step, keys, [1.0, 2.0], shape if step % 50 == 0 else ()) for step in range(250))
    store.write(Batch(new_id(), run.id, 0, records))
    alert = Alert(
        new_id(), run.id, "loss_spike", "", 0, Severity.WARNING, AlertState.FIRING, 0, 3, 4, 1000.0, 1000.0, "The loss jumped."
    )
    store.save_alerts([alert], [Notification(new_id(), alert.id, "json://here", "t", "b")], lease=analyzer_lease(run.id, "me"))
    store.add_silence(Silence(new_id(), run_id=run.id))
    store.add_silence(Silence(new_id(), alert_id=alert.id))
    store.add_event(Event(new_id(), run.id, 0, 5, 1005.0, "note", "here"))
    store.set_channels(run.id, ["json://here"])
    store.save_rule(RuleVersion(new_id(), "loss_spike", {"enabled": False}, run_id=run.id), seen=0)


def database_of(store: Store) -> Database:
    assert isinstance(store, SQLAlchemyStore)
    return store._database


def rows(store: Store) -> dict[str, int]:
    with database_of(store).read() as connection:
        return {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one() for table in metadata.sorted_tables
        }


def test_everything_of_a_run_goes_and_nothing_else(store: Store, new_run: Callable[..., Run]) -> None:
    kept, gone = new_run("kept", status=RunStatus.FINISHED), new_run("gone", status=RunStatus.FINISHED)
    fill(store, kept)
    before, frame = rows(store), store.frame(kept)
    assert all(count for name, count in before.items() if name not in OF_NO_RUN)
    fill(store, gone)
    store.delete_run(gone.id)
    assert rows(store) == before
    assert store.frame(kept).equals(frame)
    with pytest.raises(UnknownRunError):
        store.delete_run(gone.id)
    fill(store, gone)  # the same id again is a new run
    assert len(store.frame(gone)) == 500


def test_a_living_run_is_left_alone(store: Store, new_run: Callable[..., Run], batch_of: Callable[..., Batch]) -> None:
    import time

    run = new_run("living", heartbeat_at=time.time())
    store.create_run(run)
    store.write(batch_of(run, range(3)))
    with pytest.raises(RunIsAliveError, match=r"'living'.* is running: its last sign of life is \d+ s old"):
        store.delete_run(run.id)
    assert len(store.frame(run)) == 3
    lost = new_run("lost", heartbeat_at=time.time() - 31)
    store.create_run(lost)
    store.delete_run(lost.id)
    assert [one.name for one in store.runs()] == ["living"]


def test_an_interrupted_deletion_is_completed_by_another(
    store: Store, new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run("gone", status=RunStatus.FINISHED)
    before = rows(store)
    fill(store, run)
    monkeypatch.setattr(deleting, "ROWS", 100)
    done = 0

    def interrupt(share: float) -> None:
        nonlocal done
        done += 1
        if done == 3:
            raise StoreUnavailableError("the server went away")

    with pytest.raises(StoreUnavailableError):
        deleting.delete_run(database_of(store), run.id, interrupt)
    (left,) = store.runs()
    assert BEING_DELETED in left.meta
    assert 0 < len(store.frame(run)) < 500
    store.delete_run(run.id)
    assert rows(store) == before


@pytest.mark.parametrize(
    ("numbers", "places"), [([1, 2, 3], range(11)), ([1], range(-5, 1000)), ([], range(5)), ([4, 5], [7]), ([1, 2], [0, 10**12])]
)
def test_pieces_are_everything_once(numbers: list[int], places: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deleting, "ROWS", 20)
    cells: list[Any] = []
    for some, first, last in deleting.in_pieces(numbers, places):
        within = [step for step in places if first <= step <= last]
        assert len(some) * len(within) <= 20
        cells += [(number, step) for number in some for step in within]
    assert sorted(cells) == [(number, step) for number in numbers for step in places]
    assert list(deleting.in_pieces(numbers, [])) == []


def test_a_step_may_be_a_number_of_tokens(store: Store, new_run: Callable[..., Run]) -> None:
    run = new_run("tokens", status=RunStatus.FINISHED)
    store.create_run(run)
    records = tuple(StepRecord(step * 10**13, 1000.0 + step, (SeriesKey("loss"),), [1.0]) for step in range(20))
    store.write(Batch(new_id(), run.id, 0, records))
    shares: list[float] = []
    deleting.delete_run(database_of(store), run.id, shares.append)
    assert len(shares) <= 3
    assert store.runs() == []


def test_a_name_is_not_enough_to_delete_by(store: Store, new_run: Callable[..., Run]) -> None:
    run = new_run("gpt2", status=RunStatus.FINISHED)
    fill(store, run)
    for reference in ("gpt2", run.id[:10]):
        with pytest.raises(UnknownRunError, match="No run"):
            store.delete_run(reference)
    assert len(store.frame(run)) == 500


def test_a_run_that_comes_back_to_life_meanwhile_is_left(
    store: Store, new_run: Callable[..., Run], batch_of: Callable[..., Batch]
) -> None:
    """A lost run may have been asleep. What it writes from then on is kept, and the one who deletes is told."""
    import time

    run = new_run("asleep")
    fill(store, run)

    def wakes(share: float) -> None:
        store.update_run(run.id, heartbeat_at=time.time())
        store.write(batch_of(run, range(500, 510)))

    with pytest.raises(RunIsAliveError):
        deleting.delete_run(database_of(store), run.id, wakes)
    assert len(store.frame(run)) == 10


def test_partitions_that_are_empty_are_dropped_and_the_highest_stays(postgres_store: Store, new_run: Callable[..., Run]) -> None:
    from foreshock.storage import partitions

    database = database_of(postgres_store)
    runs = [new_run(name, status=RunStatus.FINISHED) for name in ("first", "second")]
    fill(postgres_store, runs[0])
    with database.write() as connection:
        connection.exec_driver_sql(
            "SELECT setval(pg_get_serial_sequence('series', 'id'), (SELECT max(id) FROM series) / 5000 * 5000 + 5001)"
        )
    fill(postgres_store, runs[1])
    with database.read() as connection:
        before = partitions.listed(connection)
    postgres_store.delete_run(runs[0].id)
    with database.read() as connection:
        after = partitions.listed(connection)
    assert len(after) < len(before)
    assert after[-1].name == before[-1].name
    postgres_store.delete_run(runs[1].id)
    fill(postgres_store, runs[0])
    assert len(postgres_store.frame(runs[0])) == 500
