"""A tracker that is slow, failing, hanging or absent: counted, told, and nobody waits for it."""

import random
import sys
import threading
import time
import types
from collections.abc import Callable, Sequence

import pytest
from foreshock.storage.records import Alert, AlertState, Batch, Run, SeriesKey, Severity, StepRecord, new_id
from foreshock.storage.transfer.mirrors import feeding, registry
from foreshock.storage.transfer.mirrors.base import Mirror
from foreshock.storage.transfer.mirrors.randomness import separate
from foreshock.storage.transfer.mirrors.registry import Mirrors

Wait = Callable[[Callable[[], bool]], None]
RUN = Run(new_id(), "run")
KEYS = (SeriesKey("loss"), SeriesKey("weight.norm", "h.0"))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(feeding, "_LONGEST_PAUSE", 0.02)


def batch(step: int, points: int = 2) -> Batch:
    keys = KEYS if points == 2 else tuple(SeriesKey("weight.norm", str(i)) for i in range(points))
    return Batch(new_id(), RUN.id, 0, (StepRecord(step, 1.0, keys, [float(step)] * len(keys)),))


def alert(rule: str) -> Alert:
    return Alert(rule, RUN.id, rule, "", 0, Severity.WARNING, AlertState.FIRING, 0, 4, 4, 1.0, 1.0, "it spikes")


class Tracker(Mirror):
    """Remembers what it was told; ``gate`` closed, it hangs; ``failures`` are raised first."""

    NAME = "tracker"

    def __init__(self, failures: int = 0, absent: int = 0) -> None:
        super().__init__()
        self.told: list[int] = []
        self.alerts: list[str] = []
        self.series: set[SeriesKey] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.inside = threading.Event()
        self.closed = 0
        self.failures, self.absent = failures, absent

    def open(self) -> None:
        if self.absent:
            self.absent -= 1
            raise ConnectionError("not there yet")

    def take(self, batch: Batch, alerts: Sequence[Alert]) -> None:
        self.inside.set()
        assert self.gate.wait(60)
        if self.failures:
            self.failures -= 1
            raise OSError("it failed")
        self.told.append(batch.steps[0].step)
        self.series.update(key for record in batch.steps for key in record.keys)
        self.alerts += [each.rule for each in alerts]

    def close(self) -> None:
        self.closed += 1


class Faults(list[tuple[str, Exception]]):
    def __call__(self, source: str, error: Exception) -> None:
        self.append((source, error))


def fed(tracker: Tracker) -> tuple[Mirrors, Callable[[Batch], Batch], Faults]:
    faults = Faults()
    mirrors = Mirrors(faults)
    mirrors.begin([tracker], RUN)
    return mirrors, mirrors.after(lambda batch: batch), faults


def test_a_tracker_is_told_in_order_and_closed_once() -> None:
    tracker = Tracker()
    mirrors, put, faults = fed(tracker)
    for step in range(50):
        put(batch(step))
    mirrors.close()
    mirrors.close()
    assert tracker.told == list(range(50))
    assert tracker.series == {KEYS[0]}  # what is about the whole run
    assert tracker.closed == 1
    assert faults == []


def test_a_hanging_tracker_delays_nobody_and_what_it_missed_is_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(feeding, "_MOST_BATCHES", 10)
    monkeypatch.setattr(registry, "_CLOSING", 0.2)
    tracker = Tracker()
    tracker.gate.clear()
    mirrors, put, faults = fed(tracker)
    (feed,) = mirrors.feeds
    put(batch(0))
    assert tracker.inside.wait(10)
    started = time.monotonic()
    for step in range(1, 31):
        put(batch(step))
    assert time.monotonic() - started < 1  # thirty batches for a tracker that takes none
    assert feed.dropped == 20
    assert {source for source, _ in faults} == {"mirror tracker (queue)"}
    assert len(faults) == 20
    assert "cannot keep up" in str(faults[0][1])
    mirrors.close()
    assert time.monotonic() - started < 5
    assert feed.dropped == 31
    assert "mirror tracker was not told of 31 of 31 batches; the store has them" in caplog.text
    tracker.gate.set()


def test_a_queue_is_bounded_by_points_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "MOST_POINTS", 100)
    tracker = Tracker()
    tracker.gate.clear()
    mirrors, put, _ = fed(tracker)
    (feed,) = mirrors.feeds
    put(batch(0))
    assert tracker.inside.wait(10)
    for step in range(1, 4):
        put(batch(step, points=60))
    assert feed.dropped == 2
    tracker.gate.set()
    mirrors.close()
    assert tracker.told == [0, 1]


def test_a_failing_tracker_is_asked_again_and_gets_its_alerts(wait_until: Wait) -> None:
    tracker = Tracker(failures=2)
    mirrors, put, faults = fed(tracker)
    (feed,) = mirrors.feeds
    mirrors.hear([alert("spike")])
    put(batch(0))
    put(batch(1))
    wait_until(lambda: feed.dropped == 2)
    mirrors.hear([alert("spike"), alert("nan")])
    put(batch(2))
    mirrors.close()
    assert tracker.told == [2]
    assert tracker.alerts == ["spike", "nan"]
    assert [source for source, _ in faults] == ["mirror tracker"] * 2
    assert (feed.taken, feed.dropped) == (1, 2)


def test_a_tracker_that_comes_late_gets_what_waited(wait_until: Wait) -> None:
    tracker = Tracker(absent=3)
    mirrors, put, faults = fed(tracker)
    for step in range(5):
        put(batch(step))
    wait_until(lambda: len(tracker.told) == 5)
    mirrors.close()
    assert tracker.told == list(range(5))
    assert len(faults) == 3


def test_a_tracker_that_never_comes_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    tracker = Tracker(absent=10**9)
    mirrors, put, faults = fed(tracker)
    put(batch(0))
    started = time.monotonic()
    mirrors.close()
    assert time.monotonic() - started < 5
    assert tracker.closed == 0
    assert faults
    assert "was not told of 1 of 1 batches" in caplog.text


def test_one_mirror_does_not_keep_another_waiting(monkeypatch: pytest.MonkeyPatch, wait_until: Wait) -> None:
    monkeypatch.setattr(registry, "_CLOSING", 0.5)
    hanging, quick = Tracker(), Tracker()
    hanging.gate.clear()
    mirrors = Mirrors(Faults())
    mirrors.begin([hanging, quick], RUN)
    put = mirrors.after(lambda batch: batch)
    for step in range(5):
        put(batch(step))
    wait_until(lambda: len(quick.told) == 5)
    mirrors.close()
    assert quick.closed == 1
    hanging.gate.set()


def test_trackers_draw_from_a_generator_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("tracker.retry")
    exec("import random\nfrom random import uniform\nbase = random.Random", module.__dict__)
    monkeypatch.setitem(sys.modules, "tracker.retry", module)
    state = random.getstate()
    separate("tracker")
    assert 0 <= module.random.random() < 1
    assert 3 <= module.uniform(3, 4) <= 4
    assert module.random.choice([5]) == 5
    assert random.getstate() == state
    assert module.base is module.random.Random is random.Random
    assert sys.modules["random"] is random  # everybody else's
