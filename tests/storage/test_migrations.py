"""The schema's way through revisions, with all that is in a store, on every engine, and with a kill in the midst of it."""

import contextlib
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from foreshock.storage import Store, StoreConfigurationError, StoreUnavailableError, open_store, schema
from foreshock.storage.records import Batch, Run, SeriesKey, StepRecord, new_id
from foreshock.storage.tables import VERSION_TABLE, metadata
from sqlalchemy import Connection, MetaData, create_engine, func, insert, select, text

ASSETS = Path(__file__).parent / "assets"
REVISIONS = sorted(ASSETS.glob("revision_*.sqlite"))
OLD = [path for path in REVISIONS if path.stem != f"revision_{schema.HEAD}"]
each_revision = pytest.mark.parametrize("saved", REVISIONS, ids=lambda path: path.stem)
each_old = pytest.mark.parametrize("saved", OLD, ids=lambda path: path.stem)


def opened(*args: object, **options: object) -> "contextlib.closing[Store]":
    return contextlib.closing(open_store(*args, **options))  # type: ignore[arg-type]


def test_head_is_the_newest_migration(file_store: Store) -> None:
    with create_engine("sqlite://").connect() as connection:
        script = ScriptDirectory.from_config(schema.migrations(connection))
    assert script.get_current_head() == schema.HEAD


def test_migrating_makes_exactly_the_tables_of_the_metadata(tmp_path: Path, file_store: Store) -> None:
    """Autogenerate sees columns, keys and indexes; the text of the tables also what it does not (WITHOUT ROWID, AUTOINCREMENT)."""
    engine = create_engine(f"sqlite:///{tmp_path / 'runs.db'}")
    with engine.connect() as connection:
        assert _differences(connection) == []
    engine.dispose()
    direct = create_engine(f"sqlite:///{tmp_path / 'direct.db'}")
    metadata.create_all(direct)
    direct.dispose()
    assert _ddl(tmp_path / "runs.db") == _ddl(tmp_path / "direct.db")


def test_migrating_a_server_makes_the_tables_of_the_metadata(postgres_url: str, mariadb_url: str) -> None:
    for url in (postgres_url, mariadb_url):
        open_store(url).close()
        engine = create_engine(url)
        with engine.connect() as connection:
            assert _differences(connection) == []
        engine.dispose()


def _differences(connection: Connection) -> list[Any]:
    """Return how the tables that are there differ from the metadata; partitions belong to their table."""

    def ours(thing: Any, name: str | None, kind: str, reflected: bool, other: Any) -> bool:
        return not (kind == "table" and re.fullmatch(r"samples_\d+_\d+", name or ""))

    options = {"compare_type": True, "version_table": VERSION_TABLE, "include_object": ours}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


