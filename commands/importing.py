"""The commands ``foreshock import tensorboard|wandb|mlflow|csv``. They import what is heavy when they run."""

import fnmatch
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import JsonOption, StoreOption, note, show, show_json
from .progress import progress_bar

if TYPE_CHECKING:
    from rich.progress import Progress

    from ..storage.transfer.imports.intake import Imported
    from ..storage.transfer.imports.source import Found, Source, Survey

app = typer.Typer(help="Bring in runs of TensorBoard, Weights & Biases, MLflow, or CSV files.", no_args_is_help=True)

PathArgument = Annotated[Path, typer.Argument(metavar="PATH", help="A run, or a folder of runs.", exists=True)]
RunOption = Annotated[str | None, typer.Option("--run", metavar="NAME", help="What to call the run here; only for one run.")]
ProjectOption = Annotated[str | None, typer.Option("--project", metavar="P", help="Project to put runs in; else the tracker's.")]
PickOption = Annotated[
    list[str] | None,
    typer.Option("--pick", metavar="NAME", help="Only runs of this name or id; * stands for anything. Repeatable."),
]
MapOption = Annotated[
    list[str] | None, typer.Option("--map", metavar="SIGNAL=THEIRNAME", help="Take THEIRNAME for this signal. Repeatable.")
]


def add_commands(to: typer.Typer) -> None:
    """Add these commands to the command line."""
    to.add_typer(app, name="import")


@app.command(epilog="Example: foreshock import tensorboard runs/ --pick 'gpt2-*'")
def tensorboard(
    path: PathArgument,
    run: RunOption = None,
    project: ProjectOption = None,
    pick: PickOption = None,
    map: MapOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import TensorBoard event files: a run for each folder that has some."""
    from ..storage.transfer.imports import tensorboard as reader

    _Import(run, project, pick, map, store, as_json).of(reader.find(path))


@app.command(epilog="Example: foreshock import wandb wandb/ --step-metric train/global_step")
def wandb(
    path: PathArgument,
    step_metric: Annotated[
        str | None, typer.Option(metavar="NAME", help="The logged metric that counts steps, if W&B's own step does not.")
    ] = None,
    run: RunOption = None,
    project: ProjectOption = None,
    pick: PickOption = None,
    map: MapOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import Weights & Biases runs from their run-*.wandb files, offline or not."""
    from ..storage.transfer.imports import wandb as reader

    _Import(run, project, pick, map, store, as_json).of(reader.find(path, step_metric=step_metric))


@app.command(epilog="Example: foreshock import mlflow mlflow.db --pick my-run")
def mlflow(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="mlruns/, an experiment or run in it, mlflow.db, or a database's URL.")
    ],
    run: RunOption = None,
    project: ProjectOption = None,
    pick: PickOption = None,
    map: MapOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import MLflow runs from its file store or its database."""
    from ..storage.transfer.imports import mlflow as reader

    _Import(run, project, pick, map, store, as_json).of(reader.find(path))


@app.command(epilog="Example: foreshock import csv losses.csv --step-column iteration --map loss=train")
def csv(
    path: PathArgument,
    step_column: Annotated[str | None, typer.Option(metavar="COLUMN", help="The column of steps; else one called step.")] = None,
    run: RunOption = None,
    project: ProjectOption = None,
    pick: PickOption = None,
    map: MapOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import CSV files, plain or gzip-compressed: a column a metric, or columns signal and value."""
    from ..storage.transfer.imports import csv as reader

    _Import(run, project, pick, map, store, as_json).of(reader.find(path, step_column=step_column))


