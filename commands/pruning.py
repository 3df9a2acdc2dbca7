"""The command ``foreshock db prune``. Imports what is heavy when it runs."""

import time
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import JsonOption, StoreOption, note, opened_store, plain, show_json
from .progress import progress_bar

if TYPE_CHECKING:
    from ..storage import Store
    from ..storage.captures import Captured
    from ..storage.pruning import Piece
    from ..storage.records import Run

SpanOption = typer.Option(metavar="SPAN", help="As in 12h, 90d, 2w.")


def add_commands(db: typer.Typer) -> None:
    """Add this command to the group ``db``."""
    db.command(epilog="Example: foreshock db prune --older-than 90d --dry-run")(prune)


def prune(
    run: Annotated[
        list[str] | None, typer.Option("--run", metavar="RUN", help="Only these runs; may be given several times.")
    ] = None,
    older_than: Annotated[
        str | None, typer.Option(metavar="SPAN", help="Samples and histograms older than this, 90d for example.")
    ] = None,
    runs_older_than: Annotated[str | None, typer.Option(metavar="SPAN", help="Whole runs that ended longer ago than this.")] = None,
    captures: Annotated[
        bool, typer.Option("--captures", help="Bundles and checkpoints, older than --older-than if that is given.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would go, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete what is old: as the setting retention says, or as asked for here. Runs that are alive are left alone."""
    from ..config import load_settings
    from ..storage.retention import Policy, seconds_of

    try:
        settings = load_settings(store=store)
        age = seconds_of(older_than) if older_than is not None else None
        runs_age = seconds_of(runs_older_than) if runs_older_than is not None else None
        asked = age is not None or runs_age is not None or captures
        policy = (
            Policy.of(settings.retention) if not asked else Policy.all_after(age) if age is not None and not captures else Policy()
        )
    except ValueError as error:
        note(f"Error: {error}")
        raise typer.Exit(2) from None
    captures_age = (age or 0.0) if captures else (limit.keep if (limit := policy.limits.get("captures")) is not None else None)
    with closing(opened_store(store)) as opened:
        going = _Going(opened, run, policy, runs_age, captures_age)
        if as_json and (dry_run or yes):
            show_json(going.facts() | {"done": not dry_run})
        else:
            for line in going.lines():
                note(line)
        if dry_run or not going.anything:
            if not going.anything and not as_json:
                note(
                    "Nothing is old enough to go."
                    if asked or policy.limits
                    else "Nothing to do: foreshock.toml has no [retention], and nothing was asked for."
                )
            return
        if not yes and not typer.confirm("Delete this for good?", err=True):
            raise typer.Exit(1)
        rows, freed = going.carry_out()
    if not as_json:
        note(f"Deleted {rows:,} points and histograms, {len(going.runs)} runs, and {freed:,} bytes of captured files.")


class _Going:
    """What is to go."""

    def __init__(
        self, store: "Store", names: list[str] | None, policy: Any, runs_age: float | None, captures_age: float | None
    ) -> None:
        from ..storage.captures import listed
        from ..storage.pruning import alive, plan

        now = time.time()
        chosen = [store.run(name) for name in names] if names else store.runs()
        ended: list[Run] = [one for one in chosen if not alive(one, now)]
        self._store = store
        self.alive = len(chosen) - len(ended)
        self.runs = [one for one in ended if runs_age is not None and now - (one.ended_at or one.heartbeat_at) > runs_age]
        gone = {one.id for one in self.runs}
        self.pieces: list[Piece] = plan(store.database, [one for one in ended if one.id not in gone], policy, now)  # type: ignore[attr-defined]
        self.captured: list[Captured] = []
        if captures_age is not None:
            found = [item for one in ended for item in listed(store, one)]
            self.captured = [item for item in found if item.bytes is not None and now - item.written_at >= captures_age]

    @property
    def anything(self) -> bool:
        return bool(self.runs or self.pieces or self.captured)

    def facts(self) -> dict[str, Any]:
        pieces = [plain(piece) | {"numbers": len(piece.numbers)} for piece in self.pieces]
        captured = [{"path": str(item.path), "run": item.run_name, "bytes": item.bytes} for item in self.captured]
        return {"runs": [one.name for one in self.runs], "pieces": pieces, "captures": captured, "alive": self.alive}

    def lines(self) -> list[str]:
        lines = [f"run {one.name} ({one.id[:8]}), to step {one.last_step:,}: all of it" for one in self.runs]
        for piece in self.pieces:
            what = "histograms" if piece.name == "histograms" else f"points of {piece.name}"
            how = ", thinned out: their rollups stay" if piece.thin else ""
            about = f"about {piece.rows * 30:,} bytes"
            lines.append(
                f"run {piece.run_name}, steps {piece.first_step:,} to {piece.last_step:,}: {piece.rows:,} {what}, {about}{how}"
            )
        lines += [f"run {item.run_name}: {item.path}, {item.bytes:,} bytes" for item in self.captured]
        if self.alive and self.anything:
            lines.append(f"{self.alive} runs are alive and left alone.")
        return lines

    def carry_out(self) -> tuple[int, int]:
        from ..storage.captures import delete
        from ..storage.pruning import prune

        rows = 0
        with progress_bar() as progress:
            task = progress.add_task("deleting", total=sum(piece.rows for piece in self.pieces) + len(self.runs))
            for one in self.runs:
                self._store.delete_run(one.id)
                progress.advance(task)
            rows = prune(self._store.database, self.pieces, lambda done: progress.advance(task, done))  # type: ignore[attr-defined]
        return rows, delete(self._store, self.captured)
