"""Files that interventions wrote and that hold something of the user: bundles of the flight recorder, and checkpoints.

The store knows them by the events that told of them, the disk by what lies there. A path is one of the host that trained the run;
where it is not found from here, nothing is known of the file.

Many write into a shared store, and an event may name any path. So only what looks like ours is measured and deleted: a bundle is a
folder that begins with the run's id and holds the files of a bundle and no others, a checkpoint is ``step-NUMBER.pt`` in a folder
named by the run's id. Links are not followed.
"""

import json
import math
import re
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .base import Store
from .records import Event, Run, new_id

Kind = Literal["bundle", "checkpoint"]

HOLDS: dict[Kind, str] = {
    "bundle": "slices of attention inputs and gradients, statistics, random state, indices of batches",
    "checkpoint": "weights and optimizer state",
}
_KINDS: dict[str, Kind] = {"capture": "bundle", "checkpoint": "checkpoint"}
_OF_BUNDLE = frozenset({"bundle.json", "attention.pt", "README.txt"})
_CHECKPOINT = re.compile(r"step-\d+\.pt(\.part)?")
PRUNED = "captures_pruned"
"""Kind of the event that tells of files that were deleted."""
INSPECTED = "inspected"
"""Kind of the event that keeps the verdict on a bundle: its ``bundle`` is the folder's name, wherever that lay."""


@dataclass(frozen=True, slots=True)
class Captured:
    """A file, or the folder of a bundle. ``bytes`` is None where it is not found from here.

    ``good`` says that it is the last checkpoint of its run that proved good, the one to go back to.
    """

    path: Path
    kind: Kind
    run_id: str
    run_name: str
    step: int
    written_at: float
    host: str
    bytes: int | None
    good: bool = False

    @property
    def holds(self) -> str:
        """What it holds of the user's."""
        return HOLDS[self.kind]


def listed(store: Store, run: Run | None = None) -> list[Captured]:
    """Return what is known of captured files, of one run or of all, newest first.

    Left out are those that were told of as deleted, and checkpoints of this machine that are no more: newer ones took their place.
    """
    found = [item for one in ([run] if run is not None else store.runs()) for item in _of_run(store, one)]
    return sorted(found, key=lambda item: item.written_at, reverse=True)


def _of_run(store: Store, run: Run) -> Iterator[Captured]:
    gone = {path: event.time for event in store.events(run.id, kind=PRUNED) for path in event.data.get("paths", ())}
    seen: dict[Path, Captured] = {}
    for event in store.events(run.id, kind="intervention"):
        kind, path = _KINDS.get(str(event.data.get("intervention"))), event.data.get("path")
        if kind is None or not isinstance(path, str) or event.time <= gone.get(path, -math.inf):
            continue
        for place in _beside(Path(path), kind):
            step = int(event.data.get("at", event.step))
            host = str(event.data.get("host") or run.meta.get("host", ""))
            if place in seen:
                continue
            size = _size(place) if is_ours(place, kind, run.id) else None
            good = size is not None and kind == "checkpoint" and place.name == _good_one(place.parent)
            if size is not None or kind == "bundle" or host != socket.gethostname():
                seen[place] = Captured(place, kind, run.id, run.name, step, event.time, host, size, good)
    yield from seen.values()


def is_ours(path: Path, kind: Kind, run_id: str) -> bool:
    """Return whether what lies at a path is such a thing of that run; False where nothing is there."""
    try:
        if path.is_symlink() or path.parent.is_symlink():
            return False
        if kind == "checkpoint":
            return path.parent.name == run_id and _CHECKPOINT.fullmatch(path.name) is not None and path.exists()
        if not path.name.startswith(f"{run_id[:8]}-step-") or not path.is_dir():
            return False
        return all(file.name in _OF_BUNDLE and not file.is_dir() for file in path.iterdir())
    except OSError:  # not ours to look into
        return False


def _beside(path: Path, kind: Kind) -> Iterator[Path]:
    """Yield a path that was told of, and what lies beside it that was not: half-made ones, and later checkpoints of the run."""
    yield path
    if kind == "bundle":
        half_made = path.with_name(path.name + ".part")
        if half_made.exists():
            yield half_made
    elif path.parent.is_dir():
        yield from (other for other in sorted(path.parent.glob("step-*")) if other != path)


def _good_one(folder: Path) -> str:
    try:
        return str(json.loads((folder / "good.json").read_text())["file"])
    except (OSError, ValueError, TypeError, KeyError):
        return ""


def _size(path: Path) -> int | None:
    try:
        if path.is_dir():
            return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        return path.stat().st_size
    except OSError:
        return None


def delete(store: Store, captured: Sequence[Captured]) -> int:
    """Delete files, tell so by an event of each run, and return how many bytes that freed.

    Passed over are what is not found, and the last good checkpoint of a run that is alive.

    Raises:
        OSError: one cannot be deleted; those before it are, and told of.
    """
    freed, done = 0, dict[str, list[Captured]]()
    try:
        for item in captured:
            if item.bytes is None or not is_ours(item.path, item.kind, item.run_id):
                continue
            if item.good and store.run(item.run_id).alive(time.time()):
                continue
            _delete(item)
            freed += item.bytes
            done.setdefault(item.run_id, []).append(item)
    finally:
        for run_id, items in done.items():
            _tell(store, run_id, items)
    return freed


def _delete(item: Captured) -> None:
    shutil.rmtree(item.path) if item.path.is_dir() else item.path.unlink()
    if item.kind == "checkpoint":
        if item.good:
            (item.path.parent / "good.json").unlink(missing_ok=True)
        if not any(item.path.parent.iterdir()):
            item.path.parent.rmdir()


def _tell(store: Store, run_id: str, items: Sequence[Captured]) -> None:
    message = f"{len(items)} captured files were deleted, {sum(item.bytes or 0 for item in items):,} bytes."
    data = {"paths": [str(item.path) for item in items], "host": socket.gethostname()}
    store.add_event(Event(new_id(), run_id, 0, items[0].step, time.time(), PRUNED, message, data))
