"""Accelerate: a tracker that watches what was prepared.

    tracker = ForeshockTracker(run="mine")
    accelerator = Accelerator(log_with=tracker)
    ...
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    tracker.watch(model, optimizer)

A step is one in which the prepared optimizer steps, not the micro-batches that it accumulates; one that a GradScaler skips counts.
The loss is what ``accelerator.backward`` propagates back, over the micro-batches as it averages them. Metrics given to
``accelerator.log`` are kept under the same names. ``accelerator.register_for_checkpointing(tracker)`` has ``load_state`` go on with
the run.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

from torch import nn
from typing_extensions import Unpack, override

from ..config import load_settings
from ..storage.records import RunStatus
from .loop import AnyMonitor, Loop
from .options import WatchOptions, checked

try:
    from accelerate.optimizer import AcceleratedOptimizer
    from accelerate.tracking import GeneralTracker
except ImportError as missing:
    raise ImportError('foreshock.integrations.accelerate needs accelerate: pip install "foreshock[accelerate]"') from missing

log = logging.getLogger("foreshock")


class ForeshockTracker(GeneralTracker):  # type: ignore[misc, unused-ignore]
    """Watches a model that an Accelerator prepared, and takes the metrics that are logged through it.

    Args:
        options: keywords of ``foreshock.watch()``.

    Raises:
        TypeError: there is no such option.
    """

    name = "foreshock"
    requires_logging_directory = False
    main_process_only = False  # every rank measures

    def __init__(self, **options: Unpack[WatchOptions]) -> None:
        super().__init__()
        self._loop = Loop(checked(options, "ForeshockTracker"), tells_its_end=False)
        self._config: dict[str, Any] = {}
        self._checkpointed: Mapping[str, Any] = {}
        self._unwatch: list[Callable[[], None]] = []

    @property
    def monitor(self) -> AnyMonitor | None:
        """The monitor, from the model's first training forward pass on."""
        return self._loop.monitor

    @property
    def tracker(self) -> AnyMonitor | None:
        """The same, under the name that Accelerate asks for."""
        return self._loop.monitor

    def watch(
        self,
        model: nn.Module | Mapping[str, nn.Module],
        optimizer: AcceleratedOptimizer | Sequence[AcceleratedOptimizer],
    ) -> None:
        """Watch what ``accelerator.prepare`` returned, on every rank. The run begins with the first training forward pass.

        Until then a checkpoint may be loaded, and trackers may be initialised.

        Args:
            model: the model, or several under names.
            optimizer: its optimizer, or several: a step ends when the last of them has stepped.

        Raises:
            TypeError: these are not what ``prepare`` returned.
            ConfigurationError: a setting is wrong.
        """
        optimizers: list[Any] = list(optimizer) if isinstance(optimizer, (list, tuple)) else [optimizer]
        for one in optimizers:
            if not isinstance(one, AcceleratedOptimizer):
                raise TypeError(f"tracker.watch() takes what accelerator.prepare() returned; got {type(one).__name__}")
        load_settings(self._loop.options.get("config"))
        self._loop.end(RunStatus.FINISHED)
        self._forget()
        models = dict(model) if isinstance(model, Mapping) else {"": model}
        self._end_steps_with(optimizers[-1])

        def begin(module: nn.Module, args: Any) -> None:
            if module.training:
                while handles:
                    handles.pop().remove()
                found: WatchOptions = {"tags": ["accelerate"], "meta": {"config": self._config}}
                state, self._checkpointed = self._checkpointed, {}
                self._loop.begin(models if isinstance(model, Mapping) else model, optimizers, found=found, state=state)

        handles = [one.register_forward_pre_hook(begin) for one in models.values()]
        self._unwatch += [handle.remove for handle in handles]

    def _end_steps_with(self, optimizer: AcceleratedOptimizer) -> None:
        stepping = optimizer.step

        @wraps(stepping)
        def step(*args: Any, **kwargs: Any) -> Any:
            self._loop.allow_losses(1)  # of those that a closure computes
            try:
                result = stepping(*args, **kwargs)
            finally:
                self._loop.allow_losses(None)
            if optimizer.gradient_state.sync_gradients:
                self._loop.end_step()
                if self._loop.stopped_by is not None:
                    raise self._loop.stopped_by
            return result

        optimizer.step = step
        self._unwatch.append(lambda: optimizer.__dict__.pop("step", None))

    @override
    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        self._config.update(values)
        if self._loop.is_open:
            log.warning("the configuration comes after training has begun, and is not kept: call init_trackers() before")

    @override
    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        self._loop.log(values)

    @override
    def finish(self) -> None:
        self._loop.end(RunStatus.FINISHED)
        self._forget()

    def state_dict(self) -> dict[str, Any]:
        """Return what ``accelerator.save_state`` is to keep, once the tracker is registered for checkpointing."""
        return self._loop.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what ``accelerator.load_state`` read: the run goes on in a new segment, or, where it is under way, from there."""
        if self._loop.is_open and self._loop.monitor is not None:
            self._loop.monitor.load_state_dict(state)
        else:
            self._checkpointed = state

    def _forget(self) -> None:
        while self._unwatch:
            self._unwatch.pop()()
