"""From what a user writes to a store, or to a message that says what mends it."""

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from foreshock.storage import Store, StoreConfigurationError, StoreUnavailableError, open_store
from foreshock.storage.records import Run
from sqlalchemy import make_url, text

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


# -- tables ------------------------------------------------------------------------------------------------------


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
    code = "import sys; from foreshock.storage import open_store; s = open_store(sys.argv[1]); s.check(); "
    code += "print(len(s.runs())); s.close()"
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "new.db")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
        for _ in range(4)
    ]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [(out.strip(), err) for out, err in outputs] == [(b"0", b"")] * 4
