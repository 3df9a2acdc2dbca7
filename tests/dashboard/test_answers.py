"""What the tabs that follow a run have in common: the same is asked, said and reckoned once, and nobody is told what was."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest
from foreshock.dashboard import factory, updates, who
from foreshock.dashboard.answers import Answers
from foreshock.dashboard.desk import NewsDesk
from foreshock.dashboard.sections import head
from foreshock.dashboard.source import StoreSource
from foreshock.dashboard.who import Visitor
from foreshock.storage.base import Store
from foreshock.storage.errors import StoreUnavailableError
from foreshock.storage.records import AlertState


class Counted:
    """How often each method of a store is called; a gate to hold a call up."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.entered, self.gate = threading.Semaphore(0), threading.Event()
        self.gate.set()
        for name in ("changes", "run", "series", "alerts"):
            monkeypatch.setattr(store, name, self._counting(name, getattr(store, name)))

    def _counting(self, name: str, ask: Callable[..., Any]) -> Callable[..., Any]:
        def answer(*args: Any, **more: Any) -> Any:
            self.asked.append(name)
            found = ask(*args, **more)
            self.entered.release()
            assert self.gate.wait(20)
            return found

        return answer


@pytest.fixture
def counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(store, monkeypatch)


@pytest.fixture
def answers(store: Store) -> Answers:
    found = Answers(lambda: store)
    found.hear(True)
    return found


def test_the_same_is_asked_once_until_there_is_news(
    store: Store, simulated: ModuleType, counted: Counted, answers: Answers
) -> None:
    run = simulated.begin_run(store, "followed")
    for _ in range(5):
        assert answers.run(run.id) == run
        assert answers.alerts(run, states=[AlertState.FIRING]) == []
    answers.alerts(run, states=[AlertState.RESOLVED])
    assert counted.asked == ["run", "alerts", "alerts"]
    store.update_run(run.id, heartbeat_at=5e9)
    assert answers.run(run.id) == run, "nobody has said yet that it was written to"
    answers.forget()
    assert answers.run(run.id).heartbeat_at == 5e9
    answers.hear(False)
    assert [answers.run(run.id).heartbeat_at for _ in range(3)] == [5e9] * 3
    assert counted.asked[3:] == ["run"] * 4, "while nobody listens to the store, it is asked every time"


def test_who_asks_together_waits_for_one_answer_and_news_overtakes_it(
    store: Store, simulated: ModuleType, counted: Counted, answers: Answers
) -> None:
    run = simulated.begin_run(store, "followed")
    counted.gate.clear()
    with ThreadPoolExecutor(9) as pool:
        early = [pool.submit(answers.run, run.id) for _ in range(4)]
        assert counted.entered.acquire(timeout=20)
        store.update_run(run.id, heartbeat_at=5e9)
        answers.forget()
        late = [pool.submit(answers.run, run.id) for _ in range(4)]
        assert counted.entered.acquire(timeout=20)
        counted.gate.set()
        assert {one.result(20).heartbeat_at for one in early} == {run.heartbeat_at}
        assert {one.result(20).heartbeat_at for one in late} == {5e9}, "an answer from before the news is no answer after it"
    assert counted.asked == ["run", "run"]


def test_a_question_that_failed_is_asked_again(store: Store, monkeypatch: pytest.MonkeyPatch, answers: Answers) -> None:
    troubles: Iterator[Exception | None] = iter([StoreUnavailableError("away"), None])

    def runs_or_fails(reference: str) -> str:
        if (trouble := next(troubles)) is not None:
            raise trouble
        return reference

    monkeypatch.setattr(store, "run", runs_or_fails)
    with pytest.raises(StoreUnavailableError, match="away"):
        answers.run("r")
    assert [answers.run("r"), answers.run("r")] == ["r", "r"]


def test_twenty_readers_of_a_run_cost_the_store_little_more_than_one(store: Store, simulated: ModuleType, counted: Counted) -> None:
    run, simulation = simulated.begin_run(store, "followed"), simulated.Simulation(failing=False)
    simulated.write_steps(store, run.id, simulation, 0, 40)
    source = StoreSource(store)
    charts: list[Any] = []

    async def play() -> list[Any]:
        desk = NewsDesk(source)
        with desk.subscribed(run.id) as subscription:
            assert await subscription.wait(20.0)
            while not source.answers._hearing:
                await asyncio.sleep(0.01)
            charts.extend(factory.loss(source.live(), run.id) for _ in range(20))
            for chart in charts:
                await asyncio.to_thread(chart.paint)
            subscription.clear()
            counted.asked.clear()
            await asyncio.to_thread(simulated.write_steps, store, run.id, simulation, 40, 41)
            assert await subscription.wait(20.0)
            told = await asyncio.gather(*(asyncio.to_thread(chart.advance) for chart in charts))
        desk.close()
        return told

    assert all(one["loss"]["figure"].to_plotly_json()["operations"] for one in asyncio.run(play()))
    assert 1 <= counted.asked.count("changes") <= 2, "two where the write was heard in two parts"


def test_what_is_said_of_a_run_is_said_once_for_all_tabs_but_not_across_visitors(
    store: Store, simulated: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = simulated.write_failing_run(store)
    heads = [head.Head(store, run) for _ in range(3)]
    first, second, third = (each.paint() for each in heads)
    assert first is second is third
    monkeypatch.setattr(who, "visitor", lambda: Visitor("on-call", may_write=False))
    reader = head.Head(store, run).paint()
    assert "You may only read." not in str(first["alerts"])
    assert "You may only read." in str(reader["alerts"])
    monkeypatch.undo()
    store.update_run(run.id, meta={"host": "another"})
    assert "on another" in str(heads[0].advance()["run-head"])
    assert "on another" not in str(heads[1].tick()["run-head"]), "a tab says what it has read"


def test_what_many_tabs_are_sent_is_reckoned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reckoned: list[Any] = []
    real = updates._digest
    monkeypatch.setattr(updates, "_digest", lambda value: reckoned.append(value) or real(value))
    monkeypatch.setattr("dash.set_props", lambda component, properties: None)
    figure = {"data": list(range(100))}
    assert all(updates.Sender().send({"loss": {"figure": figure}}) for _ in range(20))
    assert len(reckoned) == 1
    sender = updates.Sender()
    for number in range(200):
        assert sender.send({"loss": {"figure": {"data": [number]}}}), "an address in memory that is used again is another value"
    assert len(updates._known._known) <= updates._KEPT
