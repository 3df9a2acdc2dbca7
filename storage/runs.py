"""Runs and segments. Every function works in the caller's transaction."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from .codec import clean, to_json
from .columns import in_parts
from .errors import UnknownRunError
from .records import Run, RunStatus, Segment
from .tables import runs, segments
from .upserts import insert_new

PREFIX = 8
"""Letters of a run's id that are enough to name it."""


def create(connection: Connection, run: Run) -> None:
    """Add a run unless its id is there."""
    row = {
        "id": run.id,
        "name": clean(run.name),
        "project": clean(run.project),
        "status": run.status.value,
        "created_at": run.created_at,
        "heartbeat_at": run.heartbeat_at,
        "ended_at": run.ended_at,
        "last_step": run.last_step,
        "tags": to_json(run.tags),
        "meta": to_json(dict(run.meta)),
    }
    connection.execute(insert_new(connection.dialect.name, runs, "id"), row)


def change(
    connection: Connection,
    run_id: str,
    *,
    status: RunStatus | None = None,
    heartbeat_at: float | None = None,
    ended_at: float | None = None,
    meta: dict[str, Any] | None = None,
) -> None:
    """Change the given fields of a run; ``meta`` is merged."""
    fields: dict[str, Any] = {}
    if status is not None:
        fields["status"] = status.value
        if status is RunStatus.RUNNING:
            fields["ended_at"] = None
    if heartbeat_at is not None:
        fields["heartbeat_at"] = heartbeat_at
    if ended_at is not None:
        fields["ended_at"] = ended_at
    # On servers the row is locked until the end of the transaction, so that two merges of meta cannot undo each other.
    stored = connection.execute(select(runs.c.meta).where(runs.c.id == run_id).with_for_update()).scalar_one_or_none()
    if stored is None:
        raise unknown(connection, run_id)
    if meta is not None:
        fields["meta"] = to_json({**json.loads(stored), **meta})
    if fields:
        connection.execute(update(runs).where(runs.c.id == run_id).values(**fields))


def listed(
    connection: Connection, *, project: str | None = None, ids: Sequence[str] | None = None, limit: int | None = None
) -> list[Run]:
    """Return runs, newest first."""
    query = select(runs).order_by(runs.c.created_at.desc(), runs.c.key.desc()).limit(limit)
    if project is not None:
        query = query.where(runs.c.project == project)
    if ids is None:
        return [_run(row) for row in connection.execute(query)]
    rows = [row for some in in_parts(ids) for row in connection.execute(query.where(runs.c.id.in_(some)))]
    rows.sort(key=lambda row: (row.created_at, row.key), reverse=True)
    return [_run(row) for row in rows[:limit]]


def find(connection: Connection, reference: str) -> Run:
    """Return the run with that id, else the newest of that name, else the one whose id begins so."""
    newest = select(runs).order_by(runs.c.created_at.desc(), runs.c.key.desc())
    for matching in (runs.c.id == reference, runs.c.name == reference):
        row = connection.execute(newest.where(matching).limit(1)).one_or_none()
        if row is not None:
            return _run(row)
    if len(reference) >= PREFIX:
        rows = connection.execute(newest.where(runs.c.id.startswith(reference, autoescape=True)).limit(5)).all()
        if len(rows) == 1:
            return _run(rows[0])
        if rows:
            raise UnknownRunError(
                f"Several runs have an id beginning with {reference!r}: {', '.join(row.id for row in rows)}. Give more letters."
            )
    raise unknown(connection, reference)


def key_of(connection: Connection, run_id: str) -> int:
    """Return the store's number of a run.

    Raises:
        UnknownRunError: no run has that id.
    """
    key: int | None = connection.execute(select(runs.c.key).where(runs.c.id == run_id)).scalar_one_or_none()
    if key is None:
        raise unknown(connection, run_id)
    return key


def add_segment(connection: Connection, segment: Segment) -> None:
    """Add a segment unless its number is there."""
    row = {
        "run_key": key_of(connection, segment.run_id),
        "segment": segment.segment,
        "start_step": segment.start_step,
        "started_at": segment.started_at,
    }
    connection.execute(insert_new(connection.dialect.name, segments, "segment"), row)


def open_segment(connection: Connection, run_id: str, start_step: int, started_at: float) -> int:
    """Begin the next segment and return its number."""
    # Lock the run first: two processes that resume one run at once must get two numbers.
    key = connection.execute(select(runs.c.key).where(runs.c.id == run_id).with_for_update()).scalar_one_or_none()
    if key is None:
        raise unknown(connection, run_id)
    highest = connection.execute(select(func.max(segments.c.segment)).where(segments.c.run_key == key)).scalar_one()
    number = 0 if highest is None else int(highest) + 1
    connection.execute(insert(segments), {"run_key": key, "segment": number, "start_step": start_step, "started_at": started_at})
    return number


def segments_of(connection: Connection, run_id: str) -> list[Segment]:
    """Return a run's segments in order."""
    query = select(segments).where(segments.c.run_key == key_of(connection, run_id)).order_by(segments.c.segment)
    return [Segment(run_id, row.segment, row.start_step, row.started_at) for row in connection.execute(query)]


def unknown(connection: Connection, reference: str) -> UnknownRunError:
    """Return the error for a run that is not there; its message lists what there is."""
    there = listed(connection, limit=5)
    names: Sequence[str] = [f"{run.name} ({run.id[:PREFIX]})" for run in there]
    have = f"Newest runs: {', '.join(names)}." if names else "The store holds no runs yet."
    return UnknownRunError(f"No run {reference!r}. {have} Give a run's name, its id, or the first {PREFIX} letters of the id.")


def _run(row: Row[Any]) -> Run:
    _, run_id, name, project, status, created_at, heartbeat_at, ended_at, last_step, tags, meta = tuple(row)
    return Run(
        id=run_id,
        name=name,
        project=project,
        status=RunStatus(status),
        created_at=created_at,
        heartbeat_at=heartbeat_at,
        ended_at=ended_at,
        last_step=last_step,
        tags=tuple(json.loads(tags)),
        meta=json.loads(meta),
    )
