"""Marks: what is to be reached, as data beside what was measured. None of them is ever an exit status: machines differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, slots=True)
class Mark:
    """One mark. ``met`` is None where nothing was measured."""

    what: str
    mark: float
    measured: float | None
    met: bool | None


def at_most(what: str, mark: float, measured: float | None) -> Mark:
    """Return a mark that is not to be passed."""
    return Mark(f"{what}, at most", mark, measured, None if measured is None else measured <= mark)


def at_least(what: str, mark: float, measured: float | None) -> Mark:
    """Return a mark that is to be reached."""
    return Mark(f"{what}, at least", mark, measured, None if measured is None else measured >= mark)


def marks_table(marks: Sequence[Mark]) -> "Table":
    """Return what was to be reached and whether it was, as a table."""
    table = table_of("mark", right=("at", "measured"), last=("met",))
    for mark in marks:
        met = "–" if mark.met is None else "yes" if mark.met else "NO"
        table.add_row(mark.what, figure(mark.mark), figure(mark.measured), met)
    return table


def figure(value: float | None) -> str:
    """Return a number as tables show it; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def table_of(*left: str, right: Sequence[str] = (), last: Sequence[str] = ()) -> "Table":
    """Return an empty table: columns of words, of numbers, and of words again."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for heading in left:
        table.add_column(heading)
    for heading in right:
        table.add_column(heading, justify="right")
    for heading in last:
        table.add_column(heading)
    return table
