"""One message to one channel through Apprise, with an end to waiting."""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ..storage.records import Severity
from .markup import escape, plain, unescape

log = logging.getLogger("foreshock")
Made = TypeVar("Made")

PATIENCE_S = 30.0
"""Seconds a channel may take. Apprise's plug-ins give up after some seconds by themselves; not all of them always do."""

DATA = "foreshock"
"""The key under which a webhook finds the alerts as data."""
_TYPES = {Severity.INFO: "info", Severity.WARNING: "warning", Severity.CRITICAL: "failure"}
"""What Apprise calls them; a channel's colours and priorities follow."""

_KNOW_NO_ESCAPES = ("slack", "gchat")
"""Services whose own kind of Markdown shows a backslash as one."""

_hanging: dict[str, threading.Thread] = {}


@dataclass(frozen=True)
class Message:
    """What is sent to a channel.

    Args:
        body: Markdown; a channel that takes text only is given ``markup.plain`` of it.
        severity: how urgent; channels that have colours or priorities show it.
        chart: draws a picture (PNG) to go with it, where the channel takes pictures; it may fail, and the message goes without.
        data: makes what webhooks (``json://``) are told besides, as plain data.
    """

    title: str
    body: str
    severity: Severity = Severity.INFO
    chart: Callable[[], bytes] | None = None
    data: Callable[[], Mapping[str, object]] | None = None


def send(channel: str, message: Message, patience: float | None = None) -> str:
    """Send a message; return what went wrong, or nothing.

    A channel that gives no answer in time counts as failed, though its message may still arrive; until it answers, nothing more is
    sent to it.

    Args:
        channel: an Apprise URL.
        patience: seconds to wait for an answer; ``PATIENCE_S`` when None.
    """
    patience = PATIENCE_S if patience is None else patience
    before = _hanging.get(channel)
    if before is not None and before.is_alive():
        return "the channel has not answered an earlier message yet"
    answer: list[str] = []
    sender = threading.Thread(target=lambda: answer.append(_send(channel, message)), name="foreshock-send", daemon=True)
    _hanging[channel] = sender
    sender.start()
    sender.join(patience)
    if sender.is_alive():
        return f"no answer within {patience:g} s"
    _hanging.pop(channel, None)
    return answer[0] if answer else "the sender ended without an answer"


def printable(channel: str) -> str:
    """Return a channel without its secrets: ``slack://...``."""
    parts = urlsplit(channel)
    return f"{parts.scheme}://..." if parts.scheme else "..."


def _send(channel: str, message: Message) -> str:
    try:
        import apprise
    except ImportError:
        return "apprise is not installed: pip install apprise"
    heard = _Heard()
    logger = logging.getLogger("apprise")
    logger.addHandler(heard)
    try:
        service: Any = apprise.Apprise.instantiate(channel, asset=apprise.AppriseAsset(app_id="foreshock"))
        if not service:
            return "not an Apprise URL; https://appriseit.com/services lists the forms it takes"
        webhook = service.protocol == "json"
        if webhook and (data := _made(message.data, "data")) is not None:
            service.payload_extras.setdefault(DATA, dict(data))
        # As the channel shows it: text, markdown or html. `?format=` in its URL decides first, then what we have, then the channel.
        formatted = service.resolve_format("text" if webhook else "markdown").value
        title, body = message.title, message.body
        if formatted == "text":
            body = plain(body)
        elif service.secure_protocol in _KNOW_NO_ESCAPES:
            body = unescape(body)
        elif not service.title_maxlen:  # the title becomes a part of the body
            title = escape(title)
        sender = apprise.Apprise()
        sender.add(service)
        told = sender.notify(
            title=title,
            body=body,
            body_format="text" if formatted == "text" else "markdown",
            notify_type=_TYPES[message.severity],
            attach=_made(partial(_attachment, message.chart), "chart") if service.attachment_support else None,
        )
        return "" if told else (heard.last or "the channel did not take it")
    except Exception as error:  # noqa: BLE001 - a plug-in of Apprise may raise anything; it must not stop the others
        return f"{type(error).__name__}: {error}"
    finally:
        logger.removeHandler(heard)


def _made(make: Callable[[], Made] | None, what: str) -> Made | None:
    """Make what goes with a message; None where there is nothing, or it cannot be made: that must never stop the message."""
    if make is None:
        return None
    try:
        return make()
    except Exception as error:  # noqa: BLE001 - whatever went wrong, the words are what matters
        log.info("a message goes without its %s: %s", what, error)
        return None


def _attachment(chart: Callable[[], bytes] | None) -> Any:
    """Draw a picture and return it as Apprise takes it."""
    if chart is None:
        return None
    from apprise.attachment import memory

    kind: Any = memory.AttachMemory  # which has no types
    return kind(content=chart(), name="foreshock.png", mimetype="image/png")


class _Heard(logging.Handler):
    """Keeps Apprise's last complaint: its calls return no more than False."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message."""
        self.last = record.getMessage()
