"""The notification outbox, the log of what was sent, and where runs send to. Every function works in the caller's transaction."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, case, delete, insert, or_, select, update

from .codec import clean
from .records import AlertState, Notification, NotificationState, Severity, derived_id, new_id
from .runs import key_of
from .tables import alerts, channels, deliveries, outbox
from .upserts import insert_new

_UNTOLD = (AlertState.ACKNOWLEDGED.value, AlertState.SILENCED.value)
_DAYS_KEPT = 2 * 86400.0  # of the log of deliveries: far longer than any window


def add(connection: Connection, notification: Notification, alert_id: str) -> None:
    """Add a notification, under the alert's stored id, unless it is there."""
    row = {
        "id": notification.id,
        "alert_id": alert_id,
        "channel": clean(notification.channel),
        "title": clean(notification.title),
        "body": clean(notification.body),
        "state": notification.state.value,
        "attempts": notification.attempts,
        "next_attempt_at": notification.next_attempt_at,
        "error": clean(notification.error),
    }
    connection.execute(insert_new(connection.dialect.name, outbox, "id"), row)


def due(connection: Connection, now: float, limit: int) -> list[Notification]:
    """Return waiting notifications that are due and whose alert may be told: critical ones first, then longest waiting."""
    critical = case((alerts.c.severity == Severity.CRITICAL.value, 0), else_=1)
    query = (
        select(outbox)
        .outerjoin(alerts, alerts.c.id == outbox.c.alert_id)
        .where(outbox.c.state == NotificationState.WAITING.value, outbox.c.next_attempt_at <= now)
        .where(or_(alerts.c.state.is_(None), alerts.c.state.not_in(_UNTOLD)))
        .order_by(critical, outbox.c.next_attempt_at, outbox.c.id)
        .limit(limit)
    )
    return [_notification(row) for row in connection.execute(query)]


def claim(connection: Connection, wanted: Sequence[Notification], until: float) -> list[Notification]:
    """Count up the attempts of those that nobody else claimed since they were read; return them, in the order given."""
    mine: dict[str, Notification] = {}
    for entry in sorted(wanted, key=lambda entry: entry.id):  # one order for all couriers, so that they cannot lock each other out
        unchanged = and_(
            outbox.c.id == entry.id, outbox.c.state == NotificationState.WAITING.value, outbox.c.attempts == entry.attempts
        )
        fields = {"attempts": entry.attempts + 1, "next_attempt_at": until}
        if connection.execute(update(outbox).where(unchanged).values(**fields)).rowcount:
            row = connection.execute(select(outbox).where(outbox.c.id == entry.id)).one()
            mine[entry.id] = _notification(row)
    return [mine[entry.id] for entry in wanted if entry.id in mine]


def settle(connection: Connection, notification: Notification) -> None:
    """Store what became of a notification, unless it was claimed again or cancelled meanwhile."""
    fields = {
        "state": notification.state.value,
        "attempts": notification.attempts,
        "next_attempt_at": notification.next_attempt_at,
        "error": clean(notification.error),
    }
    waiting = outbox.c.state == NotificationState.WAITING.value
    theirs = and_(outbox.c.id == notification.id, waiting, outbox.c.attempts <= notification.attempts)
    connection.execute(update(outbox).where(theirs).values(**fields))


def retry(connection: Connection, notification_id: str, at: float) -> bool:
    """Let a dead letter wait again with its attempts counted anew; return whether it was one."""
    dead = and_(outbox.c.id == notification_id, outbox.c.state == NotificationState.FAILED.value)
    fields = {"state": NotificationState.WAITING.value, "attempts": 0, "next_attempt_at": at}
    return connection.execute(update(outbox).where(dead).values(**fields)).rowcount > 0


def cancel(connection: Connection, alert_id: str) -> None:
    """Cancel what still waits for an alert."""
    waiting = and_(outbox.c.alert_id == alert_id, outbox.c.state == NotificationState.WAITING.value)
    connection.execute(update(outbox).where(waiting).values(state=NotificationState.CANCELLED.value))


def listed(
    connection: Connection, states: Sequence[NotificationState] | None, alert_id: str | None, limit: int | None
) -> list[Notification]:
    """Return outbox entries, those last due first."""
    query = select(outbox).order_by(outbox.c.next_attempt_at.desc(), outbox.c.id).limit(limit)
    if alert_id is not None:
        query = query.where(outbox.c.alert_id == clean(alert_id))
    if states is not None:
        query = query.where(outbox.c.state.in_([state.value for state in states]))
    return [_notification(row) for row in connection.execute(query)]


def note_delivery(connection: Connection, channel: str, at: float, digest: bool) -> None:
    """Note a message; forget those of days ago."""
    row = {"id": new_id(), "channel": derived_id(channel), "sent_at": at, "digest": int(digest)}
    connection.execute(insert(deliveries), row)
    connection.execute(delete(deliveries).where(deliveries.c.channel == row["channel"], deliveries.c.sent_at < at - _DAYS_KEPT))


def deliveries_of(connection: Connection, channel: str, since: float) -> list[tuple[float, bool]]:
    """Return (time, whether a digest) of a channel's messages since then."""
    query = (
        select(deliveries.c.sent_at, deliveries.c.digest)
        .where(deliveries.c.channel == derived_id(channel), deliveries.c.sent_at >= since)
        .order_by(deliveries.c.sent_at)
    )
    return [(row.sent_at, bool(row.digest)) for row in connection.execute(query)]


def set_channels(connection: Connection, run_id: str, given: Sequence[str]) -> None:
    """Replace the run's channels."""
    key = key_of(connection, run_id)
    connection.execute(delete(channels).where(channels.c.run_key == key))
    rows = [{"run_key": key, "place": place, "channel": clean(channel)} for place, channel in enumerate(given)]
    if rows:
        connection.execute(insert(channels), rows)


def channels_of(connection: Connection, run_id: str) -> list[str]:
    """Return the run's channels, in their order."""
    query = select(channels.c.channel).where(channels.c.run_key == key_of(connection, run_id)).order_by(channels.c.place)
    return list(connection.execute(query).scalars())


def _notification(row: Row[Any]) -> Notification:
    return Notification(
        row.id,
        row.alert_id,
        row.channel,
        row.title,
        row.body,
        NotificationState(row.state),
        row.attempts,
        row.next_attempt_at,
        row.error,
    )
