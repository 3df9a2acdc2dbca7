"""The numbers of all ranks made one, off the training thread: here no rank ever waits for another.

    every rank   training thread   a sampled step ends: its packed copy starts towards the host, and is put here
                 exchange thread   the copy has arrived: one message with everything goes into the store, under step and rank
    rank 0       exchange thread   takes the messages that are there within ``PATIENCE_SECONDS``, joins them (step/parts.py), hands
                                   the record to the writer; then says which step is sampled next, and which probes run on it
    others       training thread   sample that step; who hears of it too late misses one sample, and is counted as missing

A rank that is slow or dead is named, and not waited for again until it is back. Messages are deleted once they are read; a rank
leaves at most ``_SLOTS`` there. What a message is made of (its parts) is stored once, under its digest. At a fixed cadence nothing
needs to be said.
"""

import hashlib
import json
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from typing_extensions import override

from ...storage.records import SeriesKey, StepRecord
from ..base import Across
from ..step.buffer import PendingStep
from ..step.parts import Finish, Part, Vector, join
from .company import Company

log = logging.getLogger("foreshock")

PATIENCE_SECONDS = 10.0
"""How long the first rank waits for what the others measured in a step, before it goes on without them."""
_CLOSING_SECONDS = 1.0
_SLOTS = 8
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.001, 0.5
# The store of torch.distributed refuses values of 8 MiB.
_MOST_BYTES = 8_000_000
_MOST_KNOWN = 1024

# What every rank tells of itself, besides what its probes measured.
_OWN = {"loss": "rank.loss", "gradient.norm": "rank.gradient_norm"}


