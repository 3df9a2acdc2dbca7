"""What a writer hands to the store, one thing after another, and how each looks on disk: JSON and packed arrays, no pickle.

A batch is columnar: a head of compressed JSON (its id and segment, each distinct tuple of keys once, where histograms belong), then
steps (int64), times and values (float64, little-endian, so that every bit comes back), then the packed histograms.
"""

import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from . import codec
from .records import (
    Alert,
    AlertState,
    Batch,
    Event,
    Notification,
    NotificationState,
    Run,
    RunStatus,
    Segment,
    SeriesKey,
    Severity,
    StepRecord,
)

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What an analysis gave: alerts, new or changed, and their notifications."""

    alerts: tuple[Alert, ...]
    notifications: tuple[Notification, ...] = ()


@dataclass(frozen=True, slots=True)
class End:
    """How a run ended, and when."""

    status: RunStatus
    at: float


Entry = Segment | Batch | Judgement | Event | End


def points_of(entry: Entry) -> int:
    """Return how many samples an entry holds."""
    return entry.points if isinstance(entry, Batch) else 0


def encode(entry: Entry) -> tuple[str, bytes]:
    """Return an entry's kind and its bytes.

    Raises:
        ValueError, TypeError, OverflowError: a step or value is no number, or a step is beyond 64 bits.
    """
    if isinstance(entry, Batch):
        return "batch", _pack(entry)
    if isinstance(entry, Judgement):
        alerts = [
            asdict(alert)
            | {"evidence": codec.evidence_to_json(alert.evidence), "diagnosis": codec.diagnosis_to_json(alert.diagnosis)}
            for alert in entry.alerts
        ]
        return "judgement", _json([alerts, [asdict(notification) for notification in entry.notifications]])
    if isinstance(entry, Event):
        return "event", _json(asdict(entry) | {"data": dict(entry.data)})
    return ("segment" if isinstance(entry, Segment) else "end"), _json(asdict(entry))


def decode(kind: str, data: bytes) -> Entry:
    """Undo ``encode``.

    Raises:
        ValueError: there is no such kind.
    """
    if kind == "batch":
        return _unpack(data)
    found = json.loads(data)
    if kind == "judgement":
        return Judgement(tuple(_alert(item) for item in found[0]), tuple(_notification(item) for item in found[1]))
    if kind == "event":
        return Event(**found)
    if kind == "segment":
        return Segment(**found)
    if kind == "end":
        return End(RunStatus(found["status"]), found["at"])
    raise ValueError(f"a spool holds no entries of the kind {kind!r}")


def run_to_json(run: Run) -> str:
    """Return a run as JSON text."""
    return codec.to_json(asdict(run) | {"meta": dict(run.meta)})


def run_from_json(text: str) -> Run:
    """Undo ``run_to_json``."""
    found = json.loads(text)
    return Run(**found | {"status": RunStatus(found["status"]), "tags": tuple(found["tags"])})


def _json(value: Any) -> bytes:
    return codec.to_json(value).encode()


def _alert(found: dict[str, Any]) -> Alert:
    return Alert(
        **found
        | {
            "severity": Severity(found["severity"]),
            "state": AlertState(found["state"]),
            "evidence": codec.evidence_from_json(found["evidence"]),
            "diagnosis": codec.diagnosis_from_json(found["diagnosis"]),
        }
    )


def _notification(found: dict[str, Any]) -> Notification:
    return Notification(**found | {"state": NotificationState(found["state"])})


def _listed(key: SeriesKey) -> list[object]:
    return [key.signal, key.module, key.head, key.rank]


def _pack(batch: Batch) -> bytes:
    layouts: dict[int, tuple[int, tuple[SeriesKey, ...]]] = {}
    for record in batch.steps:
        layouts.setdefault(id(record.keys), (len(layouts), record.keys))
    histograms = [
        (place, _listed(histogram.key), codec.pack(histogram))
        for place, record in enumerate(batch.steps)
        for histogram in record.histograms
    ]
    head = {
        "id": batch.id,
        "run": batch.run_id,
        "segment": batch.segment,
        "layouts": [[_listed(key) for key in keys] for _, keys in layouts.values()],
        "steps": [layouts[id(record.keys)][0] for record in batch.steps],
        "histograms": [[place, key, len(packed)] for place, key, packed in histograms],
    }
    packed_head = zlib.compress(json.dumps(head, separators=(",", ":")).encode(), 1)
    arrays = (
        np.array([record.step for record in batch.steps], "<i8"),
        np.array([record.time for record in batch.steps], "<f8"),
        *(np.asarray(record.values, "<f8") for record in batch.steps),
    )
    parts = [_LENGTH.pack(len(packed_head)), packed_head, *(array.tobytes() for array in arrays)]
    return b"".join([*parts, *(packed for _, _, packed in histograms)])


def _unpack(data: bytes) -> Batch:
    (length,) = _LENGTH.unpack_from(data)
    place = _LENGTH.size + length
    head = json.loads(zlib.decompress(data[_LENGTH.size : place]))
    layouts = [tuple(SeriesKey(*key) for key in keys) for keys in head["layouts"]]
    keys_of = [layouts[number] for number in head["steps"]]

    def numbers(kind: str, count: int) -> Sequence[Any]:
        nonlocal place
        found = np.frombuffer(data, kind, count, place)
        place += found.nbytes
        values: list[Any] = found.tolist()
        return values

    steps, times = numbers("<i8", len(keys_of)), numbers("<f8", len(keys_of))
    values = [numbers("<f8", len(keys)) for keys in keys_of]
    histograms: dict[int, list[Any]] = {}
    for step, key, size in head["histograms"]:
        histograms.setdefault(step, []).append(codec.unpack(SeriesKey(*key), data[place : place + size]))
        place += size
    records = tuple(
        StepRecord(steps[i], times[i], keys_of[i], values[i], tuple(histograms.get(i, ()))) for i in range(len(keys_of))
    )
    return Batch(head["id"], head["run"], head["segment"], records)
