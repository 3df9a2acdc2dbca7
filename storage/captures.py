"""Files that interventions wrote and that hold something of the user: bundles of the flight recorder, and checkpoints.

The store knows them by the events that told of them, the disk by what lies there. A path is one of the host that trained the run;
where it is not found from here, nothing is known of the file.
"""

import shutil
import socket
import time
from collections.abc import Iterator
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
_MARK = "bundle.json"
PRUNED = "captures_pruned"
"""Kind of the event that tells of files that were deleted."""


@dataclass(frozen=True, slots=True)
class Captured:
    """A file, or the folder of a bundle. ``bytes`` is None where it is not found from here."""

    path: Path
    kind: Kind
    run_id: str
    run_name: str
    step: int
    written_at: float
    host: str
    bytes: int | None

    @property
    def holds(self) -> str:
        """What it holds of the user's."""
        return HOLDS[self.kind]


def listed(store: Store, run: Run | None = None) -> list[Captured]:
    """Return what is known of captured files, of one run or of all, newest first; those told of as deleted left out."""
    found = [item for one in ([run] if run is not None else store.runs()) for item in _of_run(store, one)]
    return sorted(found, key=lambda item: item.written_at, reverse=True)


def _of_run(store: Store, run: Run) -> Iterator[Captured]:
    gone = {path for event in store.events(run.id, kind=PRUNED) for path in event.data.get("paths", ())}
    seen: dict[Path, Captured] = {}
    for event in store.events(run.id, kind="intervention"):
        kind, path = _KINDS.get(str(event.data.get("intervention"))), event.data.get("path")
        if kind is None or not isinstance(path, str) or path in gone:
            continue
        for place in _beside(Path(path), kind):
            step = int(event.data.get("at", event.step))
            host = str(event.data.get("host") or run.meta.get("host", ""))
            seen.setdefault(place, Captured(place, kind, run.id, run.name, step, event.time, host, _size(place)))
    yield from seen.values()


def _beside(path: Path, kind: Kind) -> Iterator[Path]:
    """Yield a path that was told of, and what lies beside it that was not: half-made ones, and later checkpoints of the run."""
    yield path
    if kind == "bundle":
        half_made = path.with_name(path.name + ".part")
        if half_made.exists():
            yield half_made
    elif path.parent.is_dir():
        yield from (other for other in sorted(path.parent.glob("step-*")) if other != path)


def _size(path: Path) -> int | None:
    try:
        if path.is_dir():
            return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        return path.stat().st_size
    except OSError:
        return None


def delete(store: Store, captured: list[Captured]) -> int:
    """Delete files, tell so by an event of each run, and return how many bytes that freed. What is not found is passed over.

    Raises:
        OSError: one cannot be deleted; those before it are, and told of.
    """
    freed, done = 0, dict[str, list[Captured]]()
    try:
        for item in captured:
            if item.bytes is None:
                continue
            if item.path.is_dir():
                if not any((item.path / name).exists() for name in (_MARK, "attention.pt")) and any(item.path.iterdir()):
                    raise OSError(f"{item.path} does not look like a bundle of foreshock; it was left as it is")
                shutil.rmtree(item.path)
            else:
                item.path.unlink()
            freed += item.bytes
            done.setdefault(item.run_id, []).append(item)
    finally:
        for run_id, items in done.items():
            paths = [str(item.path) for item in items]
            message = f"{len(items)} captured files were deleted, {sum(item.bytes or 0 for item in items):,} bytes."
            store.add_event(
                Event(
                    new_id(), run_id, 0, items[0].step, time.time(), PRUNED, message, {"paths": paths, "host": socket.gethostname()}
                )
            )
    return freed
