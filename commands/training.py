"""The commands that train something themselves: ``demo``, ``reproduce``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .output import JsonOption, StoreOption

_DEMO_SCENARIO = "low-precision-attention"


def add_commands(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(epilog="Example: foreshock demo --scenario healthy --exit --json")(demo)
    app.command(epilog="Example: foreshock reproduce --quick --out reproduction")(reproduce)


def demo(
    scenario: Annotated[str, typer.Option(metavar="NAME", help="What to train; `healthy` stays free of trouble.")] = _DEMO_SCENARIO,
    exit_: Annotated[bool, typer.Option("--exit", help="End with the training instead of leaving the page up.")] = False,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of the training run.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads to train with.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of the page; else 8050, or a free one.")] = None,
    intervene: Annotated[list[str] | None, typer.Option(metavar="NAME", help="What may be done: stabilized_attention.")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a small GPT into trouble, watch it live, and see the alert come first. Takes about two minutes."""
    from ..zoo.scenario import scenarios

    if scenario not in scenarios():
        raise typer.BadParameter(f"{scenario!r} is none of {', '.join(scenarios())}.", param_hint="--scenario")
    from ..zoo.demo import run_demo

    options: dict[str, Any] = {"json": as_json, "exit": exit_, "seed": seed, "threads": threads, "port": port}
    raise typer.Exit(run_demo(scenario=scenario, browser=browser, store=store, intervene=tuple(intervene or ()), **options))


def reproduce(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where report, results and store go.")] = Path("reproduction"),
    quick: Annotated[bool, typer.Option("--quick", help="One seed, shorter runs: about a minute.")] = False,
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds of every training run; else 5, or 1 when quick.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each run; two run at a time.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Reproduce the low-precision failure, its controls and its cure; write a report. Runs that are in FOLDER are not repeated.

    Exit status 1 where a claim did not hold. The full experiment takes about a quarter of an hour on two free cores.
    """
    from ..zoo.reproduction.command import run_reproduction

    raise typer.Exit(run_reproduction(out=out, quick=quick, seeds=seeds, threads=threads, json=as_json))
