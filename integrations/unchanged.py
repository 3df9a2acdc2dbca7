"""Watches what a script trains that knows nothing of foreshock: ``foreshock run``.

It is told of every optimizer's steps (attaching.py). When one first steps, the optimizer of the most parameters is the one that
counts, and the modules that own its parameters are the model. A step of the run is one in which that model's optimizers have
stepped, each once; accumulated micro-batches belong to it, and what a GradScaler skips counts as a step too. The loss is what was
propagated back in between. The first step's forward pass is over by then: of it loss, learning rate and gradient norm are known,
and the third is the first that is sampled whole.
"""

import gc
import logging
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from ..lifecycle import monitor_of
from ..probes.step.faults import Faults
from ..probes.taps.backward import BackwardLoss
from ..storage.records import RunStatus
from .loop import Loop
from .options import WatchOptions

log = logging.getLogger("foreshock")

_PATIENCE = 100
"""Steps of other optimizers after which one that never steps, though it has the most parameters, is no longer waited for."""


class UnchangedTraining:
    """Attaches to the first training of this process. To be made before its first backward pass.

    Args:
        options: of ``foreshock.watch()``.
    """

    def __init__(self, options: WatchOptions) -> None:
        self._loop = Loop(options, tells_its_end=False)
        self._faults = Faults()
        # From the first step on, for its loss; the loop has one of its own then.
        self._first_loss: BackwardLoss | None = BackwardLoss(self._faults.guard("loss"))
        self._gave_up = False
        self._waited = 0
        self._ids: frozenset[int] = frozenset()
        self._stepped: list[Optimizer] = []
        self._last: Optimizer | None = None
        self._inside = 0
        self._hear_of_scaled_steps()

    @property
    def has_watched(self) -> bool:
        """Whether something was watched."""
        return self._loop.monitor is not None

    @property
    def stood_aside(self) -> bool:
        """Whether the script watches its training itself, or could not be watched; which was said."""
        return self._gave_up

    def end(self, status: RunStatus) -> None:
        """The script has ended; twice without harm."""
        self._drop_first_loss()
        self._loop.end(status)

    def around(self, optimizer: Optimizer, step: Callable[[], Any]) -> Any:
        """Run ``step``, a step of ``optimizer``; a step within a step belongs to the outer one.

        Raises:
            StopTraining: the intervention ``stop``, which was asked for, ends training.
        """
        if self._inside or self._gave_up or torch.compiler.is_compiling():
            return step()
        self._inside += 1
        try:
            self._guarded(lambda: self._before(optimizer))
            self._allow_losses(1)  # of those that a closure computes
            result = step()
        finally:
            self._inside -= 1
            self._allow_losses(None)
        self._guarded(lambda: self._after(optimizer))
        if self._loop.stopped_by is not None:
            raise self._loop.stopped_by
        return result

    def _before(self, optimizer: Optimizer) -> None:
        if not self._loop.is_open:
            self._attach(optimizer)
        elif self._holds_ours(optimizer) and optimizer in self._stepped:
            self._end_step()  # the last one known did not step this time

    def _after(self, optimizer: Optimizer) -> None:
        if not self._loop.is_open:
            return
        if not self._holds_ours(optimizer):
            self._loop.forget_loss()  # a discriminator's, say
            return
        self._stepped.append(optimizer)
        if self._last is None or optimizer is self._last:
            self._end_step()

    def _end_step(self) -> None:
        # Several optimizers of one model step one after the other: the step ends with the last of them, once that is known.
        self._last = self._stepped[-1] if self._stepped else self._last
        self._stepped = []
        self._loop.end_step()

    def _attach(self, optimizer: Optimizer) -> None:
        largest = max(_alive(Optimizer), key=_size, default=optimizer)
        self._waited += 1
        if largest is not optimizer and _size(largest) > _size(optimizer) and self._waited <= _PATIENCE:
            return
        model = owners(optimizer)
        if any(monitor_of(module) is not None for root in model.values() for module in root.modules()):
            self._stand_aside("the script watches its training itself: foreshock run adds nothing")
            return
        loss = self._first_loss.take() if self._first_loss is not None else None
        self._drop_first_loss()
        parts: nn.Module | dict[str, nn.Module] = next(iter(model.values())) if len(model) == 1 else model
        self._loop.begin(parts, found={"tags": ["foreshock run"]})
        if not self._loop.is_open:
            self._gave_up = True
            return
        self._loop.start_with(loss)
        self._ids = frozenset(id(p) for root in model.values() for p in root.parameters())

    def _holds_ours(self, optimizer: Optimizer) -> bool:
        return any(id(p) in self._ids for group in optimizer.param_groups for p in group["params"])

    def _hear_of_scaled_steps(self) -> None:
        scaled = GradScaler.step

        @wraps(scaled)
        def step(scaler: GradScaler, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
            return self.around(optimizer, lambda: scaled(scaler, optimizer, *args, **kwargs))

        GradScaler.step = step  # type: ignore[method-assign, assignment]

    def _allow_losses(self, count: int | None) -> None:
        if self._first_loss is not None:
            self._first_loss.allow(count)
        self._loop.allow_losses(count)

    def _drop_first_loss(self) -> None:
        if self._first_loss is not None:
            self._first_loss.remove()
            self._first_loss = None

    def _stand_aside(self, why: str) -> None:
        self._gave_up = True
        self._drop_first_loss()
        log.warning("%s", why)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - the law: never raise into training
            self._stand_aside(f"foreshock watches this training no more, it goes on: {type(error).__name__}: {error}")
            self._loop.end(RunStatus.TERMINATED)


def owners(optimizer: Optimizer) -> dict[str, nn.Module]:
    """Return the outermost modules that own what an optimizer steps, each under its class's name, or one that holds what none owns.

    It looks at every object there is, once: some tenths of a second in a large program.
    """
    wanted = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    modules = list(_alive(nn.Module))
    inner = {id(child) for module in modules for child in module.children()}
    outermost = [module for module in modules if id(module) not in inner]
    found: dict[str, nn.Module] = {}
    while wanted:
        # Of those that own as many, the smallest: an outer one may be a container of other things, too.
        best = max(outermost, key=lambda root: _share(root, wanted), default=None)
        if best is None or _share(best, wanted)[0] == 0:
            break
        name, same = type(best).__name__, sum(1 for key in found if key.partition("_")[0] == type(best).__name__)
        found[f"{name}_{same + 1}" if same else name] = best
        for parameter in best.parameters():
            wanted.pop(id(parameter), None)
    return found or {"parameters": nn.ParameterList([p for p in wanted.values() if isinstance(p, nn.Parameter)])}


def _share(root: nn.Module, wanted: dict[int, Any]) -> tuple[int, int]:
    parameters = list(root.parameters())
    return sum(p.numel() for p in parameters if id(p) in wanted), -sum(p.numel() for p in parameters)


def _alive(kind: type[Any]) -> Iterable[Any]:
    # By type(), not isinstance(): the latter asks lazy proxies, which would load what they stand for.
    return [one for one in gc.get_objects() if issubclass(type(one), kind) and _is_made(one)]


def _is_made(one: Any) -> bool:
    """Tell whether an object's own __init__ has run: wrappers of optimizers often leave it out, and step what they wrap."""
    return hasattr(one, "_optimizer_step_pre_hooks") if isinstance(one, Optimizer) else "_modules" in vars(one)


def _size(optimizer: Optimizer) -> int:
    return sum(p.numel() for group in optimizer.param_groups for p in group["params"] if p.requires_grad)
