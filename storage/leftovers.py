"""Spools that dead processes left: found in a folder, and drained into the store they were meant for.

Everything in a spool has an id of its own, so that draining one again, from wherever a kill ended it, changes nothing. Two things
are looked at twice: a segment whose number somebody else took meanwhile gets a new one, and the end of a run that goes on in a
later segment is left out.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from .base import Store
from .entries import End, Entry, Judgement, points_of
from .errors import InvalidRecordError, StoreError
from .records import Batch, Event, Segment, derived_id
from .spool import About, SpoolBusyError, SpoolError, SpoolFile, found_in

log = logging.getLogger("foreshock")

_SLICE = 0.5  # seconds of draining at a stretch
_PAUSE = 60.0  # seconds until a folder is looked at again after a drain failed


@dataclass(slots=True)
class Drained:
    """What came of one spool. ``refused`` counts samples that no store takes."""

    path: Path
    run_id: str
    run_name: str
    entries: int = 0
    points: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class Leftover:
    """A spool as it lies in a folder. ``about`` is None unless its state is ``left``; ``why`` says what keeps it closed."""

    path: Path
    state: Literal["left", "in use", "unreadable"]
    about: About | None = None
    points: int = 0
    why: str = ""


def leftovers_in(folder: Path) -> Iterator[Leftover]:
    """Look at every spool in a folder, oldest first, and change none."""
    for path in found_in(folder):
        try:
            spool = SpoolFile.open(path)
        except SpoolBusyError as error:
            yield Leftover(path, "in use", why=str(error))
        except SpoolError as error:
            yield Leftover(path, "unreadable", why=str(error))
        else:
            spool.close(keep=True)
            yield Leftover(path, "left", spool.about, spool.points)


class Draining:
    """One spool on its way into a store. Use ``opened``, which closes the file whatever happens.

    Args:
        spool: the file, locked.
        store: where to.
    """

    def __init__(self, spool: SpoolFile, store: Store) -> None:
        about = spool.about
        self.result = Drained(spool.path, about.run.id, about.run.name)
        self._spool = spool
        self._store = store
        self._numbers: dict[int, int] = {}  # of segments: as spooled, as stored
        self._newest = max(segment.segment for segment in about.segments)
        store.create_run(about.run)
        first, *later = about.segments
        store.add_segment(first)  # given out by the store itself, or the run was new
        for segment in later:
            self._add_segment(segment)
        if not store.channels(about.run.id):
            store.set_channels(about.run.id, about.channels)

    def work(self, seconds: float = float("inf")) -> bool:
        """Drain for that long; return whether there is more.

        Raises:
            StoreError: the store is away; what was drained is there, and the rest still in the file.
            SpoolError: the spool cannot be read any further.
        """
        stop = time.monotonic() + seconds
        while (first := self._spool.first()) is not None:
            if time.monotonic() >= stop:
                return True
            number, entry = first
            try:
                self._apply(entry)
            except InvalidRecordError as error:
                self.result.refused += points_of(entry)
                log.error("%s: %s It is left out; the rest goes on.", self._spool.path, error)
            else:
                self.result.entries += 1
                self.result.points += points_of(entry)
            if self._spool.entries == 1:  # before the last is gone: who repeats this finds the same event
                self._note()
            self._spool.take(number)
        return False

    def _apply(self, entry: Entry) -> None:
        store = self._store
        if isinstance(entry, Batch):
            store.write(replace(entry, segment=self._stored(entry.segment)))
        elif isinstance(entry, Judgement):
            alerts = [replace(alert, segment=self._stored(alert.segment)) for alert in entry.alerts]
            store.save_alerts(alerts, entry.notifications)
        elif isinstance(entry, Event):
            store.add_event(replace(entry, segment=self._stored(entry.segment)))
        elif isinstance(entry, End):
            run_id = self._spool.about.run.id
            if max(segment.segment for segment in store.segments(run_id)) <= self._stored(self._newest):
                store.update_run(run_id, status=entry.status, ended_at=entry.at)

    def _stored(self, segment: int) -> int:
        """Return the number that a spooled segment has in the store."""
        return self._numbers.get(segment, segment)

    def _add_segment(self, segment: Segment) -> None:
        there = {each.segment: each for each in self._store.segments(segment.run_id)}
        same = [each.segment for each in there.values() if _alike(each, segment)]
        if same:
            self._numbers[segment.segment] = same[0]
        elif segment.segment in there:  # whoever resumed the run elsewhere was given this number
            self._numbers[segment.segment] = self._store.open_segment(segment.run_id, segment.start_step, segment.started_at)
        else:
            self._store.add_segment(segment)

    def _note(self) -> None:
        about, result = self._spool.about, self.result
        refused = f" {result.refused:,} were refused." if result.refused else ""
        message = f"What a process that ended before could not store was brought in later, from its spool.{refused}"
        step = self._store.run(about.run.id).last_step
        segment = self._stored(self._newest)
        name = derived_id("drained", about.id)
        self._store.add_event(Event(name, about.run.id, segment, step, time.time(), "spool_drained", message, {"spool": about.id}))


@contextmanager
def opened(path: Path, store: Store, *, any_address: bool = False) -> Iterator[Draining | None]:
    """Open a spool for draining; give None when it is meant for another store.

    Raises:
        SpoolBusyError, SpoolError: see ``SpoolFile.open``.
        StoreError: the store is away.
    """
    spool = SpoolFile.open(path)
    try:
        yield Draining(spool, store) if any_address or spool.about.address == store.url else None
    finally:
        spool.close()


class Leftovers:
    """The spools that lie in a folder, drained a little at a time by a process that has other things to do."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._passed: set[Path] = set()
        self._again_at = 0.0

    def work(self, store: Store) -> bool:
        """Drain for half a second; return whether there is more. Trouble is logged, and what it is about is left alone."""
        if time.monotonic() < self._again_at:
            return False
        for path in found_in(self._folder):
            if path in self._passed:
                continue
            try:
                with opened(path, store) as draining:
                    if draining is not None and draining.work(_SLICE):
                        return True
                    self._tell(draining)
            except SpoolBusyError:
                pass
            except SpoolError as error:
                log.error("a spool was left as it is: %s", error)
            except StoreError:
                self._again_at = time.monotonic() + _PAUSE
                return False
            self._passed.add(path)
        self._again_at = float("inf")
        return False

    def _tell(self, draining: Draining | None) -> None:
        if draining is not None:
            result = draining.result
            log.warning("stored what run %s could not store before it ended: %s", result.run_name, result.path.name)


def drain_all(folder: Path, store: Store, *, started: Callable[[Draining], None] = lambda draining: None) -> None:
    """Drain what was left for this store in a folder, waiting for it; what cannot be drained is logged and left.

    Raises:
        StoreError: the store is away.
    """
    for path in found_in(folder):
        try:
            with opened(path, store) as draining:
                if draining is not None:
                    started(draining)
                    draining.work()
        except SpoolBusyError:
            continue
        except SpoolError as error:
            log.error("a spool was left as it is: %s", error)


def _alike(one: Segment, other: Segment) -> bool:
    return one.start_step == other.start_step and abs(one.started_at - other.started_at) < 1e-3
