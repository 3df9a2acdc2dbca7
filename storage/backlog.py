"""What waits for the store, in order: the newest in memory, what has waited longer in the spool.

A store that hiccups costs no disk: entries go to the spool when the store is away and they have waited a while, or when there are
many. Once there is a spool, everything goes through it until it is empty, so that a kill costs about the last second and nothing
more. Where there is no spool, or it takes no more, memory keeps what it can; beyond, the oldest batches go and are counted.

Calls may come from any thread: the writer adds and moves, the sender takes from the front.
"""

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

from .entries import Entry, encode, points_of
from .records import Batch, Event, Run, Segment, new_id
from .spool import SpoolError, SpoolFile, SpoolFullError, SpoolPlace
from .trouble import Reporter

_HICCUP = 0.4  # seconds that an entry waits in memory for a store that is away; the writer looks every half second
_STAGE = 500_000  # samples in memory that go to the spool however short they have waited
_TOGETHER = 16  # entries that go to the spool in one transaction
_AT_ONCE = 64  # entries of the spool looked at together
_POINTS_AT_ONCE = 100_000  # samples of batches that go to the store in one transaction
_SPOOL_PAUSE = 10.0  # seconds after which a spool that failed is tried again
_MOST_SMALL = 10_000  # entries other than batches in memory


def _written_together(entries: Sequence[tuple[int, Entry]]) -> list[tuple[int, Entry]]:
    """Return the first entries of some that are batches of one segment, not too large together; at least the first."""
    found, points = list(entries[:1]), points_of(entries[0][1]) if entries else 0
    for (_, before), (number, entry) in pairwise(entries):
        points += points_of(entry)
        if (
            not isinstance(before, Batch)
            or not isinstance(entry, Batch)
            or before.segment != entry.segment
            or points > _POINTS_AT_ONCE
        ):
            break
        found.append((number, entry))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    number: int
    entry: Entry
    points: int
    since: float


