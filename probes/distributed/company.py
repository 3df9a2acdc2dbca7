"""The ranks of a distributed job, and how they find each other: through the key-value store that the process group rests on.

No process group of our own, for a group hangs where one of its members does not come. A store's keys are written and looked up by
each rank when it gets there, and the store decides who came first where ranks must agree.

    rank 0     watch()   posts an invitation: run, first step, cadence, what model it is of
    rank 1...  watch()   waits some seconds for an invitation for its model, and accepts; without one it watches nothing
    all        a sample  see exchange.py
    all        shards    see Meeting: ranks that are to run a collective of ours first meet, and all run it or none does
"""

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch

from ..model import WatchedModel

JOIN_SECONDS = 20.0
"""How long a rank waits in ``watch()`` for the first rank's invitation."""
MEETING_SECONDS = 10.0
"""How long a rank waits for the others before a collective of ours."""
_MOST_FAILED_MEETINGS = 3


@dataclass(frozen=True)
class Company:
    """This rank among the others.

    Attributes:
        rank, world: its number and how many there are.
        store: the default process group's.
    """

    rank: int
    world: int
    store: Any

    @classmethod
    def here(cls) -> "Company | None":
        """Return the company this process is in; None outside a distributed job, or where its backend has no store (MPI)."""
        dist = torch.distributed
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() < 2:
            return None
        from torch.distributed.distributed_c10d import _get_default_store

        store: Any = _get_default_store()
        return None if store is None else cls(dist.get_rank(), dist.get_world_size(), store)

    def keys(self, room: str) -> Any:
        """Return a store whose keys begin with ``room``, over a connection of its own: for one thread."""
        from torch.distributed.distributed_c10d import PrefixStore

        own = self.store.clone() if hasattr(self.store, "clone") else self.store
        return PrefixStore(f"foreshock/{room}", own)

    def invite(self, model: WatchedModel, facts: Mapping[str, Any]) -> str:
        """Post an invitation to watch; returns the room that those who come meet in. Called on the first rank; never waits."""
        store = self.keys("")
        number = store.add("invitations", 1)
        store.set(f"invitation {number}", json.dumps({**facts, "model": _fingerprint(model)}))
        return f"watch {number}"

    def withdraw(self, room: str) -> None:
        """Let nobody accept from now on: this watching is over. Never raises, for the store may be gone."""
        with suppress(RuntimeError):
            self.keys("").set(f"over {room}", "1")

    def accept(self, model: WatchedModel, seconds: float) -> tuple[str, dict[str, Any]] | None:
        """Wait for an invitation for this model and accept it; None where none came in time.

        Returns:
            The room, and the facts of the invitation.
        """
        store, mine = self.keys(""), f"accepted {self.rank}"
        fingerprint, deadline = _fingerprint(model), time.monotonic() + seconds
        while True:
            number = store.add(mine, 1)
            while not store.check([f"invitation {number}"]):
                if time.monotonic() > deadline:
                    store.add(mine, -1)
                    return None
                time.sleep(0.01)
            facts = json.loads(store.get(f"invitation {number}"))
            if facts.pop("model") == fingerprint and not store.check([f"over watch {number}"]):
                store.add(f"accepted watch {number}", 1)
                return f"watch {number}", facts


class Meeting:
    """Brings ranks together before a collective of ours: all of them run it, or none does.

    Whoever comes last says "go"; whoever has waited too long says "off". The store takes the first word, and all obey it, so that
    no rank runs it alone. Used by the training thread, between two steps: on sampled steps of sharded models, and where an
    intervention was decided.

    Args:
        company: this rank among the others.
        room: of this watching.
        corner: of the room, where the keys of these meetings lie.
        lost: what a meeting that fails costs.
    """

    def __init__(self, company: Company, room: str, corner: str = "meet", lost: str = "sharded weights were not measured") -> None:
        self._world, self._lost = company.world, lost
        self._store = company.keys(f"{room}/{corner}")
        self._entrance, self._accepted = company.keys(""), f"accepted {room}"
        self._beginnings = 0
        self._failed = 0
        self._past: list[str] = []

    def begin(self) -> None:
        """Sampling begins (anew), as in ``Exchange.begin``: steps met at before may come again."""
        self._beginnings += 1

    def agree(self, place: str, purpose: str) -> bool:
        """Return whether every rank is here with the same purpose; waits at most ``MEETING_SECONDS``.

        Args:
            place: the step.
            purpose: what this rank is about to do, in full: ranks that would do different things must not begin.

        Raises:
            TimeoutError: somebody did not come, or came with another purpose; after three times in a row nobody waits any more.
        """
        if self._failed >= _MOST_FAILED_MEETINGS:
            return False
        digest = hashlib.sha1(purpose.encode()).hexdigest()
        mine, all_, word = (f"{self._beginnings} {place} {key}" for key in (digest, "all", "word"))
        self._store.add(mine, 1)
        if self._store.add(all_, 1) == self._world:
            said = self._store.compare_set(word, "", "go" if self._store.add(mine, 0) == self._world else "differ")
        else:
            try:
                self._store.wait([word], timedelta(seconds=MEETING_SECONDS))
                said = self._store.get(word)
            except torch.distributed.DistStoreError:
                said = self._store.compare_set(word, "", "off")
        if self._past:
            for key in self._past:
                self._store.delete_key(key)
        # Of this meeting the word is kept one meeting longer: somebody may still be on the way to read it.
        self._past = [mine, all_]
        if said == b"go":
            self._failed = 0
            return True
        self._failed += 1
        why = "ranks were about to do different things" if said == b"differ" else "not all ranks came"
        if (others := self._entrance.add(self._accepted, 0)) < self._world - 1:
            # Whoever comes yet would find the sampled steps of the others long gone.
            self._failed = _MOST_FAILED_MEETINGS
            why = f"only {others + 1} of {self._world} ranks called watch()"
        raise TimeoutError(f"{self._lost}: {why}. Every rank must call watch() and its monitor's step()")


def _fingerprint(model: WatchedModel) -> str:
    shapes = sorted(
        (prefix, name, tuple(parameter.shape))
        for prefix, root in model.roots.items()
        for name, parameter in root.named_parameters()
        if not isinstance(parameter, torch.nn.UninitializedParameter)
    )
    return hashlib.sha1(repr(shapes).encode()).hexdigest()
