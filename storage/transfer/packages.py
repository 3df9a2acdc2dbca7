"""Packages that only some of these ways out need: found when they are asked for, with the line that installs them."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ..errors import StoreConfigurationError


class TransferError(StoreConfigurationError):
    """What was asked for cannot be done as it was asked for; the message says what is allowed and what mends it."""


def require(module: str, extra: str, purpose: str) -> None:
    """Check that a module is installed, without importing it: some take seconds.

    Raises:
        TransferError: it is not; the message has the line that installs it.
    """
    try:
        found = find_spec(module)
    except (ModuleNotFoundError, ValueError):  # the parent package is missing, or only a stand-in of it is loaded
        found = None
    if found is None:
        raise TransferError(f'{purpose} needs {module.partition(".")[0]}, which is not installed: pip install "foreshock[{extra}]"')


def load(module: str, extra: str, purpose: str) -> Any:
    """Import a module of an extra.

    Raises:
        TransferError: it is not installed.
    """
    require(module, extra, purpose)
    return import_module(module)
