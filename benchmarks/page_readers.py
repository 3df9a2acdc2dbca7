"""Readers without a browser: each asks the server for what a real tab asked for, and answers like one that draws.

A browser takes a tenth of a core to draw a run that goes on, so twenty of them beside the server measure their machine. The readers
of a team have machines of their own; what they share is the server, and to it these are no different.

``python -m foreshock.benchmarks.page_readers ADDRESS COUNT`` reads a ``Recording`` as JSON from standard input, prints a line when
all readers are shown the run, and ends when it is told to.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

_DRAWS_IN = 0.1  # seconds


@dataclass(frozen=True, slots=True)
class Recording:
    """What a tab asked for: its name for itself, what began its live sections, and how it says that it has drawn."""

    tab: str
    sections: list[dict[str, Any]]
    drawn: dict[str, Any]

    @classmethod
    def of(cls, messages: list[dict[str, Any]]) -> "Recording":
        """Return the recording of a tab, from what it told the worker that holds its socket.

        Raises:
            ValueError: it has shown no run yet.
        """
        asked = [message["payload"] for message in messages if message.get("type") == "callback_request"]
        sections = [payload for payload in asked if _input(payload) == "run-page-ticket"]
        drawn = [payload for payload in asked if _input(payload) == "drawn" and payload["inputs"][0].get("value")]
        if not sections or not drawn:
            raise ValueError("the tab has not shown a run yet")
        newest = max(payload["inputs"][0]["value"]["number"] for payload in sections)
        sections = [payload for payload in sections if payload["inputs"][0]["value"]["number"] == newest]
        return cls(str(drawn[0]["inputs"][0]["value"]["tab"]), sections, drawn[0])


def _input(payload: dict[str, Any]) -> str:
    return str(payload["inputs"][0]["id"]) if payload["inputs"] else ""


@contextmanager
def reading(address: str, recording: Recording, count: int) -> Iterator[None]:
    """Let so many readers follow what the recorded tab follows, in a process of their own.

    Args:
        address: of the dashboard.

    Raises:
        RuntimeError: they are not served.
    """
    command = [sys.executable, "-P", "-m", __spec__.name, address, str(count)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(asdict(recording)) + "\n")
        process.stdin.flush()
        if not process.stdout.readline():
            process.terminate()
            raise RuntimeError(f"the readers are not served: {process.communicate(timeout=30)[1][-500:]}")
        yield
    finally:
        process.terminate()
        process.communicate(timeout=30)


class Reader:
    """One of them, on its own connection."""

    def __init__(self, recording: Recording, number: int) -> None:
        self._recording, self._tab = recording, f"{recording.tab}-{number}"
        self._requests = 0
        self._beat = 0
        self.shown = asyncio.Event()
        """Set once it was sent something and has answered."""

    async def read(self, address: str) -> None:
        """Follow the run until the server closes the connection."""
        from websockets.asyncio.client import connect

        place = urlsplit(address)
        socket = f"ws://{place.netloc}/_dash-ws-callback"
        async with connect(socket, origin=f"{place.scheme}://{place.netloc}", max_size=None) as connection:  # type: ignore[arg-type]
            for payload in self._recording.sections:
                await self._ask(connection, payload)
            answering: asyncio.Task[None] | None = None
            async for text in connection:
                told = json.loads(text)
                for message in told if isinstance(told, list) else [told]:
                    await self._take(connection, message)
                if self._beat and (answering is None or answering.done()):
                    answering = asyncio.create_task(self._answer(connection))

    async def _take(self, connection: Any, message: dict[str, Any]) -> None:
        payload = message.get("payload") or {}
        if message["type"] == "set_props" and payload["componentId"] == "beat":
            self._beat = int(payload["props"]["title"])
        elif message["type"] == "get_props_request":
            values = dict.fromkeys(payload["properties"], payload["componentId"])  # asked for are ids only
            await self._send(connection, {"type": "get_props_response", "requestId": message["requestId"], "payload": values})

    async def _answer(self, connection: Any) -> None:
        await asyncio.sleep(_DRAWS_IN)
        value = {"tab": self._recording.tab, "number": self._beat}
        self._beat = 0
        first, *rest = self._recording.drawn["inputs"]
        await self._ask(connection, {**self._recording.drawn, "inputs": [{**first, "value": value}, *rest]})
        self.shown.set()

    async def _ask(self, connection: Any, payload: dict[str, Any]) -> None:
        self._requests += 1
        await self._send(connection, {"type": "callback_request", "requestId": f"{self._tab}-{self._requests}", "payload": payload})

    async def _send(self, connection: Any, message: dict[str, Any]) -> None:
        text = json.dumps({**message, "rendererId": self._tab})
        await connection.send(text.replace(f'"{self._recording.tab}"', f'"{self._tab}"'))


async def _all(address: str, recording: Recording, count: int) -> None:
    readers = [Reader(recording, number) for number in range(count)]
    async with asyncio.TaskGroup() as group:
        for reader in readers:
            group.create_task(reader.read(address))
        for reader in readers:
            await reader.shown.wait()
        print("all are shown the run", flush=True)


if __name__ == "__main__":
    asyncio.run(_all(sys.argv[1], Recording(**json.loads(sys.stdin.readline())), int(sys.argv[2])))
