"""The commands ``foreshock zoo ...``. Imports what is heavy when a command runs."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

if TYPE_CHECKING:
    from .check import Checked
    from .recording import Recording
    from .scenario import Scenario

T = TypeVar("T")

app = typer.Typer(help="Training runs that fail in known ways, and healthy ones that look alarming.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print data as JSON, and nothing else.")]
SplitOption = Annotated[Literal["train", "held_out", "all"], typer.Option(help="Which half: detectors are set on `train` only.")]
JobsOption = Annotated[int, typer.Option(min=1, help="Runs at a time, one thread each.")]
SeedsOption = Annotated[int, typer.Option(min=1, help="How many seeds of each.")]
FirstSeedOption = Annotated[int, typer.Option(min=0, help="The first of them; rules are set on seeds from 100 on.")]


@app.command("list", epilog="Example: foreshock zoo list --split held_out --json")
def list_(split: SplitOption = "all", as_json: JsonOption = False) -> None:
    """List the scenarios: what they train, how they end and why."""
    chosen = _chosen(None, split)
    if as_json:
        names = ("name", "family", "split", "title", "cause", "cause_id", "onset", "expected", "steps", "trouble_step", "source")
        _print_json([{name: getattr(each, name) for name in names} for each in chosen])
        return
    rows = [(each.name, each.split, each.onset or "healthy", each.expected, each.title) for each in chosen]
    _print_table(("scenario", "split", "onset", "ends", "what it is"), rows)


@app.command(epilog="Example: foreshock zoo run learning-rate-ramp --seed 1")
def run(
    name: Annotated[str, typer.Argument(metavar="NAME", help="One of those that `foreshock zoo list` shows.")],
    seed: Annotated[int, typer.Option(help="Seed of the training run.")] = 0,
    store: Annotated[str | None, typer.Option(metavar="URL", help="SQLAlchemy URL; else the configured store.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads to train with.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Train one scenario under the monitor; tell how it ended, and which alerts came how long before."""
    (chosen,) = _chosen([name], "all")
    from ..config import load_settings
    from .recording import monitored

    found = monitored(chosen, seed, load_settings(store=store).store, threads=threads)
    if as_json:
        _print_json(asdict(found))
    else:
        typer.echo(_told(found))


