"""Telling people: a line on the console, and the messages that go into the outbox (``courier`` delivers them)."""

import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TextIO

from ..storage.records import Alert, AlertState, Notification, Severity, derived_id
from .channels import bare
from .messages import Messages, likeliest
from .wording import step_number

if TYPE_CHECKING:
    from .courier import Courier, deliver_due

__all__ = ["ConsoleNotifier", "Courier", "Outbox", "console_line", "deliver_due"]


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
    cause, remedy = likeliest(alert)
    named = f" Likeliest cause: {cause}." if cause else ""
    line = f"foreshock {alert.severity.value.upper()} step {step_number(alert.first_step)}: {alert.message}{named}"
    return " ".join(f"{line} {remedy}".split())


class Outbox:
    """Turns alerts into outbox entries: one an alert and channel, when it fires. Its ids are derived, so repeats change nothing.

    Args:
        channels: Apprise URLs, with parameters as ``channels`` reads them; of two that differ in these only, the first counts.
        least: lowest severity that is sent.
        run_name, project: named in the message.
        messages: how it is written.
    """

    def __init__(
        self,
        channels: Sequence[str],
        least: Severity = Severity.WARNING,
        run_name: str = "",
        project: str = "",
        messages: Messages | None = None,
    ) -> None:
        self.channels = tuple({bare(channel): channel for channel in reversed(channels)}.values())[::-1]
        self.least = least
        self.run_name, self.project = run_name, project
        self.messages = messages or Messages()
        self.filled = threading.Event()
        """Set when there is something new to deliver."""

    def notifications(self, alert: Alert) -> list[Notification]:
        """Return the notifications due for an alert, to be saved together with it; none unless it is firing."""
        if alert.state is not AlertState.FIRING or alert.severity.rank < self.least.rank:
            return []
        if not self.channels:
            return []
        title, body = self.messages.write(alert, self.run_name, self.project)
        self.filled.set()
        return [
            Notification(
                id=derived_id("notification", alert.id, bare(channel), *([alert.segment] if alert.segment else [])),
                alert_id=alert.id,
                channel=channel,
                title=title,
                body=body,
                next_attempt_at=alert.created_at,
            )
            for channel in self.channels
        ]


def __getattr__(name: str) -> Any:
    if name in ("Courier", "deliver_due"):  # which stood here before
        from . import courier

        return getattr(courier, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
