"""The first rank's end of the exchange: joins what all measured, and says when to measure next."""

import json
import time
from collections import deque
from collections.abc import Iterable

import numpy as np
from typing_extensions import override

from ..step.buffer import PendingStep
from ..step.parts import Finish, Part, join
from .company import Company
from .council import Proposal
from .exchange import Exchange, JointStep, Message

PATIENCE_SECONDS = 10.0
"""How long the first rank waits for what the others measured in a step, before it goes on without them."""
_MOST_KNOWN = 1024


class Leader(Exchange):
    """The first rank's end: joins what all measured."""

    def __init__(self, company: Company, room: str, *, planned: bool) -> None:
        self._plans: deque[tuple[str, str]] = deque()
        self._number = self._calls = 0
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

    @property
    @override
    def calls_samples(self) -> bool:
        return self._planned

    @override
    def call(self, step: int) -> None:
        self._calls += 1
        self._plans.append((f"{self.beginnings} call", json.dumps([self._calls, step])))
        self._wake.set()

    @override
    def propose(self, proposal: Proposal) -> None:
        self._plans.append((f"proposal {proposal.number}", proposal.to_text()))
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
            step.given_up = now > self.closing_until
            return step.given_up
        step.arrived_at = step.arrived_at or now
        keys = {rank: f"{step.key} {rank}" for rank in sorted(self._others)}
        complete = not self._expected or self._store.check([keys[rank] for rank in sorted(self._expected)])
        if not complete and now < min(step.arrived_at + PATIENCE_SECONDS, self.closing_until):
            return False
        there = [rank for rank, key in keys.items() if (complete and rank in self._expected) or self._store.check([key])]
        messages = {0: self._own(step.pending)}
        for rank in there:
            messages[rank] = self._read(self._store.get(keys[rank]))
            self._store.delete_key(keys[rank])
            self._tell_of(rank, messages[rank].faults)
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
        digest, faults, rest = data.split(b"\n", 2)
        layout = digest.decode()
        if layout not in self._layouts:
            if len(self._layouts) > _MOST_KNOWN:
                self._layouts.clear()
            self._layouts[layout] = tuple(map(Part.from_plain, json.loads(self._store.get(f"layout {layout}"))))
        return Message(self._layouts[layout], np.frombuffer(rest, dtype=np.float32), tuple(json.loads(faults)))

    def _tell_of(self, rank: int, faults: Iterable[str]) -> None:
        for fault in faults:  # logged where it happened
            self._tell("fault", f"rank {rank}: {fault}")

    def _note_missing(self, step: int, missing: frozenset[int]) -> None:
        self._never_came &= missing
        gone, back = self._expected & missing, self._others - missing - self._expected
        self._expected = set(self._others - missing)
        if strangers := gone & self._never_came:
            who, mend = f"{_named(strangers)} of {self.world}", "call watch() and step() on every rank"
            self.say("ranks_missing", f"{who} did not take part in step {step:,}: the numbers are those of the others; {mend}")
        if lost := gone - self._never_came:
            self.say(
                "ranks_missing",
                f"{_named(lost)} of {self.world} sent nothing for step {step:,}: the numbers are those of the others",
            )
        if back:
            self.say("ranks_back", f"{_named(back)} of {self.world} took part in step {step:,} again")

    @override
    def _end(self) -> None:
        for step in self._queue:
            step.given_up = True
        for rank in self._others:
            if self._store.check([f"last words {rank}"]):
                self._tell_of(rank, json.loads(self._store.get(f"last words {rank}")))


def _named(ranks: Iterable[int]) -> str:
    """Name ranks: ``Rank 3``, ``Ranks 1, 2 and 5``, ``Ranks 1, 2, 3 and 12 more``."""
    numbers = sorted(ranks)
    if len(numbers) == 1:
        return f"Rank {numbers[0]}"
    shown = numbers if len(numbers) <= 4 else numbers[:3]
    last = f"{shown.pop()}" if len(numbers) <= 4 else f"{len(numbers) - 3} more"
    return f"Ranks {', '.join(map(str, shown))} and {last}"