@app.command(epilog="Example: foreshock zoo record --split train --seeds 5 --out recordings --jobs 4")
def record(
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder of the recordings; what it holds is not made again.")],
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these scenarios.")] = None,
    split: SplitOption = "all",
    seeds: SeedsOption = 5,
    first_seed: FirstSeedOption = 0,
    jobs: JobsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Record runs with every probe, a SQLite store each, to score detectors on. Goes on where it was interrupted."""
    chosen = _chosen(names, split)
    from .recording import record as record_all

    numbers = range(first_seed, first_seed + seeds)
    found = list(_with_progress(record_all(chosen, numbers, out, jobs=jobs), len(chosen) * seeds, "recording"))
    size = sum(each.bytes for each in found)
    if as_json:
        _print_json([asdict(each) for each in found])
    else:
        typer.echo(f"{len(found)} runs, {sum(each.steps for each in found):,} steps, {size / 2**20:.0f} MiB in {out}")


@app.command(epilog="Example: foreshock zoo check missing-warmup --seeds 5")
def check(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these scenarios.")] = None,
    split: SplitOption = "all",
    seeds: SeedsOption = 5,
    jobs: JobsOption = 1,
    out: Annotated[Path, typer.Option(dir_okay=False, help="Results; what it holds is not made again.")] = Path("zoo-check.json"),
    as_json: JsonOption = False,
) -> None:
    """Train scenarios without a monitor and compare how they end with what they say. Exit status 1 where one does not."""
    chosen = _chosen(names, split)
    from .check import check as check_all

    found = list(_with_progress(check_all(chosen, seeds, out, jobs), len(chosen) * seeds, "training"))
    if as_json:
        _print_json([asdict(each) for each in found])
    else:
        _print_table(("scenario", "expected", "ended", "as expected", "step of failure", "seconds"), _summed(chosen, found))
    raise typer.Exit(0 if all(each.expected for each in found) else 1)


@app.command(epilog="Example: foreshock zoo score --recordings recordings --split train --json")
def score(
    recordings: Annotated[Path, typer.Option(file_okay=False, exists=True, help="Folder that `foreshock zoo record` made.")],
    split: SplitOption = "all",
    jobs: JobsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Score the rules and the baselines on recorded runs: recall, lead, false alarms, the cause named first.

    Where the folder holds RESCUE.json, of `foreshock zoo rescue --out`, runs saved by the recommended intervention too.
    """
    from .recording import recordings as recorded
    from .score import FAMILY_HEAD, HEAD, family_lines, lines, watch
    from .score import score as scored

    total = sum(split in ("all", each.split) for each in recorded(recordings))
    if not total:
        raise typer.BadParameter(f"{recordings} holds no recording; make some: foreshock zoo record", param_hint="--recordings")
    found = scored(_with_progress(watch(recordings, split, jobs), total, "scoring"))
    from .rescue import FILE, read, summed

    for name, sums in summed(read(recordings / FILE)).items():
        if name in found["splits"]:
            found["splits"][name]["rescued"] = sums
    if as_json:
        _print_json(found)
        return
    for name, told in found["splits"].items():
        typer.echo(f"{name}: {told['failing']} failing, {told['healthy']} healthy")
        _print_table(HEAD, lines(told))
        _print_table(FAMILY_HEAD, family_lines(told))
        if "rescued" in told:
            sums = told["rescued"]
            typer.echo(f"Saved by the recommended intervention: {sums['saved']} of {sums['runs']}; stopped: {sums['stopped']}")
    if found["left_out"]:
        typer.echo(f"Left out, as they did not end as their scenario says: {', '.join(found['left_out'])}")


@app.command(epilog="Example: foreshock zoo calibrate --recordings recordings --out analyzer/risk.toml --jobs 2")
def calibrate(
    recordings: Annotated[
        list[Path], typer.Option(file_okay=False, exists=True, help="Folder that `foreshock zoo record` made; may be given again.")
    ],
    out: Annotated[Path, typer.Option(dir_okay=False, help="The fitted model; overwritten.")] = Path("risk.toml"),
    jobs: JobsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Fit the risk on recorded runs of the split train, seeds from 100 on, and tell how well it holds on families left out."""
    from .calibration import FIRST_SEED, SPLIT, courses, fitted, toml, usable

    total = len(usable(recordings))
    if not total:
        example = f"foreshock zoo record --split {SPLIT} --first-seed {FIRST_SEED} --seeds 3 --out {recordings[0]}"
        folders = ", ".join(map(str, recordings))
        missing = f"no recording of the split {SPLIT} with a seed from {FIRST_SEED} on in {folders}; make some: {example}"
        raise typer.BadParameter(missing, param_hint="--recordings")
    try:
        found = fitted(_with_progress(courses(recordings, jobs), total, "replaying"))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--recordings") from None
    out.write_text(toml(found), "utf-8")
    measured = found["measured"]
    if as_json:
        _print_json(measured)
        return
    head = ("said", "came of it", "95 %", "runs", "scenarios")
    _print_table(head, [_reliable(line) for line in measured["reliability"]])
    typer.echo(
        f"{measured['runs']} runs, {measured['moments']} moments, {measured['soon_share']:.0%} followed by a failure. Brier score "
        f"{measured['brier']:.3f} (the mean alone: {measured['brier_base']:.3f}), log loss {measured['log_loss']:.3f} "
        f"({measured['log_loss_base']:.3f}), calibration error {measured['calibration_error']:.3f}. Written to {out}."
    )


def _reliable(line: "Mapping[str, Any]") -> tuple[str, ...]:
    """Return a line of the reliability table."""
    interval = f"{line['came_low']:.0f} to {line['came_high']:.0f}"
    return f"{line['said']:.0f}", f"{line['came']:.0f} %", interval, str(line["runs"]), str(line["scenarios"])


@app.command(epilog="Example: foreshock zoo rescue learning-rate-kick --seeds 3")
def rescue(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these scenarios.")] = None,
    split: SplitOption = "all",
    seeds: SeedsOption = 5,
    first_seed: FirstSeedOption = 0,
    intervene: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Do this instead of what the diagnosis recommends; may be repeated.")
    ] = None,
    jobs: JobsOption = 1,
    out: Annotated[Path | None, typer.Option(dir_okay=False, help="Results; what it holds is not made again.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train failing scenarios with the interventions that their diagnosis recommends; tell which runs were saved."""
    chosen = [each for each in _chosen(names, split) if each.fails]
    from .rescue import HEAD, line, summed
    from .rescue import rescue as rescue_all

    numbers = range(first_seed, first_seed + seeds)
    tried = rescue_all(chosen, numbers, out, jobs, tuple(intervene) if intervene else None)
    found = list(_with_progress(tried, len(chosen) * seeds, "rescuing"))
    sums = summed(found)
    if as_json:
        _print_json({"splits": sums, "runs": [asdict(each) for each in found]})
        return
    _print_table(HEAD, [line(each) for each in sorted(found, key=lambda each: (each.split, each.scenario, each.seed))])
    for name, each in sums.items():
        typer.echo(f"{name}: {each['saved']} of {each['runs']} failing runs saved, {each['stopped']} stopped")


def _chosen(names: list[str] | None, split: str) -> "list[Scenario]":
    from .scenario import scenarios

    known = scenarios()
    for name in names or []:
        if name not in known:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(known)}.", param_hint="NAME")
    chosen = [known[name] for name in dict.fromkeys(names)] if names else list(known.values())
    return [each for each in chosen if split in ("all", each.split)]


def _summed(chosen: "list[Scenario]", found: "list[Checked]") -> Iterator[tuple[str, ...]]:
    """Yield a line for each scenario."""
    from .check import spread

    for each in chosen:
        its = [one for one in found if one.scenario == each.name]
        ended = ", ".join(sorted({one.outcome for one in its}))
        right = f"{sum(one.expected for one in its)} of {len(its)}"
        yield each.name, each.expected, ended, right, spread([one.step for one in its]), spread([one.seconds for one in its])


def _told(found: "Recording") -> str:
    """Return what a monitored run showed, in plain words."""
    seen = [(alert["step"], f"{alert['severity']}: {alert['message']}") for alert in found.alerts]
    if found.failure_step is not None:
        seen.append((found.failure_step, "the run counts as failed"))
    lines = [f"  step {step:5d}   {text}" for step, text in sorted(seen)] or ["  no alert was raised"]
    lines.append(f"{found.scenario}, seed {found.seed}: {found.outcome} (expected: {found.expected}), {found.steps} steps.")
    if found.lead is not None:
        lines.append(f"The first warning came {abs(found.lead)} steps {'before' if found.lead >= 0 else 'after'} the failure.")
    return "\n".join(lines)


def _with_progress(work: Iterable[T], total: int, words: str) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(file=sys.stderr)) as progress:
        yield from progress.track(work, total=total, description=words)


def _print_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    from rich.table import Table

    from ..commands.output import show

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for place, name in enumerate(head):
        table.add_column(name, no_wrap=place == 0, overflow="fold")  # the first holds what people copy
    for row in rows:
        table.add_row(*row)
    show(table)


def _print_json(data: Any) -> None:
    typer.echo(json.dumps(data, indent=2, allow_nan=False))
