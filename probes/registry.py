"""Finds the probes: every module of this folder that defines one. Nothing is listed by hand."""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Sequence

from .base import Probe

PRESETS = ("light", "default", "full")


@functools.cache
def known_probes() -> dict[str, type[Probe]]:
    """Return the probe classes by name."""
    package = __name__.rpartition(".")[0]
    found: dict[str, type[Probe]] = {}
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
        module = importlib.import_module(f"{package}.{info.name}")
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if issubclass(cls, Probe) and not inspect.isabstract(cls) and cls.__module__ == module.__name__:
                found[cls.name] = cls
    return dict(sorted(found.items()))


def choose_probes(probes: str | Sequence[str | Probe]) -> list[Probe]:
    """Return fresh probes for a preset's name, or for a list of probe names and probe objects.

    Raises:
        ValueError: an unknown preset or probe; the message lists what there is.
    """
    known = known_probes()
    if isinstance(probes, str):
        if probes in PRESETS:
            return [cls() for cls in known.values() if probes in cls.presets]
        if probes in known:
            return [known[probes]()]
        raise ValueError(
            f"probes={probes!r} is neither a preset ({', '.join(PRESETS)}) nor a probe ({', '.join(known)}). "
            'Use watch(probes="default") or a list such as watch(probes=["spectral"]).'
        )
    chosen: list[Probe] = []
    for probe in probes:
        if isinstance(probe, Probe):
            chosen.append(probe)
        elif isinstance(probe, str) and probe in known:
            chosen.append(known[probe]())
        else:
            raise ValueError(f"there is no probe {probe!r}; there are: {', '.join(known)}. A Probe object may be given too.")
    return chosen
