"""Servers that refuse, reset, tear a commit apart, hang or swallow: nothing is missing, order is kept, training does not wait."""

import contextlib
import importlib.util
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from foreshock.storage import Store, StoreUnavailableError, open_store
from foreshock.storage.leftovers import drain_all
from foreshock.storage.opening import spool_place
from foreshock.storage.records import Batch, Run, RunStatus, Segment, SeriesKey, StepRecord
from foreshock.storage.spool import found_in
from foreshock.storage.tables import metadata
from foreshock.storage.writer import Writer

# Importlib mode gives tests no package to import from.
_spec = importlib.util.spec_from_file_location("foreshock_test_proxy", Path(__file__).with_name("proxy.py"))
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _module
_spec.loader.exec_module(_module)

KEYS = tuple(SeriesKey("s", f"m{i}") for i in range(10))


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foreshock.storage.saving._FIRST_DELAY", 0.05)


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture(params=["postgres", "mariadb"])
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server's database, empty again at the end."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    yield url
    with contextlib.closing(open_store(url)) as store, store._database.write() as connection:  # type: ignore[attr-defined]
        for table in reversed(metadata.sorted_tables):
            connection.execute(table.delete())


@pytest.fixture
def proxy(server: str) -> Iterator[Any]:
    made = _module.Proxy(server)
    yield made
    made.close()


class Training(threading.Thread):
    """Puts a step every few milliseconds and notes what each put took."""

    def __init__(self, url: str, run: Run, folder: Path, **options: Any) -> None:
        super().__init__()
        self.judged: list[int] = []
        self.troubles: list[str] = []
        self.waits: list[float] = []
        self.stop = threading.Event()
        self.run_id = run.id
        self.writer = Writer(
            lambda: open_store(url),
            run,
            Segment(run.id, 0, 0, 1.0),
            analyze=self._analyze,
            flush_interval=0.02,
            spool=spool_place(str(folder), 10**9, url),
            on_trouble=lambda message, error: self.troubles.append(message),
            **options,
        )
        self.writer.start()
        self.start()

    def _analyze(self, batch: Batch) -> tuple[()]:
        self.judged.extend(record.step for record in batch.steps)
        return ()

    def run(self) -> None:
        while not self.stop.wait(0.003):
            step = len(self.waits)
            record = StepRecord(step, time.time(), KEYS, [float(step)] * len(KEYS))
            started = time.perf_counter()
            assert self.writer.put(record)
            self.waits.append(time.perf_counter() - started)

    @property
    def steps(self) -> int:
        return len(self.waits)

    def ended(self) -> int:
        self.stop.set()
        self.join()
        return self.steps


@pytest.fixture
def train(proxy: Any, tmp_path: Path, new_run: Callable[..., Run]) -> Iterator[Callable[..., Training]]:
    made: list[Training] = []

    def start(**options: Any) -> Training:
        made.append(Training(proxy.url, new_run(), tmp_path, **options))
        until(lambda: made[-1].writer.stats.steps_written > 20)
        return made[-1]

    yield start
    for each in made:
        each.stop.set()
        proxy.restore()
        each.writer.close(5.0)
        if each.writer.store is not None:
            each.writer.store.close()


def nothing_is_missing(server: str, training: Training, folder: Path) -> None:
    steps = training.steps
    with contextlib.closing(open_store(server)) as store:
        data = store.read(store.series(training.run_id))
        assert [list(series.steps) for series in data] == [list(range(steps))] * len(KEYS)
        starts = [each.first_step for each in store.changes(training.run_id).ranges]
        assert starts == sorted(starts)
    assert training.judged == list(range(steps))
    assert (training.writer.stats.points_lost, training.writer.stats.steps_dropped) == (0, 0)
    assert found_in(folder) == []
    assert statistics.median(training.waits) < 1e-3, "training does not wait"


