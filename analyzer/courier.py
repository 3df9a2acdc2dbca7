"""Delivering the outbox: claims, retries, digests, dead letters. Any number of couriers may work on one store."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import monotonic
from time import time as wall_clock
from typing import TYPE_CHECKING

from ..storage.base import Store
from ..storage.errors import StoreError
from ..storage.records import Notification, NotificationState, derived_id
from .notify import LINK
from .sending import send

if TYPE_CHECKING:
    from .notify import Outbox

log = logging.getLogger("foreshock")

MOST_ATTEMPTS = 8
FIRST_DELAY_S = 5.0
LONGEST_DELAY_S = 900.0
JITTER = 0.25
"""The longest share by which a delay is stretched, so that what failed together does not come back together."""
DIGEST_WINDOW_S = 60.0
DIGEST_AFTER = 5
"""Messages a channel gets singly within a window; with more than that, all that is due becomes one."""
_CLAIM_S = 90.0  # after which another courier may try what this one claimed: three times what one message may take
_NEVER_NOTED = f"tried {MOST_ATTEMPTS} times, the last time by a courier that died before it noted how it went: it may have arrived"
_MOST_PER_ROUND = 500
_MOST_LISTED = 50
_UNTIL_SAVED_S = 0.3
"""Notifications are made just before they are saved, in one transaction with their alerts."""


def deliver_due(store: Store, now: float, *, stop: Callable[[], bool] = lambda: False) -> int:
    """Send what is due and store how it went; return how many alerts were told.

    A failure is tried again after 5 s, doubling up to 15 min, each delay stretched by up to a quarter; after 8 tries it is given
    up: state ``failed``, with the error. Two couriers never send the same entry, unless one died, or stood still for 90 s, between
    sending and noting it: each message is sent at least once, and, because a try is counted before it is made, at most 8 times.

    More than 5 messages to one channel within a minute become one, the critical alerts first; what comes within a minute of such a
    digest is told when that minute is over.

    Args:
        store: where the outbox is.
        now: the time to count from, seconds since the epoch.
        stop: asked between two messages.

    Raises:
        StoreError: the outbox cannot be read or written.
    """
    began = monotonic()
    by_channel: dict[str, list[Notification]] = {}
    for entry in store.due_notifications(now, limit=_MOST_PER_ROUND):
        by_channel.setdefault(entry.channel, []).append(entry)
    sent = 0
    for channel, entries in by_channel.items():
        if stop():
            break
        recent = [(at, digest) for at, digest in store.deliveries(channel, since=now - DIGEST_WINDOW_S) if at <= now + 1.0]
        if any(digest for _, digest in recent):
            continue
        together = len(entries) > 1 and len(entries) + len(recent) > DIGEST_AFTER
        for group in [entries] if together else [[entry] for entry in entries]:
            sent += 0 if stop() else _deliver(store, group, now + monotonic() - began)  # channels that hang may have taken minutes
    return sent


def retry_delay(entry_id: str, attempts: int) -> float:
    """Return the seconds until the next try, after so many; the same for the same entry everywhere."""
    stretch = int(derived_id(entry_id, attempts)[:8], 16) / 2**32
    return min(FIRST_DELAY_S * 2.0 ** (attempts - 1), LONGEST_DELAY_S) * (1.0 + JITTER * stretch)


def _deliver(store: Store, wanted: Sequence[Notification], now: float) -> int:
    """Claim the entries, send them as one message, settle each. What was tried often enough before is given up unsent."""
    for entry in wanted:
        if entry.attempts >= MOST_ATTEMPTS:
            store.settle_notification(replace(entry, state=NotificationState.FAILED, error=_NEVER_NOTED))
    entries = store.claim_notifications([entry for entry in wanted if entry.attempts < MOST_ATTEMPTS], until=now + _CLAIM_S)
    if not entries:
        return 0
    first = entries[0]
    title, body = (first.title, first.body) if len(entries) == 1 else digest_of(entries)
    error = send(first.channel, title, body)
    if not error:
        store.note_delivery(first.channel, now, digest=len(entries) > 1)
    for entry in entries:
        if not error:
            settled = replace(entry, state=NotificationState.SENT, error="", next_attempt_at=now)
        elif entry.attempts >= MOST_ATTEMPTS:
            settled = replace(entry, state=NotificationState.FAILED, error=error, next_attempt_at=now)
        else:
            settled = replace(entry, next_attempt_at=now + retry_delay(first.id, entry.attempts), error=error)
        store.settle_notification(settled)
    return 0 if error else len(entries)


def digest_of(entries: Sequence[Notification]) -> tuple[str, str]:
    """Return title and text of one message for several alerts, in the order given."""
    lines = [_in_digest(entry) for entry in entries[:_MOST_LISTED]]
    if len(entries) > _MOST_LISTED:
        lines.append(f"- and {len(entries) - _MOST_LISTED} more")
    return f"foreshock: {len(entries)} alerts", "\n".join([*lines, "", "`foreshock alerts --open` and the page have the details."])


def _in_digest(entry: Notification) -> str:
    """Return a message as a line of a digest, with its link, where it has one."""
    first, *_, last = entry.body.split("\n") if "\n" in entry.body else (entry.body, "")
    link = f" {last.removeprefix(LINK)}" if last.startswith(LINK) else ""
    return f"- {entry.title.removeprefix('foreshock: ')}: {first}{link}"


class Courier:
    """Delivers a store's outbox from a thread of its own. Never raises; a store that is away is tried again.

    Args:
        outbox: wakes the courier when it has something new; None where only what others left is delivered.
        store: where the outbox is kept.
        interval: seconds between two looks for retries.
    """

    def __init__(self, outbox: "Outbox | None", store: Store, *, interval: float = 5.0) -> None:
        self._filled = outbox.filled if outbox is not None else threading.Event()
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
        now = wall_clock()
        try:
            self._store.lift_silences(now)
            deliver_due(self._store, now, stop=self._abandoned.is_set)
            self.error = ""
        except StoreError as error:
            self.error = str(error)
        except Exception as error:  # noqa: BLE001 - a courier that dies takes every later warning with it
            self.error = f"{type(error).__name__}: {error}"
            log.warning("notifications could not be delivered: %s", self.error)
