"""Runs the interventions of a run, each on its own: one that fails is counted, and the others go on.

What was decided in a step is done at its end, in a process that is alone. In a distributed job it goes to the council, which brings
all ranks to the same step.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from ..storage.records import Alert, StepRecord
from .base import Intervention, Training


class Council(Protocol):
    """Where ranks agree (probes/distributed/council.py)."""

    def propose(self, text: str) -> None:
        """Have ``text`` come up on every rank at the end of the same step; called on the first rank. Never waits."""

    def ripe(self) -> tuple[list[str], list[str]]:
        """Count a step; return the texts that all ranks have now, and on the first rank those that were given up."""


class Ladder:
    """The interventions of a run. Empty, it costs next to nothing and touches nothing.

    Args:
        interventions: in the order in which they act.
    """

    def __init__(self, interventions: Sequence[Intervention] = ()) -> None:
        self.interventions = list(interventions)
        self.council: Council | None = None
        """In a distributed job, what brings its ranks together."""
        self._training: Training | None = None
        self._decided: list[tuple[Intervention, Mapping[str, Any]]] = []

    def __bool__(self) -> bool:
        return bool(self.interventions)

    def attach(self, training: Training) -> None:
        """Introduce the interventions to the run; on ranks after the first only those that run on every rank.

        Raises:
            ValueError: one of them cannot be done here.
        """
        training.asked = tuple(self.interventions)
        training.decide, training.rolled_back = self._decide, self._rolled_back
        if training.rank > 0:
            self.interventions = [one for one in self.interventions if one.on_every_rank]
        self._training = training
        try:
            for one in self.interventions:
                one.attach(training)
        except BaseException:
            self.close()
            raise

    def on_records(self, records: Sequence[StepRecord]) -> None:
        """Hand on what was measured, on the writer thread."""
        for one in self.interventions:
            self._run(one, partial(one.on_records, records))

    def on_batch(self, step: int, batch: object) -> None:
        """Hand on what the user says of a step's batch."""
        for one in self.interventions:
            self._run(one, partial(one.on_batch, step, batch))

    def before_end(self, step: int) -> None:
        """Announce the end of a sampled step."""
        for one in self.interventions:
            self._run(one, partial(one.before_end, step))

    def after_step(self, step: int, alerts: Iterable[Alert]) -> None:
        """Hand on new alerts, announce the end of the step, then do what was decided.

        Alerts of before a roll back are passed over: what they tell of has been undone.
        """
        assert self._training is not None
        for alert in alerts:
            if alert.segment >= self._training.segment():
                for one in self.interventions:
                    self._run(one, partial(one.on_alert, alert))
        for one in self.interventions:
            self._run(one, partial(one.after_step, step))
        decided, self._decided = self._decided, []
        if self._training.world > 1:
            self._training.guard("interventions of all ranks", partial(self._agree, step, decided))
        else:
            for one, facts in decided:
                self._run(one, partial(one.act, step, facts))

    def close(self) -> None:
        """Undo what lasts; twice without harm."""
        closing, self.interventions = self.interventions, []
        for one in reversed(closing):
            self._run(one, partial(one.close))

    def _agree(self, step: int, decided: Sequence[tuple[Intervention, Mapping[str, Any]]]) -> None:
        for one, facts in decided:
            if not one.on_every_rank:
                self._run(one, partial(one.act, step, facts))
            elif self.council is not None:
                self.council.propose(json.dumps({"intervention": one.name, "facts": facts}, sort_keys=True))
            else:  # the first rank could not reach the others when the run began, and said so
                self._run(one, partial(one.called_off))
        ripe, given_up = self.council.ripe() if self.council is not None else ([], [])
        for text in ripe:
            one, facts = self._read(text)
            self._run(one, partial(one.act, step, facts))
        for text in given_up:
            one, _ = self._read(text)
            self._run(one, partial(one.called_off))

    def _read(self, text: str) -> tuple[Intervention, Mapping[str, Any]]:
        found = json.loads(text)
        return next(one for one in self.interventions if one.name == found["intervention"]), found["facts"]

    def _decide(self, one: Intervention, facts: Mapping[str, Any]) -> None:
        self._decided.append((one, facts))

    def _rolled_back(self, step: int) -> None:
        assert self._training is not None
        self._training.rewind(step)
        for one in self.interventions:
            self._run(one, partial(one.on_rollback, step))

    def _run(self, one: Intervention, work: partial[None]) -> None:
        assert self._training is not None
        self._training.guard(f"intervention {one.name}", work)
