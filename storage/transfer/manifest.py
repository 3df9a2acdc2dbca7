"""What an archive consists of: a folder of Parquet files, and ``manifest.json``, which has the length and checksum of each.

Version 1. One folder is one run. ``samples``, ``steps`` and ``histograms`` have the same row groups: each is a stretch of steps of
one segment, so that an archive is read back a group at a time.

What people changed of the rules for this very run stands in the manifest itself: a few rows, and a foreshock that does not know
them reads the rest.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..codec import to_json
from ..records import RuleVersion, Run, RunStatus
from .packages import TransferError

NAME = "manifest.json"
FORMAT = "foreshock run archive"
VERSION = 1
STREAMED = ("steps", "samples", "histograms")
TABLES = ("segments", "series", *STREAMED, "alerts", "events")
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """One file: rows, bytes, SHA-256."""

    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The run's own row, the kinds of its channels (their addresses are secrets), and the files with its data."""

    run: Run
    channels: tuple[str, ...]
    parts: Mapping[str, Part]
    steps_per_batch: int
    archived_at: float
    written_by: str
    version: int = VERSION
    rules: tuple[RuleVersion, ...] = ()
    counts: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", {name: part.rows for name, part in self.parts.items()})


def path_of(folder: Path, table: str) -> Path:
    """Return where a table of an archive is."""
    return folder / f"{table}.parquet"


def part_of(path: Path, rows: int) -> Part:
    """Return what the manifest says of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return Part(rows, path.stat().st_size, digest.hexdigest())


def write(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json``."""
    run = manifest.run
    text = {
        "format": FORMAT,
        "version": manifest.version,
        "written_by": manifest.written_by,
        "archived_at": manifest.archived_at,
        "run": {
            "id": run.id,
            "name": run.name,
            "project": run.project,
            "status": str(run.status),
            "created_at": run.created_at,
            "heartbeat_at": run.heartbeat_at,
            "ended_at": run.ended_at,
            "last_step": run.last_step,
            "tags": list(run.tags),
            "meta": to_json(dict(run.meta)),  # text: it may hold nan, which JSON does not know
        },
        "channels": list(manifest.channels),
        "rules": [{name: getattr(each, name) for name in _OF_RULE} | {"changes": dict(each.changes)} for each in manifest.rules],
        "steps_per_batch": manifest.steps_per_batch,
        "files": {name: {"rows": part.rows, "bytes": part.bytes, "sha256": part.sha256} for name, part in manifest.parts.items()},
    }
    (folder / NAME).write_text(json.dumps(text, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def read(folder: Path) -> Manifest:
    """Read ``manifest.json``.

    Raises:
        TransferError: there is none, it cannot be read, or a newer version of foreshock wrote it.
    """
    path = folder / NAME
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise TransferError(f"{folder} is no archive: it holds no {NAME}.") from None
    except (OSError, ValueError) as error:
        raise TransferError(f"{path} cannot be read ({error}). {_ELSEWHERE}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise TransferError(f"{path} is not the manifest of a {FORMAT}.")
    version = found.get("version")
    if version != VERSION:
        raise TransferError(
            f"{folder} is an archive of version {version}, and this foreshock reads version {VERSION}. "
            f"It was written by foreshock {found.get('written_by')}; mend it with: pip install --upgrade foreshock"
        )
    try:
        return _manifest(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TransferError(f"{path} is damaged: {type(error).__name__}: {error}. {_ELSEWHERE}") from error


def check(folder: Path, manifest: Manifest) -> None:
    """Compare every file with what the manifest says of it.

    Raises:
        TransferError: one is missing, cut short or changed.
    """
    for table, part in manifest.parts.items():
        path = path_of(folder, table)
        try:
            found = part_of(path, part.rows)
        except OSError as error:
            raise TransferError(f"{path} cannot be read: {error.strerror}. {_ELSEWHERE}") from error
        if found.bytes != part.bytes:
            raise TransferError(f"{path} is damaged: it has {found.bytes:,} bytes instead of {part.bytes:,}. {_ELSEWHERE}")
        if found.sha256 != part.sha256:
            raise TransferError(f"{path} is damaged: its checksum is not the one in {NAME}. {_ELSEWHERE}")


_OF_RULE = ("id", "rule", "version", "created_at", "created_by", "comment")
_ELSEWHERE = "Nothing was restored; use another copy of the archive."


def _manifest(found: Mapping[str, Any]) -> Manifest:
    row = dict(found["run"])
    row |= {"status": RunStatus(row["status"]), "tags": tuple(row["tags"]), "meta": json.loads(row["meta"])}
    parts = {name: Part(int(part["rows"]), int(part["bytes"]), str(part["sha256"])) for name, part in found["files"].items()}
    if set(parts) != set(TABLES):
        raise ValueError(f"its files are {', '.join(sorted(parts))} instead of {', '.join(sorted(TABLES))}")
    steps = int(found["steps_per_batch"])
    if steps < 1 or not math.isfinite(found["archived_at"]):
        raise ValueError("a number is out of range")
    run = Run(**row)
    rules = tuple(
        RuleVersion(run_id=run.id, changes=dict(each["changes"]), **{name: each[name] for name in _OF_RULE})
        for each in found.get("rules", ())  # archives from before rules could be changed have none
    )
    channels, by = tuple(found["channels"]), str(found["written_by"])
    return Manifest(run, channels, parts, steps, float(found["archived_at"]), by, rules=rules)
