"""The watchdog over a real store, with a clock of the test's own: what it raises, what it resolves, and when it keeps quiet."""

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from foreshock.analyzer.watchdog import LOST, STALLED, Watchdog
from foreshock.storage import Store, StoreUnavailableError, open_store
from foreshock.storage.records import AlertState, Batch, Lease, NotificationState, Run, RunStatus, SeriesKey, StepRecord, new_id

LOSS = (SeriesKey("loss"),)


class Scene:
    """A store with one run, a clock, and a watchdog that looks every five seconds."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.now = 0.0
        self.offset = 0.0
        self.step = 0
        self.born = time.time()
        self.run = Run(new_id(), "gpt2", created_at=self.born, heartbeat_at=self.born)
        store.create_run(self.run)
        store.open_segment(self.run.id, 0, self.born)
        self.dog = self.another()

    def another(self, **options: object) -> Watchdog:
        return Watchdog(self.store, clock=lambda: self.now, **options)  # type: ignore[arg-type]

    def train(self, steps: int = 1, segment: int = 0) -> None:
        """Write some steps, as the run's own clock has it."""
        moment = self.born + self.now + self.offset
        records = tuple(StepRecord(self.step + i, moment, LOSS, [1.0]) for i in range(steps))
        self.step += steps
        self.store.write(Batch(new_id(), self.run.id, segment, records))

    def beat(self) -> None:
        self.store.update_run(self.run.id, heartbeat_at=self.born + self.now + self.offset)

    def go(self, seconds: float, *doing: str, dog: Watchdog | None = None) -> list[tuple[str, AlertState]]:
        """Let time pass, the run doing what is named every five seconds; return what the watchdog told."""
        told = []
        for _ in range(int(seconds / 5.0)):
            self.now += 5.0
            for name in doing:
                getattr(self, name)()
            told += [(alert.rule, alert.state) for alert in (dog or self.dog).look()]
        return told


@pytest.fixture
def scene() -> Iterator[Scene]:
    store = open_store("sqlite://")
    made = Scene(store)
    made.dog.look()
    yield made
    store.close()


FIRED, OVER = AlertState.FIRING, AlertState.RESOLVED


def test_a_run_that_falls_silent_is_lost_once_and_found_again(scene: Scene) -> None:
    assert scene.go(100, "train") == []
    assert scene.go(55) == []
    assert scene.go(300) == [(LOST, FIRED)]
    (alert,) = scene.store.alerts()
    assert (alert.severity, alert.first_step) == ("critical", 19)
    assert "no sign of life after step 19, for 60 s" in alert.message
    assert scene.go(20, "train") == [(LOST, OVER)]
    assert scene.go(100) == [(LOST, FIRED)], "the next time is a new episode"
    assert [alert.episode for alert in scene.store.alerts()] in ([0, 1], [1, 0])


def test_a_run_that_lives_and_makes_no_step_is_stalled(scene: Scene) -> None:
    assert scene.go(100, "train") == []
    assert scene.go(295, "beat") == []
    assert scene.go(600, "beat") == [(STALLED, FIRED)]
    assert scene.store.alerts()[0].severity == "warning"
    assert scene.go(20, "beat", "train") == [(STALLED, OVER)]
    assert scene.go(560, "beat") == [], "it has made a pause of over 10 minutes before"
    assert scene.go(1600, "beat") == [(STALLED, FIRED)]


def test_slow_steps_and_a_slow_start_are_no_stall(scene: Scene) -> None:
    assert scene.go(1000, "beat") == [], "compiling"
    for _ in range(5):
        scene.train()
        assert scene.go(280, "beat") == []
    assert scene.go(600, "beat") == [], "20 times what a step usually takes"


def test_a_run_killed_while_it_stood_still_is_lost(scene: Scene) -> None:
    scene.go(50, "train")
    assert scene.go(400, "beat") == [(STALLED, FIRED)]
    assert scene.go(100) == [(LOST, FIRED)]
    scene.store.update_run(scene.run.id, status=RunStatus.TERMINATED, ended_at=scene.born)
    assert sorted(scene.go(10)) == [(LOST, OVER), (STALLED, OVER)]


@pytest.mark.parametrize("status", [status for status in RunStatus if status is not RunStatus.RUNNING])
def test_a_run_that_ended_is_left_alone(scene: Scene, status: RunStatus) -> None:
    scene.go(50, "train")
    scene.store.update_run(scene.run.id, status=status, ended_at=scene.born)
    assert scene.go(600) == []


@pytest.mark.parametrize("jump", [-86400.0, -3600.0, 3600.0, 86400.0, 50 * 365 * 86400.0])
def test_clocks_that_jump_or_stand_elsewhere_raise_nothing(scene: Scene, jump: float) -> None:
    scene.go(50, "train")
    scene.offset = jump
    assert scene.go(200, "train") == []
    scene.offset = -jump
    assert scene.go(200, "train") == []
    assert scene.go(200, "beat") == []


