"""Captured user data: the bundles and checkpoints that interventions wrote, as the store's events tell of them.

A file is taken for one of ours only where it looks like one: a bundle is a folder with a ``bundle.json`` that names the run, a
checkpoint is ``step-NUMBER.pt`` in a folder of the run's id. Nothing else is ever measured or removed, whatever an event says: many
write into a shared store. Files of another machine are known, but not seen from here.
"""

import json
import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .base import Store
from .records import Event, Run, new_id

EVENT = "captures_removed"
"""Kind of the event that notes what was removed of a run's files."""

_CHECKPOINT = re.compile(r"step-\d{9,}\.pt")
_BUNDLE_FILES = ("bundle.json", "attention.pt", "README.txt")
_WRITTEN = {"capture": "Captured ", "checkpoint": "Saved a checkpoint "}
"""How messages begin that tell of a file that was written; others, of the same interventions, name files too."""
_HOLDS = {
    "capture": "the last sampled steps before an alert: statistics, random state, rows of q, k, v, O and dO, notes on batches",
    "checkpoint": "weights and optimizer states, and what was given as extra",
}


@dataclass(frozen=True, slots=True)
class CaptureFile:
    """A bundle or a checkpoint.

    Attributes:
        kind: ``"bundle"`` or ``"checkpoint"``.
        path: of the folder or file.
        step: the step it was written at.
        time: when, seconds since the epoch.
        holds: what it holds of the user's data, in words.
        host: the machine it was written on, ``''`` where that is not known.
        exists: whether it is there, as seen from this machine.
        bytes: its size now, 0 where it is not there.
        protected: whether it is the last checkpoint that proved good, the one to go back to.
    """

    run_id: str
    run_name: str
    kind: str
    path: Path
    step: int
    time: float
    holds: str
    host: str
    exists: bool
    bytes: int
    protected: bool

    @property
    def elsewhere(self) -> bool:
        """Whether it may lie on another machine: it is not seen here and was not written here."""
        return not self.exists and self.host not in ("", socket.gethostname())


def listed(store: Store, run_id: str | None = None) -> list[CaptureFile]:
    """Return every bundle and checkpoint that the store's events tell of, of one run or of all, in order of time in each run.

    Costs a query a run, and a look at the disk for each file. Those that are gone are listed too, with ``exists`` False.

    Raises:
        UnknownRunError: no such run.
    """
    runs = store.runs() if run_id is None else [store.run(run_id)]
    return [item for run in runs for item in _of_run(store, run)]


def remove(store: Store, items: Iterable[CaptureFile], *, now: float, why: str) -> tuple[list[CaptureFile], list[str]]:
    """Delete files, and note it as an event of their runs; return those deleted, and a line for each that could not be.

    The last good checkpoint of a run that is still going is left, and so is what does not look like ours.
    """
    gone: dict[str, list[CaptureFile]] = {}
    troubles: list[str] = []
    for item in items:
        run = store.run(item.run_id)
        if item.protected and run.alive(now):
            troubles.append(f"{item.path}: the last good checkpoint of a run that is still going")
        elif _is_ours(item.kind, item.path, item.run_id):
            try:
                _delete(item)
            except OSError as error:
                troubles.append(f"{item.path}: {error.strerror or error}")
            else:
                gone.setdefault(item.run_id, []).append(item)
    for run_id, removed in gone.items():
        run, size = store.run(run_id), sum(item.bytes for item in removed)
        data = {"paths": [str(item.path) for item in removed], "bytes": size, "why": why}
        message = f"Removed {len(removed)} captured files, {size:,} bytes: {why}"
        store.add_event(Event(new_id(), run_id, _segment(store, run_id), run.last_step, now, EVENT, message, data))
    return [item for removed in gone.values() for item in removed], troubles


def _of_run(store: Store, run: Run) -> Iterator[CaptureFile]:
    host = run.meta.get("host")
    good: dict[Path, str] = {}
    found: dict[Path, CaptureFile] = {}
    for event in store.events(run.id, kind="intervention"):
        by = event.data.get("intervention")
        if by not in _WRITTEN or not event.message.startswith(_WRITTEN[by]) or not isinstance(event.data.get("path"), str):
            continue
        kind = "bundle" if by == "capture" else "checkpoint"
        path = Path(event.data["path"])
        exists = _is_ours(kind, path, run.id)
        if kind == "checkpoint" and path.parent not in good:
            good[path.parent] = _good_one(path.parent)
        found[path] = CaptureFile(
            run.id,
            run.name,
            kind,
            path,
            _step(event),
            event.time,
            _HOLDS[by],
            host if isinstance(host, str) else "",
            exists,
            _size(path) if exists else 0,
            kind == "checkpoint" and exists and good[path.parent] == path.name,
        )
    yield from found.values()


def _step(event: Event) -> int:
    at = event.data.get("at")
    return at if isinstance(at, int) else event.step


def _segment(store: Store, run_id: str) -> int:
    return max((segment.segment for segment in store.segments(run_id)), default=0)


def _good_one(folder: Path) -> str:
    name = _json(folder / "good.json").get("file")
    return name if isinstance(name, str) else ""


def _is_ours(kind: str, path: Path, run_id: str) -> bool:
    if path.is_symlink() or not path.exists():
        return False
    if kind == "checkpoint":
        return _CHECKPOINT.fullmatch(path.name) is not None and path.parent.name == run_id
    run = _json(path / "bundle.json").get("run")
    return isinstance(run, Mapping) and run.get("id") == run_id


def _json(file: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; what cannot be looked at counts nothing."""
    parts = (Path(folder) / name for folder, _, names in os.walk(path) for name in names) if path.is_dir() else [path]
    total = 0
    for part in parts:
        try:
            total += part.lstat().st_size
        except OSError:
            continue
    return total


def _delete(item: CaptureFile) -> None:
    if item.kind == "checkpoint":
        shutil.rmtree(item.path) if item.path.is_dir() else item.path.unlink(missing_ok=True)
        if item.protected:
            (item.path.parent / "good.json").unlink(missing_ok=True)
        beside = item.path.parent
    else:
        for name in _BUNDLE_FILES:
            (item.path / name).unlink(missing_ok=True)
        beside = item.path
    if not any(beside.iterdir()):  # what somebody else put there stays
        beside.rmdir()
