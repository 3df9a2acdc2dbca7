"""The command ``inspect``: what a capture shows of attention's rounding."""

from pathlib import Path
from typing import Annotated

import typer

from .output import JsonOption, note, show, show_json


def add_commands(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(epilog="Example: foreshock inspect foreshock-captures/1a2b3c4d-step-000000260-key_shift_bias")(inspect)


def inspect(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The folder that an event named: the capture of an alert.")],
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
    if as_json:
        show_json(found.to_plain())
    else:
        show(found.describe())
    raise typer.Exit(1 if found.confirmed else 0)