@dataclass(frozen=True, slots=True)
class _Import:
    """What was asked for, whatever the format."""

    name: str | None
    project: str | None
    pick: list[str] | None
    maps: list[str] | None
    store: str | None
    as_json: bool

    def of(self, found: "Found") -> None:
        """Look all runs over, import one after another, and tell what came of each."""
        from ..config import load_settings
        from ..storage import open_store
        from ..storage.transfer.imports.intake import import_run
        from ..storage.transfer.imports.names import check_maps, parse_maps
        from ..storage.transfer.imports.source import names_of

        maps = parse_maps(self.maps or ())
        chosen = self._picked(found.runs)
        imported: list[Imported] = []
        empty: list[str] = []
        with progress_bar() as progress:
            surveys = [(source, _survey(source, progress)) for source in chosen]
            check_maps(maps, list(dict.fromkeys(each for _, survey in surveys for each in names_of(survey.all_labels))))
            with closing(open_store(load_settings(store=self.store).store)) as store:
                for source, survey in surveys:
                    if not survey.values:
                        empty.append(source.name)
                        continue
                    task = progress.add_task(f"importing {source.name}", total=survey.values)
                    imported.append(
                        import_run(
                            store,
                            source,
                            survey,
                            name=self.name,
                            project=self.project,
                            maps=maps,
                            progress=partial(progress.advance, task),
                        )
                    )
                    progress.remove_task(task)
        if self.as_json:
            show_json({"runs": [_plain(each) for each in imported], "empty": empty, "left_out": list(found.left_out)})
        else:
            for each in imported:
                show("\n".join(_told(each)))
            if empty:
                note(f"Nothing to import in {', '.join(empty)}.")
            if found.left_out:
                note(f"Left out: {', '.join(found.left_out)}.")

    def _picked(self, sources: "Sequence[Source]") -> "list[Source]":
        """Return the runs that were asked for by name or id.

        Raises:
            TransferError: nothing has one of the names, or several runs are to have one.
        """
        from ..storage.transfer.packages import TransferError

        chosen = [source for source in sources if not self.pick or any(_is(source, pattern) for pattern in self.pick)]
        for pattern in self.pick or ():
            if not any(_is(source, pattern) for source in sources):
                raise TransferError(f"--pick {pattern}: no run is called that. There are {_names(sources)}.")
        if self.name is not None and len(chosen) > 1:
            raise TransferError(
                f"--run {self.name} names one run, and these are {len(chosen)}: {_names(chosen)}. Choose one with --pick."
            )
        return chosen


def _is(source: "Source", pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for name in (source.name, *source.aliases))


def _names(sources: "Sequence[Source]") -> str:
    return ", ".join(source.name for source in sources[:10]) + (f" and {len(sources) - 10} more" if len(sources) > 10 else "")


def _survey(source: "Source", progress: "Progress") -> "Survey":
    task = progress.add_task(f"reading {source.name}", total=source.size or None)
    survey = source.survey(lambda size: progress.advance(task, size))
    progress.remove_task(task)
    return survey


def _told(imported: "Imported") -> Iterator[str]:
    """Yield what came of an import, in plain words."""
    run, counts, naming, survey = imported.run, imported.counts, imported.naming, imported.survey
    new = f"{counts.steps:,} new steps, {counts.values:,} new values"
    if counts.histograms:
        new += f", {counts.histograms:,} new histograms"
    head = f"{run.name} ({run.id[:8]})"
    yield f"{head}: {'already imported, ' if imported.already else ''}{new}; {run.status}, last step {run.last_step:,}."
    if counts.segments > 1:
        yield f"  It was resumed: {counts.segments} segments."
    for theirs, ours in naming.mapped.items():
        yield f"  {theirs} is {ours}"
    for sentence in naming.clashes:
        yield f"  {sentence}"
    for number, what in (
        (counts.changed, "values were there under another number and were replaced."),
        (counts.repeated, "values were written more than once for a step: the last counts."),
        (counts.late, "values came out of order and were put in their place."),
    ):
        if number:
            yield f"  {number:,} {what}"
    if survey.skipped:
        yield f"  Left out: {', '.join(f'{number:,} {what}' for what, number in survey.skipped.items())}."
    for sentence in survey.notes:
        yield f"  {sentence}"
    yield f"  Next: foreshock backtest {run.id[:8]}"


def _plain(imported: "Imported") -> dict[str, Any]:
    from dataclasses import asdict

    run = imported.run
    return {
        "run": run.name,
        "run_id": run.id,
        "project": run.project,
        "status": str(run.status),
        "last_step": run.last_step,
        "from": imported.origin,
        "already_imported": imported.already,
        **asdict(imported.counts),
        "mapped": imported.naming.mapped,
        "clashes": imported.naming.clashes,
        "left_out": dict(imported.survey.skipped),
        "notes": imported.survey.notes,
    }
