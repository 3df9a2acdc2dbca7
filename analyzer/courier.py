"""Delivering the outbox: claims, retries, quiet hours, digests, dead letters. Any number of couriers may work on one store."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from time import monotonic
from time import time as wall_clock
from typing import TYPE_CHECKING, Protocol

from ..storage.base import Store
from ..storage.errors import StoreError
from ..storage.records import Alert, Notification, NotificationState, derived_id
from .channels import Channel
from .digest import MOST_LISTED, AlertOf, address_of, digest_of, groups, ordered, waiting, worst_of
from .sending import Message, send

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
_UNTIL_SAVED_S = 0.3
"""Notifications are made just before they are saved, in one transaction with their alerts."""


class Extras(Protocol):
    """What goes with a message besides its words; whoever wires the rooms together gives it (see ``dashboard.messages``)."""

    def chart(self, alert: Alert) -> bytes:
        """Draw an alert's evidence as a PNG; raises where it cannot."""
        ...

    def data(self, alerts: Sequence[Alert], names: Mapping[str, str], addresses: Mapping[str, str]) -> Mapping[str, object]:
        """Return what a webhook is told of alerts, as plain data.

        Args:
            names: run id -> name of the run.
            addresses: alert id -> address of its page, where it is known.
        """
        ...


def deliver_due(store: Store, now: float, *, stop: Callable[[], bool] = lambda: False, extras: Extras | None = None) -> int:
    """Send what is due and store how it went; return how many alerts were told.

    A failure is tried again after 5 s, doubling up to 15 min, each delay stretched by up to a quarter; after 8 tries it is given
    up: state ``failed``, with the error. Two couriers never send the same entry, unless one died, or stood still for 90 s, between
    sending and noting it: each message is sent at least once, and, because a try is counted before it is made, at most 8 times.

    More than 5 messages to one channel within a minute become one, the critical alerts first; what comes within a minute of such a
    digest is told when that minute is over. In a channel's quiet hours what is not critical is put off until they end, in the
    store, and becomes one message then.

    Args:
        store: where the outbox is.
        now: the time to count from, seconds since the epoch.
        stop: asked between two messages.
        extras: charts and data that go with messages; none where None.

    Raises:
        StoreError: the outbox cannot be read or written.
    """
    began = monotonic()
    by_channel: dict[str, list[Notification]] = {}
    for entry in store.due_notifications(now, limit=_MOST_PER_ROUND):
        by_channel.setdefault(entry.channel, []).append(entry)
    sent = 0
    for given, entries in by_channel.items():
        if stop():
            break
        channel, alert_of = Channel.lenient(given), _alerts_of(store)
        later, until = waiting(channel, entries, alert_of, now)
        for entry in later:
            store.settle_notification(replace(entry, next_attempt_at=until))
        if not (entries := [entry for entry in entries if entry not in later]):
            continue
        recent = [(at, digest) for at, digest in store.deliveries(channel.url, since=now - DIGEST_WINDOW_S) if at <= now + 1.0]
        if any(digest for _, digest in recent):
            continue
        together = len(entries) > 1 and len(entries) + len(recent) > DIGEST_AFTER
        for group in [entries] if together else groups(channel, entries):
            at = now + monotonic() - began  # channels that hang may have taken minutes
            sent += 0 if stop() else _deliver(store, channel, group, at, alert_of, extras)
            if len(group) > 1:
                break
    return sent


def retry_delay(entry_id: str, attempts: int) -> float:
    """Return the seconds until the next try, after so many; the same for the same entry everywhere."""
    stretch = int(derived_id(entry_id, attempts)[:8], 16) / 2**32
    return min(FIRST_DELAY_S * 2.0 ** (attempts - 1), LONGEST_DELAY_S) * (1.0 + JITTER * stretch)


