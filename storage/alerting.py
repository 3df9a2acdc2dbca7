"""Alerts and events. Every function works in the caller's transaction."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, case, select, update

from . import outboxes, silencing
from .codec import clean, diagnosis_from_json, diagnosis_to_json, evidence_from_json, evidence_to_json, join, split, to_json
from .errors import AlertChangedError, IllegalTransitionError
from .records import Alert, AlertState, Event, Notification, Severity, Silence, derived_id, new_id
from .runs import key_of
from .tables import alerts, events, runs
from .upserts import insert_new, upsert

_DECIDED = (AlertState.ACKNOWLEDGED.value, AlertState.SILENCED.value)
_SETTLED = ("id", "digest", "run_key", "rule", "module", "episode", "created_at")  # never change once an alert is there


def save_alerts(connection: Connection, given: Sequence[Alert], notifications: Sequence[Notification], now: float) -> None:
    """Insert or update alerts, then add notifications that are not there."""
    statement = upsert(connection.dialect.name, alerts, ["digest"], _updates)
    keys = {run_id: key_of(connection, run_id) for run_id in {alert.run_id for alert in given}}
    active = silencing.listed(connection, now) if given else []
    projects: dict[str, str] = {}
    stored_ids: dict[str, str] = {}
    for alert in given:
        row = _alert_row(alert, keys[alert.run_id])
        there = select(alerts.c.id, alerts.c.state).where(alerts.c.digest == row["digest"])
        before = connection.execute(there.with_for_update()).one_or_none()
        telling = alert.state in (AlertState.PENDING, AlertState.FIRING)
        silence = silencing.covering(connection, active, alert, projects) if telling else None
        if silence is not None:
            row["state"] = AlertState.SILENCED.value
        connection.execute(statement, row)
        after = connection.execute(there).one()
        stored_ids[alert.id] = after.id
        if silence is not None and after.state == AlertState.SILENCED.value != (before.state if before else ""):
            _note(connection, after.id, before.state if before else "", AlertState.SILENCED, now, silence.created_by, silence)
        if before is not None and before.state in _DECIDED and alert.state is AlertState.RESOLVED:
            outboxes.cancel(connection, after.id)
    for notification in notifications:
        outboxes.add(connection, notification, stored_ids.get(notification.alert_id, notification.alert_id))


def _updates(incoming: Any) -> Mapping[str, Any]:
    resolving = incoming["state"] == AlertState.RESOLVED.value
    decided = and_(alerts.c.state.in_(_DECIDED), ~resolving)
    over = and_(alerts.c.state == AlertState.RESOLVED.value, incoming["segment"] <= alerts.c.segment)
    firing = and_(alerts.c.state == AlertState.FIRING.value, incoming["state"] == AlertState.PENDING.value)
    fields = {column.name: incoming[column.name] for column in alerts.columns if column.name not in (*_SETTLED, "state", "segment")}
    # State and segment last: MySQL and MariaDB set columns one after the other, and the first decides by the second's old value.
    state = case((decided, alerts.c.state), (over, alerts.c.state), (firing, alerts.c.state), else_=incoming["state"])
    return fields | {"state": state, "segment": incoming["segment"]}


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
    return [alert_of(row) for row in connection.execute(query)]


def decide(
    connection: Connection,
    alert_id: str,
    state: AlertState,
    *,
    at: float,
    by: str,
    comment: str,
    until: float | None,
    seen: AlertState | None,
) -> None:
    """Set an alert's state as a person decided, and note it as an event."""
    before = _state(connection, alert_id)
    if seen is not None and before is not seen:
        raise AlertChangedError(f"This alert was {seen} when you looked and is {before} now. Nothing was changed.")
    if before is state:
        return
    if state not in before.successors:
        allowed = ", ".join(before.successors) or "nothing; a new episode makes a new alert"
        raise IllegalTransitionError(f"This alert is {before} and cannot become {state}. It can become: {allowed}.")
    silence = None
    if state is AlertState.SILENCED:
        silence = Silence(new_id(), alert_id, until=until, created_at=at, created_by=by, comment=comment)
        silencing.add(connection, silence)
    elif before is AlertState.SILENCED:
        silencing.end_of_alert(connection, alert_id, at)
    if state in (AlertState.ACKNOWLEDGED, AlertState.RESOLVED):
        outboxes.cancel(connection, alert_id)
    _move(connection, alert_id, before, state, at, by, silence, comment)


