"""A source's stream, written into a store: some ten thousand values at a time, and only what the store has not.

Idempotent: the run's id is derived from where it came from, segments are numbered by the stream itself, and what the store has
already is read back and left out, so that importing a run again after it has grown, or after an import was killed, adds the rest.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...base import Store
from ...errors import UnknownRunError
from ...records import Batch, Histogram, Run, Segment, SeriesKey, StepRecord, derived_id, new_id
from .names import Naming, resolve
from .segmenting import Segmenter, Steps, Verdict
from .source import HistogramPoint, Item, Label, Part, Source, Survey, names_of
from .stored import MOST_CHANGED, Row, Rows, StepCount, Stored

VALUES_PER_BATCH = 50_000
_MOST_TUPLES = 1024


@dataclass(slots=True)
class Counts:
    """Figures of an import.

    Attributes:
        read: values and histograms read.
        values, histograms, steps: new in the store; steps are those with something new.
        changed: values that the store had under another number and that were replaced.
        repeated: values written more than once for one step; the last counts.
        late: values that came out of order.
        segments: of the run.
    """

    read: int = 0
    values: int = 0
    histograms: int = 0
    steps: int = 0
    changed: int = 0
    repeated: int = 0
    late: int = 0
    segments: int = 0


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import of one run came to: the run as it is now, whether it was there before, its names, and the figures."""

    run: Run
    origin: str
    already: bool
    naming: Naming
    survey: Survey
    counts: Counts


def import_run(
    store: Store,
    source: Source,
    survey: Survey,
    *,
    name: str | None = None,
    project: str | None = None,
    maps: Mapping[str, str] | None = None,
    progress: Callable[[int], object] | None = None,
) -> Imported:
    """Bring a run that was looked over into the store, or what is new of it.

    Args:
        name, project: in place of the source's own.
        maps: the signal of each of their names that was asked for.
        progress: called with the number of values read since the last call.

    Raises:
        TransferError: the source cannot be read.
        StoreError: see ``Store``.
    """
    run_id = derived_id("import", *source.identity)
    before = _stored_run(store, run_id)
    known = before.meta.get("import", {}).get("names") if before is not None else None
    naming = resolve(names_of(survey.all_labels), maps or {}, known)
    facts = survey.meta | {"import": _facts(source, survey, naming)}
    if before is None:
        store.create_run(
            Run(
                id=run_id,
                name=name or source.name,
                project=survey.project if project is None else project,
                status=survey.status,
                created_at=survey.created_at,
                heartbeat_at=survey.created_at,
                ended_at=survey.ended_at,
                tags=survey.tags,
                meta=facts,
            )
        )
    elif (name or before.name, before.project if project is None else project) != (before.name, before.project):
        survey.notes.append(f"It keeps the name {before.name!r} and the project {before.project!r} of its first import.")
    intake = _Intake(store, run_id, survey, naming, Stored(store, run_id) if before is not None else None)
    intake.take(source.stream(), progress)
    ended_at = survey.ended_at if survey.ended_at is not None else store.run(run_id).heartbeat_at
    store.update_run(run_id, status=survey.status, ended_at=ended_at, meta=facts)
    return Imported(store.run(run_id), source.origin, before is not None, naming, survey, intake.counts)


def _stored_run(store: Store, run_id: str) -> Run | None:
    try:
        found = store.run(run_id)
    except UnknownRunError:
        return None
    return found if found.id == run_id else None


def _facts(source: Source, survey: Survey, naming: Naming) -> dict[str, Any]:
    return {"from": source.origin, "names": naming.mapped, "skipped": dict(survey.skipped)}


