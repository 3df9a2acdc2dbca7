"""SQLite files among kills, crowds, full disks, read-only files, deletions and forks - with real processes and real files."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from foreshock.storage import Store, StoreError, StoreUnavailableError, open_store
from foreshock.storage.records import Batch, Change, Run, SeriesKey, StepRecord, new_id

MakeRun = Callable[..., Run]
MakeBatch = Callable[..., Batch]

WRITER = """
import sys, os
from foreshock.storage import open_store
from foreshock.storage.records import *
path, name, batches = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = open_store(path)
run = Run(name, name, created_at=1.0)
store.create_run(run)
keys = tuple(SeriesKey("s", f"m{i}") for i in range(20))
for number in range(batches):
    steps = tuple(StepRecord(s, float(s), keys, [float(s)] * 20) for s in range(number * 10, number * 10 + 10))
    store.write(Batch(new_id(), run.id, 0, steps))
    os.write(1, b"%d\\n" % number)  # reported as durable
store.close()
"""


def python(code: str, *arguments: object) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", code, *map(str, arguments)]
    # Unbuffered: communicate() would pass over what readline() had read ahead.
    return subprocess.Popen(
        command, bufsize=0, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONWARNINGS": "error"}
    )


def integrity(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])


# -- kills and crowds --------------------------------------------------------------------------------------------


def test_what_was_reported_written_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    for attempt, reports in enumerate((1, 4, 9, 17, 33)):
        process = python(WRITER, path, f"run{attempt}", 10_000)
        assert process.stdout is not None
        for _ in range(reports):
            last = process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        rest = process.communicate()[0].splitlines(keepends=True)
        complete = [line for line in (last, *rest) if line.endswith(b"\n")]
        durable = int(complete[-1]) + 1
        assert integrity(path) == "ok"
        with contextlib.closing(open_store(path)) as store:
            data = store.read(store.series(f"run{attempt}"))
            assert len(data) == 20
            steps = {len(series.steps) for series in data}
            # All series alike, nothing half-written, and at most the one batch more whose report did not come through.
            assert steps <= {durable * 10, durable * 10 + 10}
            assert len(steps) == 1
            assert store.changes(f"run{attempt}").ranges == (Change(0, 0, steps.pop() - 1),)
            assert store.open_segment(f"run{attempt}", 0, 1.0) == 0


def test_eight_processes_write_one_file_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    processes = [python(WRITER, path, f"run{i}", 25) for i in range(8)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert errors == b""
        assert process.returncode == 0
    with contextlib.closing(open_store(path)) as store:
        assert sorted(run.name for run in store.runs()) == [f"run{i}" for i in range(8)]
        for run in store.runs():
            assert run.last_step == 249
            assert [len(data.steps) for data in store.read(store.series(run.id))] == [250] * 20
    assert integrity(path) == "ok"


def test_a_lock_that_is_held_too_long_is_reported(tmp_path: Path, file_store: Store, new_run: MakeRun) -> None:
    impatient = open_store(f"sqlite:///{tmp_path / 'runs.db'}?timeout=0.05")
    with contextlib.closing(sqlite3.connect(tmp_path / "runs.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match="another process holds its lock"):
            impatient.create_run(new_run())
        assert impatient.runs() == []  # readers do not wait for a writer
        other.execute("ROLLBACK")
    impatient.create_run(new_run())
    impatient.close()


# -- disks -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("only root can mount a small file system; the limit on file sizes is tested without")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_reported_and_writing_goes_on_when_there_is_room(
    small_disk: Path, new_run: MakeRun, batch_of: MakeBatch
) -> None:
    store = open_store(small_disk / "runs.db")
    run = new_run()
    store.create_run(run)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 800_000)
    written = 0

    def fill() -> None:
        nonlocal written
        while written < 100:
            store.write(batch_of(run, range(written * 500, written * 500 + 500), ("a", "b", "c", "d")))
            written += 1

    with pytest.raises(StoreUnavailableError, match=r"disk is full|disk reports an error"):
        fill()
    assert written > 0
    assert [len(data.steps) for data in store.read(store.series(run.id))] == [written * 500] * 4
    ballast.unlink()
    store.write(batch_of(run, range(written * 500, written * 500 + 500), ("a", "b", "c", "d")))
    assert [len(data.steps) for data in store.read(store.series(run.id))] == [written * 500 + 500] * 4
    store.close()
    assert integrity(small_disk / "runs.db") == "ok"


def test_a_file_that_may_not_grow_is_reported(tmp_path: Path) -> None:
    code = """
