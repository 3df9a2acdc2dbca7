"""Series numbers: given out once, remembered, and looked up a whole tuple of keys at a time."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from .codec import clean
from .database import Identity
from .records import Batch, SeriesKey, derived_id
from .tables import series
from .upserts import insert_new

_MOST_LAYOUTS = 64


@dataclass(frozen=True, slots=True)
class Layout:
    """A tuple of keys, resolved: (series number, place in the tuple) in order of numbers."""

    keys: tuple[SeriesKey, ...]
    columns: tuple[tuple[int, int], ...]
    distinct: bool
    """Whether no two keys mean the same series."""


class Numbers:
    """The series numbers of one run. Steps that share a ``keys`` tuple cost one look-up for all of it."""

    def __init__(self, run_key: int, by_key: dict[SeriesKey, int]) -> None:
        self.run_key = run_key
        self.by_key = by_key
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
            columns = tuple(sorted((self.by_key[key], place) for place, key in enumerate(keys)))
            found = Layout(keys, columns, len({number for number, _ in columns}) == len(columns))
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
            self._known = {}


def add_series(connection: Connection, run_key: int, missing: Sequence[SeriesKey]) -> Numbers:
    """Add series in order of appearance, then read all numbers of the run: another process may have added some first."""
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
    # A name that had to be cleaned is stored under its clean form and looked up under the form it came in.
    return Numbers(run_key, numbers | {key: numbers[_clean(key)] for key in missing})


def _clean(key: SeriesKey) -> SeriesKey:
    return SeriesKey(clean(key.signal), clean(key.module), key.head, key.rank)


def digest(key: SeriesKey) -> str:
    """Return what ``series_of_run`` knows a key by in every run: it depends on the key alone."""
    return derived_id(clean(key.signal), clean(key.module), key.head, key.rank)
