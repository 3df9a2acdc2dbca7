"""Telling people: a line on the console, and an outbox delivered through Apprise off the training thread."""

import logging
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from queue import SimpleQueue
from time import time as wall_clock
from typing import TextIO

from ..storage.base import Store, StoreError
from ..storage.records import Alert, AlertState, Notification, NotificationState, Severity, derived_id
from .wording import step_number

log = logging.getLogger("foreshock")

MOST_ATTEMPTS = 8
FIRST_DELAY_S = 5.0
LONGEST_DELAY_S = 900.0
_MOST_PER_ROUND = 20
_UNTIL_SAVED_S = 0.3
"""Notifications are made just before they are saved, in one transaction with their alerts."""


class ConsoleNotifier:
    """Prints one plain line for each alert that fires, to stderr, from a thread of its own: a terminal may be slow, a pipe full.

    Args:
        stream: where to print; ``sys.stderr`` as it is at the time when None.
        least: lowest severity that is printed.
    """

    def __init__(self, stream: TextIO | None = None, least: Severity = Severity.WARNING) -> None:
        self._stream = stream
        self._least = least
        self._told: set[str] = set()
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def tell(self, alert: Alert) -> None:
        """Print the alert soon if it is firing and was not printed before. A closed stream is not an error."""
        if alert.id in self._told or alert.state is not AlertState.FIRING or alert.severity.rank < self._least.rank:
            return
        self._told.add(alert.id)
        if self._thread is None:
            self._thread = threading.Thread(target=self._print, name="foreshock-console", daemon=True)
            self._thread.start()
        self._lines.put(console_line(alert))

    def close(self, timeout: float = 1.0) -> None:
        """Wait until what was told is printed, at most so many seconds. May be called twice."""
        if self._thread is not None and self._thread.is_alive():
            self._lines.put(None)
            self._thread.join(timeout)

    def _print(self) -> None:
        while (line := self._lines.get()) is not None:
            with suppress(OSError, ValueError):
                print(line, file=self._stream or sys.stderr, flush=True)


def console_line(alert: Alert) -> str:
    """Return an alert as one line: ``foreshock WARNING step 740: ... Remedy: ...``."""
    cause = f" Likeliest cause: {alert.diagnosis[0].title}." if alert.diagnosis else ""
    remedy = alert.diagnosis[0].remedy if alert.diagnosis else alert.remedy
    line = f"foreshock {alert.severity.value.upper()} step {step_number(alert.first_step)}: {alert.message}{cause}"
    return " ".join(f"{line} {remedy}".split())


class Outbox:
    """Turns alerts into outbox entries: one an alert and channel, when it fires. Its ids are derived, so repeats change nothing.

    Args:
        channels: Apprise URLs.
        least: lowest severity that is sent.
        run_name: named in the title.
    """

    def __init__(self, channels: Sequence[str], least: Severity = Severity.WARNING, run_name: str = "") -> None:
        self.channels = tuple(dict.fromkeys(channels))
        self.least = least
        self.run_name = run_name
        self.filled = threading.Event()
        """Set when there is something new to deliver."""

    def notifications(self, alert: Alert) -> list[Notification]:
        """Return the notifications due for an alert, to be saved together with it; none unless it is firing."""
        if alert.state is not AlertState.FIRING or alert.severity.rank < self.least.rank:
            return []
        made = [
            Notification(
                id=derived_id("notification", alert.id, channel),
                alert_id=alert.id,
                channel=channel,
                title=self._title(alert),
                body=notification_body(alert),
                next_attempt_at=alert.created_at,
            )
            for channel in self.channels
        ]
        if made:
            self.filled.set()
        return made

    def _title(self, alert: Alert) -> str:
        run = f" in {self.run_name}" if self.run_name else ""
        return f"foreshock: {alert.severity.value}{run} at step {step_number(alert.first_step)}"


def notification_body(alert: Alert) -> str:
    """Return what a notification says: the message, the likeliest cause with its reasons, the remedy."""
    lines = [alert.message]
    if alert.diagnosis:
        cause = alert.diagnosis[0]
        lines += ["", f"Likeliest cause: {cause.title} ({cause.confidence:.0%}).", *(f"- {reason}" for reason in cause.reasons)]
    lines += ["", f"What to do: {alert.diagnosis[0].remedy if alert.diagnosis else alert.remedy}"]
    return "\n".join(lines)


def deliver_due(store: Store, now: float, *, stop: Callable[[], bool] = lambda: False) -> int:
    """Send what is due, at most 20 notifications, and store how each went; return how many were sent.

    A failure is tried again after 5 s, doubling up to 15 min; after 8 tries it is given up and marked failed, with the error.

    Args:
        store: where the outbox is.
        now: the time to count from, seconds since the epoch.
        stop: asked between two notifications.

    Raises:
        StoreError: the outbox cannot be read or written.
    """
    sent = 0
    for entry in store.due_notifications(now, limit=_MOST_PER_ROUND):
        if stop():
            break
        error = _send(entry)
        attempts = entry.attempts + 1
        if not error:
            settled = replace(entry, state=NotificationState.SENT, attempts=attempts, error="")
            sent += 1
        elif attempts >= MOST_ATTEMPTS:
            settled = replace(entry, state=NotificationState.FAILED, attempts=attempts, error=error)
        else:
            delay = min(FIRST_DELAY_S * 2 ** (attempts - 1), LONGEST_DELAY_S)
            settled = replace(entry, attempts=attempts, next_attempt_at=now + delay, error=error)
        store.settle_notification(settled)
    return sent


def _send(entry: Notification) -> str:
    """Send one notification; return what went wrong, or nothing. A slow server costs Apprise's own timeout, a few seconds."""
    try:
        import apprise
    except ImportError:
        return "apprise is not installed: pip install apprise"
    heard = _Heard()
    logger = logging.getLogger("apprise")
    logger.addHandler(heard)
    try:
        sender = apprise.Apprise()
        if not sender.add(entry.channel):
            return "not an Apprise URL; https://appriseit.com/services lists the forms it takes"
        return "" if sender.notify(title=entry.title, body=entry.body) else (heard.last or "the channel did not take it")
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


class Courier:
    """Delivers a store's outbox from a thread of its own. Never raises; a store that is away is tried again.

    Args:
        outbox: wakes the courier when it has something new.
        store: where the outbox is kept.
        interval: seconds between two looks for retries.
    """

    def __init__(self, outbox: Outbox, store: Store, *, interval: float = 5.0) -> None:
        self._filled = outbox.filled
        self._store = store
        self._interval = interval
        self._closing = threading.Event()
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._run, name="foreshock-courier", daemon=True)
        self.error = ""
        """Why the last look failed; empty when it did not."""

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def close(self, timeout: float = 5.0) -> None:
        """Deliver what is due now and stop; may be called twice. What is not delivered in time stays in the outbox."""
        self._closing.set()
        self._filled.set()
        if self._thread.is_alive():
            self._thread.join(timeout)
        self._abandoned.set()

    def _run(self) -> None:
        while True:
            if self._filled.wait(self._interval):
                self._filled.clear()
                self._closing.wait(_UNTIL_SAVED_S)
            closing = self._closing.is_set()
            self._look()
            if closing:
                return

    def _look(self) -> None:
        try:
            deliver_due(self._store, wall_clock(), stop=self._abandoned.is_set)
            self.error = ""
        except StoreError as error:
            self.error = str(error)
        except Exception as error:  # noqa: BLE001 - a courier that dies takes every later warning with it
            self.error = f"{type(error).__name__}: {error}"
            log.warning("notifications could not be delivered: %s", self.error)
