"""The command ``inspect``: what a capture shows of attention's rounding."""

import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from .output import JsonOption, note, opened_store, show, show_json


def add_commands(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(epilog="Example: foreshock inspect foreshock-captures/1a2b3c4d-step-000000260-key_shift_bias")(inspect)


def inspect(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The folder that an event named: the capture of an alert.")],
    store: Annotated[
        str | None, typer.Option("--store", metavar="URL", help="Note the verdict in this store, for the page of the alert.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Re-compute captured attention exactly and in low precision, and judge whether rounding is the cause. Exit status 1 if so."""
    from ..interventions.bundle import BundleError, read_bundle
    from ..interventions.inspection import inspect_bundle

    try:
        found = inspect_bundle(read_bundle(bundle))
    except BundleError as error:
        note(f"Error: {error}")
        raise typer.Exit(2) from None
    if store is not None:
        _note_verdict(store, bundle, found.about, found.verdict)
    if as_json:
        show_json(found.to_plain())
    else:
        show(found.describe())
    raise typer.Exit(1 if found.confirmed else 0)


def _note_verdict(store: str, bundle: Path, about: Mapping[str, Any], verdict: str) -> None:
    """Keep the verdict on a bundle as an event of its run; the same verdict again changes nothing."""
    from ..storage.captures import INSPECTED
    from ..storage.records import Event, derived_id

    folder = bundle.resolve().name
    step = int(about.get("written_at_step", -1))
    data = {"bundle": folder, "verdict": verdict}
    with closing(opened_store(store)) as opened:
        run = opened.run(str(about.get("run", {}).get("id", "")))
        message = f"foreshock inspect {folder}: {verdict}"
        opened.add_event(Event(derived_id(run.id, folder, verdict), run.id, 0, step, time.time(), INSPECTED, message, data))
