"""Alerts, events and the notification outbox. Every function works in the caller's transaction."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, case, select, update

from .codec import clean, diagnosis_from_json, diagnosis_to_json, evidence_from_json, evidence_to_json, join, split, to_json
from .records import Alert, AlertState, Event, Notification, NotificationState, Severity, derived_id, new_id
from .runs import key_of
from .tables import alerts, events, outbox, runs
from .upserts import insert_new, upsert

_DECIDED = (AlertState.ACKNOWLEDGED.value, AlertState.SILENCED.value)
_SETTLED = ("id", "digest", "run_key", "rule", "module", "episode", "created_at")  # never change once an alert is there


def save_alerts(connection: Connection, given: Sequence[Alert], notifications: Sequence[Notification]) -> None:
    """Insert or update alerts, then add notifications that are not there."""
    statement = upsert(connection.dialect.name, alerts, ["digest"], _updates)
    keys = {run_id: key_of(connection, run_id) for run_id in {alert.run_id for alert in given}}
    stored_ids: dict[str, str] = {}
    for alert in given:
        row = _alert_row(alert, keys[alert.run_id])
        connection.execute(statement, row)
        stored_ids[alert.id] = connection.execute(select(alerts.c.id).where(alerts.c.digest == row["digest"])).scalar_one()
    for notification in notifications:
        add_notification(connection, notification, stored_ids.get(notification.alert_id, notification.alert_id))


def _updates(incoming: Any) -> Mapping[str, Any]:
    decided = and_(alerts.c.state.in_(_DECIDED), incoming["state"] != AlertState.RESOLVED.value)
    fields = {column.name: incoming[column.name] for column in alerts.columns if column.name not in _SETTLED}
    return fields | {"state": case((decided, alerts.c.state), else_=incoming["state"])}


def list_alerts(
    connection: Connection, run_id: str | None, *, states: Sequence[AlertState] | None, limit: int | None
) -> list[Alert]:
    """Return alerts of a run by first step, or of all runs by time of creation, newest first."""
    query = select(alerts, runs.c.id.label("run_id")).join(runs, runs.c.key == alerts.c.run_key).limit(limit)
    if run_id is None:
        query = query.order_by(alerts.c.created_at.desc(), alerts.c.id)
    else:
        query = query.where(runs.c.id == run_id).order_by(alerts.c.segment, alerts.c.first_step, alerts.c.created_at, alerts.c.id)
    if states is not None:
        query = query.where(alerts.c.state.in_([state.value for state in states]))
    return [_alert(row) for row in connection.execute(query)]


def decide(connection: Connection, alert_id: str, state: AlertState, *, at: float, by: str) -> None:
    """Set an alert's state as a person decided, and note it as an event."""
    query = select(alerts, runs.c.id.label("run_id")).join(runs, runs.c.key == alerts.c.run_key).where(alerts.c.id == alert_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise KeyError(f"No alert {alert_id!r}; `foreshock alerts` lists them.")
    connection.execute(update(alerts).where(alerts.c.id == alert_id).values(state=state.value, updated_at=at))
    message = f"{row.rule}{f' in {row.module}' if row.module else ''}: {state.value}{f' by {by}' if by else ''}"
    data = {"alert": alert_id, "from": row.state, "to": state.value, "by": by}
    add_event(connection, Event(new_id(), row.run_id, row.segment, row.last_step, at, "alert_state", message, data))


def add_event(connection: Connection, event: Event) -> None:
    """Add an event unless its id is there."""
    row = {
        "id": event.id,
        "run_key": key_of(connection, event.run_id),
        "segment": event.segment,
        "step": event.step,
        "time": event.time,
        "kind": clean(event.kind),
        "message": clean(event.message),
        "data": to_json(dict(event.data)),
    }
    connection.execute(insert_new(connection.dialect.name, events, "id"), row)


def list_events(connection: Connection, run_id: str, kind: str | None) -> list[Event]:
    """Return a run's events in order of time."""
    query = select(events).where(events.c.run_key == key_of(connection, run_id)).order_by(events.c.time, events.c.id)
    if kind is not None:
        query = query.where(events.c.kind == kind)
    return [
        Event(row.id, run_id, row.segment, row.step, row.time, row.kind, row.message, json.loads(row.data))
        for row in connection.execute(query)
    ]


def add_notification(connection: Connection, notification: Notification, alert_id: str) -> None:
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
    """Return waiting notifications that are due, longest waiting first."""
    query = (
        select(outbox)
        .where(outbox.c.state == NotificationState.WAITING.value, outbox.c.next_attempt_at <= now)
        .order_by(outbox.c.next_attempt_at, outbox.c.id)
        .limit(limit)
    )
    return [
        Notification(
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
        for row in connection.execute(query)
    ]


def settle(connection: Connection, notification: Notification) -> None:
    """Store what became of a notification."""
    fields = {
        "state": notification.state.value,
        "attempts": notification.attempts,
        "next_attempt_at": notification.next_attempt_at,
        "error": clean(notification.error),
    }
    connection.execute(update(outbox).where(outbox.c.id == notification.id).values(**fields))


def _alert_row(alert: Alert, run_key: int) -> dict[str, Any]:
    value, value_kind = split(alert.value)
    threshold, threshold_kind = split(alert.threshold)
    return {
        "id": alert.id,
        "run_key": run_key,
        "digest": derived_id(alert.run_id, clean(alert.rule), clean(alert.module), alert.episode),
        "rule": clean(alert.rule),
        "module": clean(alert.module),
        "episode": alert.episode,
        "severity": alert.severity.value,
        "state": alert.state.value,
        "segment": alert.segment,
        "first_step": alert.first_step,
        "last_step": alert.last_step,
        "created_at": alert.created_at,
        "updated_at": alert.updated_at,
        "message": clean(alert.message),
        "value": value,
        "value_kind": value_kind,
        "threshold": threshold,
        "threshold_kind": threshold_kind,
        "evidence": evidence_to_json(alert.evidence),
        "diagnosis": diagnosis_to_json(alert.diagnosis),
        "remedy": clean(alert.remedy),
    }


def _alert(row: Row[Any]) -> Alert:
    return Alert(
        id=row.id,
        run_id=row.run_id,
        rule=row.rule,
        module=row.module,
        episode=row.episode,
        severity=Severity(row.severity),
        state=AlertState(row.state),
        segment=row.segment,
        first_step=row.first_step,
        last_step=row.last_step,
        created_at=row.created_at,
        updated_at=row.updated_at,
        message=row.message,
        value=join(row.value, row.value_kind),
        threshold=join(row.threshold, row.threshold_kind),
        evidence=evidence_from_json(row.evidence),
        diagnosis=diagnosis_from_json(row.diagnosis),
        remedy=row.remedy,
    )
