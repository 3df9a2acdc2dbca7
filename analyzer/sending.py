"""One message to one channel through Apprise, with an end to waiting."""

import logging
import threading
from urllib.parse import urlsplit

PATIENCE_S = 30.0
"""Seconds a channel may take. Apprise's plug-ins give up after some seconds by themselves; not all of them always do."""

_hanging: dict[str, threading.Thread] = {}


def send(channel: str, title: str, body: str, patience: float | None = None) -> str:
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
    sender = threading.Thread(target=lambda: answer.append(_send(channel, title, body)), name="foreshock-send", daemon=True)
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


def _send(channel: str, title: str, body: str) -> str:
    try:
        import apprise
    except ImportError:
        return "apprise is not installed: pip install apprise"
    heard = _Heard()
    logger = logging.getLogger("apprise")
    logger.addHandler(heard)
    try:
        sender = apprise.Apprise()
        if not sender.add(channel):
            return "not an Apprise URL; https://appriseit.com/services lists the forms it takes"
        return "" if sender.notify(title=title, body=body) else (heard.last or "the channel did not take it")
    except Exception as error:  # noqa: BLE001 - a plug-in of Apprise may raise anything; it must not stop the others
        return f"{type(error).__name__}: {error}"
    finally:
        logger.removeHandler(heard)


class _Heard(logging.Handler):
    """Keeps Apprise's last complaint: its calls return no more than False."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message."""
        self.last = record.getMessage()
