"""The numbers of all ranks made one, off the training thread: here no rank ever waits for another.

    every rank   training thread   a sampled step ends: its packed copy starts towards the host, and is put here
                 exchange thread   the copy has arrived: one message with everything goes into the store, under step and rank
    rank 0       exchange thread   takes the messages that are there within ``PATIENCE_SECONDS``, joins them (step/parts.py), hands
    (leader.py)                    the record to the writer; then says which step is sampled next, and which probes run on it
    others       training thread   sample that step; who hears of it too late misses one sample, and is counted as missing
    (follower.py)

A rank that is slow or dead is named, and not waited for again until it is back. Messages are deleted once they are read; a rank
leaves at most ``SLOTS`` there. What a message is made of (its parts) is stored once, under its digest. At a fixed cadence nothing
needs to be said.
"""

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...storage.records import SeriesKey, StepRecord
from ..base import Across
from ..step.buffer import PendingStep
from ..step.parts import Part, Vector
from .company import Company

log = logging.getLogger("foreshock")

_CLOSING_SECONDS = 1.0
SLOTS = 8
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.001, 0.5
HEARD_WITHIN_SECONDS = 2 * _LONGEST_PAUSE
"""How long what the first rank says takes to be heard by all, at most as a rule."""

# What every rank tells of itself, besides what its probes measured.
_OWN = {"loss": "rank.loss", "gradient.norm": "rank.gradient_norm"}


@dataclass(frozen=True, slots=True)
class Plan:
    """The next sampled step, and the probes that run on it; of which beginning of sampling.

    ``extra``: it comes besides the one planned, and all probes run.
    """

    beginning: int
    step: int
    probes: tuple[str, ...] = ()
    extra: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """What one rank measured in one step, and what failed there since its last message."""

    parts: tuple[Part, ...]
    vector: Vector
    faults: tuple[str, ...] = ()

    @classmethod
    def of(cls, pending: PendingStep) -> "Message":
        """Take what ranks tell each other from a step that has arrived."""
        values = dict(zip(pending.host_keys, pending.host_values, strict=True))
        if pending.away is not None:
            values |= dict(zip(pending.away_keys, pending.away.numpy().tolist(), strict=True))
        own = [(name, values[key]) for key, name in ((SeriesKey(of), name) for of, name in _OWN.items()) if key in values]
        parts = tuple(Part((SeriesKey(name),), (1,), Across.EACH.value) for name, _ in own)
        vector = np.array([value for _, value in own], dtype=np.float32)
        if pending.packed is None:
            return cls(parts, vector)
        return cls((*parts, *pending.packed.parts), np.concatenate([vector, pending.packed.copy.numpy()]))


class JointStep:
    """A sampled step on the first rank: ready when the others' numbers are in it, or were given up."""

    def __init__(self, pending: PendingStep, key: str) -> None:
        self.pending = pending
        self.key = key
        self.arrived_at: float | None = None
        self.record: StepRecord | None = None
        self.given_up = False

    def ready(self) -> bool:
        """Tell whether it can be resolved without waiting."""
        return self.record is not None or (self.given_up and self.pending.ready())

    def resolve(self) -> StepRecord:
        """Return the record: of all ranks that came in time, or of this one alone where joining failed."""
        return self.record if self.record is not None else self.pending.resolve()


class Exchange(ABC):
    """One rank's end: a thread with a connection to the store.

    Args:
        company: this rank among the others.
        room: where this watching's keys lie.
        planned: the cadence is the first rank's to say, sample by sample; else it is fixed.
    """

    def __init__(self, company: Company, room: str, *, planned: bool) -> None:
        self.rank, self.world = company.rank, company.world
        self._tell: Callable[[str, str], None] = lambda kind, message: None
        self._planned = planned
        self._company, self._room = company, room
        self._store = company.keys(room)
        self.beginnings = 0
        self.proposals: deque[Any] = deque()
        """What the first rank proposed (council.py), for the training thread of another."""
        self._queue: deque[Any] = deque()
        self._wake = threading.Event()
        self.closing_until = float("inf")
        self._told: set[str] = set()
        self._thread = threading.Thread(target=self._work, name="foreshock-exchange", daemon=True)
        self._thread.start()

    def report_to(self, tell: Callable[[str, str], None]) -> None:
        """Have ``tell(kind, message)`` called, on the exchange thread, besides logging what must be said."""
        self._tell = tell

    def begin(self) -> None:
        """Sampling begins (anew): every rank does so at the same step."""
        self.beginnings += 1

    @abstractmethod
    def joint(self, pending: PendingStep) -> "PendingStep | JointStep":
        """Take a sampled step of this rank; return what the writer is to have. Never blocks."""

    def plan(self, step: int, probes: Iterable[str]) -> None:  # noqa: B027 - only the first rank's say counts
        """Say which step is sampled next, with which probes. Never blocks."""

    @property
    def calls_samples(self) -> bool:
        """Whether this rank may call all to a sample that was not planned."""
        return False

    def call(self, step: int) -> None:  # noqa: B027 - only the first rank calls
        """Call all ranks to sample ``step`` too, with all probes; those who hear of it in time come. Never blocks."""

    def propose(self, proposal: Any) -> None:  # noqa: B027 - only the first rank proposes
        """Let the other ranks hear a proposal. Never blocks."""

    def close(self, timeout: float = 2.0) -> None:
        """End the thread; what is under way has a second to arrive. May be called twice."""
        self.closing_until = min(self.closing_until, time.monotonic() + _CLOSING_SECONDS)
        self._wake.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    @property
    def _closing(self) -> bool:
        return self.closing_until != float("inf")

    def _put(self, item: Any) -> None:
        self._queue.append(item)
        self._wake.set()

    def _work(self) -> None:
        pause = _LONGEST_PAUSE
        while True:
            if self._wake.wait(pause):
                pause = _SHORTEST_PAUSE
            self._wake.clear()
            over = time.monotonic() > self.closing_until  # before the turn, which may wait for others until just then
            try:
                busy = self._turn()
            except RuntimeError as error:  # the store is out of reach, and its connection does not come back
                self._say_once("exchange_lost", f"the ranks can exchange nothing any more: {error}")
                break
            except Exception as error:  # noqa: BLE001 - the thread must outlive a message it cannot read
                busy = False
                self._say_once("exchange_failed", f"ranks could not exchange numbers: {type(error).__name__}: {error}")
            # Eager while something is under way, and ever less so while nothing comes of it.
            pause = _SHORTEST_PAUSE if busy else min(2 * pause, _LONGEST_PAUSE)
            if self._closing and (not self._queue or (over and not busy)):
                break
        with suppress(RuntimeError):  # the store may be gone
            self._end()

    @abstractmethod
    def _turn(self) -> bool:
        """Do what can be done without waiting; return whether anything was."""

    @abstractmethod
    def _end(self) -> None:
        """The thread ends: let go of those who wait, say what is left to say."""

    def _say_once(self, kind: str, message: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            self.say(kind, message)

    def say(self, kind: str, message: str) -> None:
        """Log what must be said, and record it as an event where that is possible."""
        log.warning("%s", message)
        self._tell(kind, message)