class Backlog:
    """The queue of one run between its writer and its store.

    Args:
        run, segments, channels: what a spool must say of the run, for whoever drains it.
        memory_points: samples kept in memory; beyond, the oldest batches go to the spool or, without one, are lost and counted.
        place: where to spool; None: nowhere.
        reporter: told once when memory or spool are full.
    """

    def __init__(
        self,
        run: Run,
        segment: Segment,
        *,
        channels: Sequence[str],
        memory_points: int,
        place: SpoolPlace | None,
        reporter: Reporter,
    ) -> None:
        self.segments = [segment]
        self.last_step = segment.start_step
        self.memory_points = 0
        self.points_lost = 0
        self.place = place
        self._run = run
        self._channels = channels
        self._most_points = memory_points
        self._reporter = reporter
        self._memory: deque[_Waiting] = deque()
        self._small = 0
        self._spool: SpoolFile | None = None
        self._spool_again_at = float("-inf")
        self._in_hand = -1  # the number of the entry that the sender works on
        self._lost_in_hand = 0  # its samples, if memory had no room for them any more
        self._number = 0
        self._lock = threading.RLock()
        self._closed = False

    # -- figures: plain attributes, read without the lock --------------------------------------------------------

    @property
    def entries(self) -> int:
        """How many entries wait."""
        spool = self._spool
        return len(self._memory) + (spool.entries if spool else 0)

    @property
    def points(self) -> int:
        """How many samples wait."""
        return self.memory_points + self.spooled_points

    @property
    def spooled_points(self) -> int:
        """How many of them are on disk."""
        spool = self._spool
        return spool.points if spool else 0

    @property
    def spooled_bytes(self) -> int:
        """How many bytes those take."""
        spool = self._spool
        return spool.bytes if spool else 0

    @property
    def newest(self) -> int:
        """The number of the entry added last; numbers rise from 1."""
        return self._number

    @property
    def oldest(self) -> int:
        """A number below which nothing waits any more."""
        with self._lock:
            if self._spool is not None and self._spool.entries:
                return self._spool.taken + 1
            return self._memory[0].number if self._memory else self._number + 1

    @property
    def path(self) -> str:
        """The spool's path; empty while there is none."""
        spool = self._spool
        return str(spool.path) if spool else ""

    @property
    def folder(self) -> str:
        """Where spools go; empty without them."""
        return str(self.place.folder) if self.place else ""

    # -- the writer's side ---------------------------------------------------------------------------------------

    def add(self, entry: Entry) -> None:
        """Take over an entry."""
        with self._lock:
            if isinstance(entry, Batch):
                self.last_step = entry.steps[-1].step
            elif isinstance(entry, Segment):
                self.segments.append(entry)
            self._number += 1
            points = points_of(entry)
            self._memory.append(_Waiting(self._number, entry, points, time.monotonic()))
            self.memory_points += points
            self._small += not isinstance(entry, Batch)
            if self.memory_points > self._most_points or self._small > _MOST_SMALL:
                if self.memory_points > 0:
                    self._spill(len(self._memory))
                self._shed()

    def event(self, kind: str, message: str, data: Mapping[str, object]) -> None:
        """Add an event that happened to the run now."""
        self.add(Event(new_id(), self._run.id, self.segments[-1].segment, self.last_step, time.time(), kind, message, data))

    def keep(self, *, away: bool) -> None:
        """Move to the spool what should not wait in memory any longer. Called every half second or so.

        Args:
            away: whether the store does not take anything at present.
        """
        with self._lock:
            if not self._memory or (not away and self._spool is None):
                return
            late = time.monotonic() - _HICCUP
            crowded = self.memory_points > _STAGE
            self._spill(len(self._memory) if crowded else sum(waiting.since <= late for waiting in self._memory))

    def park(self) -> bool:
        """Bring everything to the spool and close it; return whether nothing is left in memory. The last call of all."""
        with self._lock:
            self._spool_again_at = float("-inf")
            self._spill(len(self._memory))
            self._closed = True
            if self._spool is not None:
                self._spool.close()
            return not self._memory

    def give_up(self) -> None:
        """Count what is left in memory as lost."""
        with self._lock:
            while self._memory:
                self.points_lost += self._pop(0).points

    # -- the sender's side ---------------------------------------------------------------------------------------

    def leading(self) -> list[tuple[int, Entry]]:
        """Return the oldest entry and its number, and of the spool the batches behind it that can be written with it."""
        with self._lock:
            if self._closed:
                return []
            found: list[tuple[int, Entry]] = []
            if self._spool is not None:
                try:
                    found = _written_together(self._spool.leading(1 if self._spool.entries == 1 else _AT_ONCE))
                except SpoolError as error:
                    self._give_spool_up(error)
            if not found and self._memory:
                found = [(self._memory[0].number, self._memory[0].entry)]
            self._in_hand = found[0][0] if found else -1
            return found

    def done(self, number: int) -> None:
        """Take away the oldest entry, whose number this is: the store has it, or will never take it."""
        with self._lock:
            self.points_lost -= self._lost_in_hand  # it came through after all
            self.put_back()
            if self._closed:
                return
            if self._memory and self._memory[0].number == number:
                self._pop(0)
            elif self._spool is not None:
                try:
                    self._spool.take(number)
                except SpoolError as error:
                    self._give_spool_up(error)
            if self._spool is not None and self._spool.entries == 0:
                self._spool.close()
                self._spool = None

    def put_back(self) -> None:
        """Say that nothing is in hand any more: the store did not take it."""
        with self._lock:
            self._in_hand, self._lost_in_hand = -1, 0

    def lost(self, points: int) -> None:
        """Count samples that no store will have."""
        with self._lock:
            self.points_lost += points

    # -- inside, with the lock -----------------------------------------------------------------------------------

    def _pop(self, place: int) -> _Waiting:
        waiting = self._memory[place]
        del self._memory[place]
        self.memory_points -= waiting.points
        self._small -= not isinstance(waiting.entry, Batch)
        return waiting

    def _spill(self, count: int) -> None:
        """Move the oldest entries in memory to the spool, as far as it takes them."""
        if self.place is None or self._closed or time.monotonic() < self._spool_again_at:
            return
        together = _TOGETHER
        while count > 0:
            some = list(islice(self._memory, min(count, together)))
            try:
                if self._spool is None:
                    self._spool = SpoolFile.create(self.place, self._run, self.segments, self._channels)
                self._spool.append([(waiting.number, waiting.entry) for waiting in some])
            except SpoolError as error:
                if isinstance(error, SpoolFullError) and len(some) > 1:  # perhaps some of them
                    together = len(some) // 2
                    continue
                self._spool_again_at = time.monotonic() + _SPOOL_PAUSE
                self._say_full(error)
                return
            except (TypeError, ValueError, OverflowError):
                count -= self._refuse(some)
                continue
            for _ in some:
                self._pop(0)
            count -= len(some)

    def _refuse(self, some: Sequence[_Waiting]) -> int:
        """Leave out those that hold what is no number, which no store would take either; return how many, 1 at least."""
        for waiting in some:
            try:
                encode(waiting.entry)
            except (TypeError, ValueError, OverflowError) as error:
                self.points_lost += self._pop(self._memory.index(waiting)).points
                message = f"{type(error).__name__}: {error}. It is left out; the rest goes on."
                self._reporter.tell_once("record_refused", message, error)
                return 1
        return len(some)

    def _shed(self) -> None:
        """Let the oldest go that memory cannot hold, but for what the sender has in hand."""
        while self.memory_points > self._most_points:
            batches = [place for place, each in enumerate(self._memory) if isinstance(each.entry, Batch)]
            if len(batches) < 2:
                break
            gone = self._pop(batches[0])
            self.points_lost += gone.points
            if gone.number == self._in_hand:
                self._lost_in_hand = gone.points
            message = f"The store is away so long that {self._most_points:,} samples wait in memory; the oldest are being dropped."
            self._reporter.tell_once("backlog_full", message)
        while self._small > _MOST_SMALL:
            small = (i for i, each in enumerate(self._memory) if not isinstance(each.entry, Batch))
            self._pop(next(small))
            message = f"The store is away so long that over {_MOST_SMALL:,} alerts and events wait; the oldest are being dropped."
            self._reporter.tell_once("records_full", message)

    def _say_full(self, error: SpoolError) -> None:
        kind = "spool_full" if isinstance(error, SpoolFullError) else "spool_failed"
        message = f"{error} Samples are kept in memory until it works again, {self._most_points:,} at most."
        if self._reporter.tell_once(kind, message, error):
            self.event(kind, message, {"points_spooled": self.spooled_points, "bytes_spooled": self.spooled_bytes})

    def _give_spool_up(self, error: SpoolError) -> None:
        """A spool that cannot be read is left as it is, for a person to look at."""
        assert self._spool is not None
        lost = self._spool.points
        self.points_lost += lost
        self._reporter.tell("spool_unreadable", f"{error} {lost:,} samples in it were not stored.", error, lost=lost)
        self._spool.close(keep=True)
        self._spool = None
        self._spool_again_at = time.monotonic() + _SPOOL_PAUSE
