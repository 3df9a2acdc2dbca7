"""The Parquet tables of an archive: what columns they have, and how records become rows and rows records again."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from ..codec import diagnosis_from_json, diagnosis_to_json, evidence_from_json, evidence_to_json, to_json
from ..records import Alert, AlertState, Batch, Event, Histogram, Segment, SeriesKey, Severity, StepRecord, new_id
from .parquet_file import layout, pyarrow
from .points import Array, Places, points

_MOST_TUPLES = 1024
_TEXT_ALERT: dict[str, Callable[[Any], str]] = {
    "severity": str,
    "state": str,
    "evidence": evidence_to_json,
    "diagnosis": diagnosis_to_json,
}


class Tables:
    """Turns records into tables and back. ``places`` numbers the series: rows name them by their place in ``series``."""

    def __init__(self, places: Places) -> None:
        self.arrow = pyarrow("An archive")
        self.places = places
        self._tuples: dict[bytes, tuple[SeriesKey, ...]] = {}

    def schema(self, table: str) -> Any:
        """Return a table's columns."""
        arrow = self.arrow
        kinds = {"i": arrow.int64(), "f": arrow.float64(), "s": arrow.string(), "c": arrow.list_(arrow.uint64())}
        kinds["p"] = arrow.int32()
        return arrow.schema([(name, kinds[kind]) for name, kind in (each.split(":") for each in _COLUMNS[table].split())])

    def options(self, table: str) -> dict[str, Any]:
        """Return how a table is packed."""
        if table in ("samples", "steps"):
            packing = layout(names=[name for name in self.schema(table).names if name in ("segment", "series")])
            if table == "steps":
                packing["column_encoding"] = {"step": "DELTA_BINARY_PACKED", "time": "BYTE_STREAM_SPLIT"}
            return packing
        return {"compression": "zstd"}

    def streamed(self, batch: Batch) -> dict[str, Any]:
        """Return a batch as one row group of ``steps``, ``samples`` and ``histograms``."""
        found = points(batch, self.places)
        segments = np.full(len(found), batch.segment, np.int64)
        shapes = [(record.step, shape) for record in batch.steps for shape in record.histograms]
        columns: dict[str, list[Any]] = {
            "steps": [
                [batch.segment] * len(batch.steps),
                [record.step for record in batch.steps],
                [float(record.time) for record in batch.steps],
            ],
            "samples": [segments, found.steps, found.series, found.values],
            "histograms": [
                [batch.segment] * len(shapes),
                [step for step, _ in shapes],
                [self.places.place(shape.key) for _, shape in shapes],
                [float(shape.low) for _, shape in shapes],
                [float(shape.high) for _, shape in shapes],
                [list(shape.counts) for _, shape in shapes],
            ],
        }
        return {name: self._table(name, given) for name, given in columns.items()}

    def plain(self, segments: Sequence[Segment], alerts: Sequence[Alert], events: Sequence[Event]) -> dict[str, Any]:
        """Return the small tables, series among them: call it when all batches were seen."""
        rows: dict[str, list[dict[str, Any]]] = {
            "segments": [{name: getattr(each, name) for name in ("segment", "start_step", "started_at")} for each in segments],
            "series": [{name: getattr(key, name) for name in ("signal", "module", "head", "rank")} for key in self.places.keys],
            "alerts": [_alert_row(each) for each in alerts],
            "events": [_event_row(each) for each in events],
        }
        return {name: self.arrow.Table.from_pylist(given, schema=self.schema(name)) for name, given in rows.items()}

    def batch(self, run_id: str, steps: Any, samples: Any, histograms: Any) -> Batch:
        """Undo ``streamed``."""
        (segment,) = set(steps["segment"].to_pylist())
        wanted = steps["step"].to_numpy()
        places, values = samples["step"].to_numpy(), samples["value"].to_pylist()
        starts, stops = np.searchsorted(places, wanted, "left").tolist(), np.searchsorted(places, wanted, "right").tolist()
        series = samples["series"].to_numpy()
        shapes: dict[int, list[Histogram]] = {}
        for row in histograms.to_pylist():
            shape = Histogram(self.places.keys[row["series"]], row["low"], row["high"], tuple(row["counts"]))
            shapes.setdefault(row["step"], []).append(shape)
        records = (
            StepRecord(step, time, self._keys(series[start:stop]), values[start:stop], tuple(shapes.get(step, ())))
            for step, time, start, stop in zip(wanted.tolist(), steps["time"].to_pylist(), starts, stops, strict=True)
        )
        return Batch(new_id(), run_id, segment, tuple(records))

    def _keys(self, series: Array) -> tuple[SeriesKey, ...]:
        """Return the keys at these places; equal ones are one and the same tuple, which is what makes writing them fast."""
        numbers = series.tobytes()
        found = self._tuples.get(numbers)
        if found is None:
            if len(self._tuples) >= _MOST_TUPLES:
                self._tuples.clear()
            found = self._tuples[numbers] = tuple(self.places.keys[place] for place in series.tolist())
        return found

    def _table(self, name: str, columns: list[Any]) -> Any:
        schema = self.schema(name)
        arrays = [self.arrow.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        return self.arrow.Table.from_arrays(arrays, schema=schema)


_COLUMNS = {  # name:kind, where i is a whole number, p the place of a series, f a float64, s text, c counts
    "segments": "segment:i start_step:i started_at:f",
    "series": "signal:s module:s head:i rank:i",
    "steps": "segment:i step:i time:f",
    "samples": "segment:i step:i series:p value:f",
    "histograms": "segment:i step:i series:p low:f high:f counts:c",
    "alerts": "id:s rule:s module:s episode:i severity:s state:s segment:i first_step:i last_step:i created_at:f updated_at:f "
    "message:s value:f threshold:f evidence:s diagnosis:s remedy:s",
    "events": "id:s segment:i step:i time:f kind:s message:s data:s",
}


def _alert_row(alert: Alert) -> dict[str, Any]:
    row = {each.name: getattr(alert, each.name) for each in fields(alert) if each.name != "run_id"}
    return row | {name: write(row[name]) for name, write in _TEXT_ALERT.items()}


def _event_row(event: Event) -> dict[str, Any]:
    row = {each.name: getattr(event, each.name) for each in fields(event) if each.name != "run_id"}
    return row | {"data": to_json(dict(event.data))}


def segments_of(run_id: str, table: Any) -> list[Segment]:
    """Return the segments in a table."""
    return [Segment(run_id, **row) for row in table.to_pylist()]


def series_of(table: Any) -> Iterable[SeriesKey]:
    """Return the series in a table."""
    return [SeriesKey(**row) for row in table.to_pylist()]


def alerts_of(run_id: str, table: Any) -> list[Alert]:
    """Return the alerts in a table."""
    return [
        Alert(
            run_id=run_id,
            **row
            | {
                "severity": Severity(row["severity"]),
                "state": AlertState(row["state"]),
                "evidence": evidence_from_json(row["evidence"]),
                "diagnosis": diagnosis_from_json(row["diagnosis"]),
            },
        )
        for row in table.to_pylist()
    ]


def events_of(run_id: str, table: Any) -> list[Event]:
    """Return the events in a table."""
    return [Event(run_id=run_id, **row | {"data": json.loads(row["data"])}) for row in table.to_pylist()]
