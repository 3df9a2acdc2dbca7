"""Trackers draw random numbers, to wait a little more or less before they ask a server again. Training must not notice.

Their packages use Python's one global generator, from which the user's data loading may draw as well: a number more or less, and
training is another one. So the modules of such a package are given the functions of a generator of their own.
"""

import random
import sys
from types import BuiltinMethodType, MethodType, ModuleType

_METHODS = (BuiltinMethodType, MethodType)


def separate(*packages: str) -> None:
    """Let the modules of these packages, as far as they are imported, draw from a generator of their own. Some milliseconds."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in packages and isinstance(module, ModuleType):
            for attribute, value in list(vars(module).items()):
                if value is random:
                    setattr(module, attribute, _OWN)
                elif type(value) in _METHODS and value.__self__ is _SHARED:  # ``from random import uniform``
                    setattr(module, attribute, getattr(_OWN, value.__name__))


_SHARED = random.random.__self__  # type: ignore[attr-defined]


def _own() -> ModuleType:
    """Return a module that is ``random`` in everything but the generator."""
    made, generator = ModuleType("random"), random.Random()
    for name, value in vars(random).items():
        setattr(made, name, getattr(generator, name) if type(value) in _METHODS and value.__self__ is _SHARED else value)
    return made


_OWN = _own()
