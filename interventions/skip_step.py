"""``skip_step``: an update that is not finite, or wild, never reaches weights or moments.

Decided before the optimizer moves, in its step pre-hook, from the gradients and from the size of the update that they would make
(foretold.py; gradient_judge.py says what is wild). How the update is left out:
- on the CPU, and elsewhere with ``wait=True``: every gradient is None while the optimizer steps, which all optimizers take for "not
  trained in this step": no weight, moment or step count moves. Afterwards the gradients are back where they were.
- on other devices the decision must not wait: fused optimizers (``AdamW(..., fused=True)``) take it as a tensor, ``found_inf``.

The forward pass of a bad batch has moved batch norm's running statistics by then: they are put back (running_statistics.py).

With gradient accumulation it is the accumulated gradient that is judged. Gradients of a GradScaler are judged unscaled; steps that
the scaler itself skips are not counted, nor learned from. Each optimizer is judged by its own gradients and its own past.

In a data-parallel job every rank decides for itself and all decide alike: after the all-reduce the gradients are the same bits on
all ranks, and the judgement is a function of them and of earlier ones alone. Where ranks hold different gradients (FSDP, tensor
parallel, ZeRO) that is not so, and it is refused.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import LBFGS, SGD, Optimizer
from typing_extensions import override

from .base import Handles, Intervention, Training
from .foretold import update_norm
from .gradient_judge import FINE, GIVEN_WAY, HELD, LARGE, NOT_FINITE, SKIPPED, WILD, GradientJudge, both, norm_of
from .running_statistics import RunningStatistics

_SOURCE = "intervention skip_step"
_TOLD_ONE_BY_ONE = 50


class SkipStep(Intervention):
    """Leaves out updates that are not finite or wild, or whose gradients are.

    Args:
        threshold: robust standard deviations of ln |g|, or of ln |update|, above its past that count as wild; infinity: only what
            is not finite.
        window: accepted sizes that make up the past.
        warmup: how many there must be before anything is called wild.
        floor: least standard deviation of these logarithms assumed.
        limit: bad steps in a row that are skipped; after these it gives way, if it does.
        ceiling: it never gives way to an update of more than this many times the largest one made so far; infinity: to any.
        wait: let the training thread wait for the device in every step, for optimizers there that are not fused.

    Raises:
        ValueError: a number makes no sense.
    """

    name: ClassVar[str] = "skip_step"
    on_every_rank: ClassVar[bool] = True

    def __init__(
        self,
        threshold: float = 8.0,
        window: int = 128,
        warmup: int = 32,
        floor: float = 0.2,
        limit: int = 10,
        ceiling: float = 10.0,
        *,
        wait: bool = False,
    ) -> None:
        if not (threshold > 0 and window >= warmup >= 2 and floor > 0 and limit >= 1 and ceiling >= 1):
            raise ValueError(
                f"SkipStep(threshold={threshold}, window={window}, warmup={warmup}, floor={floor}, limit={limit}, "
                f"ceiling={ceiling}): all must be positive, warmup at least 2 and at most window, ceiling at least 1"
            )
        self._options: dict[str, Any] = {
            "threshold": threshold,
            "window": window,
            "warmup": warmup,
            "floor": floor,
            "limit": limit,
        }
        self._wait, self._ceiling = wait, ceiling
        self._gates: list[_Gate] = []
        self.skipped = 0
        """Updates left out so far, as far as is known: of other devices one hears some steps late."""

    @override
    def attach(self, training: Training) -> None:
        super().attach(training)
        if not training.optimizers:
            raise ValueError("skip_step acts before the optimizer does and must know it: watch(model, optimizer, ...)")
        for optimizer in training.optimizers:
            self._refuse(optimizer)
        self._statistics = RunningStatistics(training.models.values())
        self._gates = [
            _Gate(optimizer, training, self._options, ceiling=self._ceiling, report=self._report)
            for optimizer in training.optimizers
        ]

    @override
    def after_step(self, step: int) -> None:
        self._statistics.settle([gate.skipped for gate in self._gates])
        for gate in self._gates:
            gate.skipped = False
            gate.hear()

    @override
    def on_rollback(self, step: int) -> None:
        self._statistics.settle([])

    @override
    def close(self) -> None:
        for gate in self._gates:
            gate.remove()

    def _refuse(self, optimizer: Optimizer) -> None:
        """Raise where the update cannot be left out."""
        kind = type(optimizer).__name__
        if isinstance(optimizer, LBFGS):
            raise ValueError("skip_step cannot work with LBFGS: it evaluates gradients several times in a step and keeps a history")
        if hasattr(optimizer, "optim"):
            raise ValueError(f"skip_step cannot work with {kind}: each rank holds a part of the gradients and would decide alone")
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if any(hasattr(p, "device_mesh") for p in parameters):
            raise ValueError(
                "skip_step cannot work with sharded weights: each rank has a part of the gradients and would decide alone"
            )
        away = next((p.device for p in parameters if p.device.type != "cpu"), None)
        if away is not None and not self._wait and not _is_fused(optimizer):
            raise ValueError(
                f"skip_step on {away} needs a fused optimizer, such as {kind}(..., fused=True), to decide without waiting for the "
                "device; or ask for interventions=[SkipStep(wait=True)], which waits for it in every step"
            )

    def _report(self, step: int, verdict: int, norm: float, update: float, again: bool) -> None:
        """Tell of a verdict; ``again``: that of the step before was the same."""
        data = {name: size if size - size == 0 else str(size) for name, size in (("norm", norm), ("update", update))}
        data["at"] = step
        if verdict == GIVEN_WAY and again:
            return
        if verdict == GIVEN_WAY:
            limit = self._options["limit"]
            self.tell(
                f"{limit} updates in a row were wild and skipped: wild ones are made from now on, until usual ones come.",
                **data,
            )
            return
        self.skipped += 1
        if verdict == HELD and not again:
            self.tell(
                f"{self._options['limit']} updates in a row were skipped, and those that follow are skipped too: that of step "
                f"{step:,} would change the weights by {update:.3g}, more than {self._ceiling:g} times as much as any before. "
                "Training stands still until they are smaller: mend what makes them so (the learning rate, moments that were lost, "
                "the loss's scale), or let them pass by SkipStep(ceiling=math.inf).",
                **data,
            )
            return
        if (self.skipped > _TOLD_ONE_BY_ONE or verdict == HELD) and self.skipped % _TOLD_ONE_BY_ONE:
            return
        why = f"its gradient norm {norm:.3g} is far above those before"
        if verdict == NOT_FINITE:
            why = "its gradients are not finite"
        elif verdict == LARGE:
            why = f"it would change the weights by {update:.3g}, far more than those before, though its gradients are usual"
        elif verdict == HELD:
            why = f"it would change the weights by {update:.3g}, more than {self._ceiling:g} times as much as any before"
        self.tell(f"Skipped the update of step {step:,}: {why}. {self.skipped:,} skipped so far.", **data)


class _Gate:
    """One optimizer's hooks, and the verdicts on their way to the host."""

    def __init__(
        self,
        optimizer: Optimizer,
        training: Training,
        options: dict[str, Any],
        *,
        ceiling: float,
        report: Callable[[int, int, float, float, bool], None],
    ) -> None:
        self._training, self._options, self._ceiling, self._report = training, options, ceiling, report
        self._judges: tuple[GradientJudge, GradientJudge] | None = None
        # What is put back after the step: gradients taken away, and the attribute ``found_inf`` as it was.
        self._taken: list[tuple[Tensor, Tensor]] = []
        self._found_before: tuple[Tensor | None] | None = None
        self._pending: deque[_Travelling] = deque()
        self.skipped: bool | Tensor = False
        """Whether the last update was left out; a tensor, not 0 for yes, where only the device knows."""
        self._standing = FINE
        before, after = (torch.compiler.disable(hook) for hook in (self._before, self._after))
        self._handles = Handles([optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)])

    def hear(self, *, wait: bool = False) -> None:
        """Report verdicts that have arrived."""
        while self._pending and self._pending[0].arrived(wait=wait):
            self._tell(*self._pending.popleft().read())

    def remove(self) -> None:
        """Remove the hooks; report what is still under way."""
        self._handles.remove()
        self.hear(wait=True)

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        self._restore(optimizer)  # where the step before raised
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._training.guard(_SOURCE, partial(self._decide, optimizer))
            return None

        def judged() -> Any:
            loss = closure()
            self._training.guard(_SOURCE, partial(self._decide, optimizer))
            return loss

        return (args[0], judged, *args[2:]) if len(args) > 1 else args, {**kwargs, "closure": judged} if len(args) < 2 else kwargs

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._training.guard(_SOURCE, partial(self._restore, optimizer))

    @torch.no_grad()
    def _decide(self, optimizer: Optimizer) -> None:
        trained = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not trained:
            return
        device = trained[0].grad.device
        if self._judges is None or self._judges[0].device != device:
            self._judges = GradientJudge(device, **self._options), GradientJudge(device, **self._options)
        norm = norm_of([p.grad for p in trained], device)
        scale, found = getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None)
        if scale is not None:
            norm = norm / scale.to(device)
        update = update_norm(optimizer, device)
        held = update > self._ceiling * self._judges[1].largest
        of_gradients = self._judges[0].judge(norm, found, held=held)
        left_out = (of_gradients == NOT_FINITE) | (of_gradients == WILD) | (of_gradients == HELD)
        update = torch.where(of_gradients == NOT_FINITE, torch.nan, update)  # of which the entries looked at need not tell
        verdict = both(of_gradients, self._judges[1].judge(update, found, left_out, held))
        travelling = _Travelling(self._training.step(), verdict, norm, update)
        if _may_read(device) or not _is_fused(optimizer) or _lacks_momentum(optimizer):
            step, said, *sizes = travelling.read()
            self.skipped = said in SKIPPED
            if self.skipped:
                for p in trained:
                    self._taken.append((p, p.grad))
                    p.grad = None
            self._tell(step, said, *sizes)
            return
        self._pending.append(travelling)
        skip = torch.stack([verdict == which for which in SKIPPED]).any().float()
        self.skipped, self._found_before = skip, (found,)
        # A new tensor: a GradScaler goes on reading its own.
        optimizer.found_inf = skip if found is None else torch.maximum(skip, found.to(device).float())  # type: ignore[attr-defined]

    def _restore(self, optimizer: Optimizer) -> None:
        while self._taken:
            p, gradient = self._taken.pop()
            p.grad = gradient
        if self._found_before is not None:
            (before,), self._found_before = self._found_before, None
            if before is not None:
                optimizer.found_inf = before  # type: ignore[attr-defined]
            elif hasattr(optimizer, "found_inf"):
                del optimizer.found_inf

    def _tell(self, step: int, verdict: int, norm: float, update: float) -> None:
        before, self._standing = self._standing, verdict
        if verdict != FINE:
            self._report(step, verdict, norm, update, verdict == before)


