"""The training loop that the zoo's scenarios share, and learning-rate schedules."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

from .scenario import Training

Schedule = Callable[[int], float]
"""Maps a step, from 0, to the share of the optimizer's own learning rate that holds in it."""


def constant(number: int) -> float:
    """The optimizer's own learning rate at every step."""
    return 1.0


def warm_up(steps: int) -> Schedule:
    """Rise linearly from near 0 to the full rate over ``steps``, then stay."""
    return lambda number: min(1.0, (number + 1) / steps)


def ramp(steps: int, power: int = 1) -> Schedule:
    """Rise from near 0 to the full rate at step ``steps``, as the ``power`` of the step, and go on rising."""
    return lambda number: float(((number + 1) / steps) ** power)


def times_from(step: int, factor: float, before: Schedule = constant) -> Schedule:
    """Multiply a schedule by ``factor`` from ``step`` on."""
    return lambda number: before(number) * (factor if number >= step else 1.0)


def doubling_from(step: int, every: float, before: Schedule = constant) -> Schedule:
    """Follow a schedule to ``step``; from there on multiply it by two every ``every`` steps."""
    return lambda number: before(number) * float(2.0 ** (max(0, number - step) / every))


def trained(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    loss: Callable[[int], Tensor],
    *,
    schedule: Schedule = constant,
    clip: float | None = None,
) -> Training:
    """Return the usual loop: schedule, forward, backward, clip, update.

    Args:
        model: whose gradients are clipped.
        optimizer: one or several; each group's learning rate as it was made is the full rate.
        loss: draws the batch of a step, runs ``model`` on it and returns the loss.
        schedule: of the learning rate.
        clip: norm to clip the gradient to; None leaves it as it is.
    """
    optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
    groups = [(group, float(group["lr"])) for each in optimizers for group in each.param_groups]

    def step(number: int) -> Tensor:
        for group, rate in groups:
            group["lr"] = rate * schedule(number)
        value = loss(number)
        for each in optimizers:
            each.zero_grad()
        value.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        for each in optimizers:
            each.step()
        return value.detach()

    return Training(model, optimizer, step)
