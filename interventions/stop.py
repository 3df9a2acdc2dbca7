"""``stop``: ends training on a critical alert, on all ranks at the same step.

Two ways. ``how="raise"`` (the default) needs nothing of the training loop: ``monitor.step()`` closes the monitor, which writes
everything out and marks the run terminated, and raises ``foreshock.StopTraining``; ``with foreshock.watch(...)`` takes it, so that
the script goes on after the block. It is the one thing that the monitor ever raises into training, and only where it was asked for.
``how="flag"`` raises nothing: ``monitor.should_stop`` is true from then on, and the loop, or the framework, ends when it likes.

Where ``rollback`` was asked for too, it comes first: stop acts on what a roll back cannot help any more.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from typing_extensions import override

from ..storage.records import Alert, Severity
from .base import Intervention, Trigger
from .rollback import Rollback


class StopTraining(Exception):
    """Raised by ``monitor.step()`` where the intervention ``stop`` ended training; ``run`` is the id of the run.

    It is an ordinary exception: ``except Exception`` around a step catches it, and the next ``step()`` raises it again.
    """

    def __init__(self, reason: str, run: str = "") -> None:
        super().__init__(reason)
        self.run = run


@dataclass
class Ending:
    """Whether training is to end: what a monitor keeps of it.

    Attributes:
        reason: why; None while nobody wants it to.
        raises: by raising, else by the flag alone.
    """

    reason: str | None = None
    raises: bool = False

    def ask(self, reason: str, raises: bool) -> None:
        """Have training end."""
        self.reason, self.raises = reason, raises

    def check(self, run: str) -> None:
        """Raise where that is how it is to end.

        Raises:
            StopTraining: it is.
        """
        if self.reason is not None and self.raises:
            raise StopTraining(self.reason, run)

    def takes(self, error: BaseException | None, run: str) -> bool:
        """Tell whether an exception is ours: it has done its work at the end of the ``with`` block."""
        return isinstance(error, StopTraining) and error.run == run


class Stop(Intervention):
    """Ends training on a critical alert.

    Args:
        rules: whose alerts set it off; an empty list: any rule's.
        severity: the least.
        how: ``"raise"`` StopTraining out of ``monitor.step()``, or set the ``"flag"`` ``monitor.should_stop`` alone.

    Raises:
        ValueError: there is no such way.
    """

    name: ClassVar[str] = "stop"
    on_every_rank: ClassVar[bool] = True

    def __init__(
        self, rules: Iterable[str] = (), severity: Severity | str = Severity.CRITICAL, how: Literal["raise", "flag"] = "raise"
    ) -> None:
        if how not in ("raise", "flag"):
            raise ValueError(f"Stop(how={how!r}): it is 'raise' or 'flag'")
        self._trigger = Trigger.of(rules, severity)
        self._how = how
        self._decided = False

    @override
    def on_alert(self, alert: Alert) -> None:
        if self._decided or not self._trigger.matches(alert):
            return
        if any(isinstance(one, Rollback) and one.takes(alert) for one in self.training.asked):
            return
        self._decided = True
        where = f" in {alert.module}" if alert.module else ""
        self.decide(
            why=f"{alert.rule} gave a {alert.severity} at step {alert.first_step:,}{where}", rule=alert.rule, alert=alert.id
        )

    @override
    def act(self, step: int, facts: Mapping[str, Any]) -> None:
        reason = f"Training was stopped at step {step:,}: {facts['why']}."
        self.tell(reason, rule=facts["rule"], alert=facts["alert"], how=self._how)
        self.training.stop(reason, self._how == "raise")

    @override
    def called_off(self) -> None:
        self._decided = False
