"""Keep: records, the Store contract, the SQLAlchemy implementation, migrations. Lazy, so that ``storage.records`` costs nothing."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import Store
    from .errors import (
        AlertChangedError,
        IllegalTransitionError,
        InvalidRecordError,
        LeaseHeldError,
        ReadOnlyStoreError,
        RuleConflictError,
        StoreConfigurationError,
        StoreError,
        StoreUnavailableError,
        UnknownRunError,
    )
    from .opening import open_store

_HOMES = {
    "AlertChangedError": "errors",
    "IllegalTransitionError": "errors",
    "InvalidRecordError": "errors",
    "LeaseHeldError": "errors",
    "ReadOnlyStoreError": "errors",
    "RuleConflictError": "errors",
    "Store": "base",
    "StoreConfigurationError": "errors",
    "StoreError": "errors",
    "StoreUnavailableError": "errors",
    "UnknownRunError": "errors",
    "open_store": "opening",
}
__all__ = [
    "AlertChangedError",
    "IllegalTransitionError",
    "InvalidRecordError",
    "LeaseHeldError",
    "ReadOnlyStoreError",
    "RuleConflictError",
    "Store",
    "StoreConfigurationError",
    "StoreError",
    "StoreUnavailableError",
    "UnknownRunError",
    "open_store",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
