"""The figures of ``foreshock bench page`` as tables."""

from typing import TYPE_CHECKING

from ..commands.output import show
from .marks import marks_table, table_of

if TYPE_CHECKING:
    from .page import PageTimes


def shown(found: "PageTimes") -> None:
    """Print everything."""
    show(str(found.machine))
    loads = " to ".join("unknown" if load is None else f"{load:.1f}" for load in (found.load_before, found.load_after))
    show(f"\nA run of {found.points:,} points; load of the machine {loads}.")
    table = table_of("what", right=("tabs", "times", "median ms", "p95 ms"))
    for one in found.timings:
        table.add_row(one.what, f"{one.tabs}", f"{one.times:,}", f"{one.median_ms:,.0f}", f"{one.p95_ms:,.0f}")
    show(table)
    if found.zoom_to_redraw is not None:
        show(f"A zoom is answered in {found.zoom_to_redraw:.1f} times what plotly alone takes to draw the chart anew.")
    show("Marks.")
    show(marks_table(found.marks))
