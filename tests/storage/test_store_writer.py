"""The writer thread: what training hands over is judged and saved, whatever the store, the device or the analysis do."""

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from foreshock.storage import Store, StoreUnavailableError, open_store, trouble
from foreshock.storage.backlog import Backlog
from foreshock.storage.records import (
    Alert,
    AlertState,
    Batch,
    Event,
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
from foreshock.storage.saving import Saver
from foreshock.storage.writer import Writer

KEYS = (SeriesKey("loss"), SeriesKey("gradient.norm"))


def record(step: int) -> StepRecord:
    return StepRecord(step, time.time(), KEYS, (float(step), -float(step)))


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)


def steps_in(store: Store, run: Run) -> list[int]:
    return list(store.read(store.series(run.id, signal="loss"))[0].steps)


class Device:
    """A step that is ready when it is told to be."""

    def __init__(self, step: int, *, ready: bool = False, error: Exception | None = None) -> None:
        self.step, self.is_ready, self.error = step, ready, error

    def ready(self) -> bool:
        return self.is_ready

    def resolve(self) -> StepRecord:
        if self.error:
            raise self.error
        return record(self.step)


class Attempt:
    """A writer with everything it calls noted."""

    def __init__(self, store: Store | Callable[[], Store], run: Run, segment: int | Segment = 0, **options: object) -> None:
        self.analysed: list[Batch] = []
        self.troubles: list[str] = []
        self.alerts: list[Alert] = []
        self.writer = Writer(
            store,
            run,
            segment,
            **{
                "analyze": self.analyze,
                "on_trouble": lambda message, error: self.troubles.append(message),
                "flush_interval": 0.01,
                **options,
            },  # type: ignore[arg-type]
        )

    def analyze(self, batch: Batch) -> Sequence[Alert]:
        self.analysed.append(batch)
        raised, self.alerts = self.alerts, []
        return raised

    @property
    def analysed_steps(self) -> list[int]:
        return [item.step for batch in self.analysed for item in batch.steps]


Start = Callable[..., Attempt]
Lock = Callable[[], "contextlib.AbstractContextManager[None]"]


@pytest.fixture
def run(new_run: Callable[..., Run]) -> Run:
    return new_run()


@pytest.fixture
def attempt(file_store: Store, run: Run) -> Iterator[Start]:
    made: list[Attempt] = []

    def make(store: Store | Callable[[], Store] = file_store, *arguments: object, start: bool = True, **options: object) -> Attempt:
        item = Attempt(store, run, *arguments, **options)  # type: ignore[arg-type]
        made.append(item)
        if start:
            item.writer.start()
        return item

    yield make
    for item in made:
        item.writer.close(0.0)


@pytest.fixture
def impatient(tmp_path: Path, file_store: Store) -> Iterator[Store]:
    """The same file through connections that hardly wait for a lock."""
    with contextlib.closing(open_store(f"sqlite:///{tmp_path / 'runs.db'}?timeout=0.01")) as store:
        yield store


