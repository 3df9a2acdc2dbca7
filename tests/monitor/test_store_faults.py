"""A store that fails in the midst of a real run: full or read-only disk, changed password, dropped table, stopped server.

Training ends with the weights it has without a monitor, the message says what is wrong, and nothing is lost that can be kept.
"""

import contextlib
import logging
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import foreshock
import pytest
import torch
from foreshock.storage.leftovers import drain_all
from foreshock.storage.opening import spool_place
from foreshock.storage.records import Run, RunStatus, SeriesKey, StepRecord, new_id
from foreshock.storage.spool import found_in
from foreshock.storage.writer import Writer
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import OperationalError

MARIADB = os.environ.get("FORESHOCK_TEST_MARIADB", "mysql+pymysql://root@127.0.0.1/test")


def executed(url: str, *statements: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            for statement in statements:
                connection.execute(text(statement))
    finally:
        engine.dispose()


@pytest.fixture
def trained(fresh_small: Any, url: str) -> Callable[..., None]:
    """Train with something done to the store in the middle; check what must hold whatever it was."""

    def train(store: str, broken: Callable[[Any], None], mended: Callable[[Any], None] | None = None, steps: int = 30) -> None:
        run, plain = fresh_small(), fresh_small()
        with foreshock.watch(run.model, run.optimizer, run="victim", store=store, every=2) as monitor:
            monitor._writer._flush_interval = 0.02
            for step in range(steps):
                if step == 10:
                    assert monitor.flush(20)
                    broken(monitor)
                if step == 20 and mended is not None:
                    mended(monitor)
                monitor.step(run.step())
        torch.manual_seed(0)
        plain = fresh_small()
        for _ in range(steps):
            plain.step()
        assert torch.equal(run.weights(), plain.weights())
        assert monitor.faults.total == 0
        assert monitor._writer.stats.points_lost == 0

    return train


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait ten seconds for a store that will not come back."""
    close = foreshock.storage.writer.Writer.close
    monkeypatch.setattr("foreshock.storage.writer.Writer.close", lambda self, timeout, **options: close(self, 0.5, **options))


def spooled(monitor: Any) -> None:
    """Wait until something is in the spool."""
    deadline = time.monotonic() + 30
    while monitor._writer.stats.points_spooled == 0:
        assert time.monotonic() < deadline, "nothing was spooled"
        time.sleep(0.01)


def loss_steps(store: str) -> list[int]:
    with contextlib.closing(foreshock.open_store(store)) as opened:
        steps: list[int] = opened.frame(opened.run("victim"), "loss")["step"].tolist()
        return steps


# -- disks -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_disk_that_fills_up_with_room_for_the_spool_elsewhere(
    disk: Path, tmp_path: Path, trained: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    store = f"sqlite:///{disk / 'runs.db'}"

    def filled(monitor: Any) -> None:
        with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as ballast:
            while True:
                ballast.write(b"x" * 4096)
        assert shutil.disk_usage(disk).free < 4096

    def emptied(monitor: Any) -> None:
        spooled(monitor)
        (disk / "ballast").unlink()

    trained(store, filled, emptied)
    assert loss_steps(store) == list(range(30))
    assert found_in(tmp_path) == []
    assert "disk is full" in caplog.text or "disk reports an error" in caplog.text


def test_a_disk_that_is_full_for_the_spool_as_well(
    disk: Path, trained: Callable[..., None], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(disk)  # beside the run: on the same disk
    store = f"sqlite:///{disk / 'runs.db'}"

    def filled(monitor: Any) -> None:
        with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as ballast:
            while True:
                ballast.write(b"x" * 512)

    def emptied(monitor: Any) -> None:
        deadline = time.monotonic() + 30
        while "Samples are kept in memory until it works again" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (disk / "ballast").unlink()

    trained(store, filled, emptied)
    assert loss_steps(store) == list(range(30))


def test_a_file_system_that_becomes_read_only(
    disk: Path, tmp_path: Path, trained: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    store = f"sqlite:///{disk / 'runs.db'}"

    def mounted(how: str) -> bool:
        return subprocess.run(["mount", "-o", f"remount,{how}", disk], capture_output=True, check=False).returncode == 0

    def broken(monitor: Any) -> None:
        deadline = time.monotonic() + 20
        while not mounted("ro"):  # which the system refuses while a file is open for writing
            monitor._writer.store._database.engine.dispose()
            assert time.monotonic() < deadline

    def mended(monitor: Any) -> None:
        spooled(monitor)
        assert mounted("rw")

    trained(store, broken, mended)
    assert loss_steps(store) == list(range(30))
    assert "read-only" in caplog.text


# -- runs that died while their store was away -------------------------------------------------------------------------------------


@pytest.fixture
def left(url: str, tmp_path: Path) -> Run:
    """A run that could store nothing before it ended; 20 steps of it are in its spool."""

    def away() -> foreshock.storage.Store:
        raise foreshock.storage.StoreUnavailableError("away")

    run = Run(new_id(), "left", created_at=1.0, heartbeat_at=1.0)
    writer = Writer(away, run, 0, analyze=lambda batch: (), spool=spool_place(".", 10**7, url))
    writer.start()
    for step in range(20):
        writer.put(StepRecord(step, 1.0 + step, (SeriesKey("loss"),), (float(step),)))
    assert not writer.close(0.1, status=RunStatus.CRASHED)
    assert len(found_in(tmp_path)) == 1
    return run


def test_a_run_that_is_resumed_goes_on_after_what_its_spool_holds(url: str, tmp_path: Path, left: Run, fresh_small: Any) -> None:
    run = fresh_small()
    with foreshock.watch(run.model, run.optimizer, store=url, resume="left") as monitor:
        assert (monitor.run.id, found_in(tmp_path)) == (left.id, [])
        for _ in range(5):
            monitor.step(run.step())
    with contextlib.closing(foreshock.open_store(url)) as store:
        assert [segment.start_step for segment in store.segments(left.id)] == [0, 20]
        frame = store.frame(left.id, "loss")
        assert list(zip(frame["segment"], frame["step"], strict=True)) == [(0, i) for i in range(20)] + [
            (1, i) for i in range(20, 25)
        ]
        assert store.run(left.id).status is RunStatus.FINISHED


def test_the_next_run_in_the_folder_drains_what_was_left(
    url: str, tmp_path: Path, left: Run, fresh_small: Any, eventually: Callable[[Callable[[], object], str], None]
) -> None:
    run = fresh_small()
    with foreshock.watch(run.model, run.optimizer, run="next", store=url) as monitor:
        monitor.step(run.step())
        eventually(lambda: found_in(tmp_path) == [], "the spool was drained")
    with contextlib.closing(foreshock.open_store(url)) as store:
        assert store.frame(left.id, "loss")["step"].tolist() == list(range(20))
        assert store.run(left.id).status is RunStatus.CRASHED
        assert [event.kind for event in store.events(left.id)] == ["spool_drained"]


# -- tables and passwords ----------------------------------------------------------------------------------------------------------


def test_a_table_that_is_dropped(
    url: str, tmp_path: Path, trained: Callable[..., None], quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    def dropped(monitor: Any) -> None:
        with contextlib.closing(sqlite3.connect(tmp_path / "runs.db")) as connection:
            connection.execute("DROP TABLE steps")
            connection.commit()

    trained(url, dropped)
    assert "no such table" in caplog.text
    assert "restore a backup or name another store" in caplog.text
    assert "Nothing is lost" in caplog.text
    # What was spooled is for a store at that address, which is mended by putting another in its place.
    (tmp_path / "runs.db").rename(tmp_path / "broken.db")
    with contextlib.closing(foreshock.open_store(url)) as store:
        drain_all(tmp_path, store)
    steps = loss_steps(url)
    assert steps == list(range(steps[0], 30))
    assert steps[0] <= 10


@pytest.fixture
def mariadb() -> Iterator[str]:
    """A database on a MariaDB server, and a user of its own with a password."""
    name = f"foreshock_{os.getpid()}"
    user = f"'{name}'@'%'"
    try:
        executed(
            MARIADB, f"CREATE DATABASE {name}", f"CREATE USER {user} IDENTIFIED BY 'right'", f"GRANT ALL ON {name}.* TO {user}"
        )
    except OperationalError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    yield make_url(MARIADB).set(username=name, password="right", database=name).render_as_string(hide_password=False)
    executed(MARIADB, f"DROP DATABASE {name}", f"DROP USER {user}")


class Cluster:
    """A PostgreSQL server of a test's own, which asks for passwords and may be stopped."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries = binaries
        self._folder = folder
        self._account = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
        (folder / "password").write_text("right")
        if self._account:
            shutil.chown(folder, "postgres", "postgres")
            shutil.chown(folder / "password", "postgres", "postgres")
        made = ["-D", folder / "data", "-U", "foreshock", "-A", "scram-sha-256", "--pwfile", folder / "password", "--no-sync"]
        subprocess.run([binaries / "initdb", *made], check=True, capture_output=True, cwd=folder, **self._account)  # type: ignore[call-overload]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"postgresql+psycopg://foreshock:right@127.0.0.1:{self.port}/postgres"
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["-D", self._folder / "data", "-p", str(self.port), "-h", "127.0.0.1", "-c", "unix_socket_directories="]
        self._server = subprocess.Popen(
            [self._binaries / "postgres", *options, "-c", "fsync=off"],
            stderr=subprocess.DEVNULL,
            cwd=self._folder,
            **self._account,  # type: ignore[call-overload]
        )
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OperationalError):
                executed(self.url, "SELECT 1")
                return
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.05)

    def stop(self) -> None:
        if self._server is not None:
            self._server.send_signal(signal.SIGQUIT)  # at once, as if the machine went away; it recovers at the next start
            self._server.wait(60)
            self._server = None