def _ddl(path: Path) -> dict[str, list[str]]:
    """Return each table's clauses, sorted: their order and the place of a constraint mean nothing."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE sql NOT NULL AND name != ?", [VERSION_TABLE]
        ).fetchall()
    return {name: sorted(line.strip().rstrip(",") for line in sql.replace("\t", "").splitlines()) for name, sql in rows}


@each_revision
def test_a_store_of_every_revision_opens_and_keeps_its_data(saved: Path, tmp_path: Path) -> None:
    copy = tmp_path / "old.db"
    shutil.copy(saved, copy)
    with opened(copy) as store:
        _holds_what_was_saved(store)
    assert ASSETS.joinpath(f"revision_{schema.HEAD}.sqlite").exists(), "save a database of the newest revision as well"


@each_revision
def test_a_server_of_every_revision_keeps_its_data_and_takes_more(
    saved: Path, empty_server: str, new_run: Callable[..., Run], batch_of: Callable[..., Batch]
) -> None:
    _move(saved, empty_server)
    with opened(empty_server) as store:
        _holds_what_was_saved(store)
        run = new_run("later")
        store.create_run(run)
        store.write(batch_of(run, range(3)))
        assert [record.step for batch in store.batches(run.id) for record in batch.steps] == [0, 1, 2]
    engine = create_engine(empty_server)
    with engine.connect() as connection:
        assert _differences(connection) == []
    engine.dispose()


def _holds_what_was_saved(store: Store) -> None:
    store.check()
    run = store.run("saved")
    assert (run.last_step, run.tags, run.meta) == (4, ("kept",), {"host": "here"})
    frame = store.frame(run)
    assert frame["value"].tolist()[:3] == [0.5, 1.5, float("inf")]
    assert frame["module"].unique().tolist() == ["", "blocks.0"]
    assert [item.histogram.counts for item in store.histograms(run.id, "alignment", "blocks.0")] == [(1, 2, 300)]
    (alert,) = store.alerts(run)
    assert (alert.rule, alert.evidence[0].steps, alert.diagnosis[0].name) == ("loss_spike", (1, 2), "lr")
    assert [event.kind for event in store.events(run.id)] == ["started"]
    assert len(store.due_notifications(1e12)) == 1
    if versions := store.rule_history():  # saved from revision 0004 on
        assert [(each.rule, each.changes, each.comment) for each in versions] == [
            ("loss_spike", {"parameters": {"z": 12.0}}, "kept")
        ]
    if any(run.name == "long" for run in store.runs()):  # saved from revision 0003 on: a run that fills rollups
        (drawn,) = store.read(store.series(store.run("long").id), max_points=12)
        assert (drawn.steps[0], drawn.steps[-1], max(drawn.values)) == (0, 122, 1.0)


def _move(saved: Path, url: str) -> None:
    """Make a saved database's revision on a server, by the migrations up to it, and put the saved rows in."""
    source, target = create_engine(f"sqlite:///{saved}"), create_engine(url)
    with source.connect() as rows_of, target.begin() as connection:
        command.upgrade(schema.migrations(connection), saved.stem.removeprefix("revision_"))
        old, new = MetaData(), MetaData()
        old.reflect(rows_of)
        new.reflect(connection)
        for table in (table for table in new.sorted_tables if table.name in old.tables):  # partitions are of the server
            rows = [dict(row) for row in rows_of.execute(select(old.tables[table.name])).mappings()]
            if not rows or table.name == VERSION_TABLE:
                continue
            connection.execute(insert(table), rows)
            if connection.dialect.name == "postgresql":  # a dump restores this as well
                for column in ("key", "id", "seq"):
                    if column in table.c and isinstance(rows[0][column], int):
                        highest = max(row[column] for row in rows)
                        connection.execute(select(func.setval(func.pg_get_serial_sequence(table.name, column), highest)))
    source.dispose()
    target.dispose()


def test_what_was_silenced_before_silences_had_an_end_stays_silenced(tmp_path: Path) -> None:
    copy = tmp_path / "old.db"
    shutil.copy(ASSETS / "revision_0001.sqlite", copy)
    _silence_all(f"sqlite:///{copy}")
    with opened(copy) as store:
        _is_silenced_until_it_is_ended(store)


def test_what_was_silenced_on_a_server_stays_silenced(empty_server: str) -> None:
    _move(ASSETS / "revision_0001.sqlite", empty_server)
    _silence_all(empty_server)
    with opened(empty_server) as store:
        _is_silenced_until_it_is_ended(store)


def _silence_all(url: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alerts SET state = 'silenced'"))
    engine.dispose()


def _is_silenced_until_it_is_ended(store: Store) -> None:
    (alert,) = store.alerts("saved")
    assert store.lift_silences(1e12) == 0
    assert store.due_notifications(1e12) == []
    (silence,) = store.silences(active_at=1e12)
    assert silence.alert_id == alert.id
    assert store.end_silence(silence.id, at=1e12) == 1
    assert len(store.due_notifications(1e12)) == 1


def test_a_schema_newer_than_this_program_is_refused(tmp_path: Path, file_store: Store) -> None:
    file_store.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "runs.db")) as connection:
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
        connection.commit()
    with pytest.raises(StoreConfigurationError, match=r"newer foreshock \(schema 9999.*pip install -U foreshock"):
        open_store(tmp_path / "runs.db")