@dataclass(slots=True)
class _Intake:
    """Gathers values by segment and step, and writes them when they are many."""

    store: Store
    run_id: str
    survey: Survey
    naming: Naming
    stored: Stored | None
    counts: Counts = field(default_factory=Counts)
    segment: int = 0
    _waiting: dict[int, Rows] = field(default_factory=dict)
    _begun: set[int] = field(default_factory=set)
    _seen: StepCount = field(default_factory=StepCount)
    _tuples: dict[tuple[SeriesKey, ...], tuple[SeriesKey, ...]] = field(default_factory=dict)

    def take(self, stream: Iterable[Item], progress: Callable[[int], object] | None) -> None:
        """Read a stream to its end and write it. About 2 microseconds a value beside what the store takes."""
        counts, judge = self.counts, Segmenter()
        keys: dict[Label, SeriesKey] = {label: self._key(label) for label in self.survey.all_labels}
        rows, told, given = self._rows(), 0, False
        for item in stream:
            if isinstance(item, Part):
                judge.part += 1
                given = item.segment is not None
                if item.segment is not None:
                    self.segment = item.segment
                    rows = self._rows()
                continue
            if isinstance(item, HistogramPoint):
                label, step, time, value = item.label, item.step, item.time, 0.0
            else:
                label, step, time, value = item
            key = keys.get(label)
            if key is None:  # it came while we were reading: the next import brings it
                continue
            had = judge.steps.get(label)
            if given:
                pass
            elif had is None:
                judge.steps[label] = Steps(step, judge.part)
            elif step > had.last:
                had.append(step)
                had.part = judge.part
            else:
                verdict = judge.judge(label, step)
                counts.repeated += verdict is Verdict.REPEATED
                counts.late += verdict is Verdict.LATE
                if verdict is Verdict.RESTART:
                    self.segment += 1
                    rows = self._rows()
                    judge.restart()
                    judge.steps[label] = Steps(step, judge.part)
            row = rows.get(step)
            if row is None:
                row = rows[step] = Row(time)
            if isinstance(item, HistogramPoint):
                row.histograms[key] = Histogram(key, item.low, item.high, item.counts)
            else:
                counts.repeated += given and key in row.values
                row.values[key] = value
            counts.read += 1
            if counts.read - told >= VALUES_PER_BATCH:
                self._flush()
                rows = self._rows()
                if progress is not None:
                    progress(counts.read - told)
                told = counts.read
        self._flush()
        if self.stored is not None:
            self._replace(self.stored.changed())
        if progress is not None:
            progress(counts.read - told)
        counts.steps, counts.segments = len(self._seen), len(self._begun)

    def _key(self, label: Label) -> SeriesKey:
        if isinstance(label, SeriesKey):
            return SeriesKey(self.naming.signals[label.signal], label.module, label.head, label.rank)
        return SeriesKey(self.naming.signals[label])

    def _rows(self) -> Rows:
        return self._waiting.setdefault(self.segment, {})

    def _flush(self) -> None:
        """Write what waits and is not in the store."""
        waiting, self._waiting = self._waiting, {}
        for segment, rows in sorted(waiting.items()):
            new = rows if self.stored is None else self.stored.missing(segment, rows)
            self._begin(segment, rows)
            if new:
                self._write(segment, new)
                self._seen.add(segment, new)
                self.counts.values += sum(len(row.values) for row in new.values())
                self.counts.histograms += sum(len(row.histograms) for row in new.values())
        if self.stored is not None:
            self._replace(self.stored.changed(at_least=MOST_CHANGED))

    def _replace(self, changed: Mapping[int, Rows]) -> None:
        for segment, rows in changed.items():
            self._write(segment, rows)
            self.counts.changed += sum(len(row.values) for row in rows.values())

    def _begin(self, segment: int, rows: Rows) -> None:
        if rows and segment not in self._begun:
            self._begun.add(segment)
            first = min(rows)
            self.store.add_segment(Segment(self.run_id, segment, first, rows[first].time))

    def _write(self, segment: int, rows: Rows) -> None:
        records = tuple(self._record(step, rows[step]) for step in sorted(rows))
        self.store.write(Batch(new_id(), self.run_id, segment, records))

    def _record(self, step: int, row: Row) -> StepRecord:
        keys = tuple(row.values)
        # One and the same tuple for all steps with the same series: the store looks its numbers up once.
        if len(self._tuples) >= _MOST_TUPLES:
            self._tuples.clear()
        keys = self._tuples.setdefault(keys, keys)
        return StepRecord(step, row.time, keys, tuple(row.values.values()), tuple(row.histograms.values()))
