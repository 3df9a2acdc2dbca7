"""Carrying out retention: what would go, told beforehand, and then its deletion, a bounded number of rows at a time.

A step is as old as the time at which it was measured (the table ``steps``). Runs that are alive are left alone. Steps, alerts and
events stay until their run goes. What went is an event of the run: whoever replays it later knows that it is not whole.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Table, delete, func, select

from . import news
from .alerting import add_event
from .database import Database
from .deleting import in_pieces, steps_of
from .reading import series_of
from .records import Event, Run, new_id
from .retention import CLASSES, Policy, class_of
from .runs import key_of
from .tables import histograms, rollups, samples, steps

PRUNED = "points_pruned"
"""Kind of the event that tells of points that were deleted."""

_NUMBERS = 500  # series named in one query
_POINT, _ROLLUP, _HISTOGRAM = 30, 90, 150  # bytes, about: what rows take in SQLite


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
    rollups: int
    """Of the lowest level, that go with the points. They are all there is of points that were thinned out before."""

    @property
    def bytes(self) -> int:
        """About how much room that is."""
        return self.rows * (_HISTOGRAM if self.name == "histograms" else _POINT) + self.rollups * _ROLLUP * 10 // 9


def plan(database: Database, runs: Sequence[Run], policy: Policy, now: float | None = None) -> list[Piece]:
    """Return what a policy would take from runs, those that are alive left out. Reads only."""
    now = time.time() if now is None else now
    found: list[Piece] = []
    for run in runs:
        if run.alive(now):
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
    rows = of_rollups = 0
    for first in range(0, len(numbers), _NUMBERS):
        some = numbers[first : first + _NUMBERS]
        here = [table.c.series_id.in_(some), table.c.segment == segment, table.c.step.between(*span)]
        if thin:
            here.append(samples.c.kind == 0)
        rows += _count(connection, table, *here)
        if table is samples and not thin:
            lowest = (rollups.c.segment == segment, rollups.c.level == 1, rollups.c.end_step.between(*span))
            of_rollups += _count(connection, rollups, rollups.c.series_id.in_(some), *lowest)
    if thin:  # how many of them rollups tell of is seen series by series; this is nearly all of them
        rows -= min(rows, 9 * len(numbers))
    if rows or of_rollups:
        yield Piece(run.id, run.name, name, segment, thin, tuple(numbers), *span, rows, of_rollups)


def _count(connection: Connection, table: Table, *where: ColumnElement[bool]) -> int:
    return int(connection.execute(select(func.count()).select_from(table).where(*where)).scalar_one())


def prune(database: Database, pieces: Sequence[Piece], progress: Callable[[int], None] = lambda rows: None) -> int:
    """Delete what was planned and return how many points and histograms that were. Interrupted, the rest is planned again.

    Args:
        progress: told of rows that were deleted, as they are.
    """
    total = 0
    for piece in pieces:
        gone = 0
        try:
            for some, first, last in in_pieces(piece.numbers, _places(database, piece)):
                with database.write() as connection:
                    work = _thinned if piece.thin else _deleted
                    rows = work(connection, piece, some, first, last)
                    news.announce(connection, piece.run_id)
                gone += rows
                progress(rows)
        finally:
            if gone or piece.rollups:
                _tell(database, piece, gone)
        total += gone
    return total


def _places(database: Database, piece: Piece) -> Sequence[int]:
    with database.read() as connection:
        within = (steps.c.segment == piece.segment, steps.c.step.between(piece.first_step, piece.last_step))
        return steps_of(connection, key_of(connection, piece.run_id), *within)


def _tell(database: Database, piece: Piece, rows: int) -> None:
    span = f"steps {piece.first_step:,} to {piece.last_step:,}"
    what = "histograms" if piece.name == "histograms" else f"points of {piece.name}"
    message = f"{rows:,} {what} of {span} were {'thinned out' if piece.thin else 'deleted'}."
    data = {"class": piece.name, "first_step": piece.first_step, "last_step": piece.last_step, "thin": piece.thin, "rows": rows}
    with database.write() as connection:
        add_event(connection, Event(new_id(), piece.run_id, piece.segment, piece.last_step, time.time(), PRUNED, message, data))


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
