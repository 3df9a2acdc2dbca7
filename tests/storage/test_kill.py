"""``kill -9`` of a logging process, again and again, at any moment: what it was told is durable is there, and the run goes on.

FORESHOCK_TEST_KILLS says how many times (8 by default; a release is tried with 100).
"""

import contextlib
import os
import random
import select
import signal
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from foreshock.storage import Store, StoreUnavailableError, open_store
from foreshock.storage.leftovers import drain_all
from foreshock.storage.opening import spool_place
from foreshock.storage.records import Run, Segment, SeriesKey, StepRecord
from foreshock.storage.spool import found_in
from foreshock.storage.tables import metadata
from foreshock.storage.writer import Writer

KILLS = int(os.environ.get("FORESHOCK_TEST_KILLS", "8"))
KEYS = tuple(SeriesKey("s", f"m{i}") for i in range(20))


def log(url: str, folder: Path, run: Run, start: int, reports: int, *, away: bool = False, flushing: bool = False) -> None:
    """Log until killed, telling over a pipe what is durable: steps in the store, and points in the spool."""

    def opened() -> Store:
        if away:
            raise StoreUnavailableError("away")
        return open_store(url)

    if away:
        segment = Segment(run.id, 0, start, time.time())
    else:
        with contextlib.closing(open_store(url)) as store:
            store.create_run(run)
            now = time.time()
            segment = Segment(run.id, store.open_segment(run.id, start, now), start, now)
    writer = Writer(opened, run, segment, analyze=lambda batch: (), spool=spool_place(str(folder), 10**9, url))
    writer.start()
    step, flushed = start, 0
    while True:
        writer.put(StepRecord(step, time.time(), KEYS, [float(step)] * len(KEYS)))
        step += 1
        if flushing and step % 100 == 0 and writer.flush(5):
            flushed = step - start
        stats = writer.stats
        durable = stats.points_spooled // len(KEYS) if away else max(flushed, stats.steps_written)
        os.write(reports, b"%d\n" % durable)
        time.sleep(0.002)


def killed(seconds: float, *arguments: object, **options: object) -> tuple[int, float]:
    """Let a process log, kill it that long after its first report; return the last one, and when it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with contextlib.suppress(BaseException):
            log(*arguments[:4], writing, **options)  # type: ignore[arg-type]
        os._exit(1)
    os.close(writing)
    try:
        told = os.read(reading, 1 << 20)
        assert told, "it ended before it logged anything"
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if select.select([reading], [], [], left)[0]:
                told = (told + os.read(reading, 1 << 20))[-100:]
        os.kill(child, signal.SIGKILL)
        at = time.time()
        while rest := os.read(reading, 1 << 20):
            told = (told + rest)[-100:]
        return int(told.rsplit(b"\n", 2)[-2]), at
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        os.close(reading)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A store that other processes reach too, empty again at the end."""
    yield (
        url := request.getfixturevalue("emptied_postgres_url") if request.param == "postgres" else f"sqlite:///{tmp_path}/runs.db"
    )
    with contextlib.closing(open_store(url)) as store, store._database.write() as connection:  # type: ignore[attr-defined]
        for table in reversed(metadata.sorted_tables):
            connection.execute(table.delete())


def test_a_run_that_is_killed_again_and_again_loses_nothing_it_was_told_is_durable(
    url: str, tmp_path: Path, new_run: Callable[..., Run]
) -> None:
    run = new_run()
    dice = random.Random(6)
    behind: list[float] = []
    start = 0
    for segment in range(KILLS):
        durable, at = killed(dice.uniform(0.0, 2.0), url, tmp_path, run, start, flushing=segment % 2 == 1)
        if url.startswith("sqlite"):
            with contextlib.closing(sqlite3.connect(tmp_path / "runs.db")) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        with contextlib.closing(open_store(url)) as store:
            times = [(step, seen) for number, step, seen in store.step_times(run.id) if number == segment]
            data = [series for series in store.read(store.series(run.id), segment=segment) if series.steps]
            assert len(times) >= durable
            steps = list(range(start, start + len(times)))
            assert [step for step, _ in times] == steps
            assert len(data) == (len(KEYS) if steps else 0)
            assert all(list(series.steps) == steps and list(series.values) == steps for series in data)
            assert [each.segment for each in store.segments(run.id)] == list(range(segment + 1))
            if times:
                behind.append(at - times[-1][1])
            assert store.run(run.id).last_step == start + len(times) - 1
            start += len(times)
    print(
        f"{KILLS} kills: {start:,} steps stored; missing at a kill: {statistics.median(behind):.2f} s, at most {max(behind):.2f} s"
    )
    assert statistics.median(behind) < 1.0
    assert found_in(tmp_path) == []


def test_a_run_that_is_killed_while_its_store_is_away_loses_the_last_second_at_most(
    tmp_path: Path, new_run: Callable[..., Run]
) -> None:
    url = f"sqlite:///{tmp_path}/runs.db"
    dice = random.Random(7)
    behind: list[float] = []
    for number in range(max(3, KILLS // 4)):
        run = new_run(f"run {number}")
        durable, at = killed(dice.uniform(1.2, 2.5), url, tmp_path, run, 0, away=True)
        with contextlib.closing(open_store(url)) as store:
            drain_all(tmp_path, store)
            times = store.step_times(run.id)
        assert [step for _, step, _ in times] == list(range(len(times)))
        assert len(times) >= max(1, durable)
        behind.append(at - times[-1][2])
    print(f"{len(behind)} kills: missing at a kill: {statistics.median(behind):.2f} s, at most {max(behind):.2f} s")
    assert statistics.median(behind) < 1.2
    assert found_in(tmp_path) == []
