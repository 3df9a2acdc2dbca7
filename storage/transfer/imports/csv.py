"""CSV: a table with a column of steps, and either a column a metric (wide) or columns signal and value (long).

What ``foreshock export`` and ``store.frame(run).to_csv()`` write comes back as it was. Nothing is stored of a file with a bad cell.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from typing_extensions import override

from ...records import SeriesKey
from ..packages import TransferError
from .source import Found, Item, Part, Progress, Source, Survey
from .table import Layout, layout_of, rows, step_of, time_of, value_of

T = TypeVar("T")

_ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
_MOST_TOLD = 5  # bad cells in a message
_LONGEST = 1e7  # seconds a run without times is made to last at the most


def find(path: Path, *, step_column: str | None = None) -> Found:
    """Return the runs of a file, or of all CSV files in a folder: one a file, or one for each name in a column ``run``.

    Raises:
        TransferError: there is none, or a file has no column of steps.
    """
    files = [path] if path.is_file() else sorted(file for file in path.glob("*") if file.name.endswith(_ENDINGS))
    if not files:
        raise TransferError(f"No CSV files ({', '.join(_ENDINGS)}) in {path}.")
    return Found([run for file in files for run in _runs(file, step_column)])


def _runs(file: Path, step_column: str | None) -> Iterator["CsvRun"]:
    table = rows(file)
    _, header = next(table)
    layout = layout_of(header, str(file), step_column)
    stem = file.name.removesuffix(".gz").rsplit(".", 1)[0]
    if layout.run < 0:
        yield CsvRun(file, layout, stem)
        return
    for name in dict.fromkeys(cells[layout.run] for _, cells in table):
        yield CsvRun(file, layout, name or stem, only=name)


@dataclass(slots=True)
class _Trouble:
    """Cells that could not be read: of each column how many were good, how many bad, and where the first bad ones are."""

    good: Counter[int] = field(default_factory=Counter)
    bad: Counter[int] = field(default_factory=Counter)
    told: dict[int, list[str]] = field(default_factory=dict)

    def read(self, how: Callable[[str], T], what: str, line: int, cells: list[str], layout: Layout, place: int) -> T | None:
        """Return a cell as a number; note it and return None where it is none."""
        try:
            value = how(cells[place])
        except (ValueError, OverflowError):
            self.bad[place] += 1
            lines = self.told.setdefault(place, [])
            if len(lines) < _MOST_TOLD:
                lines.append(f"line {line}, column {layout.columns[place]}: {cells[place]!r} is no {what}")
            return None
        self.good[place] += value is not None
        return value

    def check(self, file: str) -> None:
        """Raise TransferError if there were bad cells."""
        if self.bad.total():
            first = [text for place in sorted(self.bad) for text in self.told[place]][:_MOST_TOLD]
            more = self.bad.total() - len(first)
            raise TransferError(f"{file}: {'; '.join(first)}{f'; and {more:,} more' if more else ''}. Nothing was imported.")


class CsvRun(Source):
    """The rows of one run."""

    def __init__(self, file: Path, layout: Layout, name: str, only: str | None = None) -> None:
        self.name = name
        self._file = file.resolve()
        self._layout = layout
        self._only = only
        self._texts: set[int] = set()  # columns
        self._times = 0.0, 1.0  # for files that have none: of step 0, and of a step
        self.size = 0 if file.suffix == ".gz" else file.stat().st_size

    @property
    @override
    def identity(self) -> tuple[object, ...]:
        return "csv", str(self._file), *(() if self._only is None else (self._only,))

    @property
    @override
    def origin(self) -> str:
        return str(self._file)

    @override
    def survey(self, progress: Progress) -> Survey:
        found, trouble, layout = Survey(), _Trouble(), self._layout
        steps: tuple[int, int] | None = None
        for line, cells in self._rows():
            progress(sum(map(len, cells)) + len(cells))
            step = trouble.read(step_of, "whole number", line, cells, layout, layout.step)
            if step is not None:
                steps = (step, step) if steps is None else (min(step, steps[0]), max(step, steps[1]))
            if layout.segment >= 0:
                trouble.read(step_of, "whole number", line, cells, layout, layout.segment)
            if layout.time >= 0 and (time := trouble.read(time_of, "time", line, cells, layout, layout.time)) is not None:
                found.saw(time)
            if layout.long:
                self._look(line, cells, found, trouble)
                continue
            for place in layout.metrics:
                if trouble.read(value_of, "number", line, cells, layout, place) is not None:
                    found.labels[layout.columns[place]] += 1
        self._texts = {place for place in layout.metrics if trouble.bad[place] and not trouble.good[place]}
        for place in self._texts:
            found.skipped["cells of columns of text"] += trouble.bad.pop(place)
        trouble.check(str(self._file))
        if layout.time < 0 and steps is not None:
            self._date(*steps, found)
        if layout.unread:
            found.notes.append(f"Columns that were not read: {', '.join(layout.unread)}.")
        return found

    @override
    def stream(self) -> Iterator[Item]:
        layout, (begin, pace) = self._layout, self._times
        metrics = [(place, layout.columns[place]) for place in layout.metrics if place not in self._texts]
        labels: dict[tuple[str, ...], SeriesKey] = {}
        segment: int | None = None
        yield Part()
        for _, cells in self._rows():
            step = step_of(cells[layout.step])
            time = time_of(cells[layout.time]) if layout.time >= 0 else begin + pace * step
            if layout.segment >= 0 and (now := step_of(cells[layout.segment])) != segment:
                segment = now
                yield Part(segment)
            if not layout.long:
                for place, name in metrics:
                    if (value := value_of(cells[place])) is not None:
                        yield name, step, time, value
                continue
            value = value_of(cells[layout.value], cells[layout.kind] if layout.kind >= 0 else "")
            if value is not None:
                named = layout.named(cells)
                label = labels.get(named)
                if label is None:
                    label = labels[named] = key_of(named)
                yield label, step, time, value

    def _look(self, line: int, cells: list[str], found: Survey, trouble: _Trouble) -> None:
        """Check the one value of a row of a long table."""
        layout = self._layout
        for place in (layout.head, layout.rank):
            if place >= 0 and cells[place]:
                trouble.read(step_of, "whole number", line, cells, layout, place)
        kind = cells[layout.kind] if layout.kind >= 0 else ""
        value = trouble.read(
            lambda cell: value_of(cell, kind), f"number of kind {kind}" if kind else "number", line, cells, layout, layout.value
        )
        if value is not None and not trouble.bad:
            found.labels[key_of(layout.named(cells))] += 1
        elif value is None:
            found.skipped["rows without a value"] += 1

    def _date(self, first: int, last: int, found: Survey) -> None:
        """Give times to a run that has none: a second a step, the last when the file was written."""
        pace = min(1.0, _LONGEST / max(1, last - first))
        written = self._file.stat().st_mtime
        self._times = written - pace * last, pace
        found.saw(written - pace * (last - first))
        found.saw(written)
        found.notes.append(
            "The file has no times: steps are put a second apart, the last one at the time at which the file was written."
        )

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        table = rows(self._file)
        next(table)
        if self._only is None:
            yield from table
        else:
            yield from ((line, cells) for line, cells in table if cells[self._layout.run] == self._only)


def key_of(named: tuple[str, str, str, str]) -> SeriesKey:
    """Return the series that cells of signal, module, head and rank name; empty ones do not apply."""
    signal, module, head, rank = named
    return SeriesKey(signal, module, step_of(head) if head else -1, step_of(rank) if rank else -1)
