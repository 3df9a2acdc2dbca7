"""An archive back into a store: checked whole before the first write, and never left half."""

from dataclasses import dataclass
from enum import StrEnum

from ..base import Store
from ..records import Run
from .archive import Archive, Progress, difference_to, stored
from .packages import TransferError


class Outcome(StrEnum):
    """What restoring came to."""

    RESTORED = "restored"
    COMPLETED = "completed"
    ALREADY_THERE = "already there"


@dataclass(frozen=True, slots=True)
class Restored:
    """A run that is in the store now, and what was done for it."""

    run: Run
    outcome: Outcome


def restore_run(store: Store, archive: Archive, progress: Progress = lambda steps: None) -> Restored:
    """Restore a run under its own id. One that is there, whole, stays as it is; what is missing of it is added.

    When this fails, a run that was not there before is taken out again. When the process is killed, doing it again completes it.

    Args:
        progress: called with the number of steps just written.

    Raises:
        TransferError: the run is there and went on after it was archived.
    """
    run = archive.run
    before = stored(store, run.id)
    if before is not None:
        if not difference_to(store, archive):
            return Restored(before, Outcome.ALREADY_THERE)
        _refuse_newer(store, before, archive)
    try:
        _write(store, archive, progress)
    except BaseException:
        if before is None and stored(store, run.id) is not None:
            store.delete_run(run.id)
        raise
    return Restored(store.run(run.id), Outcome.RESTORED if before is None else Outcome.COMPLETED)


def _write(store: Store, archive: Archive, progress: Progress) -> None:
    run = archive.run
    store.create_run(run)
    for segment in archive.segments:
        store.add_segment(segment)
    store.add_series(run.id, archive.series)
    for batch in archive.batches():
        store.write(batch)
        progress(len(batch.steps))
    store.save_alerts(archive.alerts)
    for event in archive.events:
        store.add_event(event)
    for version in archive.manifest.rules:
        store.save_rule(version, seen=version.version - 1)
    # Last, for every batch moves the heartbeat; a run archived as running was lost, and stays so.
    store.update_run(run.id, status=run.status, ended_at=run.ended_at, heartbeat_at=run.heartbeat_at)


def _refuse_newer(store: Store, there: Run, archive: Archive) -> None:
    last = max((segment.segment for segment in archive.segments), default=0)
    if there.last_step > archive.run.last_step or any(segment.segment > last for segment in store.segments(there.id)):
        raise TransferError(
            f"Run {there.name} ({there.id[:8]}) is in {store.url} and went on after it was archived; it is left as it is. "
            "Restore the archive into another store with --store URL."
        )
