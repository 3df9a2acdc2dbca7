"""The command ``foreshock``. Commands are thin and import what they need when they run, so that ``--help`` costs next to nothing.

Exit status: 0 fine, 1 trouble found, 2 wrong usage or configuration. Data goes to stdout, everything else to stderr.
"""

import dataclasses
import importlib
import json
import math
import os
import runpy
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._version import __version__
from .benchmarks.commands import app as bench
from .commands.alerts import add_commands as add_alert_commands
from .commands.backtest import backtest
from .zoo.commands import app as zoo

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console, RenderableType
    from torch import nn

    from .doctor import Check
    from .probes.estimate import Estimate
    from .storage import Store
    from .storage.records import Alert, Run

app = typer.Typer(
    help="Early warning for training runs: signals, alerts with reasons, a live page.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(bench, name="bench")
app.add_typer(zoo, name="zoo")
app.command(epilog="Example: foreshock backtest gpt2-bf16 --rules mine.toml")(backtest)

StoreOption = Annotated[
    str | None, typer.Option("--store", metavar="URL", help="SQLAlchemy URL; else FORESHOCK_STORE, else foreshock.toml.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print data as JSON, and nothing else.")]

DEMO_SCENARIO = "low-precision-attention"
SEVERITY_STYLES = {"critical": "bold red", "warning": "yellow", "info": "cyan"}
LEVEL_STYLES = {"ok": "green", "warn": "yellow", "problem": "bold red"}


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"foreshock {__version__}")
        raise typer.Exit


