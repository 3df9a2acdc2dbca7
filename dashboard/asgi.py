"""What the layers between the web server and the pages share."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


def header(scope: Scope, name: bytes) -> str:
    """Return a request's header; empty where it has none."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


async def answer(send: Send, status: int, body: bytes, headers: Mapping[str, str]) -> None:
    """Answer a request whole. Newlines cannot get into a header: they are refused by the server below."""
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    raw.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


async def whole_body(receive: Receive, most: int) -> bytes | None:
    """Return a request's body; None where it is longer than ``most`` bytes, or its sender went away."""
    parts: list[bytes] = []
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            return None
        parts.append(event.get("body", b""))
        if sum(map(len, parts)) > most:
            return None
        if not event.get("more_body", False):
            return b"".join(parts)