import resource, signal, sys
from foreshock.storage import StoreUnavailableError, open_store
from foreshock.storage.records import *
store = open_store(sys.argv[1])
store.create_run(Run("r", "r"))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
key = (SeriesKey("loss"),)
try:
    for i in range(1000):
        store.write(Batch(new_id(), "r", 0, tuple(StepRecord(s, 0.0, key, [0.1]) for s in range(i * 1000, i * 1000 + 1000))))
except StoreUnavailableError as error:
    print(len(store.read(store.series("r"))[0].steps) == i * 1000, error)
"""
    out, errors = python(code, tmp_path / "runs.db").communicate(timeout=60)
    assert out.startswith(b"True The store sqlite:///"), errors
    assert integrity(tmp_path / "runs.db") == "ok"


def open_to_all(folder: Path) -> None:
    """Let other users reach a folder of pytest's."""
    for each in (folder, *folder.parents):
        if "pytest-of-" in str(each):
            each.chmod(0o755)


def test_a_read_only_file_can_be_read_and_says_why_it_cannot_be_written(
    tmp_path: Path, file_store: Store, new_run: MakeRun, batch_of: MakeBatch
) -> None:
    """As an ordinary user: to root no file is read-only."""
    run = new_run("seen", id="r")
    file_store.create_run(run)
    file_store.write(batch_of(run, range(5)))
    file_store.close()
    (tmp_path / "runs.db").chmod(0o444)
    code = """
import os, sys
import sqlalchemy.dialects.sqlite.pysqlite, foreshock.storage.sqlalchemy_store
from foreshock.storage import StoreUnavailableError, open_store
from foreshock.storage.records import *
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)
store = open_store(sys.argv[1], create=False)
print([run.name for run in store.runs()])
for write in (store.check, lambda: store.write(Batch(new_id(), "r", 0, (StepRecord(9, 0.0, (SeriesKey("loss"),), [1.0]),)))):
    try:
        write()
    except StoreUnavailableError as error:
        print(error)
"""
    open_to_all(tmp_path)
    tmp_path.chmod(0o777)  # the folder takes the log beside the file
    out, errors = python(code, tmp_path / "runs.db").communicate(timeout=60)
    lines = out.decode().splitlines()
    assert lines[:1] == ["['seen']"], errors
    assert len(lines) == 3
    assert all("it is read-only" in line for line in lines[1:])


def test_a_folder_one_may_not_write_in_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    open_to_all(tmp_path)
    code = """
import os, sys
import sqlalchemy.dialects.sqlite.pysqlite, foreshock.storage.sqlalchemy_store
from foreshock.storage import StoreUnavailableError, open_store
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)
try:
    open_store(sys.argv[1])
except StoreUnavailableError as error:
    print(error)
"""
    out, errors = python(code, folder / "runs.db").communicate(timeout=60)
    assert b"no permission to write in" in out, errors


# -- files that go away ------------------------------------------------------------------------------------------


def test_a_vanished_file_is_noticed_and_only_a_run_makes_a_new_one(
    tmp_path: Path, file_store: Store, new_run: MakeRun, batch_of: MakeBatch
) -> None:
    run = new_run()
    file_store.create_run(run)
    file_store.write(batch_of(run, range(5)))
    (tmp_path / "runs.db").unlink()
    calls: list[Callable[[], object]] = [
        lambda: file_store.write(batch_of(run, range(5, 10))),
        lambda: file_store.runs(),
        lambda: file_store.update_run(run.id, heartbeat_at=1.0),
        lambda: file_store.save_alerts([]),
        lambda: file_store.check(),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailableError, match="removed or replaced"):
            call()
    assert not (tmp_path / "runs.db").exists()
    file_store.create_run(run)
    file_store.write(batch_of(run, range(5, 10), ("lr", "loss")))
    with contextlib.closing(open_store(tmp_path / "runs.db", create=False)) as fresh:
        assert [list(data.steps) for data in fresh.read(fresh.series(run.id))] == [[5, 6, 7, 8, 9]] * 2


