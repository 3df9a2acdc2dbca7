"""The commands ``foreshock db archive`` and ``foreshock db restore``. Imports what is heavy when they run."""

import time
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from .exporting import steps_of
from .output import JsonOption, StoreOption, note, opened_store, show_json
from .progress import progress_bar


def add_commands(db: typer.Typer) -> None:
    """Add these commands to the group ``db``."""
    db.command(epilog="Example: foreshock db archive gpt2-bf16 --to archives --remove")(archive)
    db.command(epilog="Example: foreshock db restore archives --store runs.db")(restore)


def archive(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Names, ids, or first letters of ids.")],
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="Gets a folder for each run; made if it is missing.")],
    remove: Annotated[bool, typer.Option("--remove", help="Delete each run from the store once its archive is verified.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace archives that are there.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write everything of runs that ended to Parquet files, read it back, and compare it with the store."""
    from ..storage.transfer.archive import archive_run, remove_archived
    from ..storage.transfer.files import size_of

    facts: list[dict[str, object]] = []
    with closing(opened_store(store)) as opened:
        chosen = list({run.id: run for run in (opened.run(reference) for reference in runs)}.values())
        to.mkdir(parents=True, exist_ok=True)
        for run in chosen:
            started, cursor = time.monotonic(), opened.changes(run.id).cursor
            with progress_bar() as progress:
                task = progress.add_task(f"archiving {run.name}", total=2 * steps_of(opened, run))
                folder = archive_run(opened, run, to, force=force, progress=lambda steps: progress.advance(task, steps))  # noqa: B023
            if remove:
                remove_archived(opened, run, cursor)
            size, seconds = size_of(folder), round(time.monotonic() - started, 3)
            facts.append(
                {"run": run.name, "run_id": run.id, "folder": str(folder), "bytes": size, "removed": remove, "seconds": seconds}
            )
            note(f"{folder}: run {run.name}, {size:,} bytes, verified{', and removed from the store' if remove else ''}.")
    if as_json:
        show_json(facts)


def restore(
    path: Annotated[Path, typer.Argument(metavar="FOLDER|FILE", help="An archive, its manifest.json, or a folder of archives.")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring archived runs back into a store, which is made if it is not there. What is there already is not added twice."""
    from ..config import load_settings
    from ..storage import open_store
    from ..storage.transfer.archive import Archive, archives_in
    from ..storage.transfer.restore import restore_run

    found = [Archive(folder) for folder in archives_in(path)]  # all of them are checked before the first is restored
    facts: list[dict[str, object]] = []
    with closing(open_store(load_settings(store=store).store)) as opened:
        for archived in found:
            started, total = time.monotonic(), archived.manifest.counts["steps"]
            with progress_bar() as progress:
                task = progress.add_task(f"restoring {archived.run.name}", total=total)
                restored = restore_run(opened, archived, progress=lambda steps: progress.advance(task, steps))  # noqa: B023
            run, seconds = restored.run, round(time.monotonic() - started, 3)
            facts.append({"run": run.name, "run_id": run.id, "outcome": str(restored.outcome), "seconds": seconds})
            note(f"{run.name} ({run.id[:8]}): {restored.outcome}.")
    if as_json:
        show_json(facts)
