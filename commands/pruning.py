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
    whole: Annotated[bool, typer.Option("--whole", help="The runs named by --run, with everything that is of them.")] = False,
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

    if whole and (not run or older_than is not None or runs_older_than is not None):
        raise typer.BadParameter("--whole deletes runs named by --run, whatever their age: foreshock db prune --run NAME --whole")
    try:
        settings = load_settings(store=store)
        age = seconds_of(older_than) if older_than is not None else None
        runs_age = seconds_of(runs_older_than) if runs_older_than is not None else -1.0 if whole else None
        asked = age is not None or runs_age is not None or captures
        policy = (
            Policy.of(settings.retention) if not asked else Policy.all_after(age) if age is not None and not captures else Policy()
        )
    except ValueError as error:
        note(f"Error: {error}")
        raise typer.Exit(2) from None
    captures_age = (age or 0.0) if captures else (limit.keep if (limit := policy.limits.get("captures")) is not None else None)
    with closing(opened_store(store)) as opened:
        going = Going(opened, run, policy, runs_age, captures_age)
        if not as_json:
            for line in going.lines():
                note(line)
            if not going.anything:
                nothing = "Nothing to do: foreshock.toml has no [retention], and nothing was asked for."
                note("Nothing is old enough to go." if asked or policy.limits else nothing)
        elif not (yes or dry_run):
            raise typer.BadParameter("--json asks nothing: give --dry-run or --yes with it")
        facts = going.facts()
        if going.anything and not dry_run:
            if not yes and not typer.confirm("Delete this for good?", err=True):
                raise typer.Exit(1)
            try:
                rows, freed = going.carry_out()
            except OSError as error:  # of captured files; nothing else was begun
                note(f"Error: {error}. Mend that, or leave --captures out; what was not deleted yet is found again.")
                raise typer.Exit(1) from None
            if not as_json:
                note(f"Deleted {rows:,} points and histograms, {len(going.runs)} runs, and {freed:,} bytes of captured files.")
        if as_json:
            show_json(facts | {"done": going.anything and not dry_run})
        if whole and going.alive:
            raise typer.Exit(1)  # it was named, and it is still there


class Going:
    """What is to go. Captured files go with their run: once it is gone, nobody would know of them."""

    def __init__(
        self, store: "Store", names: list[str] | None, policy: Any, runs_age: float | None, captures_age: float | None
    ) -> None:
        from ..storage.captures import listed
        from ..storage.pruning import plan
        from ..storage.records import BEING_DELETED

        now = time.time()
        chosen = list({one.id: one for one in map(store.run, names)}.values()) if names else store.runs()
        ended: list[Run] = [one for one in chosen if not one.alive(now)]
        self._store = store
        self.alive = len(chosen) - len(ended)
        self.runs = [
            one
            for one in ended
            if BEING_DELETED in one.meta  # the deletion was interrupted
            or (runs_age is not None and now - (one.ended_at or one.heartbeat_at) > runs_age)
        ]
        gone = {one.id for one in self.runs}
        self.pieces: list[Piece] = plan(store.database, [one for one in ended if one.id not in gone], policy, now)  # type: ignore[attr-defined]
        known = [item for one in ended if captures_age is not None or one.id in gone for item in listed(store, one)]
        self.captured: list[Captured] = [
            item
            for item in known
            if item.bytes is not None
            and (item.run_id in gone or (captures_age is not None and now - item.written_at >= captures_age))
        ]
        self.elsewhere = [item for item in known if item.bytes is None and item.run_id in gone]

    @property
    def anything(self) -> bool:
        """Whether there is."""
        return bool(self.runs or self.pieces or self.captured)

    def facts(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        pieces = [plain(piece) | {"numbers": len(piece.numbers), "bytes": piece.bytes} for piece in self.pieces]
        captured = [{"path": str(item.path), "run": item.run_name, "bytes": item.bytes} for item in self.captured]
        whole = [{"id": one.id, "name": one.name, "last_step": one.last_step} for one in self.runs]
        return {"runs": whole, "pieces": pieces, "captures": captured, "alive": self.alive}

    def lines(self) -> list[str]:
        """Return it in words."""
        lines = [f"run {one.name} ({one.id[:8]}), to step {one.last_step:,}: all of it" for one in self.runs]
        for piece in self.pieces:
            what = "histograms" if piece.name == "histograms" else f"points of {piece.name}"
            how = ", thinned out: their rollups stay" if piece.thin else ""
            span = f"steps {piece.first_step:,} to {piece.last_step:,}"
            if piece.rollups and not piece.rows:
                what = f"{what}, and the rollups of those thinned out before"
            lines.append(f"run {piece.run_name}, {span}: {piece.rows:,} {what}, about {piece.bytes:,} bytes{how}")
        for item in self.captured:
            good = ", the last checkpoint that proved good" if item.good else ""
            lines.append(f"run {item.run_name}: {item.path}, {item.bytes:,} bytes{good}")
        lines += [
            f"run {item.run_name}: {item.path} is not found from here{f'; it was written on {item.host}' if item.host else ''}"
            for item in self.elsewhere
        ]
        if self.alive:
            lines.append(f"{self.alive} runs are alive and left alone.")
        return lines

    def carry_out(self) -> tuple[int, int]:
        """Delete it; return how many points and histograms that were, and how many bytes of files."""
        from ..storage.captures import delete
        from ..storage.pruning import prune

        with progress_bar() as progress:
            task = progress.add_task("deleting", total=sum(piece.rows for piece in self.pieces) + len(self.runs))
            freed = delete(self._store, self.captured)  # while their runs are there to be told of it
            for one in self.runs:
                self._store.delete_run(one.id)
                progress.advance(task)
            rows = prune(self._store.database, self.pieces, lambda done: progress.advance(task, done))  # type: ignore[attr-defined]
        return rows, freed
