"""A run's samples as one file, in the columns and order of ``Store.frame``; a quarter of a million points are held at a time."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Protocol

from ..base import Store
from ..records import Run
from .files import replacing
from .packages import TransferError
from .points import Places, Points, points, steps_per_batch
from .selection import Selection

COLUMNS = ("step", "segment", "signal", "module", "head", "rank", "value", "kind")
STANDARD_OUTPUT = "-"


class Format(StrEnum):
    """What can be written."""

    PARQUET = "parquet"
    CSV = "csv"


class Sink(Protocol):
    """Takes points and writes rows."""

    def write(self, chunk: Points, places: Places) -> None:
        """Write a chunk; ``places`` names its series."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    points: int
    series: int


def format_of(name: str, asked: Format | None = None) -> Format:
    """Return the format asked for, else the one that a file's name says.

    Raises:
        TransferError: the name does not say it, or Parquet was asked for on standard output.
    """
    lowered = name.lower()
    by_name = {".parquet": Format.PARQUET, ".pq": Format.PARQUET, ".csv": Format.CSV, ".csv.gz": Format.CSV}
    found = asked or next((kind for suffix, kind in by_name.items() if lowered.endswith(suffix)), None)
    if name == STANDARD_OUTPUT:
        if found is Format.PARQUET:
            raise TransferError("Parquet cannot be written to standard output; name a file, or use --format csv.")
        return Format.CSV
    if found is None:
        raise TransferError(
            f"{name!r} does not say what it is to be: end it in {', '.join(by_name)}, or add --format parquet or --format csv."
        )
    return found


def export_run(
    store: Store,
    run: Run,
    to: Path | IO[str],
    *,
    format: Format,
    selection: Selection | None = None,
    force: bool = False,
    progress: Callable[[int], object] = lambda steps: None,
) -> Exported:
    """Write the samples of a run; a file appears under its name only when it is whole.

    Args:
        to: a file, or an open text stream for CSV. A file that ends in .gz is compressed.
        selection: which series; all by default.
        force: replace a file that is there.
        progress: called with the number of steps that were just written.

    Raises:
        TransferError: no series matches, the file is there, its folder is missing, or Parquet's package is.
        UnknownRunError: the run is gone.
    """
    wanted = selection or Selection()
    places = Places(series.key for series in store.series(run.id))
    if not any(key in wanted for key in places.keys):
        raise _nothing(run, wanted, places)
    if not isinstance(to, Path):
        from .csv_file import stream_sink

        return _write(store, run, stream_sink(to), wanted, places, progress)
    with replacing(to, force=force) as partial, _opened(partial, to.name, format, run) as sink:
        return _write(store, run, sink, wanted, places, progress)


def _opened(path: Path, name: str, format: Format, run: Run) -> AbstractContextManager[Sink]:
    if format is Format.PARQUET:
        from .parquet_file import parquet_sink

        return parquet_sink(path, {"foreshock.run": run.name, "foreshock.run_id": run.id})
    from .csv_file import file_sink

    return file_sink(path, compressed=name.lower().endswith(".gz"))


def _write(store: Store, run: Run, sink: Sink, wanted: Selection, places: Places, progress: Callable[[int], object]) -> Exported:
    count, seen = 0, set[int]()
    for chunk, steps in _chunks(store, run, wanted, places):
        if len(chunk):
            sink.write(chunk, places)
            count += len(chunk)
            seen.update(set(chunk.series.tolist()))
        progress(steps)
    return Exported(count, len(seen))


def _chunks(store: Store, run: Run, wanted: Selection, places: Places) -> Iterator[tuple[Points, int]]:
    size = steps_per_batch(sum(key in wanted for key in places.keys))
    for batch in store.batches(run.id, steps_per_batch=size, keys=None if wanted.everything else wanted):
        yield points(batch, places), len(batch.steps)


def _nothing(run: Run, wanted: Selection, places: Places) -> TransferError:
    if not places.keys:
        return TransferError(f"Run {run.name} has no samples.")
    asked = [f"--signal {name}" for name in wanted.signals] + [f"--module {name}" for name in wanted.modules]
    signals = sorted({key.signal for key in places.keys})
    return TransferError(f"No series of run {run.name} matches {' '.join(asked)}. Its signals: {', '.join(signals)}.")
