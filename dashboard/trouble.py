"""What the monitor noted about itself where the store could not be written."""

from ..storage.base import Store
from ..storage.records import Run


def troubles(store: Store, run: Run) -> list[tuple[float, str]]:
    """Return (time, words) of the newest troubles noted beside the store, newest first; empty when all went well."""
    return []
