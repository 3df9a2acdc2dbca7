"""Many processes in one store: no lock reaches anyone, nothing is lost, every run is in order."""

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

from foreshock.storage import Store, open_store
from foreshock.storage.records import RunStatus
from foreshock.storage.spool import found_in
from foreshock.storage.tables import metadata

PROCESS = Path(__file__).with_name("many_writers.py")
STEPS, SERIES = 60, 10


def logged(url: str, folder: Path, processes: int) -> list[dict[str, object]]:
    """Log from that many processes at once; return what each says of itself."""
    command = [sys.executable, "-P", str(PROCESS), url, str(folder), str(processes), str(STEPS), str(SERIES)]
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=170)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def nothing_is_missing(store: Store, processes: int, folder: Path) -> None:
    runs = store.runs()
    assert sorted(run.id for run in runs) == [f"{folder.name}-{number:02}" for number in range(processes)]
    for run in runs:
        assert (run.status, run.last_step) == (RunStatus.FINISHED, STEPS - 1)
        data = store.read(store.series(run.id))
        assert [list(series.steps) for series in data] == [list(range(STEPS))] * SERIES
        # Batches became visible in the order of their steps: no range begins before the one before it has ended.
        ranges = store.changes(run.id).ranges
        assert [each.first_step for each in ranges] == sorted(each.first_step for each in ranges)
        assert [alert.rule for alert in store.alerts(run)] == ["r"]
        assert [event.kind for event in store.events(run.id) if event.kind != "store_recovered"] == ["done"]
    assert found_in(folder) == []


def test_32_processes_write_one_sqlite_file(tmp_path: Path) -> None:
    folder = tmp_path / "writers"
    folder.mkdir()
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    told = logged(url, folder, 32)
    assert [(each["saved"], each["judged"], each["lost"], each["errors"], each["troubles"]) for each in told] == [
        (True, True, 0, 0, [])
    ] * 32
    with contextlib.closing(open_store(url)) as store:
        nothing_is_missing(store, 32, folder)
    with contextlib.closing(sqlite3.connect(tmp_path / "runs.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_64_processes_write_one_postgresql_database(tmp_path: Path, emptied_postgres_url: str) -> None:
    folder = tmp_path / "writers"
    folder.mkdir()
    told = logged(emptied_postgres_url, folder, 64)
    store = open_store(emptied_postgres_url)
    try:
        assert [(each["saved"], each["judged"], each["lost"]) for each in told] == [(True, True, 0)] * 64
        # A server that others use as well may have no connection left for a moment: that is waited for. Nothing else may happen.
        assert all("too many clients" in str(trouble) or "is back" in str(trouble) for each in told for trouble in each["troubles"])  # type: ignore[attr-defined]
        assert max(int(str(each["connections"])) for each in told) <= 2, "the server has a hundred for all"
        nothing_is_missing(store, 64, folder)
    finally:
        with store._database.write() as connection:  # type: ignore[attr-defined]
            for table in reversed(metadata.sorted_tables):  # the next test finds the server empty
                connection.execute(table.delete())
        store.close()


def test_one_that_writes_without_a_pause_keeps_nobody_out(tmp_path: Path) -> None:
    """SQLite alone would let the busy one go on for seconds while the others look for the lock ever more seldom."""
    code = """
import os, sys, time
from foreshock.storage import open_store
from foreshock.storage.records import *
store, name, seconds = open_store(sys.argv[1]), sys.argv[2], float(sys.argv[3])
store.create_run(Run(name, name))
key = (SeriesKey("s"),)
print("ready", flush=True); sys.stdin.readline()
count, longest, stop = 0, 0.0, time.monotonic() + seconds
while time.monotonic() < stop:
    started = time.monotonic()
    store.write(Batch(new_id(), name, 0, tuple(StepRecord(count * 200 + s, 0.0, key, [0.0]) for s in range(200))))
    count, longest = count + 1, max(longest, time.monotonic() - started)
print(count, longest)
"""
    command = [sys.executable, "-P", "-c", code, str(tmp_path / "runs.db")]
    processes = [
        subprocess.Popen([*command, f"w{number}", "2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for number in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    found = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        count, longest = process.communicate(timeout=60)[0].split()
        found.append((int(count), float(longest)))
    assert min(count for count, _ in found) > 0.25 * max(count for count, _ in found), found