def _deliver(
    store: Store, channel: Channel, wanted: Sequence[Notification], now: float, alert_of: AlertOf, extras: Extras | None
) -> int:
    """Claim the entries, send them as one message, settle each. What was tried often enough before is given up unsent."""
    for entry in wanted:
        if entry.attempts >= MOST_ATTEMPTS:
            store.settle_notification(replace(entry, state=NotificationState.FAILED, error=_NEVER_NOTED))
    entries = store.claim_notifications([entry for entry in wanted if entry.attempts < MOST_ATTEMPTS], until=now + _CLAIM_S)
    if not entries:
        return 0
    first = entries[0]
    error = send(channel.url, _message(store, channel, wanted, entries, alert_of, extras))
    if not error:
        store.note_delivery(channel.url, now, digest=len(entries) > 1)
    for entry in entries:
        if not error:
            settled = replace(entry, state=NotificationState.SENT, error="", next_attempt_at=now)
        elif entry.attempts >= MOST_ATTEMPTS:
            settled = replace(entry, state=NotificationState.FAILED, error=error, next_attempt_at=now)
        else:
            settled = replace(entry, next_attempt_at=now + retry_delay(first.id, entry.attempts), error=error)
        store.settle_notification(settled)
    return 0 if error else len(entries)


def _message(
    store: Store,
    channel: Channel,
    due: Sequence[Notification],
    entries: Sequence[Notification],
    alert_of: AlertOf,
    extras: Extras | None,
) -> Message:
    """Return one message for entries, with its chart and data.

    A chart goes with the first try alone: some channels send the words and then fail with the picture, each time anew.
    """
    entries = ordered(entries, alert_of)
    alerts = [alert for entry in entries[:MOST_LISTED] if (alert := alert_of(entry)) is not None]
    quiet = channel.quiet is not None and all(channel.quiet.held(entry.next_attempt_at) for entry in due)
    title, body = (entries[0].title, entries[0].body) if len(entries) == 1 else digest_of(entries, alert_of, quiet)
    if extras is None or not alerts:
        return Message(title, body, worst_of(alerts))
    drawn = channel.charts and len(entries) == 1 and entries[0].attempts == 1 and any(piece.steps for piece in alerts[0].evidence)
    names = {run_id: _run_name(store, run_id) for run_id in {alert.run_id for alert in alerts}}
    addresses = {entry.alert_id: address for entry in entries if (address := address_of(entry))}
    return Message(
        title,
        body,
        worst_of(alerts),
        chart=partial(extras.chart, alerts[0]) if drawn else None,
        data=partial(extras.data, alerts, names, addresses),
    )


def _alerts_of(store: Store) -> AlertOf:
    """Return a function that finds entries' alerts, and reads each once."""
    known: dict[str, Alert | None] = {}

    def found(entry: Notification) -> Alert | None:
        if entry.alert_id not in known:
            try:
                known[entry.alert_id] = store.alert(entry.alert_id)
            except KeyError:  # deleted meanwhile
                known[entry.alert_id] = None
        return known[entry.alert_id]

    return found


def _run_name(store: Store, run_id: str) -> str:
    try:
        return store.run(run_id).name
    except KeyError:
        return ""


class Courier:
    """Delivers a store's outbox from a thread of its own. Never raises; a store that is away is tried again.

    Args:
        outbox: wakes the courier when it has something new; None where only what others left is delivered.
        store: where the outbox is kept.
        interval: seconds between two looks for retries.
        extras: charts and data that go with messages.
    """

    def __init__(self, outbox: "Outbox | None", store: Store, *, interval: float = 5.0, extras: Extras | None = None) -> None:
        self._extras = extras
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
            deliver_due(self._store, now, stop=self._abandoned.is_set, extras=self._extras)
            self.error = ""
        except StoreError as error:
            self.error = str(error)
        except Exception as error:  # noqa: BLE001 - a courier that dies takes every later warning with it
            self.error = f"{type(error).__name__}: {error}"
            log.warning("notifications could not be delivered: %s", self.error)