def test_a_run_of_a_host_with_another_clock_is_still_found_lost(scene: Scene) -> None:
    scene.offset = 5 * 3600.0
    scene.go(50, "train")
    assert scene.go(100) == [(LOST, FIRED)]


def test_a_watchdog_that_slept_does_not_take_its_sleep_for_the_runs(scene: Scene) -> None:
    scene.go(50, "train")
    scene.now += 7200.0
    assert scene.dog.look() == []
    assert scene.go(30, "train") == []


def test_a_machine_that_slept_with_the_run_is_no_stall(scene: Scene) -> None:
    scene.go(100, "train")
    scene.go(55)
    scene.beat()
    assert scene.go(280, "beat") == []


def test_a_store_that_was_away_is_no_silence_of_the_run(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.go(50, "train")
    scene.go(50)
    with monkeypatch.context() as patch:
        patch.setattr(scene.store, "runs", lambda: (_ for _ in ()).throw(StoreUnavailableError("away")))
        for _ in range(20):
            scene.now += 5.0
            with pytest.raises(StoreUnavailableError):
                scene.dog.look()
    assert scene.go(50) == []
    assert scene.go(20) == [(LOST, FIRED)]


def test_a_run_resumed_at_an_earlier_step_is_alive(scene: Scene) -> None:
    scene.go(100, "train")
    assert scene.go(100) == [(LOST, FIRED)]
    scene.step, scene.offset = 3, -7200.0
    segment = scene.store.open_segment(scene.run.id, 3, scene.born)
    scene.train(segment=segment)
    assert scene.go(5) == [(LOST, OVER)]


def test_several_watchdogs_tell_once_and_one_takes_over(scene: Scene) -> None:
    second = scene.another()
    second.look()
    told = []
    for _ in range(20):
        told += scene.go(5)
        told += [(alert.rule, alert.state) for alert in second.look()]
    assert told == [(LOST, FIRED)]
    assert (scene.dog.on_duty, second.on_duty) == (True, False)
    scene.dog.close()
    assert scene.go(10, "train", dog=second) == [(LOST, OVER)]
    assert second.on_duty


def test_two_watchdogs_without_a_lease_still_raise_one_alert(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene.store, "take_lease", lambda lease: True)
    second = scene.another()
    second.look()
    for _ in range(20):
        scene.go(5)
        second.look()
    assert [alert.rule for alert in scene.store.alerts()] == [LOST]


def test_what_a_person_decided_is_respected(scene: Scene) -> None:
    scene.go(50, "train")
    scene.go(100)
    (alert,) = scene.store.alerts()
    scene.store.set_alert_state(alert.id, AlertState.ACKNOWLEDGED, at=scene.born, by="ann")
    assert scene.go(100) == []
    scene.store.set_alert_state(alert.id, AlertState.RESOLVED, at=scene.born, by="ann")
    assert scene.go(100) == [], "the same standstill is not told twice"
    scene.dog.close()
    fresh = scene.another()
    assert scene.go(200, dog=fresh) == [], "nor by the next watchdog"


def test_a_run_that_died_before_the_watchdog_came_is_found_but_not_ancient_history(scene: Scene) -> None:
    for name, days in (("friday", 3), ("last year", 365)):
        moment = scene.born - days * 86400.0
        scene.store.create_run(replace(scene.run, id=new_id(), name=name, created_at=moment, heartbeat_at=moment))
    scene.go(100, "train")
    names = {run.id: run.name for run in scene.store.runs()}
    assert [names[alert.run_id] for alert in scene.store.alerts()] == ["friday"]


def test_the_runs_own_channels_and_the_watchdogs_are_told(scene: Scene) -> None:
    scene.store.set_channels(scene.run.id, ["json://run"])
    scene.dog.close()
    dog = scene.another(channels=["json://dog", "json://run"])
    scene.go(100, dog=dog)
    entries = scene.store.notifications(states=[NotificationState.WAITING])
    assert sorted(entry.channel for entry in entries) == ["json://dog", "json://run"]
    assert "critical in gpt2" in entries[0].title


def test_a_watchdog_that_was_overtaken_while_it_looked_tells_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.go(50, "train")
    take, theirs = scene.store.take_lease, Lease("watchdog", "another")

    def overtaken(lease: Lease) -> bool:
        """At every look: on duty when it asked, and no more when it writes."""
        scene.store.release_lease(theirs)
        held = take(lease)
        scene.store.release_lease(lease)
        return held and take(theirs)

    with monkeypatch.context() as patch:
        patch.setattr(scene.store, "take_lease", overtaken)
        assert scene.go(100) == []
    assert not scene.dog.on_duty
    assert scene.store.alerts() == []
    scene.store.release_lease(theirs)
    assert scene.go(5) == [(LOST, FIRED)], "what could not be told is told by who is on duty then"
