"""Detectors and rules of other distributions, found by their entry points when rules are first loaded.

A distribution that brings its own says so in its pyproject.toml::

    [project.entry-points."foreshock.detectors"]
    my-detectors = "my_package.detectors"          # a module, or one Detector class of it

    [project.entry-points."foreshock.rules"]
    my-rules = "my_package.detectors:RULES"        # path of a TOML file with [rules.NAME] tables, or such tables

What cannot be loaded is reported once, in the log and wherever a rule asks for a detector that is not there, and left out: a broken
plug-in never ends a run.
"""

import logging
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.resources.abc import Traversable
from inspect import isabstract
from pathlib import Path
from types import ModuleType
from typing import Any

from .detectors import Detector

DETECTORS = "foreshock.detectors"
RULES = "foreshock.rules"

log = logging.getLogger("foreshock")


@cache
def problems() -> dict[str, str]:
    """Return what could not be loaded, and why, by the entry point's name; filled as plug-ins are loaded."""
    return {}


def report(name: str, error: object) -> None:
    """Note that a plug-in could not be used; the first time is logged."""
    text = f"{type(error).__name__}: {error}" if isinstance(error, Exception) else str(error)
    if problems().get(name) != text:
        problems()[name] = text
        log.warning("the plug-in %s is left out: %s", name, text)


@cache
def load() -> None:
    """Import every detector that an entry point names, once a process."""
    for point in sorted(entry_points(group=DETECTORS)):
        try:
            found = point.load()
        except Exception as error:  # noqa: BLE001 - anybody's module is imported here
            report(_named(point), error)
            continue
        if isinstance(found, type) and issubclass(found, Detector):
            _admit(found, point)
        elif not isinstance(found, ModuleType):
            report(_named(point), f"it names {found!r}; allowed: a module, or a subclass of foreshock.analyzer.detectors.Detector")
    for name, kind in list(Detector.registry.items()):
        if isabstract(kind):
            del Detector.registry[name]
            report(
                f"detector {name!r}", f"{kind.__module__}.{kind.__qualname__} lacks {', '.join(sorted(kind.__abstractmethods__))}"
            )


def rule_tables() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each plug-in's name and its tables by rule name."""
    for point in sorted(entry_points(group=RULES)):
        try:
            yield _named(point), _tables(point.load())
        except Exception as error:  # noqa: BLE001 - anybody's module is imported here
            report(_named(point), error)


def _admit(kind: type[Detector], point: EntryPoint) -> None:
    if Detector.registry.get(getattr(kind, "NAME", "")) is not kind and not isabstract(kind):
        report(_named(point), f"{kind.__qualname__} is not registered; write class {kind.__name__}(Detector, name=...)")


def _tables(found: object) -> Mapping[str, Any]:
    if isinstance(found, str):
        found = Path(found)
    if isinstance(found, Traversable):
        found = tomllib.loads(found.read_text("utf-8"))
    if not isinstance(found, Mapping):
        raise TypeError(f"it names {found!r}; allowed: the path of a TOML file, or a mapping of tables by rule name")
    tables = found.get("rules", found)
    if not isinstance(tables, Mapping):
        raise TypeError(f"its rules are {tables!r}; allowed: tables by rule name")
    return tables


def _named(point: EntryPoint) -> str:
    owner = f" of {point.dist.name} {point.dist.version}" if point.dist is not None else ""
    return f"{point.name!r}{owner}"
