"""A run as an archive: written a stretch of steps at a time, read back, and compared with the store before it counts."""

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ..._version import __version__
from ..base import Store
from ..errors import UnknownRunError
from ..records import Alert, Batch, Event, RuleVersion, Run, RunStatus, Segment, SeriesKey
from . import archive_tables, manifest
from .archive_tables import Tables
from .files import replacing
from .manifest import STREAMED, Manifest, part_of, path_of
from .packages import TransferError
from .parquet_file import pyarrow
from .points import Places, steps_per_batch

LIVE = 60.0
"""Seconds without a heartbeat after which a run that never said how it ended counts as over."""

Progress = Callable[[int], object]


class Archive:
    """An archive on disk, whose files are as its manifest says.

    Raises:
        TransferError: it is none, it is damaged, or a newer foreshock wrote it. Nothing else is read before that is settled.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = manifest.read(folder)
        manifest.check(folder, self.manifest)
        self._parquet = pyarrow("An archive").parquet
        self._tables = Tables(Places(archive_tables.series_of(self._read("series"))))

    @property
    def run(self) -> Run:
        """The run."""
        return self.manifest.run

    @property
    def segments(self) -> list[Segment]:
        """Its segments."""
        return archive_tables.segments_of(self.run.id, self._read("segments"))

    @property
    def series(self) -> list[SeriesKey]:
        """Its series, in order of first appearance."""
        return self._tables.places.keys

    @property
    def alerts(self) -> list[Alert]:
        """Its alerts, with evidence and diagnosis."""
        return archive_tables.alerts_of(self.run.id, self._read("alerts"))

    @property
    def events(self) -> list[Event]:
        """Its events."""
        return archive_tables.events_of(self.run.id, self._read("events"))

    def batches(self) -> Iterator[Batch]:
        """Yield the history in order of (segment, step), a row group at a time, under fresh ids."""
        with ExitStack() as stack:
            files = {name: stack.enter_context(self._parquet.ParquetFile(path_of(self.folder, name))) for name in STREAMED}
            for number in range(files["steps"].num_row_groups):
                parts = {name: file.read_row_group(number) for name, file in files.items()}
                yield self._tables.batch(self.run.id, **parts)

    def _read(self, table: str) -> Any:
        return self._parquet.read_table(path_of(self.folder, table))


def folder_of(run: Run, parent: Path) -> Path:
    """Return where a run's archive goes: ``PARENT/<name>-<id>``, without what file systems do not like."""
    return parent / f"{_plain(run.name)[:60]}-{_plain(run.id)[:40]}".lstrip("-.")


def archive_run(store: Store, run: Run, parent: Path, *, force: bool = False, progress: Progress = lambda steps: None) -> Path:
    """Archive a run and return the folder, once what stands there was read back and found equal to the store.

    Args:
        parent: an existing folder that gets a folder for the run.
        force: replace an archive that is there.
        progress: called with the number of steps written, then with those compared: twice as many as the run has.

    Raises:
        TransferError: the run is still going on, an archive of it is there, or pyarrow is missing.
    """
    if is_live(run):
        raise TransferError(
            f"Run {run.name} is still being written, so that an archive would not be all of it. Wait for its end, or use: "
            f"foreshock export {run.id[:8]} --to FILE.parquet"
        )
    with replacing(folder_of(run, parent), force=force) as partial:
        partial.mkdir()
        _write(store, run, partial, progress)
        difference = difference_to(store, Archive(partial), progress)
        if difference:
            raise TransferError(f"The archive of run {run.name} is not what the store has ({difference}); it was not kept.")
    return folder_of(run, parent)


def remove_archived(store: Store, run: Run, cursor: int) -> None:
    """Delete a run that was archived.

    Args:
        cursor: of ``store.changes`` before it was archived.

    Raises:
        TransferError: it was written to since; nothing is deleted.
    """
    if store.changes(run.id, cursor).ranges or is_live(store.run(run.id)):
        raise TransferError(f"Run {run.name} went on while it was archived. It stays in the store; archive it again later.")
    store.delete_run(run.id)


def is_live(run: Run) -> bool:
    """Return whether a run's own process still writes to it."""
    return run.status is RunStatus.RUNNING and time.time() - run.heartbeat_at < LIVE


def stored(store: Store, run_id: str) -> Run | None:
    """Return the run of exactly this id, if the store has it."""
    try:
        found = store.run(run_id)
    except UnknownRunError:
        return None
    return found if found.id == run_id else None


