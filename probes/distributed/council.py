"""Decisions that all ranks carry out at the end of the same step, or none does.

Alerts are raised on the first rank; what is done about them must happen on every rank at once. Nothing hangs where a rank is late
or gone, and on steps at which nothing is decided no rank waits for another:

    rank 0     proposes: writes text and moment into the store; the moment is so many steps ahead as all need to hear of it
    others     the exchange thread hears of it (follower.py)
    all        at that moment they meet (company.py): whoever comes last says "go", whoever has waited too long says "off"; the
               store takes the first word and all obey it. A rank that heard too late does not come, and nothing is done.
    rank 0     proposes anew what was called off, for a moment farther away; after three times it gives up.

A moment is the number of times that ``step()`` was called since ``watch()``: it never goes back, as steps do after a roll back.
"""

import json
import math
from collections import deque
from dataclasses import dataclass, replace
from time import perf_counter

from .company import Company, Meeting
from .exchange import HEARD_WITHIN_SECONDS, Exchange

_ATTEMPTS = 3
_PACES = 16


@dataclass(frozen=True, slots=True)
class Proposal:
    """What is to be done, and when; ``number`` counts proposals."""

    number: int
    moment: int
    text: str
    attempt: int = 1

    def to_text(self) -> str:
        """Return it as it is written into the store."""
        return json.dumps([self.number, self.moment, self.text])

    @classmethod
    def from_text(cls, text: str | bytes) -> "Proposal":
        """Read what ``to_text`` wrote."""
        number, moment, wanted = json.loads(text)
        return cls(number, moment, wanted)


class Council:
    """One rank's seat. Used on the training thread, between two steps.

    Args:
        company: this rank among the others.
        room: where this watching's keys lie.
        exchange: carries proposals, and says what fails.
    """

    def __init__(self, company: Company, room: str, exchange: Exchange) -> None:
        self._exchange = exchange
        self._meeting = Meeting(company, room, "council", "nothing was done")
        self._leads = company.rank == 0
        self._moment = self._number = 0
        self._due: deque[Proposal] = deque()
        # What the last steps took: the shortest says how far ahead a moment must lie.
        self._paces: deque[float] = deque(maxlen=_PACES)
        self._ended = perf_counter()

    def propose(self, text: str) -> None:
        """Have ``text`` come up on every rank; called on the first. Never waits."""
        self._put(Proposal(0, 0, text))

    def ripe(self) -> tuple[list[str], list[str]]:
        """Count a step, and meet the others where that is due.

        Returns:
            The texts that every rank has at this moment; and, on the first rank, those that were given up.
        """
        self._moment += 1
        now = perf_counter()
        self._paces.append(now - self._ended)
        agreed: list[str] = []
        given_up: list[str] = []
        while self._exchange.proposals:
            self._due.append(self._exchange.proposals.popleft())
        while self._due and self._due[0].moment <= self._moment:
            proposal = self._due.popleft()
            if proposal.moment < self._moment:  # heard too late: the others wait in vain, and call it off
                continue
            if self._met(proposal):
                agreed.append(proposal.text)
            elif self._leads and proposal.attempt < _ATTEMPTS:
                self._put(replace(proposal, attempt=proposal.attempt + 1))
            elif self._leads:
                given_up.append(proposal.text)
        self._ended = perf_counter() if agreed or given_up else now
        return agreed, given_up

    def _put(self, proposal: Proposal) -> None:
        self._number += 1
        ahead = math.ceil(proposal.attempt * HEARD_WITHIN_SECONDS / max(min(self._paces, default=1.0), 1e-5)) + 1
        proposal = replace(proposal, number=self._number, moment=self._moment + ahead)
        self._due.append(proposal)
        self._exchange.propose(proposal)

    def _met(self, proposal: Proposal) -> bool:
        try:
            met = self._meeting.agree(str(proposal.number), proposal.text)
        except (TimeoutError, RuntimeError) as error:  # the latter where the store is out of reach
            self._exchange.say("intervention", f"Ranks could not agree: {error}")
            return False
        if not met:
            self._exchange.say(
                "intervention", "Ranks did not come together before, and are not waited for again: nothing was done."
            )
        return met