@pytest.mark.parametrize("how", ["refuse", "hang"])
def test_a_server_that_was_away_for_a_while(
    how: str, proxy: Any, server: str, train: Callable[..., Training], tmp_path: Path
) -> None:
    training = train()
    getattr(proxy, how)()
    until(lambda: training.writer.stats.points_spooled > 1000)
    judged, steps = len(training.judged), training.steps
    until(lambda: len(training.judged) > max(judged, steps) + 100)  # the analysis goes on, whatever the server does
    proxy.restore()
    until(lambda: training.writer.stats.points_spooled == 0 and training.writer.stats.store_ok)
    training.ended()
    until(lambda: training.writer.flush(10))
    nothing_is_missing(server, training, tmp_path)
    if how == "refuse":
        assert len(training.troubles) == 2, "it went, it came back"
        assert "nothing was lost" in training.troubles[1]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_connection_torn_at_a_commit(when: str, proxy: Any, server: str, train: Callable[..., Training], tmp_path: Path) -> None:
    """The client cannot know whether it was committed; the batch's own id makes writing it again harmless."""
    training = train()
    for number in range(1, 3):
        proxy.tear(when)
        until(lambda number=number: proxy.torn == number)  # type: ignore[misc]
        written = training.writer.stats.steps_written
        until(lambda written=written: training.writer.stats.steps_written > written)  # type: ignore[misc]
    training.ended()
    until(lambda: training.writer.flush(10))
    nothing_is_missing(server, training, tmp_path)


def test_what_a_dead_connection_swallowed_is_broken_off_and_sent_again(
    proxy: Any, server: str, train: Callable[..., Training], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foreshock.storage.saving._FIRST_PATIENCE", 0.5)
    training = train()
    proxy.swallow()
    until(lambda: training.writer.stats.points_spooled > 500)
    proxy.restore()  # new connections work; the old one is never answered
    until(lambda: training.writer.stats.points_spooled == 0 and training.writer.stats.store_ok)
    training.ended()
    until(lambda: training.writer.flush(10))
    nothing_is_missing(server, training, tmp_path)


@pytest.mark.parametrize("how", ["refuse", "hang", "swallow"])
def test_closing_while_the_server_is_away_ends_in_time_and_loses_nothing(
    how: str, proxy: Any, server: str, train: Callable[..., Training], tmp_path: Path
) -> None:
    training = train()
    getattr(proxy, how)()
    steps = training.steps
    until(lambda: len(training.judged) > steps + 20)
    steps = training.ended()
    started = time.monotonic()
    assert not training.writer.close(1.0, status=RunStatus.FINISHED)
    assert time.monotonic() - started < 5.0
    assert training.writer.stats.points_lost == 0
    (path,) = found_in(tmp_path)
    assert str(path) in training.troubles[-1]
    assert len(training.troubles) <= 2
    proxy.restore()
    with contextlib.closing(open_store(proxy.url)) as store:
        drain_all(tmp_path, store)
        assert store.run(training.run_id).status is RunStatus.FINISHED
    nothing_is_missing(server, training, tmp_path)
    assert training.steps == steps


def test_opening_a_server_that_accepts_and_never_answers_ends_in_time(proxy: Any) -> None:
    proxy.hang()
    started = time.monotonic()
    with pytest.raises(StoreUnavailableError):
        open_store(proxy.url)
    assert time.monotonic() - started < 20


def test_interrupting_frees_who_waits_for_an_answer(proxy: Any, server: str, new_run: Callable[..., Run]) -> None:
    with contextlib.closing(open_store(proxy.url)) as store:
        run = new_run()
        store.create_run(run)
        proxy.hang()
        raised: list[Exception] = []

        def wait() -> None:
            try:
                store.runs()
            except StoreUnavailableError as error:
                raised.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.2)
        assert waiting.is_alive()
        until(lambda: _interrupted(store, waiting))
        proxy.restore()
        until(lambda: store.runs()[0].id == run.id)
        assert raised


def _interrupted(store: Store, waiting: threading.Thread) -> bool:
    store.interrupt()
    waiting.join(0.1)
    return not waiting.is_alive()
