"""From what a user writes to a store, or to a message that says what mends it; and the schema's way through revisions."""

import contextlib
import os
import re
import shutil
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
from foreshock.storage.records import Batch, Run
from foreshock.storage.tables import VERSION_TABLE, metadata
from sqlalchemy import Connection, MetaData, create_engine, func, insert, make_url, select, text

ASSETS = Path(__file__).parent / "assets"


def opened(*args: object, **options: object) -> "contextlib.closing[Store]":
    return contextlib.closing(open_store(*args, **options))  # type: ignore[arg-type]


# -- addresses ---------------------------------------------------------------------------------------------------


def test_the_default_is_a_file_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with opened() as store:
        assert store.url == f"sqlite:///{tmp_path / 'foreshock.db'}"
    assert (tmp_path / "foreshock.db").exists()


def test_the_environment_names_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORESHOCK_STORE", f"sqlite:///{tmp_path / 'named.db'}")
    with opened() as store:
        assert store.url.endswith("/named.db")


@pytest.mark.parametrize(
    "given", ["runs.db", "runs.sqlite", "sqlite:///runs.sqlite3", "sqlite:///file:runs.db?uri=true", Path("a run %.db")]
)
def test_paths_and_urls_of_a_file_stay_put_when_the_script_changes_its_folder(
    given: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_run: Callable[..., Run]
) -> None:
    monkeypatch.chdir(tmp_path)
    with opened(given) as store:
        monkeypatch.chdir("/")
        store.create_run(new_run())
    with opened(make_url(store.url).render_as_string(), create=False) as again:
        assert [run.name for run in again.runs()] == ["run"]
    assert [path.suffix[:3] for path in tmp_path.iterdir() if path.is_file()] in ([".db"], [".sq"])


def test_a_store_is_returned_as_it_is(file_store: Store) -> None:
    assert open_store(file_store) is file_store


