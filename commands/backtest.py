"""The command ``foreshock backtest``. Imports what is heavy when it runs."""

import json
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .output import plain

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table

    from ..analyzer.backtest import Backtest
    from ..analyzer.rule_layers import RuleLayers


def backtest(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's name, id, or first letters of the id.")],
    rules: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="TOML file of rules to try; else what the run was given, or the configured ones."),
    ] = None,
    defaults: Annotated[bool, typer.Option("--defaults", help="Leave out what was changed in the store.")] = False,
    store: Annotated[
        str | None, typer.Option("--store", metavar="URL", help="SQLAlchemy URL; else FORESHOCK_STORE, else foreshock.toml.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print data as JSON, and nothing else.")] = False,
) -> None:
    """Replay a stored run: the alerts its rules, or others, would give, beside those it gave, and the lead before the failure."""
    from ..analyzer.backtest import backtest as replayed
    from ..analyzer.rule_layers import GIVEN, in_force
    from ..analyzer.rules import RuleError, RuleSet
    from ..config import load_settings
    from ..storage import open_store

    settings = load_settings(store=store)
    try:
        asked = RuleSet.load(rules) if rules is not None else None
        configured = RuleSet.load(settings.rules)
    except (RuleError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
    with closing(open_store(settings.store, create=False)) as opened:
        chosen = opened.run(run)
        given = asked if asked is not None or GIVEN in chosen.meta else configured
        layers = in_force(opened, chosen, given=given, stored=not defaults)
        with _progress() as progress:
            task = progress.add_task("replaying", total=chosen.last_step + 1)
            found = replayed(opened, chosen, layers.rules, progress=lambda steps: progress.advance(task, steps))
    if as_json:
        told = {"rules_changed_in_store": [plain(version) for version in layers.applied], "rules_left_out": _left_out(layers)}
        typer.echo(json.dumps(found.plain() | told, indent=2, allow_nan=False))
        return
    from rich.console import Console

    console = Console(markup=False, highlight=False, emoji=False)
    if found.pairs:
        console.print(_table(found))
    console.print("\n".join([*_summed(found), *_about(layers)]))


def _summed(found: "Backtest") -> Iterator[str]:
    """Yield what the run came to, in plain words."""
    yield f"{found.run.name}: {found.samples:,} samples of {found.steps:,} steps replayed in {found.seconds:.1f} s."
    if not found.pairs:
        yield "These rules give no alert, and none is stored."
    if found.live_only:
        named = ", ".join(sorted({alert.rule for alert in found.live_only}))
        yield f"Not replayed, for no rule here has that name: {named}."
    failure = found.failure
    if failure is None:
        yield "The run did not fail."
    elif failure.transient:
        yield f"The run left its best at step {failure.step:,} ({failure.kind}) and recovered."
    else:
        yield f"The run failed at step {failure.step:,} ({failure.kind}): {found.outcome}."
        yield f"First warning now: {_lead(found.lead)}. As stored: {_lead(found.stored_lead)}."
    if found.highest_risk is not None:
        yield f"Highest risk{' before it' if found.failed else ''}: {found.highest_risk:.0f} of 100."


def _about(layers: "RuleLayers") -> Iterator[str]:
    """Yield what the store has changed of the rules, and what was left out of that."""
    if names := dict.fromkeys(version.rule for version in layers.applied):
        yield f"With what was changed in the store of {', '.join(names)}; --defaults leaves that out."
    yield from (f"Left out: {reason}" for reason in _left_out(layers))


def _left_out(layers: "RuleLayers") -> list[str]:
    return [*(f"version {each.version.version}: {each.reason}" for each in layers.refused), *layers.unknown]


def _lead(lead: int | None) -> str:
    if lead is None:
        return "none"
    return f"{abs(lead):,} steps {'before' if lead >= 0 else 'after'} it"


def _table(found: "Backtest") -> "Table":
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("step", "stored"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name in ("severity", "rule", "module"):
        table.add_column(name, overflow="fold")
    for pair in found.pairs:
        steps = [f"{alert.first_step:,}" if alert else "-" for alert in (pair.now, pair.stored)]
        table.add_row(*steps, pair.verdict, str(pair.alert.severity), pair.alert.rule, pair.alert.module or "whole model")
    return table


@contextmanager
def _progress() -> "Iterator[Progress]":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
        yield progress