@pytest.fixture
def lock(tmp_path: Path, file_store: Store) -> Iterator[Lock]:
    """Keep the file locked: the store is away, really."""

    @contextlib.contextmanager
    def held() -> Iterator[None]:
        with contextlib.closing(sqlite3.connect(tmp_path / "runs.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")

    return held


def alert_of(run: Run, episode: int = 0, state: AlertState = AlertState.FIRING) -> Alert:
    name = derived_id(run.id, "r", "", episode)
    return Alert(name, run.id, "r", "", episode, Severity.WARNING, state, 0, 1, 2, 10.0, 10.0, "m")


# -- the plain way -----------------------------------------------------------------------------------------------


def test_what_is_put_is_analysed_and_stored_in_order(attempt: Start, file_store: Store, run: Run) -> None:
    one = attempt(notifications=lambda alert: [Notification("n" + alert.id, alert.id, "json://x", "t", "b")])
    one.alerts = [alert_of(run)]
    for step in range(100):
        assert one.writer.put(record(step))
    one.writer.put_event(Event("e", run.id, 0, 5, 1.0, "resume", "m"))
    assert one.writer.flush(10)
    assert steps_in(file_store, run) == one.analysed_steps == list(range(100))
    assert [alert.id for alert in file_store.alerts(run)] == [item.alert_id for item in file_store.due_notifications(1e12)]
    assert [event.kind for event in file_store.events(run.id)] == ["resume"]
    stats = one.writer.stats
    assert (stats.steps_written, stats.points_written, stats.points_lost, stats.steps_dropped, stats.errors) == (100, 200, 0, 0, 0)
    assert (stats.queue_depth, stats.batches_waiting, stats.store_ok) == (0, 0, True)
    assert one.troubles == []


def test_close_saves_the_rest_marks_the_run_and_may_be_called_twice(attempt: Start, file_store: Store, run: Run) -> None:
    one = attempt(flush_interval=60.0)
    for step in range(10):
        one.writer.put(record(step))
    assert one.writer.close(status=RunStatus.FINISHED)
    assert one.writer.close()
    stored = file_store.run(run.id)
    assert (stored.status, stored.last_step) == (RunStatus.FINISHED, 9)
    assert stored.ended_at is not None
    assert not one.writer.put(record(10))
    assert not one.writer.flush(1.0)
    assert not any(thread.name == "foreshock-writer" for thread in threading.enumerate())


def test_slow_steps_are_stored_soon_each(attempt: Start, file_store: Store, run: Run) -> None:
    one = attempt(flush_interval=60.0, soon=0.01)
    one.writer.put(record(0))
    until(lambda: bool(file_store.runs()) and bool(file_store.series(run.id, signal="loss")))
    for step in range(1, 5):
        one.writer.put(record(step))
        until(lambda step=step: steps_in(file_store, run) == list(range(step + 1)))  # type: ignore[misc]


def test_steps_wait_for_the_device_without_blocking_and_keep_their_order(attempt: Start, file_store: Store, run: Run) -> None:
    one = attempt()
    first, second = Device(1), Device(2, ready=True)
    for item in (record(0), first, second, record(3)):
        one.writer.put(item)
    until(lambda: one.writer.stats.steps_written == 1)
    assert not one.writer.flush(0.05)  # the device is not done
    first.is_ready = True
    assert one.writer.flush(10)
    assert steps_in(file_store, run) == one.analysed_steps == [0, 1, 2, 3]


def test_an_idle_run_still_shows_that_it_lives(
    attempt: Start, file_store: Store, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foreshock.storage.saving.HEARTBEAT", 0.02)
    attempt()
    until(lambda: bool(file_store.runs()))
    seen = file_store.run(run.id).heartbeat_at
    assert seen == pytest.approx(time.time(), abs=10)
    until(lambda: file_store.run(run.id).heartbeat_at > seen)


def test_putting_costs_next_to_nothing(attempt: Start) -> None:
    one = attempt(start=False)
    item = record(0)
    costs = []
    for _ in range(2000):
        started = time.perf_counter()
        one.writer.put(item)
        costs.append(time.perf_counter() - started)
    assert sorted(costs)[1000] < 10e-6


# -- a store that is away ----------------------------------------------------------------------------------------


def test_while_the_store_is_away_analysis_goes_on_and_nothing_is_lost(
    attempt: Start,
    impatient: Store,
    file_store: Store,
    run: Run,
    lock: Lock,
) -> None:
    one = attempt(impatient)
    one.writer.put(record(0))
    assert one.writer.flush(10)
    with lock():
        for step in range(1, 50):
            one.writer.put(record(step))
        one.alerts = [alert_of(run)]
        until(lambda: len(one.analysed_steps) == 50)
        one.writer.put_event(Event("e", run.id, 0, 5, 1.0, "meanwhile", "m"))
        assert not one.writer.flush(10)
        stats = one.writer.stats
        assert not stats.store_ok
        assert stats.batches_waiting > 0
        assert "lock" in stats.last_error
        one.writer.put(record(50))
        until(lambda: 50 in one.analysed_steps)
    until(lambda: one.writer.flush(10))
    assert steps_in(file_store, run) == list(range(51))
    assert len(file_store.alerts(run)) == 1
    assert [event.kind for event in file_store.events(run.id)] == ["meanwhile", "store_recovered"]
    back = file_store.events(run.id, kind="store_recovered")[0]
    assert back.data["points_lost"] == 0
    assert 0 < back.data["to"] - back.data["from"] < 60
    assert one.writer.stats.store_ok
    assert len(one.troubles) == 2  # it went, it came back: not one message an attempt
    assert {item.kind for item in trouble.recent()} == {"store_unavailable", "store_recovered"}


def test_beyond_the_backlog_the_oldest_go_and_are_counted(
    attempt: Start,
    impatient: Store,
    file_store: Store,
    run: Run,
    lock: Lock,
) -> None:
    one = attempt(impatient, backlog_points=20)
    assert one.writer.flush(10)
    with lock():
        for step in range(30):
            one.writer.put(record(step))
            until(lambda step=step: step in one.analysed_steps)  # type: ignore[misc]
        until(lambda: one.writer.stats.points_lost >= 40)
        assert any("oldest are being dropped" in message for message in one.troubles)
    until(lambda: one.writer.flush(10))
    lost = one.writer.stats.points_lost
    stored = steps_in(file_store, run)
    assert stored == list(range(30 - len(stored), 30))
    assert 2 * len(stored) + lost == 60
    assert file_store.events(run.id, kind="store_recovered")[0].data["points_lost"] == lost
    assert sum("oldest are being dropped" in message for message in one.troubles) == 1


def test_a_store_that_is_away_at_the_start_is_opened_later(attempt: Start, tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "later"
    one = attempt(lambda: open_store(folder / "runs.db"), Segment(run.id, 3, 40, 7.0))
    one.writer.put(record(40))
    until(lambda: not one.writer.stats.store_ok)
    assert one.writer.store is None
    assert "mkdir -p" in one.writer.stats.last_error
    folder.mkdir()
    until(lambda: one.writer.flush(10))
    store = one.writer.store
    assert store is not None
    assert steps_in(store, run) == [40]
    assert store.segments(run.id) == [Segment(run.id, 3, 40, 7.0)]
    store.close()


def test_after_the_file_was_deleted_a_new_one_holds_run_segment_alerts_and_what_follows(
    attempt: Start, file_store: Store, run: Run, tmp_path: Path
) -> None:
    one = attempt(segment=Segment(run.id, 2, 0, 7.0))
    one.alerts = [alert_of(run, 0), alert_of(run, 1)]
    one.writer.put(record(0))
    assert one.writer.flush(10)
    (tmp_path / "runs.db").unlink()
    one.alerts = [alert_of(run, 0, AlertState.RESOLVED)]
    one.writer.put(record(1))
    until(lambda: one.writer.flush(10))
    with contextlib.closing(open_store(tmp_path / "runs.db", create=False)) as fresh:
        assert steps_in(fresh, run) == [1]
        assert fresh.segments(run.id) == [Segment(run.id, 2, 0, 7.0)]
        assert {alert.episode: alert.state for alert in fresh.alerts(run)} == {0: AlertState.RESOLVED, 1: AlertState.FIRING}
        assert [event.kind for event in fresh.events(run.id)] == ["history_gone", "store_recovered"]
        assert fresh.due_notifications(1e12) == []
    assert one.writer.stats.points_lost == 2


def test_ending_while_the_store_is_away_says_what_was_not_saved(attempt: Start, impatient: Store, run: Run, lock: Lock) -> None:
    one = attempt(impatient)
    assert one.writer.flush(10)
    with lock():
        for step in range(5):
            one.writer.put(record(step))
        started = time.monotonic()
        assert not one.writer.close(0.3, status=RunStatus.FINISHED)
        assert time.monotonic() - started < 5
    assert one.writer.stats.points_lost == 10
    assert "Not saved: 10 samples" in one.troubles[-1]
    newest = trouble.recent()[0]
    assert (newest.kind, newest.lost, newest.run, newest.store) == ("not_saved", 10, run.name, impatient.url)


def test_close_waits_for_a_store_that_comes_back_in_time(
    attempt: Start,
    impatient: Store,
    file_store: Store,
    run: Run,
    lock: Lock,
) -> None:
    one = attempt(impatient)
    with lock():
        one.writer.put(record(0))
        until(lambda: not one.writer.stats.store_ok)
        closing = threading.Thread(target=one.writer.close, args=(20.0,))
        closing.start()
    closing.join()
    assert steps_in(file_store, run) == [0]
    assert one.writer.stats.points_lost == 0


def test_attempts_become_rarer_and_a_hurry_overrules_that(run: Run) -> None:
    calls: list[float] = []

    def never() -> Store:
        calls.append(time.monotonic())
        raise StoreUnavailableError("away")

    reporter = trouble.Reporter(run, lambda message, error: None)
    backlog = Backlog(run, Segment(run.id, 0, 0, 0.0), channels=(), memory_points=10, place=None, reporter=reporter)
    saver = Saver(never, run, backlog, reporter=reporter)
    delays = []
    for _ in range(7):
        assert not saver.save(hurry=True)
        delays.append(round(saver._next_attempt - calls[-1], 1))
    assert delays == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert not saver.save()
    assert len(calls) == 7


# -- what else may fail ------------------------------------------------------------------------------------------


def test_a_full_queue_drops_and_counts(attempt: Start, file_store: Store, run: Run) -> None:
    one = attempt(start=False, capacity=10)
    assert [one.writer.put(record(step)) for step in range(15)] == [True] * 10 + [False] * 5
    one.writer.start()
    assert one.writer.flush(10)
    assert steps_in(file_store, run) == list(range(10))
    assert one.writer.stats.steps_dropped == 5
    assert [message for message in one.troubles if "cannot keep up" in message]


def test_a_failing_analysis_costs_no_samples_and_is_reported_once(attempt: Start, file_store: Store, run: Run) -> None:
    def broken(batch: Batch) -> Sequence[Alert]:
        raise ZeroDivisionError("in a detector")

    one = attempt(analyze=broken)
    for step in range(3):
        one.writer.put(record(step))
        assert one.writer.flush(10)
    assert steps_in(file_store, run) == [0, 1, 2]
    assert one.writer.stats.errors == 3
    assert one.writer.stats.last_error == "ZeroDivisionError: in a detector"
    assert len(one.troubles) == 1


def test_a_step_that_cannot_be_read_costs_only_itself(attempt: Start, file_store: Store, run: Run) -> None:
    one = attempt()
    one.writer.put(record(0))
    one.writer.put(Device(1, ready=True, error=RuntimeError("device lost")))
    one.writer.put(record(2))
    assert one.writer.flush(10)
    assert steps_in(file_store, run) == [0, 2]
    stats = one.writer.stats
    assert (stats.steps_dropped, stats.errors, stats.last_error) == (1, 1, "RuntimeError: device lost")


def test_a_batch_that_no_store_takes_is_left_out_and_the_rest_goes_on(attempt: Start, file_store: Store, run: Run) -> None:
    one = attempt()
    for bad in (replace(record(0), step=2**70), replace(record(0), values=("x", "y"))):
        one.writer.put(bad)
        one.writer.flush(10)
    one.writer.put(record(1))
    assert one.writer.flush(10)
    assert steps_in(file_store, run) == [1]
    assert one.writer.stats.points_lost == 4
    assert one.writer.stats.store_ok


def test_an_on_trouble_that_raises_harms_nothing(attempt: Start, file_store: Store, run: Run) -> None:
    def broken(message: str, error: Exception | None) -> None:
        raise ValueError(message)

    one = attempt(on_trouble=broken)
    one.writer.put(Device(0, ready=True, error=RuntimeError()))
    one.writer.put(record(1))
    assert one.writer.flush(10)
    assert steps_in(file_store, run) == [1]


def test_a_device_that_never_answers_does_not_hold_up_the_end(attempt: Start, file_store: Store, run: Run) -> None:
    one = attempt()
    one.writer.put(record(0))
    one.writer.put(Device(1))
    started = time.monotonic()
    assert not one.writer.close(0.2, status=RunStatus.CRASHED)
    assert time.monotonic() - started < 5
    assert steps_in(file_store, run) == [0]
    assert file_store.run(run.id).status is RunStatus.CRASHED
    assert one.writer.stats.steps_dropped == 1


def test_more_than_one_batch_holds_is_written_in_several(
    attempt: Start, file_store: Store, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foreshock.storage.writer._MOST_POINTS", 10)
    one = attempt(start=False)
    for step in range(23):
        one.writer.put(record(step))
    one.writer.start()
    assert one.writer.flush(10)
    assert [len(batch.steps) for batch in one.analysed] == [5, 5, 5, 5, 3]
    assert steps_in(file_store, run) == list(range(23))


def test_in_a_forked_child_the_writer_does_nothing(attempt: Start, file_store: Store, run: Run) -> None:
    one = attempt()
    one.writer.put(record(0))
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            done = [one.writer.put(record(9)), one.writer.flush(1.0), one.writer.close(1.0)]
            one.writer.put_event(Event(new_id(), run.id, 0, 0, 0.0, "child", "m"))
            status = 2 if any(done) else 0
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    one.writer.put(record(1))
    assert one.writer.flush(10)
    assert steps_in(file_store, run) == [0, 1]
    assert file_store.events(run.id) == []
