"""Silences. Every function works in the caller's transaction."""

from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, and_, or_, select, update

from .codec import clean
from .records import Alert, Silence
from .runs import key_of
from .tables import runs, silences
from .upserts import insert_new


def add(connection: Connection, silence: Silence) -> None:
    """Add a silence unless its id is there.

    Raises:
        UnknownRunError: it is about a run that is not there.
    """
    if silence.run_id:
        key_of(connection, silence.run_id)
    row = {name: getattr(silence, name) for name in ("id", "alert_id", "run_id", "until", "created_at", "ended_at")}
    row |= {name: clean(getattr(silence, name)) for name in ("rule", "module", "project", "created_by", "comment")}
    connection.execute(insert_new(connection.dialect.name, silences, "id"), row)


def end(connection: Connection, silence_id: str, at: float) -> Silence:
    """End a silence and return it as it was before.

    Raises:
        KeyError: no such silence.
    """
    row = connection.execute(select(silences).where(silences.c.id == silence_id).with_for_update()).one_or_none()
    if row is None:
        raise KeyError(f"No silence {silence_id!r}; `foreshock silence --list` shows them.")
    if row.ended_at is None:
        connection.execute(update(silences).where(silences.c.id == silence_id).values(ended_at=at))
    return _silence(row)


def end_of_alert(connection: Connection, alert_id: str, at: float) -> None:
    """End the silences that are about this one alert."""
    mine = and_(silences.c.alert_id == alert_id, silences.c.ended_at.is_(None))
    connection.execute(update(silences).where(mine).values(ended_at=at))


def listed(connection: Connection, active_at: float | None) -> list[Silence]:
    """Return silences, newest first; with ``active_at`` those that hold then."""
    query = select(silences).order_by(silences.c.created_at.desc(), silences.c.id)
    if active_at is not None:
        query = query.where(silences.c.ended_at.is_(None), or_(silences.c.until.is_(None), silences.c.until > active_at))
    return [_silence(row) for row in connection.execute(query)]


def covering(connection: Connection, active: list[Silence], alert: Alert, projects: dict[str, str]) -> Silence | None:
    """Return one of the active silences that covers the alert.

    Args:
        projects: run id -> project; filled as needed.
    """
    if not active:
        return None
    if alert.run_id not in projects:
        query = select(runs.c.project).where(runs.c.id == alert.run_id)
        projects[alert.run_id] = connection.execute(query).scalar_one_or_none() or ""
    cleaned = replace(alert, rule=clean(alert.rule), module=clean(alert.module))
    return next((silence for silence in active if silence.covers(cleaned, projects[alert.run_id])), None)


def _silence(row: Row[Any]) -> Silence:
    return Silence(**row._mapping)
