"""The command ``foreshock export``. Imports what is heavy when it runs."""

import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .output import JsonOption, StoreOption, note, opened_store, show_json
from .progress import progress_bar

if TYPE_CHECKING:
    from ..storage import Store
    from ..storage.records import Run
    from ..storage.transfer.export import Exported


def add_commands(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command(epilog="Example: foreshock export gpt2-bf16 --to gpt2-bf16.parquet")(export)


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's name, id, or first letters of the id.")],
    to: Annotated[str, typer.Option(metavar="FILE", help="Ends in .parquet, .csv or .csv.gz; - is standard output (CSV).")],
    format: Annotated[str | None, typer.Option(metavar="parquet|csv", help="Where FILE does not say it.")] = None,
    signal: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="Only these signals: loss, 'weight.*'.")] = None,
    module: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="Only these modules: 'h.0.*'.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it is there.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a run's samples to a Parquet or CSV file, in the columns of `store.frame(run)`."""
    from ..storage.transfer.export import STANDARD_OUTPUT, Format, export_run, format_of
    from ..storage.transfer.selection import Selection

    if format is not None and format not in list(Format):
        raise typer.BadParameter(f"{format!r} is none of {', '.join(Format)}.", param_hint="--format")
    if as_json and to == STANDARD_OUTPUT:
        raise typer.BadParameter("standard output is taken by the samples; name a file, or leave --json out.", param_hint="--json")
    kind = format_of(to, Format(format) if format else None)
    target = sys.stdout if to == STANDARD_OUTPUT else Path(to).expanduser()
    started = time.monotonic()
    with closing(opened_store(store)) as opened:
        chosen = opened.run(run)
        with progress_bar() as progress:
            task = progress.add_task("writing", total=steps_of(opened, chosen))
            written = export_run(
                opened,
                chosen,
                target,
                format=kind,
                selection=Selection(tuple(signal or ()), tuple(module or ())),
                force=force,
                progress=lambda steps: progress.advance(task, steps),
            )
    seconds = time.monotonic() - started
    if isinstance(target, Path):
        _tell(chosen, target, written, str(kind), seconds, as_json)


def steps_of(store: "Store", run: "Run") -> int:
    """Return about how many steps of a run are stored: those between the first and the last of each segment."""
    return sum(change.last_step - change.first_step + 1 for change in store.changes(run.id).ranges)


def _tell(run: "Run", path: Path, written: "Exported", kind: str, seconds: float, as_json: bool) -> None:
    size = path.stat().st_size
    if as_json:
        facts = {"run": run.name, "run_id": run.id, "file": str(path), "format": kind, "bytes": size}
        show_json(facts | {"points": written.points, "series": written.series, "seconds": round(seconds, 3)})
        return
    note(f"{path}: {written.points:,} points of {written.series:,} series of run {run.name}, {size:,} bytes, in {seconds:.1f} s.")
