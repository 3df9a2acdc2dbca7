"""When an optimizer that is about to step has its gradients.

``optimizer.step(closure)`` computes them itself, by calling the closure: LBFGS does, and so does Lightning with every optimizer,
which trains a whole batch in there. A step pre-hook comes before that; what it has to look at is there once the closure returns.
"""

from collections.abc import Callable
from typing import Any


def with_gradients(args: tuple[Any, ...], kwargs: dict[str, Any], work: Callable[[], object]) -> Any:
    """Have ``work``, which must not raise, run as soon as the gradients of a step are there: at once, where no closure is given.

    Of an optimizer that calls its closure several times, the first time counts.

    Args:
        args, kwargs: of the step, as its pre-hook is given them; ``args[0]`` is the optimizer.
        work: looks at the gradients.

    Returns:
        What the pre-hook is to return: None, or other ``(args, kwargs)``.
    """
    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
    if closure is None:
        work()
        return None
    done = False

    def seen() -> Any:
        nonlocal done
        loss = closure()
        if not done:
            done = True
            work()
        return loss

    return ((args[0], seen, *args[2:]), kwargs) if len(args) > 1 else (args, {**kwargs, "closure": seen})
