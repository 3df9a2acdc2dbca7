"""The detectors, one file each. Importing this package finds and registers all of them; nobody keeps a list."""

from importlib import import_module
from pkgutil import iter_modules

from .base import COMMON_FACTS, Detector, Finding, Parameter

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["COMMON_FACTS", "Detector", "Finding", "Parameter"]