def test_a_file_that_took_the_place_of_the_store_is_not_mistaken_for_it(
    tmp_path: Path, file_store: Store, new_run: MakeRun, batch_of: MakeBatch
) -> None:
    """Series have other numbers there: writing under the old ones would mix the signals up."""
    run = new_run()
    file_store.create_run(run)
    file_store.write(batch_of(run, range(5), ("loss", "lr")))
    with contextlib.closing(open_store(tmp_path / "other.db")) as other:
        other.create_run(run)
        other.write(batch_of(run, range(1), ("lr", "loss")))
    (tmp_path / "other.db").rename(tmp_path / "runs.db")
    with pytest.raises(StoreUnavailableError, match="removed or replaced"):
        file_store.write(batch_of(run, range(5, 10), ("loss", "lr")))
    file_store.write(batch_of(run, range(5, 10), ("loss", "lr")))
    values = {data.key.signal: list(data.values) for data in file_store.read(file_store.series(run.id), start=5)}
    assert values == {"loss": [5.0, 6.0, 7.0, 8.0, 9.0], "lr": [6.0, 7.0, 8.0, 9.0, 10.0]}


def test_a_run_deleted_and_made_again_does_not_write_under_its_old_numbers(
    tmp_path: Path, file_store: Store, new_run: MakeRun, batch_of: MakeBatch
) -> None:
    run = new_run()
    file_store.create_run(run)
    file_store.write(batch_of(run, range(5)))
    with contextlib.closing(sqlite3.connect(tmp_path / "runs.db")) as other:
        other.execute("PRAGMA foreign_keys = ON")
        other.execute("DELETE FROM runs")
        other.commit()
    with contextlib.closing(open_store(tmp_path / "runs.db")) as other_store:
        other_store.create_run(run)
    file_store.write(batch_of(run, range(5, 8)))
    assert [list(data.steps) for data in file_store.read(file_store.series(run.id))] == [[5, 6, 7]]


def test_a_folder_that_vanished_is_reported(tmp_path: Path, new_run: MakeRun) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    with contextlib.closing(open_store(folder / "runs.db")) as store:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        for call in (store.check, lambda: store.create_run(new_run())):
            with pytest.raises(StoreUnavailableError):
                call()


def test_a_damaged_file_is_a_clear_message(tmp_path: Path, file_store: Store, new_run: MakeRun, batch_of: MakeBatch) -> None:
    run = new_run()
    file_store.create_run(run)
    file_store.write(batch_of(run, range(2000)))
    file_store.close()
    path = tmp_path / "runs.db"
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xa5" * (len(content) - 8192)
    path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged"), contextlib.closing(open_store(path)) as store:
        store.read(store.series(run.id))


# -- forks -------------------------------------------------------------------------------------------------------


def test_a_forked_child_leaves_the_store_alone(tmp_path: Path, file_store: Store, new_run: MakeRun, batch_of: MakeBatch) -> None:
    run = new_run()
    file_store.create_run(run)
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            try:
                file_store.write(batch_of(run, range(5)))
            except StoreUnavailableError as error:
                status = 0 if "forked process" in str(error) else 2
            file_store.abandon()
            file_store.close()
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    file_store.write(batch_of(run, range(5)))
    assert file_store.run(run.id).last_step == 4
    assert integrity(tmp_path / "runs.db") == "ok"


# -- sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps_per_batch", [1, 20])
def test_a_point_costs_less_than_40_bytes(tmp_path: Path, file_store: Store, new_run: MakeRun, steps_per_batch: int) -> None:
    run = new_run()
    file_store.create_run(run)
    keys = tuple(SeriesKey("spectral.sigma1", f"blocks.{i}.attn.q") for i in range(200))
    started = time.perf_counter()
    for first in range(0, 400, steps_per_batch):
        records = tuple(
            StepRecord(s, float(s), keys, [1 / (s + i + 3) for i in range(200)]) for s in range(first, first + steps_per_batch)
        )
        file_store.write(Batch(new_id(), run.id, 0, records))
    print(f"{200 * 400 / (time.perf_counter() - started):,.0f} points/s in batches of {steps_per_batch} steps")
    file_store.close()
    cost = (tmp_path / "runs.db").stat().st_size / (200 * 400)
    print(f"{cost:.1f} bytes a point")
    assert cost < 40
