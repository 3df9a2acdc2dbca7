"""Weights & Biases: the file ``run-ID.wandb`` that every run keeps beside itself, offline or not.

Values are what ``run.log`` was given, nested ones joined by dots, under the step of the history. What has no step (system metrics)
or is no number is counted. A run that was resumed has several folders under one id; they are its parts.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typing_extensions import override

from ...records import RunStatus
from ..packages import TransferError, load
from .leveldb import Log, NotALogError
from .source import FURTHEST, Found, HistogramPoint, Item, Part, Progress, Source, Survey, equal_bins
from .tensorboard import UNEQUAL

_PATTERN = "run-*.wandb"
_LOOK_FOR_RUN = 50  # records before the one that names the run
_PLURALS = {"image-file": "images", "images": "images", "audio-file": "audio clips", "table-file": "tables", "video-file": "videos"}
_OTHERS = {
    "stats": "system metrics (they have no step)",
    "output_raw": "lines of output",
    "output": "lines of output",
    "alert": "W&B alerts",
}


def find(path: Path, *, step_metric: str | None = None) -> Found:
    """Return the runs at a path: a ``.wandb`` file, a run's folder, or a folder of such (``wandb/``).

    Args:
        step_metric: the logged metric that counts steps, where it is not W&B's own step.

    Raises:
        TransferError: there is none, or the package that reads them is not installed.
    """
    _protocol()
    files = [path] if path.is_file() else sorted(path.rglob(_PATTERN), key=lambda file: file.parent.name)
    logs: dict[tuple[str, str, str], list[tuple[Log, Any]]] = {}
    left_out: list[str] = []
    for file in {file.resolve(): None for file in files}:
        log = Log(file, file.stat().st_size)
        try:
            run = _named(log)
        except NotALogError as error:
            left_out.append(f"{file} ({error})")
            continue
        logs.setdefault((run.entity, run.project, run.run_id), []).append((log, run))
    if not logs:
        raise TransferError(f"No W&B run files (run-*.wandb) in {path} or below it{': ' if left_out else ''}{'; '.join(left_out)}.")
    return Found([WandbRun(parts, step_metric) for parts in logs.values()], left_out)


class WandbRun(Source):
    """The files of one run id, in order of the folders they lie in, which begin with the time."""

    def __init__(self, parts: list[tuple[Log, Any]], step_metric: str | None = None) -> None:
        self._logs = [log for log, _ in parts]
        self._run = parts[-1][1]
        self._step_metric = step_metric
        self.name = self._run.display_name or self._run.run_id
        self.aliases = (self._run.run_id,)
        self.size = sum(log.size for log in self._logs)

    @property
    @override
    def identity(self) -> tuple[object, ...]:
        return "wandb", self._run.entity, self._run.project, self._run.run_id

    @property
    @override
    def origin(self) -> str:
        return str(self._logs[0].path.parent)

    @override
    def survey(self, progress: Progress) -> Survey:
        found = Survey(project=self._run.project, status=RunStatus.TERMINATED, tags=tuple(self._run.tags))
        found.meta = {
            "wandb_id": self._run.run_id,
            **{name: text for name in ("notes", "host") if (text := getattr(self._run, name))},
            **{name: text for name in ("run_group", "job_type", "sweep_id") if (text := getattr(self._run, name))},
        }
        config: dict[str, Any] = {}
        for log in self._logs:
            found.status = RunStatus.TERMINATED  # unless this part says how it ended
            for record in _records(log, progress):
                what = record.WhichOneof("record_type")
                if what == "history":
                    self._look(record.history, found)
                elif what == "run":
                    _configure(config, record.run.config)
                elif what == "config":
                    _configure(config, record.config)
                elif what == "exit":
                    found.status = RunStatus.CRASHED if record.exit.exit_code else RunStatus.FINISHED
                elif what in _OTHERS:
                    found.skipped[_OTHERS[what]] += len(record.stats.item) if what == "stats" else 1
            if log.damaged:
                found.skipped["damaged records (wrong checksum)"] += log.damaged
            if log.unread:
                found.notes.append(f"{log.path.name}: the last {log.unread:,} bytes are no whole record and were left.")
        found.created_at = self._run.start_time.seconds + self._run.start_time.nanos / 1e9 or found.created_at
        if found.status is RunStatus.TERMINATED:
            found.notes.append("W&B has no word of how the run ended (it goes on, or was killed): it is kept as terminated.")
        if config:
            found.meta["config"] = config
        return found

    @override
    def stream(self) -> Iterator[Item]:
        for log in self._logs:
            yield Part()
            for record in _records(log):
                if record.WhichOneof("record_type") != "history":
                    continue
                step, time, values, shapes = self._row(record.history)
                if step is None:
                    continue
                for name, value in values.items():
                    if isinstance(value, float):
                        yield name, step, time, value
                for name, parts in shapes.items():
                    if (bins := _bins(parts)) is not None:
                        yield HistogramPoint(name, step, time, *bins)

    def _look(self, history: Any, found: Survey) -> None:
        step, time, values, shapes = self._row(history)
        found.saw(time)
        if step is None:
            found.skipped[f"rows without the step metric {self._step_metric}"] += 1
            return
        for name, value in values.items():
            if isinstance(value, float):
                found.labels[name] += 1
            else:
                found.skipped["values that are not numbers"] += 1
        for name, parts in shapes.items():
            if _bins(parts) is not None:
                found.histograms[name] += 1
            else:
                kind = str(parts["_type"])
                found.skipped[UNEQUAL if kind == "histogram" else _PLURALS.get(kind, f"values of type {kind}")] += 1

    def _row(self, history: Any) -> tuple[int | None, float, dict[str, Any], dict[str, dict[str, Any]]]:
        """Return a row's step, time, values (floats, or whatever else they are) and objects that have a type, by name."""
        values: dict[str, Any] = {}
        nested: dict[str, dict[str, Any]] = {}
        for item in history.item:
            if not item.nested_key:
                values[item.key] = _value(item.value_json)
            elif len(item.nested_key) == 1:
                values[item.nested_key[0]] = _value(item.value_json)
            else:
                *heads, last = item.nested_key
                nested.setdefault(".".join(heads), {})[last] = _value(item.value_json)
        shapes: dict[str, dict[str, Any]] = {}
        for name, parts in [*nested.items(), *((name, each) for name, each in values.items() if isinstance(each, dict))]:
            if "_type" in parts:
                shapes[name] = parts
                values.pop(name, None)
            else:
                values.update({f"{name}.{last}": value for last, value in parts.items()})
        step, time = values.pop("_step", history.step.num), values.pop("_timestamp", 0.0)
        values.pop("_runtime", None)
        if self._step_metric is not None:
            step = values.pop(self._step_metric, None)
        usable = isinstance(step, int | float) and abs(step) < FURTHEST
        return int(step) if usable else None, time, values, shapes


