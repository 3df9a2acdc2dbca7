"""Runs the interventions of a run, each on its own: one that fails is counted, and the others go on."""

from collections.abc import Iterable, Sequence
from functools import partial

from ..storage.records import Alert, StepRecord
from .base import Intervention, Training


class Ladder:
    """The interventions of a run. Empty, it costs next to nothing and touches nothing.

    Args:
        interventions: in the order in which they act.
    """

    def __init__(self, interventions: Sequence[Intervention] = ()) -> None:
        self.interventions = list(interventions)
        self._training: Training | None = None

    def __bool__(self) -> bool:
        return bool(self.interventions)

    def refuse_distributed(self) -> None:
        """Raise, on every rank alike, if something asked for cannot be done in a distributed job.

        Raises:
            ValueError: the message says why, and what to do instead.
        """
        for one in self.interventions:
            if one.not_distributed:
                raise ValueError(f"{one.name} cannot be asked for in a distributed job yet: {one.not_distributed}")

    def attach(self, training: Training) -> None:
        """Introduce the interventions to the run; on ranks after the first only those that run on every rank.

        Raises:
            ValueError: one of them cannot be done here.
        """
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

    def before_end(self, step: int) -> None:
        """Announce the end of a sampled step."""
        for one in self.interventions:
            self._run(one, partial(one.before_end, step))

    def after_step(self, step: int, alerts: Iterable[Alert]) -> None:
        """Hand on new alerts, then announce the end of the step."""
        for alert in alerts:
            for one in self.interventions:
                self._run(one, partial(one.on_alert, alert))
        for one in self.interventions:
            self._run(one, partial(one.after_step, step))

    def close(self) -> None:
        """Undo what lasts; twice without harm."""
        closing, self.interventions = self.interventions, []
        for one in reversed(closing):
            self._run(one, partial(one.close))

    def _run(self, one: Intervention, work: partial[None]) -> None:
        assert self._training is not None
        self._training.guard(f"intervention {one.name}", work)
