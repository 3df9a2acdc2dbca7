"""What ``db info`` tells of a store, against what was put in, on every engine."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from foreshock.storage import Store, StoreConfigurationError, counting, inventory, open_store
from foreshock.storage.inventory import take
from foreshock.storage.opening import open_database
from foreshock.storage.records import (
    Alert,
    AlertState,
    Batch,
    Histogram,
    Lease,
    Notification,
    NotificationState,
    Run,
    RunStatus,
    SeriesKey,
    Severity,
    StepRecord,
    new_id,
)
from foreshock.storage.sqlalchemy_store import SQLAlchemyStore
from foreshock.storage.tables import rollups, samples, series
from sqlalchemy import make_url, text


def taken(store: Store) -> inventory.Inventory:
    assert isinstance(store, SQLAlchemyStore)
    return take(store.database)


@pytest.fixture
def filled(store: Store, new_run: Callable[..., Run], batch_of: Callable[..., Batch]) -> Store:
    """Two runs: one of 123 steps and two series that ended, one of a histogram that goes on; an alert with two letters; a lease."""
    done = new_run("done", status=RunStatus.FINISHED, created_at=500.0)
    going = new_run("going", created_at=700.0)
    for run in (done, going):
        store.create_run(run)
        store.open_segment(run.id, 0, 0.0)
    store.open_segment(done.id, 50, 0.0)
    store.write(batch_of(done, range(123), ("loss", "norm")))
    key = SeriesKey("alignment", "blocks.0")
    histogram = Histogram(key, 0.0, 2.0, (3, 4))
    store.write(Batch(new_id(), going.id, 0, (StepRecord(5, 9000.0, (), (), (histogram,)),)))
    state = {"severity": Severity.WARNING, "state": AlertState.FIRING}
    place = {"module": "", "episode": 0, "segment": 0, "first_step": 5, "last_step": 5}
    alert = Alert(new_id(), going.id, "spike", **state, **place, created_at=1.0, updated_at=1.0, message="!")  # type: ignore[arg-type]
    letters = [
        Notification(new_id(), alert.id, "json://here", "!", "!", state=state)
        for state in (NotificationState.WAITING, NotificationState.FAILED)
    ]
    store.save_alerts([alert], letters)
    assert store.take_lease(Lease("analyzer:here", "me", 0, 60.0))
    assert store.take_lease(Lease("analyzer:gone", "you", 0, 60.0))
    store.release_lease(Lease("analyzer:gone", "you", 0, 60.0))
    return store


def test_everything_is_counted(filled: Store) -> None:
    found = taken(filled)
    assert found.address == filled.url
    assert found.schema == found.schema_of_program
    assert found.runs == {"finished": 1, "running": 1}
    assert (found.segments, found.series) == (3, 3)
    assert found.points == counting.Count(246)
    assert found.rollups == {1: counting.Count(24), 2: counting.Count(2)}
    assert found.histograms == counting.Count(1)
    assert found.alerts == {"firing": 1}
    assert found.outbox == {"failed": 1, "waiting": 1}
    assert (found.oldest, found.newest) == (500.0, 9000.0)
    (held,) = found.leases
    assert (held.name, held.owner) == ("analyzer:here", "me")
    assert 0 < held.seconds_left <= 60


def test_the_engine_and_the_sizes_are_those_of_the_server(filled: Store) -> None:
    found = taken(filled)
    if filled.url.startswith("sqlite"):
        assert found.engine.startswith("SQLite 3.")
        assert found.size.total > 0
        assert not found.size.tables
    else:
        assert found.engine.split()[0] in ("PostgreSQL", "MariaDB", "MySQL")
        assert {"samples", "rollups", "runs"} < found.size.tables.keys()
        assert found.size.total == sum(found.size.tables.values()) > 0
        assert found.size.tables["samples"] >= 8192, "partitions count"


def test_of_a_file_its_log_and_what_is_free_in_it_are_told(file_store: Store, tmp_path: Path, new_run: Callable[..., Run]) -> None:
    run = new_run(meta={"large": "x" * 500_000})
    file_store.create_run(run)
    log = (tmp_path / "runs.db-wal").stat().st_size
    found = taken(file_store)
    assert found.size.log == log > 500_000
    assert found.size.total == log + (tmp_path / "runs.db").stat().st_size
    file_store.delete_run(run.id)
    assert taken(file_store).size.free > 400_000


def test_partitions_are_listed_with_their_range(
    fresh_postgres_url: str, new_run: Callable[..., Run], batch_of: Callable[..., Batch]
) -> None:
    with contextlib.closing(open_store(fresh_postgres_url)) as store:
        assert isinstance(store, SQLAlchemyStore)
        run = new_run()
        store.create_run(run)
        store.write(batch_of(run, range(100)))
        with store.database.write() as connection:
            connection.execute(text("ALTER SEQUENCE series_id_seq RESTART 6000"))
        store.write(batch_of(run, range(50), ("norm",)))
        with store.database.write() as connection:
            connection.execute(text("ANALYZE samples"))
        parts = take(store.database).partitions
    assert [(part.name, part.first, part.past, part.rows) for part in parts] == [
        ("samples_0_5000", 0, 5000, 100),
        ("samples_5000_10000", 5000, 10000, 50),
    ]
    assert min(part.bytes for part in parts) >= 8192


def test_a_password_is_not_told(postgres_url: str) -> None:
    url = make_url(postgres_url).set(password="hunter2").render_as_string(hide_password=False)
    open_store(url).close()
    database = open_database(url)
    assert "hunter2" not in repr(take(database))
    database.close()


def test_no_store_at_all_is_a_clear_message(empty_server: str) -> None:
    database = open_database(empty_server)
    with pytest.raises(StoreConfigurationError, match="holds no foreshock store"):
        take(database)
    database.close()


def test_what_takes_too_long_is_estimated_and_says_so(
    store: Store, new_run: Callable[..., Run], batch_of: Callable[..., Batch]
) -> None:
    run = new_run()
    store.create_run(run)
    signals = tuple(f"signal {number}" for number in range(300))
    store.write(batch_of(run, range(20), signals))
    assert isinstance(store, SQLAlchemyStore)
    with store.database.read() as connection:
        hurried = counting.counted_by(connection, samples, series.c.id, seconds=0.0)[0]
        levels = counting.counted_by(connection, rollups, series.c.id, rollups.c.level, seconds=0.0)
        patient = counting.counted_by(connection, samples, series.c.id, seconds=60.0)[0]
    assert patient == counting.Count(6000)
    assert not hurried.exact
    assert 3000 <= hurried.rows <= 6000, "of a whole part of the series"
    assert not levels[1].exact
    assert 300 <= levels[1].rows <= 600