def _named(log: Log) -> Any:
    """Return the record that names the run.

    Raises:
        NotALogError: there is none near the beginning.
    """
    for _, record in zip(range(_LOOK_FOR_RUN), _records(log), strict=False):
        if record.WhichOneof("record_type") == "run":
            return record.run
    raise NotALogError("it does not say which run it is of: it has only just begun, or was cut off")


def _records(log: Log, progress: Progress | None = None) -> Iterator[Any]:
    parse = _protocol().Record.FromString
    for data in log:
        if progress is not None:
            progress(len(data))
        yield parse(data)


def _value(text: str) -> Any:
    """Return a JSON value; a number as a float. Truth is no number."""
    try:
        return float(text)  # by far the most, and JSON has no NaN
    except ValueError:
        value = json.loads(text)
    return float(value) if isinstance(value, str) and value in ("NaN", "Infinity", "-Infinity") else value


def _bins(parts: dict[str, Any]) -> tuple[float, float, tuple[int, ...]] | None:
    """Return (low, high, counts) of a W&B histogram with equal bins."""
    if parts.get("_type") != "histogram" or not isinstance(parts.get("values"), list):
        return None
    counts = parts["values"]
    packed = parts.get("packedBins")
    if isinstance(packed, dict):
        return equal_bins([packed["min"] + place * packed["size"] for place in range(packed["count"] + 1)], counts)
    return equal_bins(parts["bins"], counts) if isinstance(parts.get("bins"), list) else None


def _configure(config: dict[str, Any], change: Any) -> None:
    """Apply a record of the configuration, leaving out W&B's notes about itself."""
    for item in change.update:
        *heads, last = item.nested_key or [item.key]
        if [*heads, last][0] == "_wandb":
            continue
        place = config
        for head in heads:
            inner = place.get(head)
            place[head] = place = inner if isinstance(inner, dict) else {}
        place[last] = json.loads(item.value_json)
    for item in change.remove:
        config.pop((item.nested_key or [item.key])[0], None)


def _protocol() -> Any:
    """Return the module that knows W&B's records.

    Raises:
        TransferError: the package is not installed.
    """
    return load("wandb.proto.wandb_internal_pb2", "wandb", "Reading W&B's run files")
