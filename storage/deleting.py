"""Deleting a run with all that is of it, in transactions small enough that nobody waits long.

What is largest goes first, a bounded number of rows at a time; the run's own row goes last. A deletion that was interrupted is
begun again with the same call; meanwhile the run says in its ``meta`` that it is being deleted.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy as np
from sqlalchemy import Connection, delete, or_, select

from . import news, partitions
from .database import Database
from .errors import RunIsAliveError, StoreUnavailableError
from .records import BEING_DELETED, LOST_AFTER, Run, analyzer_lease
from .runs import change, find, unknown
from .tables import (
    alerts,
    batches,
    channels,
    events,
    histograms,
    leases,
    outbox,
    rollups,
    rule_versions,
    runs,
    samples,
    segments,
    series,
    silences,
    steps,
)

ROWS = 200_000
"""About how many rows are deleted in one transaction: a second or so."""

_BY_SERIES = (samples, rollups, histograms)


def delete_run(database: Database, run_id: str, progress: Callable[[float], None] = lambda share: None) -> None:
    """Delete a run. See ``Store.delete_run``.

    Args:
        progress: told now and then which share is done, 0 to 1.
    """
    with database.write() as connection:
        key = _checked(connection, run_id)
        change(connection, run_id, meta={BEING_DELETED: time.time()})
        numbers, places = _numbers(connection, key), steps_of(connection, key)
    pieces = list(in_pieces(numbers, places))
    for done, (some, first, last) in enumerate(pieces):
        with database.write() as connection:
            for table in (samples, histograms):
                here = (table.c.series_id.in_(some), table.c.step.between(first, last))
                connection.execute(delete(table).where(*here))
            connection.execute(delete(rollups).where(rollups.c.series_id.in_(some), rollups.c.end_step.between(first, last)))
        progress(done / len(pieces))
    with database.write() as connection:
        # The run's row is locked by now, so nobody writes to it any more; a run that came back to life meanwhile is left.
        change(connection, run_id, meta={})
        _checked(connection, run_id)
        numbers = _numbers(connection, key)
        for table in _BY_SERIES:  # what came in meanwhile, and what lies at steps that the run does not know
            for first in range(0, len(numbers), 500):
                connection.execute(delete(table).where(table.c.series_id.in_(numbers[first : first + 500])))
        _delete_the_rest(connection, key, run_id)
        news.announce(connection, run_id)
    with suppress(StoreUnavailableError), database.write() as connection:  # where others hold it, the next deletion finds it empty
        partitions.drop_empty(connection)
    progress(1.0)


def _checked(connection: Connection, run_id: str) -> int:
    """Return the number of a run that may be deleted: one of that very id, which is not alive.

    Raises:
        UnknownRunError, RunIsAliveError: it may not.
    """
    run: Run = find(connection, run_id)
    if run.id != run_id:  # a name, or the first letters of an id, are not enough to delete by
        raise unknown(connection, run_id)
    now = time.time()
    if run.alive(now):
        silence = now - max(run.heartbeat_at, run.created_at)
        raise RunIsAliveError(
            f"Run {run.name!r} ({run.id}) is running: its last sign of life is {silence:.0f} s old. End it first, or wait "
            f"until it has been silent for {LOST_AFTER:.0f} s."
        )
    key: int = connection.execute(select(runs.c.key).where(runs.c.id == run_id)).scalar_one()
    return key


def _numbers(connection: Connection, key: int) -> Sequence[int]:
    return connection.execute(select(series.c.id).where(series.c.run_key == key).order_by(series.c.id)).scalars().all()


def steps_of(connection: Connection, key: int, *where: Any) -> Sequence[int]:
    """Return the steps of a run that the table ``steps`` knows, in order, each once."""
    query = select(steps.c.step).where(steps.c.run_key == key, *where)
    found: Sequence[int] = np.unique(np.array(connection.execute(query).scalars().all(), np.int64)).tolist()
    return found


def in_pieces(numbers: Sequence[int], places: Sequence[int]) -> Iterator[tuple[Sequence[int], int, int]]:
    """Yield (series numbers, first step, last step) that together are everything, each about ``ROWS`` rows at most.

    Args:
        places: the steps there are, rising. They may lie far apart: a step may as well be a number of tokens, or a time.
    """
    if not places:
        return
    at_once = max(1, ROWS // len(places))
    cuts = [*range(0, len(places), ROWS), len(places)]
    for place in range(0, len(numbers), at_once):
        for low, high in pairwise(cuts):
            yield numbers[place : place + at_once], places[low], places[high - 1]


def _delete_the_rest(connection: Connection, key: int, run_id: str) -> None:
    of_run = select(alerts.c.id).where(alerts.c.run_key == key)
    connection.execute(delete(outbox).where(outbox.c.alert_id.in_(of_run)))
    connection.execute(delete(silences).where(or_(silences.c.run_id == run_id, silences.c.alert_id.in_(of_run))))
    connection.execute(delete(rule_versions).where(rule_versions.c.run_id == run_id))
    connection.execute(delete(leases).where(leases.c.name == analyzer_lease(run_id, "").name))
    for table in (alerts, events, channels, steps, batches, series, segments):
        connection.execute(delete(table).where(table.c.run_key == key))
    connection.execute(delete(runs).where(runs.c.key == key))
