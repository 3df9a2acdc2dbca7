"""Room is given back, nothing is lost, and nobody is disturbed."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from foreshock.storage import Store, StoreConfigurationError, StoreUnavailableError, compacting, open_store, partitions
from foreshock.storage.compacting import Compaction, compact
from foreshock.storage.partitions import listed
from foreshock.storage.records import Batch, Run, RunStatus
from foreshock.storage.sqlalchemy_store import SQLAlchemyStore
from sqlalchemy import text


def compacted(store: Store) -> Compaction:
    assert isinstance(store, SQLAlchemyStore)
    return compact(store.database)


def filled(store: Store, new_run: Callable[..., Run], batch_of: Callable[..., Batch], steps: int = 20_000) -> tuple[Run, Run]:
    """Two runs that ended, of which the first is deleted."""
    runs = new_run("gone", status=RunStatus.FINISHED), new_run("kept", status=RunStatus.FINISHED)
    for run in runs:
        store.create_run(run)
        store.write(batch_of(run, range(steps), ("loss", "norm")))
    store.delete_run(runs[0].id)
    return runs


def test_a_file_shrinks_and_keeps_what_it_holds(
    file_store: Store, tmp_path: Path, new_run: Callable[..., Run], batch_of: Callable[..., Batch]
) -> None:
    _, kept = filled(file_store, new_run, batch_of)
    frame = file_store.frame(kept)
    done = compacted(file_store)
    assert done.after < 0.7 * done.before
    assert done.after == (tmp_path / "runs.db").stat().st_size + (tmp_path / "runs.db-wal").stat().st_size
    assert (done.left, done.dropped) == ((), ())
    assert file_store.frame(kept).equals(frame)
    file_store.write(batch_of(kept, range(20_000, 20_010)))
    file_store.check()
    file_store.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "runs.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM sqlite_stat1 WHERE tbl = 'samples'").fetchone()[0] > 0
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_store_on_a_server_is_compacted_too(
    empty_server: str, new_run: Callable[..., Run], batch_of: Callable[..., Batch]
) -> None:
    with contextlib.closing(open_store(empty_server)) as store:
        _, kept = filled(store, new_run, batch_of, 5000)
        frame = store.frame(kept)
        done = compacted(store)
        assert done.left == ()
        assert done.after > 0
        if not empty_server.startswith("postgresql"):
            assert done.after < done.before  # MariaDB rebuilds; PostgreSQL keeps the room for what comes
        assert store.frame(kept).equals(frame)


def test_a_file_that_a_living_run_writes_is_left_alone(file_store: Store, new_run: Callable[..., Run]) -> None:
    now = time.time()
    file_store.create_run(new_run("lost", heartbeat_at=now - 40.0))
    compacted(file_store)
    file_store.create_run(new_run("living", heartbeat_at=now - 3.0))
    with pytest.raises(StoreUnavailableError, match=r"Run living is being written into .*last heard from [34] s ago.*Try again"):
        compacted(file_store)


def test_a_file_that_is_locked_is_left_alone(
    file_store: Store, tmp_path: Path, new_run: Callable[..., Run], batch_of: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compacting, "_PATIENCE", 0.05)
    _, kept = filled(file_store, new_run, batch_of, 1000)
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('BEGIN IMMEDIATE');"
        "print('locked', flush=True); sys.stdin.read()"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "runs.db")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"locked\n"
        with pytest.raises(StoreUnavailableError, match=r"Another process is writing into .*It is as it was"):
            compacted(file_store)
        writer.communicate()
    assert len(file_store.frame(kept)) == 2000
    compacted(file_store)


def test_a_disk_without_room_is_told_before_anything_is_done(
    file_store: Store, tmp_path: Path, new_run: Callable[..., Run], batch_of: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(file_store, new_run, batch_of, 5000)
    before = (tmp_path / "runs.db").stat().st_size
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(StoreUnavailableError, match=r"takes [\d,]+ bytes in .* and 1,000 are free there.*SQLITE_TMPDIR"):
        compacted(file_store)
    assert (tmp_path / "runs.db").stat().st_size == before


def test_a_reader_in_the_midst_of_a_look_keeps_its_view_and_is_told_of(
    file_store: Store, tmp_path: Path, new_run: Callable[..., Run], batch_of: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compacting, "_PATIENCE", 0.05)
    filled(file_store, new_run, batch_of, 1000)
    with contextlib.closing(sqlite3.connect(tmp_path / "runs.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        seen = reader.execute("SELECT count(*) FROM samples").fetchone()
        assert "A reader is looking" in compacted(file_store).left[0]
        assert reader.execute("SELECT count(*) FROM samples").fetchone() == seen
    assert compacted(file_store).left == ()


def test_memory_is_not_compacted() -> None:
    with contextlib.closing(open_store("sqlite://")) as store, pytest.raises(StoreConfigurationError, match="in memory"):
        compacted(store)


# -- partitions --------------------------------------------------------------------------------------------------


@pytest.fixture
def divided(
    fresh_postgres_url: str, new_run: Callable[..., Run], batch_of: Callable[..., Batch]
) -> Iterator[tuple[SQLAlchemyStore, Run, Run]]:
    """A store with a run in one partition, a run in the next, and a third partition that is the last."""
    store = open_store(fresh_postgres_url)
    assert isinstance(store, SQLAlchemyStore)
    runs = []
    for name in ("early", "late", "last"):
        run = new_run(name, status=RunStatus.FINISHED)
        store.create_run(run)
        with store.database.write() as connection:
            past = max(part.past for part in listed(connection))
            connection.execute(text(f"ALTER SEQUENCE series_id_seq RESTART {past + 10}"))
        store.write(batch_of(run, range(20)))
        runs.append(run)
    yield store, runs[0], runs[1]
    store.close()


def names(store: SQLAlchemyStore) -> list[str]:
    with store.database.read() as connection:
        return [part.name for part in listed(connection)]


def part_of(store: SQLAlchemyStore, run: Run) -> str:
    (one,) = store.series(run.id)
    with store.database.read() as connection:
        return next(part.name for part in listed(connection) if part.first <= one.id < part.past)


def test_only_partitions_without_series_are_dropped(divided: tuple[SQLAlchemyStore, Run, Run]) -> None:
    store, early, late = divided
    mine, kept, last = part_of(store, early), part_of(store, late), names(store)[-1]
    with store.database.write() as connection:  # as if deleted by a role that owns nothing and so drops nothing
        connection.execute(text("DELETE FROM samples WHERE series_id = :id"), {"id": store.series(early.id)[0].id})
        connection.execute(text("DELETE FROM samples WHERE series_id = :id"), {"id": store.series(late.id)[0].id})
    assert mine not in compacted(store).dropped, "its series may be written to again"
    with store.database.write() as connection:
        connection.execute(text("DELETE FROM series WHERE run_key = (SELECT key FROM runs WHERE id = :id)"), {"id": early.id})
        connection.execute(text("DELETE FROM series WHERE id >= :id"), {"id": int(last.split("_")[1])})
    done = compacted(store)
    assert mine in done.dropped
    assert kept in names(store)
    assert names(store)[-1] == last, "from its end the next one is made"


def test_a_partition_that_a_writer_is_coming_to_is_not_dropped(divided: tuple[SQLAlchemyStore, Run, Run]) -> None:
    """A series number was given out and is not committed: its samples must find their partition."""
    store, early, _ = divided
    mine, number = part_of(store, early), store.series(early.id)[0].id
    with store.database.write() as connection:
        connection.execute(text("DELETE FROM samples WHERE series_id = :id"), {"id": number})
        connection.execute(text("DELETE FROM series WHERE id = :id"), {"id": number})
    answers: list[Compaction] = []
    thread = threading.Thread(target=lambda: answers.append(compacted(store)))
    with store.database.write() as connection:
        key = connection.execute(text("SELECT key FROM runs WHERE id = :id"), {"id": early.id}).scalar_one()
        connection.execute(text("INSERT INTO series VALUES (:id, :key, 'd', 'loss', '', -1, -1)"), {"id": number + 1, "key": key})
        thread.start()
        _until_it_waits(store)
        connection.execute(text("INSERT INTO samples VALUES (:id, 0, 0, 1.0, 0)"), {"id": number + 1})
    thread.join(30.0)
    assert not thread.is_alive()
    assert mine in names(store)
    assert mine not in answers[0].dropped


def _until_it_waits(store: SQLAlchemyStore) -> None:
    question = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'series'::regclass")
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        with store.database.read() as connection:
            if connection.execute(question).scalar_one():
                return
    pytest.fail("nobody waits for the series")


def test_partitions_that_are_busy_stay_and_are_told_of(
    divided: tuple[SQLAlchemyStore, Run, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compacting, "TABLES", ())  # VACUUM would try for five seconds to cut off the end of each
    monkeypatch.setattr(partitions, "_PATIENCE", "50ms")
    store, early, _ = divided
    mine = part_of(store, early)
    with store.database.write() as connection:
        for table, column in (("samples", "series_id"), ("series", "id")):
            connection.execute(text(f"DELETE FROM {table} WHERE {column} = :id"), {"id": int(mine.split("_")[1]) + 10})
    with store.database.read() as connection:
        connection.execute(text("SELECT count(*) FROM samples"))  # a long look at all partitions
        done = compacted(store)
    assert "Empty partitions" in done.left[0]
    assert mine in names(store)
    assert mine in compacted(store).dropped


def test_who_does_not_own_the_tables_is_told_who_does(emptied_postgres_url: str, new_run: Callable[..., Run]) -> None:
    store = open_store(emptied_postgres_url)
    assert isinstance(store, SQLAlchemyStore)
    role = f"foreshock_test_{os.getpid()}_other"
    with store.database.write() as connection:
        schema = connection.execute(text("SELECT current_schema()")).scalar_one()
        connection.execute(text(f"CREATE ROLE {role} LOGIN"))
        connection.execute(text(f"GRANT USAGE ON SCHEMA {schema} TO {role}"))
        connection.execute(text(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}"))
    try:
        url = store.database.engine.url.set(username=role).render_as_string(hide_password=False)
        other = open_store(url, create=False)
        with pytest.raises(StoreConfigurationError, match=r"belong to the role 'postgres'.*foreshock db compact --store"):
            compacted(other)
        other.close()
    finally:
        with store.database.write() as connection:
            connection.execute(text(f"DROP OWNED BY {role}"))
            connection.execute(text(f"DROP ROLE {role}"))
        store.close()
