"""The command ``doctor``: what is installed, what went wrong, what probes would cost."""

import dataclasses
import importlib
import runpy
from typing import TYPE_CHECKING, Annotated

import typer

from .output import JsonOption, StoreOption, show, show_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType
    from torch import nn

    from ..doctor import Check
    from ..probes.estimate import Estimate

_LEVEL_STYLES = {"ok": "green", "warn": "yellow", "problem": "bold red"}


def add_commands(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(epilog="Example: foreshock doctor --store postgresql+psycopg://host/db")(doctor)


def doctor(
    store: StoreOption = None,
    estimate: Annotated[
        str | None,
        typer.Option(metavar="FILE:FUNCTION", help="Instead: what the presets cost on the model; returns (model, step), trains."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check what is installed, whether the store can be written, and what went wrong lately."""
    if estimate is not None:
        _estimate(estimate, as_json)
        return
    from ..doctor import examine

    checks = examine(store)
    if as_json:
        show_json([dataclasses.asdict(check) for check in checks])
    else:
        show(_check_table(checks))
    raise typer.Exit(1 if any(check.level == "problem" for check in checks) else 0)


def _estimate(target: str, as_json: bool) -> None:
    from ..probes.estimate import estimate

    found = estimate(*_built(target))
    if as_json:
        sizes = ("held_bytes", "peak_bytes", "statistics")
        show_json([dataclasses.asdict(each) | {name: getattr(each, name) for name in sizes} for each in found])
    else:
        show(_estimate_table(found))


def _built(target: str) -> "tuple[nn.Module, Callable[[], object]]":
    """Call FUNCTION of ``FILE:FUNCTION``, a file or an importable module; it takes nothing and returns (model, step)."""
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise typer.BadParameter(f"{target!r} is not FILE:FUNCTION, such as train.py:build", param_hint="--estimate")
    try:
        # A package's module is imported, a file is run under a name of its own.
        loaded = runpy.run_path(place, run_name="__foreshock__") if place.endswith(".py") else vars(importlib.import_module(place))
    except (ImportError, FileNotFoundError) as error:
        raise typer.BadParameter(f"{place!r} cannot be loaded: {error}", param_hint="--estimate") from None
    if not callable(build := loaded.get(name)):
        raise typer.BadParameter(f"{place!r} has no function {name!r}", param_hint="--estimate")
    built = build()
    if not (isinstance(built, tuple) and len(built) == 2 and callable(built[1])):
        wanted = "a model and a function that trains it one step"
        raise typer.BadParameter(f"{name}() must return {wanted}, got {type(built).__name__}", param_hint="--estimate")
    return built


def _check_table(checks: "list[Check]") -> "RenderableType":
    from rich.table import Column, Table
    from rich.text import Text

    table = Table.grid(Column(no_wrap=True), Column(no_wrap=True), Column(overflow="fold"), padding=(0, 1))
    for check in checks:
        mending = f"\n-> {check.remedy}" if check.remedy else ""
        table.add_row(Text(check.level, _LEVEL_STYLES[check.level]), Text(check.name, "bold"), check.message + mending)
    return table


def _estimate_table(estimates: "list[Estimate]") -> "RenderableType":
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("preset, probe", no_wrap=True)
    for head in ("sampled step", "share at 1 in 50", "every, at 1 %", "statistics", "memory held", "at most"):
        table.add_column(head, justify="right")
    for each in estimates:
        share = each.sampled_ms / (50 * each.step_ms)
        sizes = f"{each.statistics:,}", _size(each.held_bytes), _size(each.peak_bytes)
        table.add_row(each.preset, f"+{each.sampled_ms:.1f} ms", f"{share:.2%}", f"{each.interval:,} steps", *sizes, style="bold")
        for probe in each.probes:
            sizes = f"{probe.statistics:,}", _size(probe.held_bytes), _size(probe.peak_bytes)
            table.add_row(f"  {probe.name}", f"{probe.milliseconds:.1f} ms", "", "", *sizes)
    table.caption = f"a plain step takes {estimates[0].step_ms:.1f} ms" if estimates else None
    return table


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"