def test_an_old_schema_that_one_may_not_upgrade_says_who_can(tmp_path: Path) -> None:
    shutil.copy(ASSETS / "revision_0001.sqlite", tmp_path / "old.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "old.db")) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")  # so that it can be read without writing beside it
    with pytest.raises(StoreUnavailableError, match=r"older foreshock \(schema 0001; .*read-only.*foreshock db upgrade"):
        open_store(f"sqlite:///{tmp_path / 'old.db'}?mode=ro")


@each_old
def test_a_reader_of_an_old_store_is_told_what_brings_it_up_to_date_and_changes_nothing(saved: Path, tmp_path: Path) -> None:
    copy = tmp_path / "old.db"
    shutil.copy(saved, copy)
    with pytest.raises(StoreConfigurationError, match=rf"schema {_number(saved)}; .* needs {schema.HEAD}.*foreshock db upgrade"):
        open_store(copy, create=False)
    assert copy.read_bytes() == saved.read_bytes()


def test_a_reader_of_an_old_server_is_told_as_well(empty_server: str) -> None:
    _move(ASSETS / "revision_0001.sqlite", empty_server)
    with pytest.raises(StoreConfigurationError, match="foreshock db upgrade"):
        open_store(empty_server, create=False)
    assert _revision(empty_server) == "0001"


# -- with many rows, and interrupted -----------------------------------------------------------------------------

POINTS = {0: range(1234), 1: range(700, 2000)}
"""Steps of the long run, by segment: so many that buckets of three levels are full, and some are not."""
KEYS = (SeriesKey("loss"), SeriesKey("norm"), SeriesKey("few"))


@each_revision
def test_a_saved_store_has_rows_in_every_table_of_its_revision(saved: Path) -> None:
    there = _rows(f"sqlite:///{saved}")
    assert len(there) >= 11
    assert {name for name, rows in there.items() if not rows} == set()


@each_old
def test_no_row_that_was_there_is_changed_and_rollups_are_those_of_today(saved: Path, empty_place: str, tmp_path: Path) -> None:
    before = _old_store(saved, empty_place)
    open_store(empty_place).close()
    after = _rows(empty_place)
    assert {name: after[name] for name in before} == before
    if "rollups" in before:
        return
    with opened(tmp_path / "today.db") as store:
        store.create_run(Run("f" * 32, "lengthy"))
        for segment in POINTS:
            store.open_segment("f" * 32, 0, 0.0)
            store.write(_long_batch(segment))
    _same_rollups(_rollups(empty_place), _rollups(f"sqlite:///{tmp_path / 'today.db'}"))