def silence_open(connection: Connection, silence: Silence) -> int:
    """Silence the pending and firing alerts that the silence covers; return how many."""
    silencing.add(connection, silence)
    projects: dict[str, str] = {}
    count = 0
    for alert in list_alerts(connection, None, states=[AlertState.PENDING, AlertState.FIRING], limit=None):
        if silence.active(silence.created_at) and silencing.covering(connection, [silence], alert, projects):
            before = _state(connection, alert.id)
            if before in (AlertState.PENDING, AlertState.FIRING):
                by = silence.created_by
                _move(connection, alert.id, before, AlertState.SILENCED, silence.created_at, by, silence, silence.comment)
                count += 1
    return count


def uncovered(connection: Connection, now: float) -> list[str]:
    """Return the ids of silenced alerts that no silence covers any more."""
    silenced = list_alerts(connection, None, states=[AlertState.SILENCED], limit=None)
    if not silenced:
        return []
    active = silencing.listed(connection, now)
    projects: dict[str, str] = {}
    return [alert.id for alert in silenced if silencing.covering(connection, active, alert, projects) is None]


def lift(connection: Connection, now: float, by: str = "") -> int:
    """Let those alerts fire again; return how many."""
    count = 0
    for alert_id in uncovered(connection, now):
        if _state(connection, alert_id) is AlertState.SILENCED:
            _move(connection, alert_id, AlertState.SILENCED, AlertState.FIRING, now, by, None, "the silence has ended")
            count += 1
    return count


def _state(connection: Connection, alert_id: str) -> AlertState:
    """Return an alert's state, its row locked until the end of the transaction.

    Raises:
        KeyError: no such alert.
    """
    query = select(alerts.c.state).where(alerts.c.id == alert_id).with_for_update()
    state: str | None = connection.execute(query).scalar_one_or_none()
    if state is None:
        raise KeyError(f"No alert {alert_id!r}; `foreshock alerts` lists them.")
    return AlertState(state)


def _move(
    connection: Connection,
    alert_id: str,
    before: AlertState,
    state: AlertState,
    at: float,
    by: str,
    silence: Silence | None,
    comment: str,
) -> None:
    connection.execute(update(alerts).where(alerts.c.id == alert_id).values(state=state.value, updated_at=at))
    _note(connection, alert_id, before.value, state, at, by, silence, comment)


def _note(
    connection: Connection,
    alert_id: str,
    before: str,
    state: AlertState,
    at: float,
    by: str,
    silence: Silence | None,
    comment: str = "",
) -> None:
    """Record a change of state as an event of the run: from where, to where, who, why, until when."""
    query = select(alerts, runs.c.id.label("run_id")).join(runs, runs.c.key == alerts.c.run_key).where(alerts.c.id == alert_id)
    row = connection.execute(query).one()
    what = f"{row.rule}{f' in {row.module}' if row.module else ''}: {state.value}{f' by {by}' if by else ''}"
    data: dict[str, Any] = {"alert": alert_id, "from": before, "to": state.value, "by": by, "comment": comment}
    if silence is not None:
        data |= {"silence": silence.id, "until": silence.until, "comment": comment or silence.comment}
    message = f"{what}: {comment}" if comment else what
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
    return [_event(row, run_id) for row in connection.execute(query)]


def events_of_alert(connection: Connection, alert_id: str) -> list[Event]:
    """Return the events whose data name an alert, in order of time."""
    alert_id = clean(alert_id)
    of = select(alerts.c.run_key, runs.c.id).join(runs, runs.c.key == alerts.c.run_key).where(alerts.c.id == alert_id)
    run = connection.execute(of).one_or_none()
    if run is None:
        return []
    # Their text is searched by the engine, and the few that are left are read.
    named = events.c.data.contains(to_json([alert_id])[1:-1], autoescape=True)
    query = select(events).where(events.c.run_key == run.run_key, named).order_by(events.c.time, events.c.id)
    found = [_event(row, run.id) for row in connection.execute(query)]
    return [event for event in found if event.data.get("alert") == alert_id]


def _event(row: Row[Any], run_id: str) -> Event:
    return Event(row.id, run_id, row.segment, row.step, row.time, row.kind, row.message, json.loads(row.data))


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


def alert_of(row: Row[Any]) -> Alert:
    """Return the alert of a row that has the run's id beside the table's columns."""
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
