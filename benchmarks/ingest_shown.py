"""The figures of ``foreshock bench ingest`` as tables."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..commands.output import show
from .marks import marks_table, table_of

if TYPE_CHECKING:
    from rich.table import Table

    from .ingest import Ingest
    from .ingest_contest import Rate, Size
    from .ingest_waiting import Wait


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
                show(f"{rate.contestant}: {rate.failure or rate.durable}.")
    if found.sizes:
        show("\nWhat a point takes on disk, all tables, indexes and rollups included.")
        show(_sizes(found.sizes))
    if found.waits:
        show(
            f"\nWhat {found.series:,} series cost the training thread a step, microseconds; {found.waits[0].steps:,} steps a case."
        )
        show(_waits(found.waits))
    if found.marks:
        show("\nMarks.")
        show(marks_table(found.marks))


def _rates(rates: Sequence["Rate"]) -> "Table":
    table = table_of(
        "contestant", "where", "version", right=("points/s", "spread", "foreshock is faster by", "steps", "bytes/point")
    )
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
    table = table_of("where", right=("a sample every", "points", "MiB", "bytes/point"))
    for size in sizes:
        every = f"{size.every} steps" if size.every > 1 else "step"
        table.add_row(size.where, every, f"{size.points:,}", f"{size.bytes / 2**20:.1f}", f"{size.bytes_per_point:.1f}")
    return table


def _waits(waits: Sequence["Wait"]) -> "Table":
    figures = ("median", "p99", "p99.9", "longest", "step, median", "p99.9", "longer by", "p99.9", "dropped")
    table = table_of("call", "database", right=figures)
    for wait in waits:
        where = f"{wait.state} ({wait.where})" if wait.where else wait.state
        values = (wait.median_us, wait.p99_us, wait.p999_us, wait.max_us, wait.step_median_us, wait.step_p999_us)
        longer = (wait.longer_us, wait.longer_p999_us)
        table.add_row(wait.call, where, *(f"{value:,.0f}" for value in (*values, *longer)), f"{wait.dropped:,}")
    return table
