"""The end of the exchange between ranks: what waits for others is finished with, and not dropped."""

import time
from typing import Any

import torch.distributed as dist
from foreshock.probes.distributed import exchange
from foreshock.probes.distributed.company import Company
from foreshock.probes.distributed.exchange import Exchange


class Waiting(Exchange):
    """Its steps wait for others until it is closed for good, and each look at whether these have come takes a while."""

    LOOK_SECONDS = 0.05

    def __init__(self) -> None:
        self.joined: list[int] = []
        self.dropped: list[int] | None = None
        super().__init__(Company(0, 2, dist.HashStore()), "room", planned=False)

    def joint(self, pending: Any) -> Any:
        self._put(pending)

    def _turn(self) -> bool:
        began = time.monotonic()
        time.sleep(self.LOOK_SECONDS)
        if not self._queue or began < self.closing_until:
            return False
        self.joined.append(self._queue.popleft())
        return True

    def _end(self) -> None:
        self.dropped = list(self._queue)


def test_steps_that_wait_for_others_at_the_end_are_joined_without_them(monkeypatch: Any) -> None:
    monkeypatch.setattr(exchange, "_CLOSING_SECONDS", 0.2)
    ended = Waiting()
    for step in range(5):
        ended.joint(step)
    ended.close(timeout=20.0)
    assert ended.dropped == []
    assert ended.joined == [0, 1, 2, 3, 4]