@pytest.fixture(scope="module")
def binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "")]
    if not found[-1].is_file():
        pytest.skip("no PostgreSQL server is installed to be started and stopped")
    return found[-1].parent


@pytest.fixture
def cluster(binaries: Path) -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="foreshock-cluster-"))
    made = Cluster(binaries, folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder)


def refused(store: str, says: str) -> None:
    """Watching with a wrong password is a mistake that is told before training begins."""
    wrong = make_url(store).set(password="wr0ng").render_as_string(hide_password=False)
    with pytest.raises(foreshock.storage.StoreConfigurationError, match=says) as caught:
        foreshock.watch(torch.nn.Linear(2, 2), store=wrong)
    assert "wr0ng" not in str(caught.value)


def test_a_password_that_changes_on_mariadb(mariadb: str, trained: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    refused(mariadb, "does not work as it is set up: .*Access denied for user")
    url = make_url(mariadb)
    user = f"'{url.username}'@'%'"

    def changed(monitor: Any) -> None:
        executed(MARIADB, f"ALTER USER {user} IDENTIFIED BY 'other'", f"KILL USER {user}")

    def changed_back(monitor: Any) -> None:
        spooled(monitor)
        executed(MARIADB, f"ALTER USER {user} IDENTIFIED BY 'right'")

    trained(mariadb, changed, changed_back)
    assert loss_steps(mariadb) == list(range(30))
    assert caplog.text.count("The store is back after") == 1


def test_a_password_that_changes_on_postgresql_and_a_server_that_is_stopped(
    cluster: Cluster, trained: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    refused(cluster.url, "does not work as it is set up: .*password authentication failed")
    admin = cluster.url

    def changed(monitor: Any) -> None:
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'foreshock' AND pid != pg_backend_pid()"
        executed(admin, "ALTER USER foreshock PASSWORD 'other'", others)

    def changed_back(monitor: Any) -> None:
        spooled(monitor)
        executed(admin.replace(":right@", ":other@"), "ALTER USER foreshock PASSWORD 'right'")

    trained(admin, changed, changed_back)
    assert loss_steps(admin) == list(range(30))
    assert caplog.text.count("The store is back after") == 1
    caplog.clear()
    trained(admin, lambda monitor: cluster.stop(), lambda monitor: (spooled(monitor), cluster.start()))
    assert loss_steps(admin) == list(range(30))
    assert caplog.text.count("nothing was lost") == 1


@pytest.fixture(autouse=True)
def _told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "foreshock")
