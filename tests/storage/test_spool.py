"""The spool: what a store cannot take waits on disk, survives its process, and comes in later, in order and once."""

import contextlib
import json
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from foreshock.commands.spool import add_commands
from foreshock.doctor import _spools
from foreshock.storage import Store, StoreUnavailableError, open_store, trouble
from foreshock.storage.entries import End, Entry, Judgement, decode, encode
from foreshock.storage.leftovers import drain_all, opened
from foreshock.storage.opening import spool_place
from foreshock.storage.records import (
    Alert,
    AlertState,
    Batch,
    Cause,
    Event,
    Evidence,
    Histogram,
    Notification,
    Run,
    RunStatus,
    Segment,
    SeriesKey,
    Severity,
    StepRecord,
    derived_id,
    new_id,
)
from foreshock.storage.spool import SpoolBusyError, SpoolError, SpoolFile, SpoolFullError, SpoolPlace, found_in
from foreshock.storage.tables import metadata
from foreshock.storage.writer import Writer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

KEYS = (SeriesKey("loss"), SeriesKey("gradient.norm", "blocks.ü", 3, 1))


def record(step: int) -> StepRecord:
    return StepRecord(step, 1000.0 + step, KEYS, (float(step), -float(step)))


def batch_at(run: Run, first: int, steps: int = 5, segment: int = 0) -> Batch:
    return Batch(derived_id(run.id, segment, first), run.id, segment, tuple(record(first + i) for i in range(steps)))


def alert_of(run: Run, episode: int = 0, state: AlertState = AlertState.FIRING, segment: int = 0) -> Alert:
    evidence = (Evidence(KEYS[1], (1, 2), (math.nan, math.inf), 3.0, None),)
    causes = (Cause("lr", "rate", 0.5, ("a", "b"), "lower it", "lr"),)
    name = derived_id(run.id, "r", "m", episode)
    warning = Severity.WARNING
    return Alert(
        name, run.id, "r", "m", episode, warning, state, segment, 1, 2, 10.0, 11.0, "ü", math.nan, 1.5, evidence, causes, "x"
    )


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def steps_in(store: Store, run: Run, segment: int = 0) -> list[int]:
    return [step for data in store.read(store.series(run.id, signal="loss"), segment=segment) for step in data.steps]


