"""The command ``foreshock``: puts the commands together, and turns expected errors into a line.

Commands are thin and import what they need when they run, so that ``--help`` costs next to nothing.
Exit status: 0 fine, 1 trouble found, 2 wrong usage or configuration. Data goes to stdout, everything else to stderr.
"""

from typing import Annotated

import typer

from ._version import __version__
from .benchmarks.commands import app as bench
from .commands import (
    alerts,
    dashboard,
    db,
    doctor,
    exporting,
    importing,
    inspection,
    listing,
    notifying,
    reporting,
    rules,
    running,
    token,
    training,
)
from .commands.backtest import backtest
from .commands.output import note
from .zoo.commands import app as zoo

app = typer.Typer(
    help="Early warning for training runs: signals, alerts with reasons, a live page.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for commands in (
    running,
    training,
    dashboard,
    token,
    listing,
    reporting,
    doctor,
    inspection,
    alerts,
    notifying,
    rules,
    importing,
    exporting,
    db,
):
    commands.add_commands(app)
app.command(epilog="Example: foreshock backtest gpt2-bf16 --rules mine.toml")(backtest)
app.add_typer(bench, name="bench")
app.add_typer(zoo, name="zoo")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"foreshock {__version__}")
        raise typer.Exit


@app.callback()
def _foreshock(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


def main() -> int:
    """Run the command line; expected errors become one line on stderr."""
    try:
        app(prog_name="foreshock")
    except running.LeaveFor as leaving:
        script = leaving
    except Exception as error:  # noqa: BLE001 - the outermost boundary: known errors are told in a line, others raised again
        return _tell(error)
    else:
        return 0
    return script.run()  # not in the handler, which would be told of as the context of what the script raises


def _tell(error: Exception) -> int:
    from .commands.remote import RemoteError
    from .config import ConfigurationError
    from .storage import StoreError, StoreUnavailableError

    if isinstance(error, ModuleNotFoundError) and error.name in ("torch", "triton"):
        note(f"This command needs {error.name}: pip install 'foreshock[train]'")
        return 2
    if not isinstance(error, ConfigurationError | StoreError | RemoteError):
        raise error
    note(f"Error: {error}")
    passing = isinstance(error, StoreUnavailableError) or (
        isinstance(error, RemoteError) and (error.status == 0 or error.status >= 500)
    )
    return 1 if passing else 2
