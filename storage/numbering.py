"""Series numbers: given out once, remembered, and looked up a whole tuple of keys at a time."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection, select

from .codec import clean
from .database import Identity
from .partitions import cover
from .records import Batch, SeriesKey, derived_id
from .rollups.buckets import Array, Tails
from .tables import series
from .upserts import insert_new

_MOST_LAYOUTS = 64


@dataclass(frozen=True, slots=True)
class Layout:
    """A tuple of keys, resolved. ``numbers`` are their series', rising; ``places`` where each stands in the tuple. Shape (K,)."""

    keys: tuple[SeriesKey, ...]
    numbers: Array
    places: Array
    distinct: bool
    """Whether no two keys mean the same series."""


class Numbers:
    """What a writer knows of one run: its series' numbers, and how far its rollups have come.

    Steps that share a ``keys`` tuple cost one look-up for all of it.
    """

    def __init__(self, run_key: int, by_key: dict[SeriesKey, int]) -> None:
        self.run_key = run_key
        self.by_key = by_key
        self.tails: dict[int, Tails] = {}
        """By segment, what is in no rollup yet; holds as long as ``sequence`` is the run's last place in the ledger."""
        self.sequence = -1
        self._layouts: dict[int, Layout] = {}

    def missing(self, batch: Batch) -> list[SeriesKey]:
        """Return the batch's keys that have no number, in order of appearance."""
        shared = {id(record.keys): record.keys for record in batch.steps}
        keys = dict.fromkeys(key for keys in shared.values() if not self._knows(keys) for key in keys)
        keys |= dict.fromkeys(histogram.key for record in batch.steps for histogram in record.histograms)
        return [key for key in keys if key not in self.by_key]

    def layout(self, keys: tuple[SeriesKey, ...]) -> Layout:
        """Return the layout of a tuple whose keys all have numbers."""
        found = self._layouts.get(id(keys))
        if found is None or found.keys is not keys:  # an id may come back for another tuple
            numbers = np.fromiter((self.by_key[key] for key in keys), np.int64, len(keys))
            places = np.argsort(numbers, kind="stable")  # of two keys of one series the later one stays the later
            found = Layout(keys, numbers[places], places, len(np.unique(numbers)) == len(numbers))
            if len(self._layouts) >= _MOST_LAYOUTS:
                self._layouts.clear()
            self._layouts[id(keys)] = found
        return found

    def _knows(self, keys: tuple[SeriesKey, ...]) -> bool:
        found = self._layouts.get(id(keys))
        return found is not None and found.keys is keys


class SeriesNumbers:
    """The numbers of all runs written to, kept between batches; forgotten when the file behind the store is another one."""

    def __init__(self) -> None:
        self._identity: Identity | None = None
        self._known: dict[str, Numbers] = {}
        self._lock = threading.Lock()

    def known(self, run_id: str, identity: Identity | None) -> Numbers | None:
        """Return what is known of one run in this file."""
        with self._lock:
            return self._known.get(run_id) if identity == self._identity else None

    def remember(self, run_id: str, identity: Identity | None, numbers: Numbers) -> None:
        """Keep numbers, once the transaction that made them is committed."""
        with self._lock:
            if identity != self._identity:
                self._identity, self._known = identity, {}
            self._known[run_id] = numbers

    def forget(self) -> None:
        """Forget everything: a write failed, and what it numbered was rolled back."""
        with self._lock:
            for numbers in self._known.values():  # another thread may hold one of them
                numbers.tails.clear()
            self._known = {}


def add_series(connection: Connection, known: Numbers, missing: Sequence[SeriesKey]) -> Numbers:
    """Add series in order of appearance, then read all numbers of the run: another process may have added some first."""
    run_key = known.run_key
    rows = [
        {
            "run_key": run_key,
            "digest": digest(key),
            "signal": clean(key.signal),
            "module": clean(key.module),
            "head": key.head,
            "rank": key.rank,
        }
        for key in missing
    ]
    connection.execute(insert_new(connection.dialect.name, series, "digest"), rows)
    query = select(series.c.id, series.c.signal, series.c.module, series.c.head, series.c.rank).where(series.c.run_key == run_key)
    numbers = {SeriesKey(row.signal, row.module, row.head, row.rank): row.id for row in connection.execute(query)}
    cover(connection, max(numbers.values()))
    # A name that had to be cleaned is stored under its clean form and looked up under the form it came in.
    found = Numbers(run_key, numbers | {key: numbers[_clean(key)] for key in missing})
    found.tails, found.sequence = known.tails, known.sequence
    return found


def _clean(key: SeriesKey) -> SeriesKey:
    return SeriesKey(clean(key.signal), clean(key.module), key.head, key.rank)


def digest(key: SeriesKey) -> str:
    """Return what ``series_of_run`` knows a key by in every run: it depends on the key alone."""
    return derived_id(clean(key.signal), clean(key.module), key.head, key.rank)