@pytest.fixture
def run(new_run: Callable[..., Run]) -> Run:
    return new_run(meta={"host": "here"}, tags=("a", "b"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "spools"
    made.mkdir()
    return made


class Door:
    """A store that can be shut: what a server is that goes away and comes back."""

    def __init__(self, store: Store) -> None:
        self.shut = True
        self._store = store

    def __call__(self) -> Store:
        if self.shut:
            raise StoreUnavailableError("the server is away")
        return self._store


def writer_of(store: Store | Callable[[], Store], run: Run, place: SpoolPlace | None, **options: object) -> Writer:
    made = Writer(store, run, 0, **{"analyze": lambda batch: (), "flush_interval": 0.02, "spool": place} | options)  # type: ignore[arg-type]
    made.start()
    return made


# -- what an entry looks like on disk ----------------------------------------------------------------------------------------------


def same(one: Entry, other: Entry) -> bool:
    # By their text: nan is not equal to itself, and a tuple of values comes back as a list.
    return repr(one).replace("(", "[").replace(",)", "]").replace(")", "]") == repr(other).replace("(", "[").replace(
        ",)", "]"
    ).replace(")", "]")


@given(
    st.lists(
        st.tuples(
            st.integers(-(2**63), 2**63 - 1),
            st.floats(allow_nan=False, width=64),
            st.sampled_from([KEYS, KEYS[:1], (), tuple(SeriesKey(f"s{i}", "m" * i) for i in range(9))]),
            st.randoms(use_true_random=False),
        ),
        max_size=12,
    )
)
def test_a_batch_comes_back_bit_by_bit(parts: list[tuple[int, float, tuple[SeriesKey, ...], random.Random]]) -> None:
    special = (0.0, -0.0, math.nan, math.inf, -math.inf, 5e-324, 1.7976931348623157e308, 0.1)
    records = tuple(
        StepRecord(
            step,
            at,
            keys,
            [dice.choice((*special, dice.random())) for _ in keys],
            tuple(Histogram(key, 0.1, 0.2, (0, dice.randrange(2**40))) for key in keys[:2]),
        )
        for step, at, keys, dice in parts
    )
    batch = Batch("id", "run", 3, records)
    kind, data = encode(batch)
    back = decode(kind, data)
    assert same(batch, back)
    assert isinstance(back, Batch)
    shared = {id(record.keys) for record in back.steps}
    assert len(shared) == len({record.keys for record in records}), "steps share their keys again"


def test_everything_else_comes_back_as_it_was(run: Run) -> None:
    entries: list[Entry] = [
        Segment(run.id, 3, 40, 7.123456789),
        Judgement((alert_of(run), alert_of(run, 1, AlertState.RESOLVED)), (Notification("n", "a", "json://x", "t", "b"),)),
        Event("e", run.id, 0, 5, 1.0, "k", "m \N{SNOWMAN}", {"a": [1, None, {"b": "c"}]}),
        End(RunStatus.CRASHED, 12.5),
    ]
    for entry in entries:
        assert same(entry, decode(*encode(entry)))


def test_what_is_no_number_is_refused_before_it_is_written(folder: Path, run: Run) -> None:
    spool = SpoolFile.create(SpoolPlace(folder, 10**6, "sqlite:////x.db"), run, [Segment(run.id, 0, 0, 1.0)], [])
    for bad in (replace(record(0), step=2**70), replace(record(0), values=("x", "y"))):
        with pytest.raises((ValueError, OverflowError)):
            spool.append([(1, Batch("b", run.id, 0, (bad,)))])
    assert (spool.entries, spool.first()) == (0, None)
    spool.close()


# -- the file ----------------------------------------------------------------------------------------------------------------------


def test_a_spool_is_first_in_first_out_and_goes_when_it_is_empty(folder: Path, run: Run) -> None:
    spool = SpoolFile.create(SpoolPlace(folder, 10**7, "sqlite:////x.db"), run, [Segment(run.id, 0, 0, 1.0)], ["json://secret"])
    assert spool.path.stat().st_mode & 0o077 == 0, "channels may hold secrets"
    for number in range(100):
        spool.append([(number, batch_at(run, number))])
        if number % 3 == 0:
            first = spool.first()
            assert first is not None
            spool.take(first[0])
    assert (spool.entries, spool.points) == (66, 660)
    with pytest.raises(SpoolBusyError, match="in use by a living process"):
        SpoolFile.open(spool.path)
    spool.close()
    again = SpoolFile.open(spool.path)
    assert (again.entries, again.points, again.bytes) == (66, 660, spool.bytes)
    assert (again.about.run, again.about.channels, again.about.address) == (run, ("json://secret",), "sqlite:////x.db")
    seen = []
    while (first := again.first()) is not None:
        seen.append(first[0])
        again.take(first[0])
    assert seen == list(range(34, 100))
    again.close()
    assert list(folder.iterdir()) == []


def test_its_bound_holds_and_room_given_back_is_used_again(folder: Path, run: Run) -> None:
    spool = SpoolFile.create(SpoolPlace(folder, 300_000, "sqlite:////x.db"), run, [Segment(run.id, 0, 0, 1.0)], [])
    number = 0

    def fill() -> None:
        nonlocal number
        while number < 10_000:
            spool.append([(number, batch_at(run, number, 100))])
            number += 1

    for _ in range(3):
        with pytest.raises(SpoolFullError, match="300,000 bytes, see spool_limit"):
            fill()
        assert 150_000 < spool.path.stat().st_size <= 300_000
        for _ in range(spool.entries // 2):
            first = spool.first()
            assert first is not None
            spool.take(first[0])
    spool.close()


def test_what_is_no_spool_or_a_newer_one_is_left_alone(folder: Path, run: Run, tmp_path: Path) -> None:
    spool = SpoolFile.create(SpoolPlace(folder, 10**7, f"sqlite:///{tmp_path / 'runs.db'}"), run, [Segment(run.id, 0, 0, 1.0)], [])
    spool.append([(1, batch_at(run, 0))])
    spool.close()
    other, text = folder / "foreshock-spool-other.db", folder / "foreshock-spool-text.db"
    with contextlib.closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE entries (a)")
    text.write_text("not a database at all " * 100)
    with contextlib.closing(sqlite3.connect(spool.path)) as connection:
        connection.execute("PRAGMA user_version = 2")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(SpoolError, match=r"newer foreshock \(spool version 2; this one knows up to 1\).*pip install -U foreshock"):
        SpoolFile.open(spool.path)
    with pytest.raises(SpoolError, match="not a spool of foreshock's"):
        SpoolFile.open(other)
    with pytest.raises(SpoolError, match="not a database"):
        SpoolFile.open(text)
    with contextlib.closing(open_store(tmp_path / "runs.db")) as store:
        drain_all(folder, store)
        assert store.runs() == []
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


# -- the writer's use of it --------------------------------------------------------------------------------------------------------


def test_an_outage_goes_through_the_spool_and_everything_is_there_in_order(folder: Path, file_store: Store, run: Run) -> None:
    door = Door(file_store)
    order: list[int] = []
    write = file_store.write_together

    def written(batches: Sequence[Batch]) -> None:
        write(batches)
        order.extend(item.step for batch in batches for item in batch.steps)

    file_store.write_together = written  # type: ignore[method-assign]
    writer = writer_of(door, run, spool_place(str(folder), 10**8, file_store))
    for step in range(40):
        if step == 20:
            writer.begin_segment(Segment(run.id, 1, 20, 5.0))
        writer.put(record(step))
        if step == 10:
            writer.put_alerts([alert_of(run)])
            writer.put_event(Event("e", run.id, 0, 5, 1.0, "meanwhile", "m"))
        time.sleep(0.02)
    until(lambda: writer.stats.points_spooled >= 60)
    (path,) = found_in(folder)
    stats = writer.stats
    assert not stats.store_ok
    assert 0 < stats.bytes_spooled <= path.stat().st_size
    door.shut = False
    until(lambda: writer.flush(5))
    assert order == list(range(40))
    assert (steps_in(file_store, run, 0), steps_in(file_store, run, 1)) == (list(range(20)), list(range(20, 40)))
    assert [alert.state for alert in file_store.alerts(run)] == [AlertState.FIRING]
    assert [event.kind for event in file_store.events(run.id)] == ["meanwhile", "store_recovered"]
    assert [segment.segment for segment in file_store.segments(run.id)] == [0, 1]
    assert (writer.stats.points_spooled, writer.stats.points_lost) == (0, 0)
    assert found_in(folder) == []
    assert writer.close(5, status=RunStatus.FINISHED)


def test_a_short_hiccup_does_not_touch_the_disk(folder: Path, file_store: Store, run: Run) -> None:
    door = Door(file_store)
    writer = writer_of(door, run, spool_place(str(folder), 10**8, file_store))
    writer.put(record(0))
    until(lambda: not writer.stats.store_ok)
    door.shut = False
    assert writer.flush(5)
    assert found_in(folder) == []
    assert steps_in(file_store, run) == [0]
    assert writer.close(5)


def test_a_run_that_ends_while_the_store_is_away_leaves_a_spool_that_is_drained_later(
    folder: Path, file_store: Store, run: Run
) -> None:
    told: list[str] = []
    place = spool_place(str(folder), 10**8, file_store)
    writer = writer_of(Door(file_store), run, place, on_trouble=lambda message, error: told.append(message))
    for step in range(10):
        writer.put(record(step))
    writer.put_alerts([alert_of(run)])
    assert not writer.close(0.1, status=RunStatus.CRASHED)
    assert writer.stats.points_lost == 0
    assert "Nothing is lost: 20 samples wait in" in told[-1]
    assert f"foreshock db drain {folder}" in told[-1]
    drain_all(folder, file_store)
    stored = file_store.run(run.id)
    assert (stored.status, stored.last_step, stored.meta) == (RunStatus.CRASHED, 9, {"host": "here"})
    assert steps_in(file_store, run) == list(range(10))
    assert [event.kind for event in file_store.events(run.id)] == ["spool_drained"]
    assert len(file_store.alerts(run)) == 1
    assert found_in(folder) == []


def test_a_spool_that_fills_says_so_once_and_what_is_lost_is_counted(folder: Path, file_store: Store, run: Run) -> None:
    told: list[str] = []
    door = Door(file_store)
    place = spool_place(str(folder), 65_536, file_store)
    writer = writer_of(door, run, place, backlog_points=5_000, on_trouble=lambda message, error: told.append(message))
    keys = tuple(SeriesKey("s", f"m{i}") for i in range(500))
    sent = 200
    for step in range(sent):
        writer.put(StepRecord(step, 1.0 + step, keys, [float(step)] * 500))
        until(lambda: writer.stats.queue_depth == 0)
    until(lambda: writer.stats.points_lost > 0)
    assert sum("There is no room for more in" in message for message in told) == 1
    assert sum("the oldest are being dropped" in message for message in told) == 1
    door.shut = False
    until(lambda: writer.flush(5))
    lost = writer.stats.points_lost
    data = file_store.read(file_store.series(run.id))
    assert sum(len(series.steps) for series in data) + lost == sent * 500
    steps = list(data[0].steps)
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (0, sent - 1), "the oldest are in the spool, the newest in memory"
    kinds = {event.kind: event.data for event in file_store.events(run.id)}
    assert kinds["spool_full"]["points_spooled"] > 0
    assert kinds["store_recovered"]["points_lost"] == lost
    assert writer.close(5)


def test_where_nothing_can_be_spooled_memory_holds_what_it_can(tmp_path: Path, file_store: Store, run: Run) -> None:
    told: list[str] = []
    door = Door(file_store)
    place = spool_place(str(tmp_path / "no" / "such" / "folder"), 10**6, file_store)
    writer = writer_of(door, run, place, on_trouble=lambda message, error: told.append(message))
    writer.put(record(0))
    until(lambda: any("cannot be used: No such file or directory" in message for message in told))
    door.shut = False
    until(lambda: writer.flush(5))
    assert steps_in(file_store, run) == [0]
    assert [event.kind for event in file_store.events(run.id)] == ["spool_failed", "store_recovered"]
    assert writer.close(5)


@pytest.mark.parametrize("given_folder", ["", "off"])
def test_it_can_be_turned_off_and_memory_stores_have_none(given_folder: str, file_store: Store, folder: Path) -> None:
    assert spool_place(given_folder, 1, file_store) is None
    assert spool_place(str(folder), 1, "sqlite://") is None
    assert spool_place(str(folder), 1, "sqlite:///:memory:") is None


def test_a_password_is_not_in_the_file(folder: Path, run: Run) -> None:
    place = spool_place(str(folder), 10**6, "postgresql://user:hunter2@host/db?sslpassword=hunter3")
    assert place is not None
    spool = SpoolFile.create(place, run, [Segment(run.id, 0, 0, 1.0)], [])
    spool.append([(1, batch_at(run, 0))])
    assert b"hunter" not in spool.path.read_bytes()
    spool.take(1)
    spool.close()


# -- processes that die ------------------------------------------------------------------------------------------------------------

SPOOLING = """
import sys, time
from foreshock.storage import StoreUnavailableError
from foreshock.storage.opening import spool_place
from foreshock.storage.records import *
from foreshock.storage.writer import Writer
folder, address, name = sys.argv[1:]
def away():
    raise StoreUnavailableError("away")
run = Run(name, "victim", created_at=1.0, heartbeat_at=1.0)
place = spool_place(folder, 10**8, address)
writer = Writer(away, run, Segment(name, 0, 0, 1.0), analyze=lambda batch: (), flush_interval=0.02, spool=place)
writer.start()
step = 0
while True:
    writer.put(StepRecord(step, 1.0 + step, (SeriesKey("loss"),), (float(step),)))
    step += 1
    time.sleep(0.002)
    if step % 50 == 0:
        print(writer.stats.points_spooled, flush=True)
"""


@pytest.fixture
def victim(folder: Path, tmp_path: Path) -> Iterator[Callable[[str], "subprocess.Popen[str]"]]:
    made: list[subprocess.Popen[str]] = []

    def start(name: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-P", "-c", SPOOLING, str(folder), f"sqlite:///{tmp_path / 'runs.db'}", name]
        made.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return made[-1]

    yield start
    for process in made:
        process.kill()
        process.communicate()


def spooled(process: "subprocess.Popen[str]", least: int) -> int:
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= least:
            return int(line)
    raise AssertionError("it ended by itself")


def test_what_a_killed_process_spooled_is_drained_and_a_living_one_is_left_alone(
    folder: Path, tmp_path: Path, victim: Callable[[str], "subprocess.Popen[str]"]
) -> None:
    dead, living = victim("dead"), victim("living")
    kept, _ = spooled(dead, 200), spooled(living, 200)
    dead.send_signal(signal.SIGKILL)
    dead.wait()
    with contextlib.closing(open_store(tmp_path / "runs.db")) as store:
        drain_all(folder, store)
        assert [run.id for run in store.runs()] == ["dead"]
        steps = steps_in(store, store.run("dead"))
        assert len(steps) >= kept
        assert steps == list(range(len(steps)))
        assert store.run("dead").status is RunStatus.RUNNING, "its end is not known"
        assert len(found_in(folder)) == 1
        living.send_signal(signal.SIGKILL)
        living.wait()
        # A writer of another run finds it when it has nothing else to do.
        writer = writer_of(store, Run("other", "other"), spool_place(str(folder), 10**8, store))
        until(lambda: found_in(folder) == [])
        assert len(steps_in(store, store.run("living"))) >= 200
        assert writer.close(5)


def test_a_spool_of_another_store_is_left_for_that_one(folder: Path, tmp_path: Path, run: Run) -> None:
    with contextlib.closing(open_store(tmp_path / "a.db")) as mine, contextlib.closing(open_store(tmp_path / "b.db")) as other:
        place = spool_place(str(folder), 10**8, other)
        assert place is not None
        spool = SpoolFile.create(place, run, [Segment(run.id, 0, 0, 1.0)], [])
        spool.append([(1, batch_at(run, 0))])
        spool.close()
        drain_all(folder, mine)
        assert mine.runs() == []
        drain_all(folder, other)
        assert steps_in(other, run) == list(range(5))


DRAINING = """
import os, signal, sys
from pathlib import Path
from foreshock.storage import open_store
from foreshock.storage.leftovers import drain_all
url, folder, allowed = sys.argv[1:]
store = open_store(url)
calls = 0
def dying(name, action):
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls > int(allowed) and int(allowed) % 2:
            os.kill(os.getpid(), signal.SIGKILL)  # before the store has it
        action(*arguments, **options)
        if calls > int(allowed):
            os.kill(os.getpid(), signal.SIGKILL)  # the store has it, the spool does not know
    return call
for name in ("write", "save_alerts", "add_event", "update_run"):
    setattr(store, name, dying(name, getattr(store, name)))
drain_all(Path(folder), store)
"""


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A store that other processes reach too, empty again at the end."""
    yield (url := request.getfixturevalue(f"{request.param}_url") if request.param != "sqlite" else f"sqlite:///{tmp_path}/runs.db")
    with contextlib.closing(open_store(url)) as store, store._database.write() as connection:  # type: ignore[attr-defined]
        for table in reversed(metadata.sorted_tables):
            connection.execute(table.delete())


def test_a_drain_that_is_killed_and_repeated_gives_exactly_the_same_store(address: str, folder: Path, tmp_path: Path) -> None:
    url, plain_url = address, f"sqlite:///{tmp_path / 'plain.db'}"
    run = Run(new_id(), "spooled", created_at=5.0, heartbeat_at=5.0)
    for each in (url, plain_url):
        _fill(folder / ("x" if each == url else "plain"), each, run)
    with contextlib.closing(open_store(plain_url)) as plain, contextlib.closing(open_store(url)) as store:
        drain_all(folder / "plain", plain)
        for allowed in (1, 4, 10):
            command = [sys.executable, "-P", "-c", DRAINING, url, str(folder / "x"), str(allowed)]
            process = subprocess.run(command, capture_output=True, text=True, check=False)
            assert process.returncode == -signal.SIGKILL, process.stderr
        drain_all(folder / "x", store)
        drain_all(folder / "x", store)
        assert contents(store, run) == contents(plain, run)
        assert contents(store, run)["steps"] == [(0, i) for i in range(50)] + [(1, i) for i in range(30, 60)]
        assert found_in(folder / "x") == []


def _fill(folder: Path, address: str, run: Run) -> None:
    folder.mkdir()
    place = spool_place(str(folder), 10**8, address)
    assert place is not None
    spool = SpoolFile.create(place, run, [Segment(run.id, 0, 0, 1.0)], ["json://x"])
    entries: list[Entry] = [batch_at(run, first) for first in range(0, 50, 5)]
    entries.insert(
        3, Judgement((alert_of(run, 0), alert_of(run, 1)), (Notification("n0", alert_of(run).id, "json://x", "t", "b"),))
    )
    entries.insert(6, Event(derived_id(run.id, "event"), run.id, 0, 5, 1.0, "meanwhile", "m", {"a": 1}))
    entries.insert(8, Judgement((replace(alert_of(run, 0), state=AlertState.RESOLVED, last_step=40, message="over"),)))
    entries += [Segment(run.id, 1, 30, 9.0), *(batch_at(run, first, 5, 1) for first in range(30, 60, 5))]
    entries += [Judgement((alert_of(run, 2, segment=1),)), End(RunStatus.CRASHED, 99.0)]
    for number, entry in enumerate(entries, 1):
        spool.append([(number, entry)])
    spool.close()


def contents(store: Store, run: Run) -> dict[str, object]:
    """Everything the store holds of a run, but numbers of its own and the time of the drain."""
    frame = store.frame(run.id)
    return {
        "run": store.run(run.id),
        "segments": store.segments(run.id),
        "steps": [(segment, step) for segment, step, _ in store.step_times(run.id)],
        "frame": sorted(frame.itertuples(index=False, name=None)),
        "alerts": repr(store.alerts(run.id)),
        "events": [replace(event, time=0.0, data={}, id="") for event in store.events(run.id)],
        "outbox": [item for item in store.notifications() if item.alert_id in {alert.id for alert in store.alerts(run.id)}],
        "channels": store.channels(run.id),
        "ranges": len(store.changes(run.id).ranges),
    }


def test_a_segment_whose_number_was_given_to_somebody_else_gets_its_own(folder: Path, file_store: Store, run: Run) -> None:
    """Two hosts: one rolls back while the server is away and dies; the other resumes the run before the spool is drained."""
    file_store.create_run(run)
    file_store.add_segment(Segment(run.id, 0, 0, 1.0))
    file_store.write(batch_at(run, 0, 20))
    place = spool_place(str(folder), 10**8, file_store)
    assert place is not None
    spool = SpoolFile.create(place, run, [Segment(run.id, 0, 0, 1.0)], [])
    spool.append([(1, Segment(run.id, 1, 10, 2.0)), (2, batch_at(run, 10, 5, 1)), (3, End(RunStatus.CRASHED, 3.0))])
    spool.close()
    assert file_store.open_segment(run.id, 20, 4.0) == 1
    file_store.write(batch_at(run, 20, 5, 1))
    file_store.update_run(run.id, status=RunStatus.RUNNING)
    drain_all(folder, file_store)
    assert [steps_in(file_store, run, number) for number in range(3)] == [
        list(range(20)),
        list(range(20, 25)),
        list(range(10, 15)),
    ]
    assert found_in(folder) == []


def test_the_end_of_a_run_that_goes_on_elsewhere_is_not_told(folder: Path, file_store: Store, run: Run) -> None:
    place = spool_place(str(folder), 10**8, file_store)
    assert place is not None
    spool = SpoolFile.create(place, run, [Segment(run.id, 0, 0, 1.0)], [])
    spool.append([(1, batch_at(run, 0)), (2, End(RunStatus.CRASHED, 3.0))])
    spool.close()
    file_store.create_run(run)
    file_store.add_segment(Segment(run.id, 0, 0, 1.0))
    assert file_store.open_segment(run.id, 5, 4.0) == 1
    drain_all(folder, file_store)
    assert file_store.run(run.id).status is RunStatus.RUNNING


def test_two_processes_drain_one_spool_once(folder: Path, file_store: Store, run: Run) -> None:
    place = spool_place(str(folder), 10**8, file_store)
    assert place is not None
    spool = SpoolFile.create(place, run, [Segment(run.id, 0, 0, 1.0)], [])
    spool.append([(1, batch_at(run, 0))])
    spool.close()
    with opened(spool.path, file_store) as draining:
        assert draining is not None
        with pytest.raises(SpoolBusyError):
            opened(spool.path, file_store).__enter__()
    assert trouble.recent() == []


def test_a_fork_does_not_harm_a_spool_in_use(folder: Path, file_store: Store, run: Run) -> None:
    door = Door(file_store)
    writer = writer_of(door, run, spool_place(str(folder), 10**8, file_store))
    stop = threading.Event()

    def train() -> None:
        for step in range(10**6):
            if stop.is_set():
                return
            writer.put(record(step))
            stop.wait(0.001)

    training = threading.Thread(target=train)
    training.start()
    until(lambda: writer.stats.points_spooled > 100)
    for _ in range(10):
        child = os.fork()
        if child == 0:
            os._exit(0 if not writer.close(1.0) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    stop.set()
    training.join()
    door.shut = False
    until(lambda: writer.flush(5))
    steps = steps_in(file_store, run)
    assert steps == list(range(len(steps)))
    assert writer.stats.steps_written == len(steps)
    assert writer.close(5)


# -- the command, and what else tells of spools ------------------------------------------------------------------------------------


@pytest.fixture
def db() -> typer.Typer:
    app = typer.Typer()
    add_commands(app)
    app.callback()(lambda: None)
    return app


def test_the_command_drains_what_it_may_and_says_what_it_left(
    folder: Path, tmp_path: Path, run: Run, db: typer.Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mine, other = f"sqlite:///{tmp_path / 'mine.db'}", f"sqlite:///{tmp_path / 'other.db'}"
    for address in (mine, other):
        place = spool_place(str(folder), 10**8, address)
        assert place is not None
        spool = SpoolFile.create(place, run, [Segment(run.id, 0, 0, 1.0)], [])
        spool.append([(1, batch_at(run, 0)), (2, batch_at(run, 5))])
        spool.close()
    held = SpoolFile.create(SpoolPlace(folder, 10**8, mine), run, [Segment(run.id, 0, 0, 1.0)], [])
    (folder / "foreshock-spool-text.db").write_text("not a database at all " * 100)
    spools = {check.message.split(" ")[0]: check for check in _spools(str(folder))}
    assert sorted(check.level for check in spools.values()) == ["ok", "warn", "warn", "warn"]
    assert any(f"20 samples of run run wait for {mine}" in check.message for check in spools.values())
    answer = CliRunner().invoke(db, ["drain", str(folder), "--store", mine, "--json"])
    assert answer.exit_code == 1, "one of them is damaged"
    rows = {row["outcome"]: row for row in json.loads(answer.stdout)}
    assert sorted(rows) == ["in use", "other store", "stored", "unreadable"]
    assert (rows["stored"]["samples"], rows["stored"]["run"], rows["other store"]["store"]) == (20, "run", other)
    assert "is in use by a living process" in answer.stderr
    assert f"meant for {other}. Store it there with --store URL, or here with --any-store." in answer.stderr
    held.close()
    (folder / "foreshock-spool-text.db").unlink()
    answer = CliRunner().invoke(db, ["drain", str(folder), "--store", mine, "--any-store"])
    assert (answer.exit_code, "20 samples of run run stored." in answer.stdout) == (0, True)
    answer = CliRunner().invoke(db, ["drain", str(folder), "--store", mine])
    assert (answer.exit_code, "No run left anything in" in answer.stderr) == (0, True)
    with contextlib.closing(open_store(mine)) as store:
        assert steps_in(store, run) == list(range(10))


def test_a_server_that_is_away_leaves_the_spool_as_it_is(folder: Path, run: Run, db: typer.Typer) -> None:
    address = "postgresql://nobody@127.0.0.1:1/none"
    place = spool_place(str(folder), 10**8, address)
    assert place is not None
    spool = SpoolFile.create(place, run, [Segment(run.id, 0, 0, 1.0)], [])
    spool.append([(1, batch_at(run, 0))])
    spool.close()
    answer = CliRunner().invoke(db, ["drain", str(folder), "--store", address])
    assert isinstance(answer.exception, StoreUnavailableError)
    with contextlib.closing(SpoolFile.open(spool.path)) as again:
        assert again.entries == 1
