"""Attaches to a script that knows nothing of us, and loads nothing before it does: neither torch nor what we stand on.

A script may set what torch and its libraries read when they are imported (``OMP_NUM_THREADS``), or not train at all. So we wait
until it imports ``torch.optim.optimizer``, and for the first optimizer that it makes. What is wrapped then is
``profile_hook_step``, by which every class of optimizers gets its step wrapped with torch's own hooks: ours goes around these, so
that hooks may come and go within it.
"""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .options import WatchOptions
    from .unchanged import UnchangedTraining

_PLACE = "torch.optim.optimizer"


class Attachment:
    """Waits for the first optimizer, then watches what it trains.

    Args:
        options: of ``foreshock.watch()``.
    """

    def __init__(self, options: "WatchOptions") -> None:
        self._options = options
        self.training: UnchangedTraining | None = None
        """What is told of the optimizers' steps; None until there is an optimizer."""
        if _PLACE in sys.modules:
            self._hook(sys.modules[_PLACE])
        else:
            sys.meta_path.insert(0, _AfterImport(_PLACE, self._hook))

    def _hook(self, module: ModuleType) -> None:
        optimizer: Any = module.Optimizer
        hook = optimizer.profile_hook_step

        def profile_hook_step(step: Callable[..., Any]) -> Callable[..., Any]:
            from .unchanged import UnchangedTraining

            self.training = training = self.training or UnchangedTraining(self._options)
            hooked = hook(step)

            @wraps(hooked)
            def around(self: Any, *args: Any, **kwargs: Any) -> Any:
                return training.around(self, lambda: hooked(self, *args, **kwargs))

            return around

        optimizer.profile_hook_step = staticmethod(profile_hook_step)


class _AfterImport(MetaPathFinder):
    """Calls back once a module has been imported, by whomever."""

    def __init__(self, name: str, then: Callable[[ModuleType], None]) -> None:
        self._name, self._then = name, then

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the spec that the others find, its loader completed."""
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                self._then(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
