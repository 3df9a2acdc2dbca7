"""The command ``foreshock report``: a run as one HTML file. Imports what is heavy when it runs."""

import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import JsonOption, StoreOption, bytes_text, note, opened_store, show_json
from .progress import progress_bar

if TYPE_CHECKING:
    from ..dashboard.report.content import Report


def add_commands(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command(epilog="Example: foreshock report gpt2-bf16 --to report.html --open")(report)


def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's name, id, or first letters of the id.")],
    to: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to; else foreshock-NAME-ID.html here. An older report is replaced.")
    ] = None,
    steps: Annotated[str | None, typer.Option(metavar="A:B", help="Only these steps: 1000:2000, 1000:, :2000.")] = None,
    signals: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME,...", help="Draw these by layer: names, or patterns such as 'attention.*'; else the most telling."
        ),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE even if it is no report.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a run as one HTML file that needs no network: verdict, charts, alerts with reasons and remedies, configuration."""
    from ..dashboard.report.making import make
    from ..dashboard.report.wanted import NothingToReportError, ReportError, wanted_of
    from ..dashboard.report.writing import usual_name, write

    started = time.monotonic()
    try:
        wanted = wanted_of(steps, signals or ())
        with closing(opened_store(store)) as opened, progress_bar() as progress:
            chosen = opened.run(run)
            path = (Path(usual_name(chosen)) if to is None else to).expanduser()
            task = progress.add_task("reading", total=None)
            made = make(opened, chosen, wanted, lambda done, total: progress.update(task, completed=done, total=total))
            size = write(made.page, path, force=force)
    except ReportError as error:
        note(f"Error: {error}")
        raise typer.Exit(1 if isinstance(error, NothingToReportError) else 2) from None
    path = path.resolve()
    facts = _facts(made.report, path, size, time.monotonic() - started)
    if as_json:
        show_json(facts)
    else:
        typer.echo(str(path))
        note(f"{made.report.verdict.word}: {made.report.verdict.sentence}")
        note(f"{bytes_text(size)}, {facts['alerts']} alerts, {facts['charts']} charts, in {facts['seconds']:.1f} s.")
    if open_:
        _open(path)


def _facts(report: "Report", path: Path, size: int, seconds: float) -> dict[str, Any]:
    return {
        "file": str(path),
        "run": report.name,
        "run_id": report.run_id,
        "level": report.verdict.level,
        "verdict": report.verdict.sentence,
        "alerts": len(report.alerts),
        "open_alerts": sum(alert.open for alert in report.alerts),
        "charts": len(report.charts()),
        "bytes": size,
        "seconds": round(seconds, 3),
    }


def _open(path: Path) -> None:
    import webbrowser

    if not webbrowser.open(path.as_uri()):
        note(f"No browser could be started here; open {path} yourself.")
