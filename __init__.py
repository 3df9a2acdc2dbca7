"""foreshock: a seismograph for training runs. See README.md; the public face is what ``__all__`` names, ``watch`` above all."""

from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .attach import watch
    from .dashboard.drawing import figure
    from .interventions.stop import StopTraining
    from .monitor import Monitor
    from .probes.estimate import estimate
    from .storage import open_store

__all__ = ["Monitor", "StopTraining", "__version__", "estimate", "figure", "open_store", "watch"]

# Everything heavy loads on first use (PEP 562): torch with watch, SQLAlchemy with open_store.
_HOMES = {
    "watch": "attach",
    "Monitor": "monitor",
    "StopTraining": "interventions.stop",
    "open_store": "storage",
    "estimate": "probes.estimate",
    "figure": "dashboard.drawing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
