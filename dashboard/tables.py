"""What a chart draws as CSV, piece by piece: every point of what the reader looks at, however many there are.

Other than in ``foreshock export``, whose files read back exactly, a name that a spreadsheet would take for a formula begins with an
apostrophe here. Values that are not finite are spelt ``nan``, ``inf`` and ``-inf``; ``kind`` says it in words.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..storage.base import Store
from ..storage.records import Kind, Run, Series

COLUMNS = ("step", "segment", "signal", "module", "head", "rank", "value", "kind")
BIN_COLUMNS = ("step", "segment", "signal", "module", "low", "high", "count")

_STEPS = 20_000
"""Steps that are read at a time."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_KINDS = {kind: kind.name.lower() for kind in Kind}


def points_table(store: Store, run: Run, series: Sequence[Series], window: tuple[int, int] | None) -> Iterator[str]:
    """Yield the points of some series, one after the other, each in order of (segment, step).

    Args:
        window: First and last step; None for the whole run.
    """
    yield _lines([COLUMNS])
    parts = list(_parts(store, run, window))
    for one in series:
        key = one.key
        names = (cell(key.signal), cell(key.module), key.head, key.rank)
        for segment, start, stop in parts:
            data = store.read([one], start=start, stop=stop, segment=segment)[0]
            rows = zip(data.steps, data.values, strict=True)
            if text := _lines((step, segment, *names, float(value), _KINDS[Kind.of(value)]) for step, value in rows):
                yield text


def histograms_table(store: Store, run: Run, signal: str, module: str, window: tuple[int, int] | None) -> Iterator[str]:
    """Yield the histograms of a module, a row a bin, in order of (segment, step)."""
    yield _lines([BIN_COLUMNS])
    for segment, start, stop in _parts(store, run, window):
        for one in store.histograms(run.id, signal, module, start=start, stop=stop) if module else ():
            if one.segment == segment:
                yield _lines(_bins(one.step, segment, cell(signal), cell(module), one.histogram))


def cell(name: str) -> str:
    """Return a name as a cell that no spreadsheet takes for a formula."""
    return f"'{name}" if name.startswith(_FORMULA) else name


def _bins(step: int, segment: int, signal: str, module: str, histogram: Any) -> Iterator[tuple[Any, ...]]:
    width = (histogram.high - histogram.low) / len(histogram.counts)
    for place, count in enumerate(histogram.counts):
        low = histogram.low + place * width
        yield step, segment, signal, module, low, low + width, count


def _parts(store: Store, run: Run, window: tuple[int, int] | None) -> Iterator[tuple[int, int, int]]:
    """Yield (segment, start, stop) of what is read at a time, in order."""
    segments = store.segments(run.id)
    # A segment may have begun earlier than was noted: it is read from where any may begin.
    first = min([0, *(segment.start_step for segment in segments)]) if window is None else window[0]
    last = store.run(run.id).last_step if window is None else min(window[1], store.run(run.id).last_step)
    for segment in segments:
        for start in range(first, last + 1, _STEPS):
            yield segment.segment, start, min(start + _STEPS, last + 1)


def _lines(rows: Iterable[Sequence[Any]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()