@dataclass(frozen=True, slots=True)
class Plan:
    """The next sampled step, and the probes that run on it; of which beginning of sampling."""

    beginning: int
    step: int
    probes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """What one rank measured in one step."""

    parts: tuple[Part, ...]
    vector: Vector

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
        self._queue: deque[Any] = deque()
        self._wake = threading.Event()
        self._closing_until = float("inf")
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

    def close(self, timeout: float = 2.0) -> None:
        """End the thread; what is under way has a second to arrive. May be called twice."""
        self._closing_until = min(self._closing_until, time.monotonic() + _CLOSING_SECONDS)
        self._wake.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    @property
    def _closing(self) -> bool:
        return self._closing_until != float("inf")

    def _put(self, item: Any) -> None:
        self._queue.append(item)
        self._wake.set()

    def _work(self) -> None:
        pause = _LONGEST_PAUSE
        while True:
            if self._wake.wait(pause):
                pause = _SHORTEST_PAUSE
            self._wake.clear()
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
            if self._closing and (not self._queue or (time.monotonic() > self._closing_until and not busy)):
                break
        self._end()

    @abstractmethod
    def _turn(self) -> bool:
        """Do what can be done without waiting; return whether anything was."""

    def _end(self) -> None:  # noqa: B027 - nobody waits for a follower
        """Let go of those who wait: the thread ends."""

    def _say_once(self, kind: str, message: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            self._say(kind, message)

    def _say(self, kind: str, message: str) -> None:
        log.warning("%s", message)
        self._tell(kind, message)


class Leader(Exchange):
    """The first rank's end: joins what all measured."""

    def __init__(self, company: Company, room: str, *, planned: bool) -> None:
        self._plans: deque[tuple[str, str]] = deque()
        self._number = 0
        self._others = frozenset(range(1, company.world))
        self._expected = set(self._others)
        self._never_came = set(self._others)
        self._layouts: dict[str, tuple[Part, ...]] = {}
        self._finishers: dict[Part, Finish] = {}
        super().__init__(company, room, planned=planned)

    @override
    def begin(self) -> None:
        super().begin()
        self._number = 0

    @override
    def close(self, timeout: float = 2.0) -> None:
        if not self._closing:
            self._company.withdraw(self._room)
        super().close(timeout)

    @override
    def joint(self, pending: PendingStep) -> JointStep:
        step = JointStep(pending, f"{self.beginnings} {pending.step}")
        self._put(step)
        if not self._thread.is_alive():
            step.given_up = True
        return step

    @override
    def plan(self, step: int, probes: Iterable[str]) -> None:
        if self._planned:
            self._number += 1
            self._plans.append((f"{self.beginnings} plan", json.dumps([self._number, step, *probes])))
            self._wake.set()

    @override
    def _turn(self) -> bool:
        busy = False
        while self._plans:
            self._store.set(*self._plans.popleft())
            busy = True
        if not self._queue:
            return busy
        step: JointStep = self._queue[0]
        try:
            done = self._gather(step)
        except Exception:
            step.given_up = done = True
            raise
        finally:
            if done:
                self._queue.popleft()
        return busy or done

    def _gather(self, step: JointStep) -> bool:
        """Join a step if all that are expected are there or time is up; return whether it is done with."""
        now = time.monotonic()
        if not step.pending.ready():
            step.given_up = now > self._closing_until
            return step.given_up
        step.arrived_at = step.arrived_at or now
        keys = {rank: f"{step.key} {rank}" for rank in sorted(self._others)}
        complete = not self._expected or self._store.check([keys[rank] for rank in sorted(self._expected)])
        if not complete and now < min(step.arrived_at + PATIENCE_SECONDS, self._closing_until):
            return False
        there = [rank for rank, key in keys.items() if (complete and rank in self._expected) or self._store.check([key])]
        messages = {0: self._own(step.pending)}
        for rank in there:
            messages[rank] = self._read(self._store.get(keys[rank]))
            self._store.delete_key(keys[rank])
        found = join({rank: (message.parts, message.vector) for rank, message in messages.items()}, self._finishers)
        step.record = step.pending.resolve(found)
        self._note_missing(step.pending.step, self._others.difference(there))
        return True

    def _own(self, pending: PendingStep) -> Message:
        message = Message.of(pending)
        if pending.packed is not None:
            if len(self._finishers) > _MOST_KNOWN:
                self._finishers.clear()
            for part, finish in zip(pending.packed.parts, pending.packed.finishers, strict=True):
                if finish is not None:
                    self._finishers[part] = finish
        return message

    def _read(self, data: bytes) -> Message:
        digest, _, rest = data.partition(b"\n")
        layout = digest.decode()
        if layout not in self._layouts:
            if len(self._layouts) > _MOST_KNOWN:
                self._layouts.clear()
            self._layouts[layout] = tuple(map(Part.from_plain, json.loads(self._store.get(f"layout {layout}"))))
        return Message(self._layouts[layout], np.frombuffer(rest, dtype=np.float32))

    def _note_missing(self, step: int, missing: frozenset[int]) -> None:
        self._never_came &= missing
        gone, back = self._expected & missing, self._others - missing - self._expected
        self._expected = set(self._others - missing)
        if strangers := gone & self._never_came:
            who, mend = f"{_named(strangers)} of {self.world}", "call watch() and step() on every rank"
            self._say("ranks_missing", f"{who} did not take part in step {step:,}: the numbers are those of the others; {mend}")
        if lost := gone - self._never_came:
            self._say(
                "ranks_missing",
                f"{_named(lost)} of {self.world} sent nothing for step {step:,}: the numbers are those of the others",
            )
        if back:
            self._say("ranks_back", f"{_named(back)} of {self.world} took part in step {step:,} again")

    @override
    def _end(self) -> None:
        for step in self._queue:
            step.given_up = True


class Follower(Exchange):
    """Another rank's end: sends what it measured, and hears which step is next. ``plans`` is read by the training thread."""

    def __init__(self, company: Company, room: str, *, planned: bool) -> None:
        self.plans: deque[Plan] = deque()
        self._heard = (0, 0)
        self._sent: deque[str] = deque()
        self._known: set[str] = set()
        super().__init__(company, room, planned=planned)

    @override
    def joint(self, pending: PendingStep) -> PendingStep:
        self._put((f"{self.beginnings} {pending.step} {self.rank}", pending))
        return pending

    @override
    def _turn(self) -> bool:
        busy = self._planned and self._listen()
        while self._queue:
            key, pending = self._queue[0]
            if not pending.ready():
                return busy
            self._queue.popleft()
            self._send(key, Message.of(pending))
            busy = True
        return busy

    def _listen(self) -> bool:
        beginnings = self.beginnings
        key = f"{beginnings} plan"
        if not self._store.check([key]):
            return False
        number, step, *probes = json.loads(self._store.get(key))
        if (beginnings, number) == self._heard:
            return False
        self._heard = (beginnings, number)
        self.plans.append(Plan(beginnings, step, tuple(probes)))
        return True

    def _send(self, key: str, message: Message) -> None:
        layout = json.dumps([part.to_plain() for part in message.parts])
        digest = hashlib.sha1(layout.encode()).hexdigest()
        data = message.vector.tobytes()
        if max(len(layout), len(data)) > _MOST_BYTES:
            raise ValueError(
                f"what is measured in a step takes {max(len(layout), len(data)):,} bytes; at most {_MOST_BYTES:,} travel"
            )
        if digest not in self._known:
            self._store.set(f"layout {digest}", layout)
            self._known.add(digest)
        self._store.set(key, digest.encode() + b"\n" + data)
        self._sent.append(key)
        if len(self._sent) > _SLOTS:
            self._store.delete_key(self._sent.popleft())


def _named(ranks: Iterable[int]) -> str:
    """Name ranks: ``Rank 3``, ``Ranks 1, 2 and 5``, ``Ranks 1, 2, 3 and 12 more``."""
    numbers = sorted(ranks)
    if len(numbers) == 1:
        return f"Rank {numbers[0]}"
    shown = numbers if len(numbers) <= 4 else numbers[:3]
    last = f"{shown.pop()}" if len(numbers) <= 4 else f"{len(numbers) - 3} more"
    return f"Ranks {', '.join(map(str, shown))} and {last}"
