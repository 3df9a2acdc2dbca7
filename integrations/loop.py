"""A training loop that is not ours, as all integrations drive it: it begins, ends steps, logs, is checkpointed, ends.

The loss is what was propagated back in the step (probes/taps/backward.py): whatever the framework divides it by, that is the loss
it trains on. Nothing here raises into training but what was asked for wrongly, before the first step.
"""

import atexit
import logging
import numbers
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from ..attach import watch
from ..config import load_settings
from ..disabled import DisabledMonitor
from ..distributed import FollowingMonitor
from ..interventions.stop import StopTraining
from ..lifecycle import AlreadyWatchedError, how_the_script_ended
from ..monitor import Monitor
from ..probes.taps.backward import BackwardLoss
from ..storage import StoreError, StoreUnavailableError, UnknownRunError
from ..storage.records import RunStatus
from ..storage.transfer.mirrors.base import MirrorError
from .options import WatchOptions

log = logging.getLogger("foreshock")

_MEASURED = frozenset({"loss", "learning_rate", "gradient.norm", "gradient.norm_clipped"})
"""Signals that the monitor measures itself at every step."""
_ASKED_WRONGLY = (TypeError, ValueError, AlreadyWatchedError, StoreError, MirrorError, ImportError)

AnyMonitor = Monitor | FollowingMonitor | DisabledMonitor


class Loop:
    """One training after another, each a run.

    Args:
        options: of ``foreshock.watch()``.
        tells_its_end: the framework says when training has ended; where it never did, the run did not finish.
    """

    def __init__(self, options: WatchOptions, *, tells_its_end: bool = True) -> None:
        self.options = options
        self.monitor: AnyMonitor | None = None
        """The monitor of the training under way, or of the last one."""
        self.tells_its_end = tells_its_end
        self.stopped_by: StopTraining | None = None
        """What ended the training, where an intervention did, for loops that can be ended by an exception alone."""
        self._open = self._forward_missed = False
        self._loss: BackwardLoss | None = None
        self._logged: dict[str, Any] = {}

    @property
    def is_open(self) -> bool:
        """Whether a training is under way."""
        return self._open

    def begin(
        self,
        model: nn.Module | Mapping[str, nn.Module],
        optimizers: Sequence[Optimizer] | None = None,
        *,
        found: WatchOptions | None = None,
        state: Mapping[str, Any] | None = None,
        step: int = 0,
    ) -> None:
        """Begin a run, or go on with the one that a checkpoint's state is of.

        Args:
            model, optimizers: as ``foreshock.watch()`` takes them.
            found: what the framework says, where the user said nothing.
            state: of ``state_dict()``, from a checkpoint that training goes on from.
            step: how many steps were trained before, where no state tells.

        Raises:
            What ``foreshock.watch()`` raises where something was asked for wrongly.
        """
        self.end(RunStatus.CRASHED)  # of a training that an exception ended which nobody told us of
        self.stopped_by = None
        try:
            self.monitor = self._watch(model, optimizers, self._completed(found or {}), state)
            if state or step:
                self.monitor.load_state_dict(state or {"step": step})
            if not isinstance(self.monitor, DisabledMonitor):
                self._loss = BackwardLoss(self.monitor.faults.guard("loss"))
        except _ASKED_WRONGLY:
            raise
        except Exception:
            log.exception("foreshock watches nothing, training goes on")
            return
        self._open = True
        if self.tells_its_end:
            _expect_an_end(self)

    def end_step(self) -> bool:
        """End a step; return whether training is to go on: an intervention that was asked for may want it to end."""
        if self.monitor is None or not self._open:
            return True
        logged, self._logged = self._logged, {}
        try:
            self.monitor.step(self._loss.take() if self._loss is not None else None, **logged)
        except StopTraining as stop:
            log.warning("training ends: %s", stop)
            self.stopped_by = stop
            return False
        if self._forward_missed and not isinstance(self.monitor, DisabledMonitor):
            self._forward_missed = False
            self.monitor.collector.sample_also(2)  # step 1 is under way, as far as hooks are concerned
        return not self.monitor.should_stop

    def start_with(self, loss: float | Tensor | None) -> None:
        """The first step's forward pass was over before the run began: take its loss, and sample again as soon as may be."""
        if self._loss is not None and self.monitor is not None and not isinstance(self.monitor, DisabledMonitor):
            self._loss.start_with(loss)
            self._forward_missed = self.monitor.collector.exchange is None  # ranks have to agree on what is sampled

    def allow_losses(self, count: int | None) -> None:
        """Take so many of the losses propagated back from now on, None: all; see ``BackwardLoss.allow``."""
        if self._loss is not None:
            self._loss.allow(count)

    def forget_loss(self) -> None:
        """What was propagated back so far was for another model."""
        if self._loss is not None:
            self._loss.take()

    def log(self, values: Mapping[str, Any]) -> None:
        """Keep the numbers among ``values`` with the step that comes next, or with the last one if none comes."""
        for name, value in values.items():
            if isinstance(value, bool) or not isinstance(value, (numbers.Real, Tensor)):
                continue
            if not isinstance(value, Tensor) or value.numel() == 1:
                self._logged[f"logged.{name}" if name in _MEASURED else name] = value

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint is to hold; empty while nothing is watched. Plain data, fit for JSON."""
        return self.monitor.state_dict() if self.monitor is not None and self._open else {}

    def end(self, status: RunStatus | str = RunStatus.FINISHED) -> None:
        """End the run; twice without harm."""
        if not self._open or self.monitor is None:
            return
        self._open = False
        if self._loss is not None:
            self._loss.remove()
            self._loss = None
        if self._logged:
            logged, self._logged = self._logged, {}
            self.monitor.log(**logged)
        try:
            self.monitor.close(status)
        except Exception:
            log.exception("closing the monitor failed, training goes on")

    def _completed(self, found: WatchOptions) -> WatchOptions:
        """Return the options, completed by what the framework says; settings come before that."""
        options: WatchOptions = {**found, **self.options}
        if "project" not in self.options and load_settings(options.get("config")).project:
            options.pop("project", None)
        meta = {**(found.get("meta") or {}), **(self.options.get("meta") or {})}
        return {**options, "meta": meta} if meta else options

    def _watch(
        self,
        model: nn.Module | Mapping[str, nn.Module],
        optimizers: Sequence[Optimizer] | None,
        options: WatchOptions,
        state: Mapping[str, Any] | None,
    ) -> AnyMonitor:
        kept = (state or {}).get("run")
        if kept and not options.get("resume"):
            resumed: WatchOptions = {**options, "resume": kept}
            try:
                return watch(model, optimizers, **resumed)
            except (UnknownRunError, StoreUnavailableError) as error:
                log.warning("the checkpoint's run %r cannot be gone on with, a new one begins: %s", kept, error)
        return watch(model, optimizers, **options)


# Registered after the first watch(), so that it runs before what closes monitors at exit.
_expecting: "weakref.WeakSet[Loop]" = weakref.WeakSet()


def _expect_an_end(loop: Loop) -> None:
    if not _expecting:
        atexit.unregister(_at_exit)
        atexit.register(_at_exit)
    _expecting.add(loop)


def _at_exit() -> None:
    status = how_the_script_ended()
    for loop in list(_expecting):
        loop.end(RunStatus.TERMINATED if status is RunStatus.FINISHED else status)
