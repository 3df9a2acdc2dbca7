"""Replays for readers: with progress, beside the loop, and ended when nobody waits any more."""

import asyncio
import threading
import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from foreshock.dashboard import live, replaying
from foreshock.dashboard.replaying import Place, Replaying, Stopped
from foreshock.dashboard.showings import Showings

TICKET = {"tab": "a", "number": 1, "visible": True}
PLACE = Place("preview", "rule-page", "said", "go", "stop")


class Socket:
    """A tab's socket, which answers as long as the tab is open."""

    is_shutdown = False
    open = True

    async def get_prop(self, page: str, name: str, timeout: float) -> Any:
        return page if self.open else None


@pytest.fixture
def socket(monkeypatch: pytest.MonkeyPatch) -> Socket:
    found = Socket()
    monkeypatch.setattr(replaying, "dash", SimpleNamespace(ctx=SimpleNamespace(websocket=found)))
    return found


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What was sent to the tab."""
    found: list[tuple[str, Any]] = []
    monkeypatch.setattr(live.dash, "set_props", lambda name, value: found.append((name, value)))
    return found


class Endless:
    """Work that never ends by itself."""

    def __init__(self) -> None:
        self.began, self.ended = threading.Event(), threading.Event()

    def __call__(self, job: Replaying) -> None:
        self.began.set()
        try:
            while True:
                job.step(1)
                time.sleep(0.001)
        except Stopped:
            self.ended.set()
            raise


@pytest.mark.parametrize("leaving", ["another page", "stop", "closed tab"])
def test_a_replay_ends_when_the_reader_leaves_and_the_loop_stays_free(
    leaving: str, socket: Socket, sent: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LIVENESS_EVERY", 0.2)
    work, showings = Endless(), Showings()

    async def read() -> float:
        task = asyncio.ensure_future(replaying._attended(showings, TICKET, PLACE, lambda: Replaying(work, 10), lambda found: {}))
        slowest, before = 0.0, time.monotonic()
        while not any("Replaying" in str(value) for _, value in sent):
            await asyncio.sleep(0.01)
            slowest, before = max(slowest, time.monotonic() - before), time.monotonic()
        if leaving == "another page":
            showings.retire("a", 2)
        elif leaving == "stop":
            showings.end("a", "preview", showings.begin("a", "preview", 1))
        else:
            socket.open = False
        await asyncio.wait_for(task, 20)
        return slowest

    assert asyncio.run(read()) < 5.0
    assert work.ended.wait(10)
    assert len(showings) == 0
    words = [value["children"] for name, value in sent if name == "said"]
    assert words[0] == "Beginning …"
    assert any(word.startswith("Replaying: ") for word in words)


def test_a_replay_shows_what_it_came_to_and_a_failure_is_said(socket: Socket, sent: list[tuple[str, Any]]) -> None:
    def steps(job: Replaying) -> str:
        job.step(5)
        return "found"

    begin = partial(Replaying, steps, 5)
    asyncio.run(replaying._attended(Showings(), TICKET, PLACE, begin, lambda found: {"said": {"children": found}}))
    assert sent[-3:] == [("go", {"disabled": False}), ("stop", {"hidden": True}), ("said", {"children": "found"})]

    def broken(job: Replaying) -> None:
        raise replaying.StoreError("it is away")

    asyncio.run(replaying._attended(Showings(), TICKET, PLACE, lambda: Replaying(broken, 5), lambda found: {}))
    assert sent[-1] == ("said", {"children": "The store cannot be read just now: it is away"})


def test_one_that_waits_in_line_says_so_and_is_never_begun_when_it_is_left() -> None:
    job = Replaying(lambda job: pytest.fail("it was left before"), 10)
    assert job.progress == "Waiting for other replays to end …"
    job.stop()
    with pytest.raises(Stopped):
        job.run()
