"""The command ``run``: watches what an unchanged script trains."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .output import StoreOption, note

if TYPE_CHECKING:
    from ..integrations.options import WatchOptions


class LeaveFor(BaseException):
    """Leaves the command line for a script: what that raises, Ctrl-C too, is no business of the command line's."""

    def __init__(self, target: str, arguments: list[str], *, module: bool, options: "WatchOptions") -> None:
        super().__init__(target)
        self.target, self.arguments, self.module, self.options = target, arguments, module, options

    def run(self) -> int:
        """Run the script; return 0, as the interpreter does where nothing was raised."""
        from ..integrations.attaching import Attachment
        from ..integrations.script import run_as_main
        from ..storage.records import RunStatus

        attachment = Attachment(self.options)
        try:
            run_as_main(self.target, self.arguments, module=self.module)
        except SystemExit as leaving:
            if leaving.code and attachment.training is not None:
                attachment.training.end(RunStatus.CRASHED)
            raise
        finally:
            training = attachment.training
            if training is None or not (training.has_watched or training.stood_aside):
                note("foreshock: no optimizer stepped, so nothing was watched")
        return 0


def add_commands(app: typer.Typer) -> None:
    """Add the command to the command line."""
    # What follows the script is the script's.
    settings = {"allow_interspersed_args": False}
    app.command(epilog="Example: foreshock run --run first-try train.py --lr 3e-4", context_settings=settings)(run)


def run(
    target: Annotated[str, typer.Argument(metavar="SCRIPT", help="The script, or with -m the module, that trains.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="ARGUMENTS", help="The script's own.")] = None,
    module: Annotated[bool, typer.Option("-m", help="Run a module, as `python -m` does.")] = False,
    name: Annotated[
        str | None, typer.Option("--run", metavar="NAME", help="Name of the run; else the script's, and the time.")
    ] = None,
    project: Annotated[str | None, typer.Option(metavar="NAME", help="Project it belongs to.")] = None,
    store: StoreOption = None,
    probes: Annotated[str | None, typer.Option(metavar="PRESET", help="light, default, full, or names: spectral,adam.")] = None,
    every: Annotated[int | None, typer.Option(min=1, help="Steps from one sample to the next.")] = None,
    budget: Annotated[float | None, typer.Option(help="Share of the training time that measuring may cost.")] = None,
    compiled: Annotated[str | None, typer.Option(metavar="HOW", help="How compiled models are seen: taps, eager, weights.")] = None,
    rules: Annotated[Path | None, typer.Option(metavar="FILE", help="Rules that override the built-in ones.")] = None,
    notify: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="Where alerts are sent (Apprise); may be repeated.")
    ] = None,
    intervene: Annotated[list[str] | None, typer.Option(metavar="NAME", help="What may be done to it; may be repeated.")] = None,
    mirror: Annotated[list[str] | None, typer.Option(metavar="TRACKER", help="Who is told too; may be repeated.")] = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Go on with this run in a new segment.")] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="LABEL", help="Label of the run; may be repeated.")] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="Settings to read instead of ./foreshock.toml.")] = None,
) -> None:
    """Run a training script as `python` would, and watch what it trains. The script needs no change.

    Every setting can also be given by FORESHOCK_* variables and foreshock.toml. The exit status is the script's.
    """
    from ..config import load_settings

    if not module and not Path(target).exists():
        raise typer.BadParameter(f"there is no {target!r}; with -m, a module is run by its name", param_hint="SCRIPT")
    named = None if probes is None else probes if "," not in probes else probes.split(",")
    given = {
        "run": name,
        "project": project,
        "store": store,
        "probes": named,
        "every": every,
        "budget": budget,
        "compiled": compiled,
        "rules": rules,
        "notify": notify or (),
        "interventions": intervene or (),
        "mirror": mirror or (),
        "resume": resume,
        "tags": tag or (),
        "config": config,
    }
    settings = ("project", "store", "every", "budget", "compiled", "rules", "notify")
    load_settings(config, **{key: given[key] for key in settings})
    options: WatchOptions = {key: value for key, value in given.items() if value not in (None, ())}  # type: ignore[assignment]
    raise LeaveFor(target, arguments or [], module=module, options=options)
