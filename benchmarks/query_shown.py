"""The figures of ``foreshock bench query`` as tables."""

from typing import TYPE_CHECKING

from ..commands.output import show
from .marks import marks_table, table_of

if TYPE_CHECKING:
    from .query import Query


def shown(found: "Query") -> None:
    """Print everything."""
    show(str(found.machine))
    show(f"\n{found.points:,} points: {found.sizes.series:,} series, {found.layers:,} of them layers; {found.sizes.runs:,} runs.")
    for engine, taken in found.bytes.items():
        built = f", built in {found.build_seconds[engine]:,.0f} s" if engine in found.build_seconds else ""
        show(f"{engine}: {taken / 2**20:,.0f} MiB with all tables and indexes{built}.")
    figures = ("new connection: median ms", "p95", "same connection: median ms", "p95", "times")
    table = table_of("what", "where", right=figures)
    for one in found.readings:
        values = (one.cold_median_ms, one.cold_p95_ms, one.warm_median_ms, one.warm_p95_ms)
        table.add_row(one.what, one.where, *("–" if value is None else f"{value:,.1f}" for value in values), str(one.times or "–"))
    show(table)
    for one in found.readings:
        if one.failure:
            show(f"{one.what}: {one.failure}")
    show("Marks.")
    show(marks_table(found.marks))
