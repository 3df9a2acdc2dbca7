"""Carrying out retention: what would go, told beforehand, and then its deletion, a bounded number of rows at a time.

A step is as old as the time at which it was measured (the table ``steps``). Runs that are alive are left alone. Steps, alerts and
events stay until their run goes.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, select

from . import news
from .database import Database
from .deleting import ALIVE, in_pieces
from .reading import series_of
from .records import Run, RunStatus
from .retention import CLASSES, Policy, class_of
from .runs import key_of
from .tables import histograms, rollups, samples, steps

_NUMBERS = 500  # series named in one query


@dataclass(frozen=True, slots=True)
class Piece:
    """What of one class of one segment is old enough: all of it up to a step, or, ``thin``, points that rollups tell of."""

    run_id: str
    run_name: str
    name: str
    segment: int
    thin: bool
    numbers: tuple[int, ...]
    first_step: int
    last_step: int
    rows: int


def alive(run: Run, now: float) -> bool:
    """Return whether a run is being written by a living process."""
    return run.status is RunStatus.RUNNING and now - max(run.heartbeat_at, run.created_at) < ALIVE


def plan(database: Database, runs: Sequence[Run], policy: Policy, now: float | None = None) -> list[Piece]:
    """Return what a policy would take from runs, those that are alive left out. Reads only."""
    now = time.time() if now is None else now
    found: list[Piece] = []
    for run in runs:
        if alive(run, now):
            continue
        with database.read() as connection:
            found += _of_run(connection, run, policy, now)
    return found


def _of_run(connection: Connection, run: Run, policy: Policy, now: float) -> Iterator[Piece]:
    key = key_of(connection, run.id)
    by_class: dict[str, list[int]] = {name: [] for name in CLASSES}
    for one in series_of(connection, run.id):
        by_class[class_of(one.key.signal)].append(one.id)
        by_class["histograms"].append(one.id)
    segments = connection.execute(select(steps.c.segment).where(steps.c.run_key == key).distinct()).scalars().all()
    for name, limit in policy.limits.items():
        numbers = by_class[name]
        for segment in sorted(segments) if numbers else ():
            kept_from = _older(connection, key, segment, now - limit.keep) if limit.keep is not None else None
            if kept_from is not None:
                yield from _piece(connection, run, name, segment, numbers, kept_from, thin=False)
            thinned = _older(connection, key, segment, now - limit.thin) if limit.thin is not None else None
            if thinned is not None and (kept_from is None or thinned[1] > kept_from[1]):
                yield from _piece(connection, run, name, segment, numbers, thinned, thin=True)


def _older(connection: Connection, key: int, segment: int, moment: float) -> tuple[int, int] | None:
    """Return the first and the last step of a segment that were measured before a moment; None where none was."""
    before = select(func.min(steps.c.step), func.max(steps.c.step)).where(
        steps.c.run_key == key, steps.c.segment == segment, steps.c.time < moment
    )
    first, last = connection.execute(before).one()
    return None if first is None else (first, last)


def _piece(
    connection: Connection, run: Run, name: str, segment: int, numbers: Sequence[int], span: tuple[int, int], *, thin: bool
) -> Iterator[Piece]:
    table = histograms if name == "histograms" else samples
    rows = 0
    for first in range(0, len(numbers), _NUMBERS):
        some = numbers[first : first + _NUMBERS]
        here = [table.c.series_id.in_(some), table.c.segment == segment, table.c.step.between(*span)]
        if thin:
            here.append(samples.c.kind == 0)
        rows += connection.execute(select(func.count()).select_from(table).where(*here)).scalar_one()
    if thin:  # how many of them rollups tell of is seen series by series; this is nearly all of them
        rows -= min(rows, 9 * len(numbers))
    if rows:
        yield Piece(run.id, run.name, name, segment, thin, tuple(numbers), *span, rows)


def prune(database: Database, pieces: Sequence[Piece], progress: Callable[[int], None] = lambda rows: None) -> int:
    """Delete what was planned and return how many points and histograms that were. Interrupted, the rest is planned again.

    Args:
        progress: told of rows that were deleted, as they are.
    """
    total = 0
    for piece in pieces:
        for some, first, last in in_pieces(piece.numbers, piece.first_step, piece.last_step):
            with database.write() as connection:
                rows = (
                    _thinned(connection, piece, some, first, last) if piece.thin else _deleted(connection, piece, some, first, last)
                )
                news.announce(connection, piece.run_id)
            total += rows
            progress(rows)
    return total


def _deleted(connection: Connection, piece: Piece, some: Sequence[int], first: int, last: int) -> int:
    table = histograms if piece.name == "histograms" else samples
    here = (table.c.series_id.in_(some), table.c.segment == piece.segment)
    if table is samples:
        of_rollups = (rollups.c.series_id.in_(some), rollups.c.segment == piece.segment)
        connection.execute(delete(rollups).where(*of_rollups, rollups.c.end_step.between(first, last)))
    return connection.execute(delete(table).where(*here, table.c.step.between(first, last))).rowcount


def _thinned(connection: Connection, piece: Piece, some: Sequence[int], first: int, last: int) -> int:
    """Delete finite points up to the last that is in a full bucket; what is not finite stays: it is what one looks for."""
    covered = (
        select(rollups.c.series_id, func.max(rollups.c.end_step))
        .where(
            rollups.c.series_id.in_(some),
            rollups.c.segment == piece.segment,
            rollups.c.level == 1,
            rollups.c.end_step <= piece.last_step,
        )
        .group_by(rollups.c.series_id)
    )
    rows = 0
    for number, end in connection.execute(covered).all():
        here = (samples.c.series_id == number, samples.c.segment == piece.segment, samples.c.kind == 0)
        rows += connection.execute(delete(samples).where(*here, samples.c.step.between(first, min(last, end)))).rowcount
    return rows