@each_old
def test_an_upgrade_that_was_killed_among_the_rows_is_repeated(saved: Path, empty_place: str, tmp_path: Path) -> None:
    before = _old_store(saved, empty_place)
    done = subprocess.run([sys.executable, "-c", KILLED, empty_place, schema.HEAD], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    there = _rows(empty_place)
    assert {name: there[name] for name in before} == before
    if not empty_place.startswith("mysql"):  # whose making of tables cannot be taken back
        assert _revision(empty_place) == _number(saved)
        assert there.keys() == before.keys() | {VERSION_TABLE}, "nothing of the new schema is left"
    with opened(empty_place) as store:
        store.check()
    there = _rows(empty_place)
    assert {name: there[name] for name in before} == before
    once = f"sqlite:///{tmp_path / 'once.db'}"
    _old_store(saved, once)
    open_store(once).close()
    if "rollups" not in before:
        _same_rollups(_rollups(empty_place), _rollups(once))


KILLED = """
import os, signal, sys
from sqlalchemy import Engine, event
from foreshock.storage import open_store

seen = []

@event.listens_for(Engine, "before_cursor_execute")
def _count(connection, cursor, statement, parameters, context, executemany):
    seen.extend([1] * statement.lstrip().startswith("INSERT INTO rollups"))
    done = statement.startswith("UPDATE") and sys.argv[2] in statement + str(parameters)  # all but the word that it is done
    if len(seen) == 2 or done:  # the rows of a first series are in
        os.kill(os.getpid(), signal.SIGKILL)

open_store(sys.argv[1])
"""


def _number(saved: Path) -> str:
    return saved.stem.removeprefix("revision_")


def _old_store(saved: Path, url: str) -> dict[str, Any]:
    """Make a saved store at an address, with a long run beside what was saved; return its rows."""
    if url.startswith("sqlite"):
        shutil.copy(saved, url.removeprefix("sqlite:///"))
    else:
        _move(saved, url)
    run = {"key": 50, "id": "f" * 32, "name": "lengthy", "project": "", "status": "finished", "created_at": 0.0}
    run |= {"heartbeat_at": 0.0, "last_step": 1999, "tags": "[]", "meta": "{}"}
    empty = {"run_key": 50, "module": "", "head": -1, "rank": -1}
    series = [{"id": 60 + place, "digest": f"digest {place}", "signal": key.signal, **empty} for place, key in enumerate(KEYS)]
    samples = [
        {"series_id": 60 + place, "segment": segment, "step": record.step, **_stored(value)}
        for segment in POINTS
        for record in _long_batch(segment).steps
        for place, value in enumerate(record.values)
    ]
    engine = create_engine(url)
    with engine.begin() as connection:
        tables = MetaData()
        tables.reflect(connection)
        for name, rows in (("runs", [run]), ("series", series), ("samples", samples)):
            connection.execute(insert(tables.tables[name]), rows)
    engine.dispose()
    return {name: rows for name, rows in _rows(url).items() if name != VERSION_TABLE}


def _stored(value: float) -> dict[str, Any]:
    kind = {"inf": 1, "-inf": 2, "nan": 3}.get(str(value), 0)
    return {"value": None if kind else value, "kind": kind}


def _long_batch(segment: int) -> Batch:
    """Return the points of a segment: one series that is finite, one with all kinds of other values, one of seven points."""
    odd = {3: float("inf"), 5: float("-inf"), 11: float("nan")}
    records = []
    for step in POINTS[segment]:
        values = [(step * 37 % 101) / 7 - 3, float("nan") if 800 <= step < 830 else odd.get(step % 97, step / 3)]
        few = step < POINTS[segment].start + 7
        records.append(StepRecord(step, float(step), KEYS if few else KEYS[:2], [*values, 1.0] if few else values))
    return Batch(new_id(), "f" * 32, segment, tuple(records))


def _rows(url: str) -> dict[str, list[Any]]:
    """Return the rows of every table, sorted; partitions belong to their table."""
    engine = create_engine(url)
    with engine.connect() as connection:
        tables = MetaData()
        tables.reflect(connection)
        found = {
            name: sorted(map(tuple, connection.execute(select(*sorted(table.c, key=lambda column: column.name)))), key=repr)
            for name, table in tables.tables.items()
            if not re.fullmatch(r"samples_\d+_\d+", name)
        }
    engine.dispose()
    return found


def _rollups(url: str) -> dict[tuple[Any, ...], Any]:
    """Return the rollups of the long run, by signal, segment, level and bucket."""
    query = text(
        "SELECT series.signal, rollups.* FROM rollups JOIN series ON series.id = series_id JOIN runs ON run_key = runs.key "
        "WHERE runs.name = 'lengthy'"
    )
    engine = create_engine(url)
    with engine.connect() as connection:
        rows = [dict(row) for row in connection.execute(query).mappings()]
    engine.dispose()
    return {
        tuple(row[name] for name in ("signal", "segment", "level", "bucket")): {
            name: cell for name, cell in row.items() if name != "series_id"
        }
        for row in rows
    }


def _same_rollups(found: dict[tuple[Any, ...], Any], wanted: dict[tuple[Any, ...], Any]) -> None:
    assert found.keys() == wanted.keys()
    assert max(level for _, _, level, _ in found) == 3
    for place, row in found.items():
        mean, other = row["mean"], wanted[place]["mean"]
        assert (mean is None) == (other is None), place
        assert mean is None or mean == pytest.approx(other, rel=1e-12), place
        assert row | {"mean": None} == wanted[place] | {"mean": None}, place


def _revision(url: str) -> str | None:
    engine = create_engine(url)
    with engine.connect() as connection:
        found = schema.revision(connection)
    engine.dispose()
    return found
