"""The figures of ``foreshock bench ingest`` as tables."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..commands.output import show

if TYPE_CHECKING:
    from rich.table import Table

    from .ingest import Ingest, Mark, Rate, Size


def shown(found: "Ingest") -> None:
    """Print everything."""
    show(str(found.machine))
    if found.rates:
        show(f"\n{found.series:,} series a step, {found.steps:,} steps; median of {found.rounds} rounds (lowest to highest).")
        show(_rates(found.rates))
        for durable in dict.fromkeys(f"{rate.where}: {rate.durable}" for rate in found.rates if rate.where != "its own files"):
            show(f"Durable on {durable}.")
        for rate in found.rates:
            if rate.where == "its own files":
                show(f"{rate.contestant}: {rate.failure or 'durable after ' + rate.durable}.")
    if found.sizes:
        show("\nWhat a point takes on disk, all tables, indexes and rollups included.")
        show(_sizes(found.sizes))
    if found.marks:
        show("\nMarks.")
        show(marks_table(found.marks))


def marks_table(marks: Sequence["Mark"]) -> "Table":
    """Return what was to be reached and whether it was."""
    table = _table("mark", right=("at", "measured"), last=("met",))
    for mark in marks:
        met = "–" if mark.met is None else "yes" if mark.met else "NO"
        measured = "–" if mark.measured is None else f"{mark.measured:,.4g}" if mark.measured < 1000 else f"{mark.measured:,.0f}"
        table.add_row(mark.what, f"{mark.mark:,.10g}", measured, met)
    return table


def _rates(rates: Sequence["Rate"]) -> "Table":
    table = _table("contestant", "where", "version", right=("points/s", "spread", "foreshock is faster by", "steps", "bytes/point"))
    for rate in rates:
        if rate.points_per_second is None or rate.spread is None:
            table.add_row(rate.contestant, rate.where, rate.version or "–", "–", "–", "–", "–", "–")
            continue
        ratios = ", ".join(f"{ratio:.2f} ({where})" for where, ratio in rate.ratio.items())
        table.add_row(
            rate.contestant,
            rate.where,
            rate.version,
            f"{rate.points_per_second:,.0f}",
            f"{rate.spread[0]:,.0f} to {rate.spread[1]:,.0f}",
            "" if rate.contestant == "foreshock" else ratios,
            f"{rate.steps:,}",
            "–" if rate.bytes_per_point is None else f"{rate.bytes_per_point:.1f}",
        )
    return table


def _sizes(sizes: Sequence["Size"]) -> "Table":
    table = _table("where", right=("a sample every", "points", "MiB", "bytes/point"))
    for size in sizes:
        every = f"{size.every} steps" if size.every > 1 else "step"
        table.add_row(size.where, every, f"{size.points:,}", f"{size.bytes / 2**20:.1f}", f"{size.bytes_per_point:.1f}")
    return table


def _table(*left: str, right: Sequence[str] = (), last: Sequence[str] = ()) -> "Table":
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