@app.callback()
def _foreshock(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


@app.command(epilog="Example: foreshock demo --scenario healthy --exit --json")
def demo(
    scenario: Annotated[str, typer.Option(metavar="NAME", help="What to train; `healthy` stays free of trouble.")] = DEMO_SCENARIO,
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
    from .zoo.scenario import scenarios

    if scenario not in scenarios():
        raise typer.BadParameter(f"{scenario!r} is none of {', '.join(scenarios())}.", param_hint="--scenario")
    from .zoo.demo import run_demo

    options: dict[str, Any] = {"json": as_json, "exit": exit_, "seed": seed, "threads": threads, "port": port}
    raise typer.Exit(run_demo(scenario=scenario, browser=browser, store=store, intervene=tuple(intervene or ()), **options))


@app.command(epilog="Example: foreshock dashboard --store sqlite:///foreshock.db --port 8050")
def dashboard(
    host: Annotated[str, typer.Option(help="Loopback address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0 takes a free one.")] = 8050,
    store: StoreOption = None,
) -> None:
    """Serve the live page over a store until interrupted."""
    from .dashboard.server import AddressError, serve

    try:
        # Given a way to open the store, the page is served while SQLAlchemy is still loading.
        serve(lambda: _open(store), host=host, port=port, channels=_channels)
    except AddressError as error:
        _note(f"Error: {error}")
        raise typer.Exit(2) from None


@app.command(epilog="Example: foreshock runs --project gpt2 --json")
def runs(
    project: Annotated[str | None, typer.Option(help="Only runs of this project.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many, newest first.")] = 20,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List runs, newest first, with their open alerts."""
    from .storage.records import AlertState

    with closing(_open(store)) as opened:
        listed = opened.runs(project=project, limit=limit)
        open_states = [state for state in AlertState if state is not AlertState.RESOLVED]
        alarms = Counter((alert.run_id, str(alert.severity)) for alert in opened.alerts(states=open_states))
    if as_json:
        _print_json([_plain(run) | {"open_alerts": _by_severity(alarms, run.id)} for run in listed])
    elif listed:
        _print(_run_table(listed, alarms))
    else:
        _note(f"No runs in {opened.url} yet. `foreshock demo` makes one; `foreshock.watch(model, optimizer)` makes yours.")


@app.command(epilog="Example: foreshock alerts gpt2-bf16 --open")
def alerts(
    run: Annotated[
        str | None, typer.Argument(help="A run's name, id, or first letters of the id; without it, alerts of all runs.")
    ] = None,
    only_open: Annotated[bool, typer.Option("--open", help="Leave out resolved alerts.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most this many.")] = 50,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List alerts with what was seen, the likely cause and the remedy."""
    from .storage.records import AlertState

    states = [state for state in AlertState if state is not AlertState.RESOLVED] if only_open else None
    with closing(_open(store)) as opened:
        chosen = opened.run(run) if run is not None else None
        found = opened.alerts(chosen, states=states, limit=limit)
        names = {} if as_json else {each.id: each.name for each in ([chosen] if chosen else opened.runs())}
    if as_json:
        _print_json([_plain(alert) for alert in found])
    elif found:
        for alert in found:
            _print(_alert_text(alert, names.get(alert.run_id, alert.run_id)))
    else:
        _note(f"No {'open ' if only_open else ''}alerts{f' in run {chosen.name}' if chosen else ''}.")


@app.command(epilog="Example: foreshock explain low-precision-attention")
def explain(
    cause: Annotated[str | None, typer.Argument(metavar="[CAUSE]", help="As an alert names it; else all are listed.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Explain a cause that alerts name: how it looks, why it happens, how to be sure, what to do."""
    from .analyzer.diagnosis import page, patterns

    known = {pattern.doc: pattern.title for pattern in patterns()}
    asked = {pattern.doc: pattern.interventions for pattern in patterns()}
    if cause is not None and cause.replace("_", "-") not in known:
        raise typer.BadParameter(f"{cause!r} is none of {', '.join(known)}.", param_hint="CAUSE")
    chosen = [cause.replace("_", "-")] if cause is not None else list(known)
    if as_json:
        _print_json([{"cause": doc, "title": known[doc], "interventions": asked[doc], "page": page(doc)} for doc in chosen])
    elif cause is not None:
        typer.echo(page(cause), nl=False)
    else:
        width = max(map(len, known))
        typer.echo("\n".join(f"{doc:{width}}  {title}" for doc, title in known.items()))


@app.command(epilog="Example: foreshock doctor --store postgresql+psycopg://host/db")
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
    from .doctor import examine

    checks = examine(store)
    if as_json:
        _print_json([dataclasses.asdict(check) for check in checks])
    else:
        _print(_check_table(checks))
    raise typer.Exit(1 if any(check.level == "problem" for check in checks) else 0)


def _estimate(target: str, as_json: bool) -> None:
    from .probes.estimate import estimate

    found = estimate(*_built(target))
    if as_json:
        sizes = ("held_bytes", "peak_bytes", "statistics")
        _print_json([dataclasses.asdict(each) | {name: getattr(each, name) for name in sizes} for each in found])
    else:
        _print(_estimate_table(found))


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


@app.command(epilog="Example: foreshock inspect foreshock-captures/1a2b3c4d-step-000000260-key_shift_bias")
def inspect(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The folder that an event named: the capture of an alert.")],
    as_json: JsonOption = False,
) -> None:
    """Re-compute captured attention exactly and in low precision, and judge whether rounding is the cause. Exit status 1 if so."""
    from .interventions.bundle import BundleError, read_bundle
    from .interventions.inspection import inspect_bundle

    try:
        found = inspect_bundle(read_bundle(bundle))
    except BundleError as error:
        _note(f"Error: {error}")
        raise typer.Exit(2) from None
    if as_json:
        _print_json(_plain(found.to_plain()))
    else:
        _print(found.describe())
    raise typer.Exit(1 if found.confirmed else 0)


@app.command(epilog="Example: foreshock reproduce --quick --out reproduction")
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
    from .zoo.reproduction.command import run_reproduction

    raise typer.Exit(run_reproduction(out=out, quick=quick, seeds=seeds, threads=threads, json=as_json))


add_alert_commands(app)


def main() -> int:
    """Run the command line; expected errors become one line on stderr."""
    try:
        app(prog_name="foreshock")
    except Exception as error:  # noqa: BLE001 - the outermost boundary: known errors are told in a line, others raised again
        return _tell(error)
    return 0


def _tell(error: Exception) -> int:
    from .config import ConfigurationError
    from .storage import StoreError, StoreUnavailableError

    if isinstance(error, ModuleNotFoundError) and error.name in ("torch", "triton"):
        _note(f"This command needs {error.name}: pip install 'foreshock[train]'")
        return 2
    if not isinstance(error, ConfigurationError | StoreError):
        raise error
    _note(f"Error: {error}")
    return 1 if isinstance(error, StoreUnavailableError) else 2


def _open(store: str | None) -> "Store":
    from .config import load_settings
    from .storage import open_store

    return open_store(load_settings(store=store).store, create=False)


def _channels() -> Sequence[str]:
    from .config import load_settings

    return load_settings().notify


def _console() -> "Console":
    """Return a console that shows names as they are. What is piped is not cut at 80 columns."""
    from rich.console import Console

    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 160
    return console


def _print(content: "RenderableType") -> None:
    _console().print(content)


def _note(message: str) -> None:
    typer.echo(message, err=True)


def _print_json(data: object) -> None:
    typer.echo(json.dumps(data, indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    """Turn records into what JSON has; non-finite numbers, which JSON has not, into ``"nan"``, ``"inf"``, ``"-inf"``."""
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


def _by_severity(alarms: Counter[tuple[str, str]], run_id: str) -> dict[str, int]:
    return {severity: count for severity in SEVERITY_STYLES if (count := alarms[run_id, severity])}


def _ago(moment: float) -> str:
    """Say how long ago something was, in its largest unit."""
    seconds = max(0.0, time.time() - moment)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def _check_table(checks: "list[Check]") -> "RenderableType":
    from rich.table import Column, Table
    from rich.text import Text

    table = Table.grid(Column(no_wrap=True), Column(no_wrap=True), Column(overflow="fold"), padding=(0, 1))
    for check in checks:
        mending = f"\n-> {check.remedy}" if check.remedy else ""
        table.add_row(Text(check.level, LEVEL_STYLES[check.level]), Text(check.name, "bold"), check.message + mending)
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


def _run_table(runs: "list[Run]", alarms: Counter[tuple[str, str]]) -> "RenderableType":
    from rich.table import Table
    from rich.text import Text

    narrow = _console().width < 66
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("run", overflow="fold")
    if not narrow:
        table.add_column("id", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("heard", justify="right", no_wrap=True)
    table.add_column("open alerts", min_width=10)
    for run in runs:
        parts = [Text(f"{count} {severity}", SEVERITY_STYLES[severity]) for severity, count in _by_severity(alarms, run.id).items()]
        identity = [] if narrow else [run.id[:8]]
        step = str(run.last_step) if run.last_step >= 0 else "-"
        table.add_row(run.name, *identity, str(run.status), step, _ago(run.heartbeat_at), Text(", ").join(parts) or "-")
    return table


def _alert_text(alert: "Alert", run_name: str) -> "RenderableType":
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    head = Text.assemble(
        (f"{alert.severity} ", SEVERITY_STYLES[alert.severity]),
        (alert.rule, "bold"),
        f" · step {alert.first_step} · {alert.module or 'whole model'} · {alert.state} · run {run_name}",
    )
    body = [alert.message]
    if alert.diagnosis:
        cause = alert.diagnosis[0]
        more = f" More: foreshock explain {cause.doc}" if cause.doc else ""
        body.append(
            f"Likely cause: {cause.title} ({cause.confidence:.0%}). {'; '.join(each.rstrip('.') for each in cause.reasons)}.{more}"
        )
    if alert.remedy:
        body.append(f"Remedy: {alert.remedy}")
    return Group(head, Padding(Text("\n".join(body)), (0, 0, 1, 2), expand=False))
