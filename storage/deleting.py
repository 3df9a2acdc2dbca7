"""Deleting a run with all that is of it, in transactions small enough that nobody waits long.

What is largest goes first, a bounded number of rows at a time; the run's own row goes last. A deletion that was interrupted is
begun again with the same call; meanwhile the run says in its ``meta`` that it is being deleted.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from sqlalchemy import Connection, delete, func, or_, select

from . import news, partitions
from .base import RunIsAliveError, StoreUnavailableError
from .database import Database
from .records import RunStatus, analyzer_lease
from .runs import change, find
from .tables import (
    alerts,
    batches,
    channels,
    events,
    histograms,
    leases,
    outbox,
    rollups,
    runs,
    samples,
    segments,
    series,
    silences,
    steps,
)

MARK = "being_deleted"
"""Key in a run's ``meta``: the time at which its deletion began."""

ALIVE = 30.0
"""Seconds since the last heartbeat within which a run that calls itself running is taken to be alive."""

ROWS = 200_000
"""About how many rows are deleted in one transaction: a second or so."""

_BY_SERIES = (samples, rollups, histograms)


def delete_run(database: Database, run_id: str, progress: Callable[[float], None] = lambda share: None) -> None:
    """Delete a run. See ``Store.delete_run``.

    Args:
        progress: told now and then which share is done, 0 to 1.
    """
    with database.write() as connection:
        run = find(connection, run_id)
        silence = time.time() - max(run.heartbeat_at, run.created_at)
        if run.status is RunStatus.RUNNING and silence < ALIVE:
            raise RunIsAliveError(
                f"Run {run.name!r} ({run.id}) is running: its last sign of life is {silence:.0f} s old. End it first, or wait "
                f"until it has been silent for {ALIVE:.0f} s."
            )
        change(connection, run.id, meta={MARK: time.time()})
        key = connection.execute(select(runs.c.key).where(runs.c.id == run.id)).scalar_one()
        numbers = connection.execute(select(series.c.id).where(series.c.run_key == key).order_by(series.c.id)).scalars().all()
        low, high = connection.execute(select(func.min(steps.c.step), func.max(steps.c.step)).where(steps.c.run_key == key)).one()
    pieces = list(in_pieces(numbers, low, high))
    for done, (some, first, last) in enumerate(pieces):
        with database.write() as connection:
            for table in (samples, histograms):
                here = (table.c.series_id.in_(some), table.c.step.between(first, last))
                connection.execute(delete(table).where(*here))
            connection.execute(delete(rollups).where(rollups.c.series_id.in_(some), rollups.c.end_step.between(first, last)))
        progress(done / len(pieces))
    with database.write() as connection:
        for table in _BY_SERIES:  # what came in meanwhile, and what lies at steps that the run does not know
            for first in range(0, len(numbers), 500):
                connection.execute(delete(table).where(table.c.series_id.in_(numbers[first : first + 500])))
        _delete_the_rest(connection, key, run.id)
        news.announce(connection, run.id)
    with suppress(StoreUnavailableError), database.write() as connection:  # where others hold it, the next deletion finds it empty
        partitions.drop_empty(connection)
    progress(1.0)


def in_pieces(numbers: Sequence[int], low: int | None, high: int | None) -> Iterator[tuple[Sequence[int], int, int]]:
    """Yield (series numbers, first step, last step) that together are everything, each about ``ROWS`` rows at most."""
    if low is None or high is None:
        return
    at_once = max(1, ROWS // (high - low + 1))
    for place in range(0, len(numbers), at_once):
        for first in range(low, high + 1, ROWS):
            yield numbers[place : place + at_once], first, min(first + ROWS - 1, high)


def _delete_the_rest(connection: Connection, key: int, run_id: str) -> None:
    of_run = select(alerts.c.id).where(alerts.c.run_key == key)
    connection.execute(delete(outbox).where(outbox.c.alert_id.in_(of_run)))
    connection.execute(delete(silences).where(or_(silences.c.run_id == run_id, silences.c.alert_id.in_(of_run))))
    connection.execute(delete(leases).where(leases.c.name == analyzer_lease(run_id, "").name))
    for table in (alerts, events, channels, steps, batches, series, segments):
        connection.execute(delete(table).where(table.c.run_key == key))
    connection.execute(delete(runs).where(runs.c.key == key))