def difference_to(store: Store, archive: Archive, progress: Progress = lambda steps: None) -> str:
    """Say what of an archive is not so in the store; empty if all is equal."""
    run_id = archive.run.id
    pairs: list[tuple[str, object, object]] = [
        ("the run", store.run(run_id), archive.run),
        ("its segments", store.segments(run_id), archive.segments),
        ("its series", [each.key for each in store.series(run_id)], archive.series),
        ("its alerts", store.alerts(run_id), archive.alerts),
        ("its events", store.events(run_id), archive.events),
        ("its rules", _rules_of(store, run_id), archive.manifest.rules),
    ]
    for name, theirs, ours in pairs:
        if repr(theirs) != repr(ours):  # nan is not equal to itself, and is written in one way
            return f"{name}: {_shortened(theirs)} there, {_shortened(ours)} in the archive"
    theirs_at = store.batches(run_id, steps_per_batch=archive.manifest.steps_per_batch)
    for ours_now in archive.batches():
        theirs_now = next(theirs_at, None)
        if theirs_now is None or not _same(theirs_now, ours_now):
            return f"samples of segment {ours_now.segment} from step {ours_now.steps[0].step} on"
        progress(len(ours_now.steps))
    return "samples beyond the archive" if next(theirs_at, None) is not None else ""


def _write(store: Store, run: Run, folder: Path, progress: Progress) -> None:
    places = Places(series.key for series in store.series(run.id))
    tables = Tables(places)
    rows = dict.fromkeys(STREAMED, 0)
    size = steps_per_batch(len(places.keys))
    parquet = tables.arrow.parquet
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(parquet.ParquetWriter(path_of(folder, name), tables.schema(name), **tables.options(name)))
            for name in STREAMED
        }
        for batch in store.batches(run.id, steps_per_batch=size):
            for name, table in tables.streamed(batch).items():
                files[name].write_table(table, row_group_size=max(1, len(table)))
                rows[name] += len(table)
            progress(len(batch.steps))
    for name, table in tables.plain(store.segments(run.id), store.alerts(run.id), store.events(run.id)).items():
        parquet.write_table(table, path_of(folder, name), **tables.options(name))
        rows[name] = len(table)
    parts = {name: part_of(path_of(folder, name), rows[name]) for name in manifest.TABLES}
    channels = tuple(_kind_of(channel) for channel in store.channels(run.id))
    rules = _rules_of(store, run.id)
    manifest.write(folder, Manifest(store.run(run.id), channels, parts, size, time.time(), __version__, rules=rules))


def _rules_of(store: Store, run_id: str) -> tuple[RuleVersion, ...]:
    """Return what was changed of the rules for this very run, oldest first."""
    return tuple(reversed(store.rule_history(project="", run_id=run_id)))


def _kind_of(channel: str) -> str:
    """Return what a channel is, without its address: tokens and passwords stand in it."""
    scheme, separator, _ = channel.partition("://")
    return f"{scheme}://***" if separator else "***"


def _same(one: Batch, other: Batch) -> bool:
    if one.segment != other.segment or len(one.steps) != len(other.steps):
        return False
    for left, right in zip(one.steps, other.steps, strict=True):
        if (left.step, left.time, left.keys) != (right.step, right.time, right.keys):
            return False
        if not np.array_equal(np.array(left.values, float), np.array(right.values, float), equal_nan=True):
            return False
        if repr(left.histograms) != repr(right.histograms):
            return False
    return True


def _shortened(found: object) -> str:
    text = f"{len(found)} entries" if isinstance(found, Sequence) else repr(found)
    return text if len(text) < 200 else f"{text[:200]}..."


def _plain(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text, flags=re.ASCII).strip("._") or "run"


def archives_in(path: Path) -> list[Path]:
    """Return the archives that a path means: a manifest, the folder around it, or a folder with such folders.

    Raises:
        TransferError: there is none.
    """
    path = Path(os.path.abspath(path.expanduser()))
    if path.is_file():
        if path.name != manifest.NAME:
            raise TransferError(f"{path} is no archive. Name a folder that `foreshock db archive` made, or its {manifest.NAME}.")
        return [path.parent]
    if (path / manifest.NAME).is_file():
        return [path]
    found = sorted(each.parent for each in path.glob(f"*/{manifest.NAME}") if not each.parent.name.startswith("."))
    if not found:
        raise TransferError(f"{path} holds no archive: there is no {manifest.NAME} in it, nor in a folder of it.")
    return found
