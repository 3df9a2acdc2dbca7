"""Stores of every kind for the tests of this folder: SQLite file and memory, PostgreSQL and MariaDB on real servers."""

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from foreshock.storage import Store, open_store
from foreshock.storage.records import Batch, Run, SeriesKey, StepRecord, new_id
from foreshock.storage.tables import metadata
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import OperationalError

POSTGRES = "postgresql+psycopg://postgres@127.0.0.1:5432/test"
MARIADB = "mysql+pymysql://root@127.0.0.1/test"


@pytest.fixture(autouse=True)
def _quiet_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORESHOCK_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FORESHOCK_STORE", raising=False)


def _server(variable: str, default: str, reach: Callable[[str], None]) -> str:
    """Return the server's URL; skip where there is none, except in CI, where a missing server is a failure."""
    url = os.environ.get(variable, default)
    try:
        reach(url)
    except (OperationalError, ModuleNotFoundError) as error:
        message = f"no server at {url} (set {variable} to another): {str(error).splitlines()[0]}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return url


def _execute(url: str, *statements: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            for statement in statements:
                connection.execute(text(statement))
    finally:
        engine.dispose()


@contextlib.contextmanager
def _postgres() -> Iterator[str]:
    """A schema of its own on a PostgreSQL server, dropped at the end."""
    schema = f"foreshock_test_{uuid.uuid4().hex[:8]}"
    url = _server("FORESHOCK_TEST_POSTGRES", POSTGRES, lambda url: _execute(url, f"CREATE SCHEMA {schema}"))
    yield make_url(url).update_query_dict({"options": f"-csearch_path={schema}"}).render_as_string(hide_password=False)
    _execute(url, f"DROP SCHEMA {schema} CASCADE")


@contextlib.contextmanager
def _mariadb() -> Iterator[str]:
    """A database of its own on a MariaDB server, dropped at the end."""
    database = f"foreshock_test_{uuid.uuid4().hex[:8]}"
    url = _server("FORESHOCK_TEST_MARIADB", MARIADB, lambda url: _execute(url, f"CREATE DATABASE {database}"))
    yield make_url(url).set(database=database).render_as_string(hide_password=False)
    _execute(url, f"DROP DATABASE {database}")


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """PostgreSQL, shared by the tests of a session; the fixture ``store`` empties it."""
    with _postgres() as url:
        yield url


@pytest.fixture
def emptied_postgres_url(postgres_url: str) -> Iterator[str]:
    """The same, emptied after the test."""
    yield postgres_url
    _execute(postgres_url, *(f"DELETE FROM {table.name}" for table in reversed(metadata.sorted_tables)))


@pytest.fixture
def fresh_postgres_url() -> Iterator[str]:
    """A PostgreSQL schema of a test's own, without any table."""
    with _postgres() as url:
        yield url


@pytest.fixture(scope="session")
def mariadb_url() -> Iterator[str]:
    """MariaDB, shared by the tests of a session; the fixture ``store`` empties it."""
    with _mariadb() as url:
        yield url


@pytest.fixture(params=["postgres", "mariadb"])
def empty_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server's database of a test's own, without any table."""
    with _postgres() if request.param == "postgres" else _mariadb() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def empty_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A file of a test's own that is not there yet, or a server's database without any table."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'place.db'}"
    else:
        with _postgres() if request.param == "postgres" else _mariadb() as url:
            yield url


@pytest.fixture(params=["sqlite-file", "sqlite-memory", "postgres", "mariadb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store of each kind."""
    url = {"sqlite-file": lambda: f"sqlite:///{tmp_path / 'runs.db'}", "sqlite-memory": lambda: "sqlite://"}.get(
        request.param, lambda: request.getfixturevalue(f"{request.param}_url")
    )()
    with contextlib.closing(open_store(url)) as opened:
        yield opened
    if not url.startswith("sqlite"):
        _execute(url, *(f"DELETE FROM {table.name}" for table in reversed(metadata.sorted_tables)))


@pytest.fixture
def postgres_store(postgres_url: str) -> Iterator[Store]:
    """An empty store on PostgreSQL."""
    with contextlib.closing(open_store(postgres_url)) as opened:
        yield opened
    _execute(postgres_url, *(f"DELETE FROM {table.name}" for table in reversed(metadata.sorted_tables)))


@pytest.fixture
def file_store(tmp_path: Path) -> Iterator[Store]:
    """An empty store in a SQLite file, ``tmp_path / "runs.db"``."""
    with contextlib.closing(open_store(tmp_path / "runs.db")) as opened:
        yield opened


@pytest.fixture
def new_run() -> Callable[..., Run]:
    """Make a run's record."""

    def make(name: str = "run", **fields: object) -> Run:
        return Run(**{"id": new_id(), "name": name, "created_at": 1000.0, "heartbeat_at": 1000.0} | fields)  # type: ignore[arg-type]

    return make


@pytest.fixture
def batch_of() -> Callable[..., Batch]:
    """Make a batch with one value a step for each of some signals: step + number of the signal."""

    def make(run: Run | str, steps: range, signals: tuple[str, ...] = ("loss",), segment: int = 0) -> Batch:
        keys = tuple(SeriesKey(signal) for signal in signals)
        records = tuple(StepRecord(step, 1000.0 + step, keys, [step + float(i) for i in range(len(keys))]) for step in steps)
        return Batch(new_id(), run if isinstance(run, str) else run.id, segment, records)

    return make