def test_every_memory_store_is_its_own(new_run: Callable[..., Run]) -> None:
    with opened("sqlite://") as first, opened("sqlite:///:memory:", create=False) as second:
        first.create_run(new_run())
        assert (len(first.runs()), len(second.runs())) == (1, 0)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("nonsense", "Cannot read 'nonsense'.*Examples: sqlite:///"),
        ("", "Cannot read ''"),
        ("postgresql://user:secret@host:port/db", r"user:\*\*\*@host"),
        ("oracle://host/db", "SQLite, PostgreSQL, MySQL or MariaDB, not in 'oracle'"),
        ("sqlite+nodriver:///x.db", "no driver 'sqlite\\+nodriver'"),
        ("sqlite+aiosqlite:///x.db", "pip install aiosqlite|asynchronous"),
        ("sqlite:////no/such/folder/x.db", "mkdir -p /no/such/folder"),
        ("sqlite:////tmp", "is a folder. Name a file in it: /tmp/foreshock.db"),
        ("sqlite:///x.db?timeout=soon", "soon"),
    ],
)
def test_an_address_that_cannot_work_says_what_mends_it(
    given: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreConfigurationError, match=says) as caught:
        open_store(given)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "module", "install"),
    [
        ("postgres://u:secret@h/d", "psycopg", r'pip install "foreshock\[postgres\]"'),
        ("mysql://u:secret@h/d", "pymysql", "pip install pymysql"),
    ],
)
def test_a_missing_driver_comes_with_its_install_line(url: str, module: str, install: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(StoreConfigurationError, match=install) as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("driver", ["psycopg2", "asyncpg", "pg8000"])
def test_other_drivers_of_postgresql_are_refused_with_the_address_to_write(driver: str) -> None:
    with pytest.raises(StoreConfigurationError, match=r"psycopg 3.*Write 'postgresql://u:\*\*\*@h/d'") as caught:
        open_store(f"postgresql+{driver}://u:secret@h/d")
    assert 'pip install "foreshock[postgres]"' in str(caught.value)


@pytest.mark.parametrize("scheme", ["mysql", "mariadb", "mysql+pymysql", "mariadb+pymysql"])
def test_every_form_of_a_mysql_address_leads_there(scheme: str, mariadb_url: str, new_run: Callable[..., Run]) -> None:
    with opened(make_url(mariadb_url).set(drivername=scheme).render_as_string(hide_password=False)) as store:
        run = new_run()
        store.create_run(run)
        assert store.run(run.id) == run


def test_connections_say_who_they_are_and_what_the_address_says_wins(postgres_url: str) -> None:
    named = make_url(postgres_url).update_query_dict({"application_name": "mine"}).render_as_string(hide_password=False)
    with opened(postgres_url, role="dashboard") as store, opened(named, role="dashboard") as other:
        assert _ask(store, "SHOW application_name") == "foreshock dashboard"
        assert _ask(other, "SHOW application_name") == "mine"
        assert _ask(store, "SHOW tcp_keepalives_idle") is not None


def test_a_read_that_takes_too_long_is_cut_off_and_a_write_is_not(postgres_url: str, mariadb_url: str) -> None:
    for url, sleep in ((postgres_url, "SELECT pg_sleep(20)"), (mariadb_url, "SELECT SLEEP(20)")):
        with opened(url, read_timeout=0.2) as store:
            with pytest.raises(StoreUnavailableError, match="took too long"):
                _ask(store, sleep)
            store.check()
    with opened(postgres_url, read_timeout=0.2) as store, store._database.write() as connection:  # type: ignore[attr-defined]
        connection.execute(text("SELECT pg_sleep(0.4)"))


def test_statements_are_not_prepared_where_a_pooler_asks_for_it(postgres_url: str) -> None:
    pooled = make_url(postgres_url).update_query_dict({"prepare_threshold": "none"}).render_as_string(hide_password=False)
    with opened(pooled) as store:
        for _ in range(8):
            store.runs()
        assert _ask(store, "SELECT count(*) FROM pg_prepared_statements") == 0
    with pytest.raises(StoreConfigurationError, match="prepare_threshold=often"):
        open_store(pooled.replace("none", "often"))


def _ask(store: Store, question: str) -> object:
    with store._database.read() as connection:  # type: ignore[attr-defined]
        return connection.execute(text(question)).scalar_one()


def test_passwords_are_not_shown(postgres_url: str) -> None:
    url = make_url(postgres_url).set(password="hunter2").update_query_dict({"sslpassword": "hunter3"})
    with opened(url.render_as_string(hide_password=False)) as store:
        assert "***" in store.url
        assert "hunter" not in store.url


def test_a_reader_does_not_make_a_store(tmp_path: Path) -> None:
    missing = tmp_path / "none.db"
    with pytest.raises(StoreConfigurationError, match=r"no store at .*none.db.*foreshock demo.*--store URL"):
        open_store(missing, create=False)
    assert not missing.exists()


def test_a_file_that_is_no_database_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("these are notes, not a database " * 100)
    with pytest.raises(StoreConfigurationError, match="not a SQLite database"):
        open_store(tmp_path / "notes.db")


def test_a_database_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as theirs:
        theirs.execute("CREATE TABLE runs (run_uuid TEXT)")
        theirs.commit()
    with pytest.raises(StoreConfigurationError, match=r"tables of somebody else.*\(runs\)"):
        open_store(tmp_path / "mlflow.db")
    with pytest.raises(StoreConfigurationError, match="holds no foreshock store"):
        open_store(tmp_path / "mlflow.db", create=False)


def test_a_server_that_is_away_is_unavailable_and_a_wrong_name_is_a_mistake(postgres_url: str) -> None:
    with pytest.raises(StoreUnavailableError, match="not available"):
        open_store("postgresql://nobody@127.0.0.1:1/test")
    with pytest.raises(StoreConfigurationError, match="does not exist"):
        open_store(make_url(postgres_url).set(database="no_such_database").render_as_string(hide_password=False))


# -- schema ------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("saved", sorted(ASSETS.glob("revision_*.sqlite")), ids=lambda path: path.stem)
def test_a_store_of_every_revision_opens_and_keeps_its_data(saved: Path, tmp_path: Path) -> None:
    copy = tmp_path / "old.db"
    shutil.copy(saved, copy)
    with opened(copy, create=False) as store:
        _holds_what_was_saved(store)
    assert ASSETS.joinpath(f"revision_{schema.HEAD}.sqlite").exists(), "save a database of the newest revision as well"


@pytest.mark.parametrize("saved", sorted(ASSETS.glob("revision_*.sqlite")), ids=lambda path: path.stem)
def test_a_server_of_every_revision_keeps_its_data_and_takes_more(
    saved: Path, empty_server: str, new_run: Callable[..., Run], batch_of: Callable[..., Batch]
) -> None:
    _move(saved, empty_server)
    with opened(empty_server, create=False) as store:
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
    with opened(copy, create=False) as store:
        _is_silenced_until_it_is_ended(store)


def test_what_was_silenced_on_a_server_stays_silenced(empty_server: str) -> None:
    _move(ASSETS / "revision_0001.sqlite", empty_server)
    _silence_all(empty_server)
    with opened(empty_server, create=False) as store:
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
        open_store(f"sqlite:///{tmp_path / 'old.db'}?mode=ro", create=False)


def test_a_dropped_table_is_a_clear_message(tmp_path: Path, file_store: Store, new_run: Callable[..., Run]) -> None:
    run = new_run()
    file_store.create_run(run)
    with contextlib.closing(sqlite3.connect(tmp_path / "runs.db")) as connection:
        connection.execute("DROP TABLE events")
    with pytest.raises(StoreConfigurationError, match="no such table: events"):
        file_store.events(run.id)


def test_opening_a_store_of_today_imports_neither_alembic_nor_pandas(tmp_path: Path, file_store: Store) -> None:
    code = (
        "import sys; from foreshock.storage import open_store; s = open_store(sys.argv[1]); s.runs();"
        "print([m for m in ('alembic', 'pandas', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "runs.db")], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_processes_that_open_a_new_store_at_once_all_succeed(tmp_path: Path) -> None:
    code = "import sys; from foreshock.storage import open_store; s = open_store(sys.argv[1]); s.check(); print(len(s.runs()))"
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "new.db")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
        for _ in range(4)
    ]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [(out.strip(), err) for out, err in outputs] == [(b"0", b"")] * 4
