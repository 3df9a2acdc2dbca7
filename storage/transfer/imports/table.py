"""A CSV file as a table: which column is what, and cells as numbers, with the line and column of those that are none."""

import csv
import gzip
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from ...records import Kind
from ..packages import TransferError
from .source import FURTHEST

_STEPS = ("step", "_step", "global_step", "global step", "train/global_step", "iteration", "iter")
_TIMES = ("time", "timestamp", "_timestamp", "wall_time", "wall time")
_NAMES = ("signal", "metric", "name", "tag", "key")
_MILLISECONDS = 1e11  # seconds until the year 5138: what is beyond must be milliseconds


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things stand in a row: places of columns, -1 for those that are not there.

    A long table has ``name`` and ``value``; in a wide one each of ``metrics`` is a column of its own.
    """

    columns: tuple[str, ...]
    step: int
    time: int
    segment: int
    run: int
    name: int
    value: int
    module: int
    head: int
    rank: int
    kind: int
    metrics: tuple[int, ...]

    @property
    def long(self) -> bool:
        """Whether each row holds one value."""
        return self.name >= 0

    def named(self, cells: Sequence[str]) -> tuple[str, str, str, str]:
        """Return the cells of a long table that name a series: signal, module, head, rank."""
        name, module, head, rank = (cells[at] if at >= 0 else "" for at in (self.name, self.module, self.head, self.rank))
        return name, module, head, rank

    @property
    def unread(self) -> list[str]:
        """Columns of a long table that mean nothing to us. One without a name is the index that pandas writes."""
        known = (self.step, self.time, self.segment, self.run, self.name, self.value, self.module, self.head, self.rank, self.kind)
        return [column for place, column in enumerate(self.columns) if self.long and column and place not in known]


def layout_of(header: Sequence[str], origin: str, step_column: str | None) -> Layout:
    """Find out what the columns are.

    Raises:
        TransferError: a column is missing or comes twice.
    """
    columns = [name.strip() for name in header]
    folded = [name.casefold() for name in columns]
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise TransferError(f"{origin}: the column {twice[0]!r} comes more than once. Give each column a name of its own.")

    def place(*names: str) -> int:
        return next((folded.index(name) for name in names if name in folded), -1)

    step = place(*_STEPS) if step_column is None else (columns.index(step_column) if step_column in columns else -1)
    if step < 0:
        missing = f"no column {step_column!r}" if step_column is not None else f"none of the columns {', '.join(_STEPS[:4])}, ..."
        raise TransferError(f"{origin}: {missing} to take the step from; it has {', '.join(columns)}. Name it with --step-column.")
    name, value = place(*_NAMES), place("value")
    if name < 0 or value < 0:
        name = value = -1
    fixed = {"step": step, "time": place(*_TIMES), "segment": place("segment"), "run": place("run")}
    parts = {part: place(part) if name >= 0 else -1 for part in ("module", "head", "rank", "kind")}
    metrics = tuple(at for at in range(len(columns)) if columns[at] and at not in fixed.values()) if name < 0 else ()
    if name < 0 and not metrics:
        raise TransferError(f"{origin}: beside the step there is no column of values.")
    return Layout(columns=tuple(columns), **fixed, name=name, value=value, **parts, metrics=metrics)


@contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """Open a file as text, one that is gzip-compressed too."""
    compressed = path.suffix == ".gz"
    with (
        gzip.open(path, "rt", encoding="utf-8-sig", newline="")
        if compressed
        else path.open(encoding="utf-8-sig", newline="") as file
    ):
        yield file


def rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells), the header first. Whether commas, semicolons or tabs part cells, the header says.

    Raises:
        TransferError: it is no such file, or a row has another number of cells than the header.
    """
    try:
        with opened(path) as file:
            head = file.readline()
            reader = csv.reader(file, delimiter=max(",;\t", key=head.count))
            header = next(csv.reader([head], delimiter=max(",;\t", key=head.count)), [])
            yield 1, header
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise TransferError(f"{path}, line {reader.line_num + 1}: {len(cells)} cells, but {len(header)} columns.")
                yield reader.line_num + 1, cells
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, csv.Error) as error:
        raise TransferError(f"{path} cannot be read as CSV: {error}") from error


def step_of(cell: str) -> int:
    """Return a step. ``100.0`` is one, ``1.5`` is none.

    Raises:
        ValueError: it is no whole number of 64 bits.
    """
    try:
        step = int(cell)
    except ValueError:
        number = float(cell)
        if not number.is_integer():
            raise ValueError(cell) from None
        step = int(number)
    if abs(step) > FURTHEST:
        raise ValueError(cell)
    return step


def time_of(cell: str) -> float:
    """Return seconds since the epoch, from seconds, milliseconds or a date with time (ISO 8601; UTC if it names no zone).

    Raises:
        ValueError: it is none of these.
    """
    try:
        number = float(cell)
    except ValueError:
        moment = datetime.fromisoformat(cell.strip())
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    if not abs(number) < _MILLISECONDS * 1000:
        raise ValueError(cell)
    return number / 1000 if abs(number) > _MILLISECONDS else number


def value_of(cell: str, kind: str = "") -> float | None:
    """Return a value; None for an empty cell. ``kind`` is one of ``records.Kind``, for files that leave a nan empty.

    Raises:
        ValueError: the cell is no number, or the kind none of ours.
    """
    if kind and kind != "finite":
        return {Kind.NAN: float("nan"), Kind.POSITIVE_INFINITY: float("inf"), Kind.NEGATIVE_INFINITY: float("-inf")}[_kind(kind)]
    text = cell.strip()
    return float(text) if text else None


def _kind(name: str) -> Kind:
    try:
        return Kind[name.upper()]
    except KeyError:
        raise ValueError(name) from None
