"""Another rank's end of the exchange: sends what it measured and what failed, and hears which step is next and what is proposed."""

import hashlib
import json
from collections import deque

from typing_extensions import override

from ..step.buffer import PendingStep
from .company import Company
from .council import Proposal
from .exchange import SLOTS, Exchange, Message, Plan

# The store of torch.distributed refuses values of 8 MiB.
_MOST_BYTES = 8_000_000


class Follower(Exchange):
    """``plans`` and ``proposals`` are read by the training thread.

    Args:
        company, room, planned: as for ``Exchange``.
        acts: the first rank may propose something.
    """

    def __init__(self, company: Company, room: str, *, planned: bool, acts: bool = False) -> None:
        self._acts, self._proposed = acts, 0
        self.plans: deque[Plan] = deque()
        self._heard: dict[str, tuple[int, int]] = {}
        self._faults: deque[str] = deque()
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
        while self._acts and self._store.check([key := f"proposal {self._proposed + 1}"]):
            self.proposals.append(Proposal.from_text(self._store.get(key)))
            self._proposed += 1
            busy = True
        while self._queue:
            key, pending = self._queue[0]
            if not pending.ready():
                return busy
            self._queue.popleft()
            self._send(key, Message.of(pending))
            busy = True
        return busy

    def note_fault(self, source: str, message: str) -> None:
        """Send along what failed here: the run's events are the first rank's to keep."""
        self._faults.append(message)

    def _listen(self) -> bool:
        beginnings = self.beginnings
        heard = False
        for kind in ("plan", "call"):
            key = f"{beginnings} {kind}"
            if not self._store.check([key]):
                continue
            number, step, *probes = json.loads(self._store.get(key))
            if (beginnings, number) != self._heard.get(kind):
                self._heard[kind] = beginnings, number
                self.plans.append(Plan(beginnings, step, tuple(probes), extra=kind == "call"))
                heard = True
        return heard

    def _send(self, key: str, message: Message) -> None:
        layout = json.dumps([part.to_plain() for part in message.parts])
        digest = hashlib.sha1(layout.encode()).hexdigest()
        data = b"\n".join([digest.encode(), self._failed(), message.vector.tobytes()])
        if max(len(layout), len(data)) > _MOST_BYTES:
            raise ValueError(
                f"what is measured in a step takes {max(len(layout), len(data)):,} bytes; at most {_MOST_BYTES:,} travel"
            )
        if digest not in self._known:
            self._store.set(f"layout {digest}", layout)
            self._known.add(digest)
        self._store.set(key, data)
        self._sent.append(key)
        if len(self._sent) > SLOTS:
            self._store.delete_key(self._sent.popleft())

    def _failed(self) -> bytes:
        """Return what failed since this was last asked for, as one line of JSON."""
        faults = []
        while self._faults:
            faults.append(self._faults.popleft())
        return json.dumps(faults).encode()

    @override
    def _end(self) -> None:
        if self._faults:
            self._store.set(f"last words {self.rank}", self._failed())