class _Travelling:
    """A verdict, the norm of the gradients and that of the update on their way to the host."""

    def __init__(self, step: int, verdict: Tensor, norm: Tensor, update: Tensor) -> None:
        self._step = step
        three = torch.stack([verdict.float(), norm, update])
        self._event: torch.cuda.Event | None = None
        if three.is_cuda:
            with torch.cuda.device(three.device):  # whose stream it is that copies
                self._three = torch.empty(3, device="cpu", pin_memory=True).copy_(three, non_blocking=True)
                self._event = torch.cuda.Event()
                self._event.record()
        else:
            self._three = three

    def arrived(self, *, wait: bool) -> bool:
        """Tell whether it is there; ``wait``: until it is."""
        if self._event is None:
            return True
        if wait:
            self._event.synchronize()
        return bool(self._event.query())

    def read(self) -> tuple[int, int, float, float]:
        """Return step, verdict and both norms; waits where they are not there yet."""
        self.arrived(wait=True)
        verdict, norm, update = self._three.tolist()
        return self._step, int(verdict), norm, update


def _may_read(device: torch.device) -> bool:
    """Tell whether values there are in host memory: nobody waits for them."""
    return device.type == "cpu"


def _is_fused(optimizer: Optimizer) -> bool:
    """Tell whether the optimizer takes ``found_inf``."""
    groups = optimizer.param_groups
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False)) and all(group.get("fused") for group in groups)


def _lacks_momentum(optimizer: Optimizer) -> bool:
    """Tell whether this is a first step of fused SGD: one that ``found_inf`` stops would leave momentum that was never written."""
    return isinstance(optimizer, SGD) and any(
        group["momentum"] and any(p.grad is not None and optimizer.state[p].get("momentum_buffer") is None for p in group["params"])
        for group in optimizer.param_groups
    )
