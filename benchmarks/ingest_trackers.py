"""Other trackers doing what ``foreshock bench ingest`` does. Run as a script of its own, perhaps by another interpreter.

It needs nothing of foreshock, so that trackers whose dependencies cannot live beside ours are measured in the same run: the
process measures itself and prints a line of JSON. Making the run, importing and the end of the process are not in the seconds; all
from the first value given to the last one durable is.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import random
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WALL = 1_700_000_000.0
Rows = Sequence[Sequence[float]]


def rows_of(series: int, steps: int) -> list[list[float]]:
    """Return the values that every contestant logs: a list a step, the same every time."""
    source = random.Random(0)
    return [[source.gauss(0.0, 1.0) for _ in range(series)] for _ in range(steps)]


def names_of(series: int) -> list[str]:
    """Return the names of the series, as long as a layer's signal."""
    return [f"model.layers.{number}.mlp/activation.rms" for number in range(series)]


class Clock:
    """Times one contestant, and lets one that is slow stop early.

    Args:
        seconds: no step is begun later than so long after the first.
    """

    def __init__(self, seconds: float) -> None:
        self.steps = 0
        self._most = seconds
        self._began = 0.0

    def each(self, rows: Rows) -> Iterator[tuple[int, Sequence[float]]]:
        """Yield step and values until all are given or time is up."""
        self._began = time.perf_counter()
        end = self._began + self._most
        for step, values in enumerate(rows):
            if time.perf_counter() > end:
                return
            self.steps = step + 1
            yield step, values

    def elapsed(self) -> float:
        """Return the seconds since the first step began."""
        return time.perf_counter() - self._began


@dataclass(frozen=True, slots=True)
class Tracker:
    """How one tracker is measured.

    Attributes:
        needs: the modules it imports.
        package: what is installed and whose version is told.
        durable: what a kill -9 of the process right after the last measured moment leaves.
        run: logs the rows under the clock into the folder; returns the seconds, and how many points are found there
            afterwards (None where that is not looked up).
    """

    needs: tuple[str, ...]
    package: str
    durable: str
    run: Callable[[Path, list[str], Rows, Clock], tuple[float, int | None]]

    @property
    def install(self) -> str:
        """What mends its absence."""
        return f"pip install {self.package}"


def _trackio(folder: Path, names: list[str], rows: Rows, clock: Clock) -> tuple[float, int | None]:
    os.environ |= {"TRACKIO_DIR": str(folder), "HF_HUB_OFFLINE": "1"}
    import trackio

    # Its own measurements of the machine are ours neither.
    run = trackio.init(project="bench", name="bench", embed=False, auto_log_cpu=False, auto_log_gpu=False)
    for step, values in clock.each(rows):
        run.log(dict(zip(names, values, strict=True)), step=step)
    run.finish()
    seconds = clock.elapsed()
    with contextlib.closing(sqlite3.connect(next(folder.rglob("bench.db")))) as database:
        (found,) = database.execute("SELECT count(*) FROM metrics").fetchone()
    return seconds, found * len(names)


def _wandb(folder: Path, names: list[str], rows: Rows, clock: Clock) -> tuple[float, int | None]:
    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false", "WANDB_DIR": str(folder)}
    import wandb

    settings = wandb.Settings(x_disable_stats=True, x_disable_meta=True, console="off", silent=True)
    run = wandb.init(project="bench", mode="offline", dir=str(folder), settings=settings)
    for step, values in clock.each(rows):
        run.log(dict(zip(names, values, strict=True)), step=step)
    run.finish()
    return clock.elapsed(), None


def _tensorboard(folder: Path, names: list[str], rows: Rows, clock: Clock) -> tuple[float, int | None]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))
    for step, values in clock.each(rows):
        for name, value in zip(names, values, strict=True):
            writer.add_scalar(name, value, step)
    writer.flush()
    seconds = clock.elapsed()
    writer.close()
    return seconds, None


def _tensorboard_events(folder: Path, names: list[str], rows: Rows, clock: Clock) -> tuple[float, int | None]:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder))
    for step, values in clock.each(rows):
        parts = [Summary.Value(tag=name, simple_value=value) for name, value in zip(names, values, strict=True)]
        writer.add_event(Event(wall_time=_WALL + step, step=step, summary=Summary(value=parts)))
    writer.flush()
    seconds = clock.elapsed()
    writer.close()
    return seconds, None


def _mlflow(folder: Path, names: list[str], rows: Rows, clock: Clock) -> tuple[float, int | None]:
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    import logging

    logging.disable(logging.WARNING)
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

    database = folder / "mlflow.db"
    client: Any = MlflowClient(tracking_uri=f"sqlite:///{database}")
    run_id = client.create_run(client.create_experiment("bench", artifact_location=str(folder / "artifacts"))).info.run_id
    most = max(1, 1000 // len(names))  # steps a call: it takes up to 1,000 values
    waiting: list[Any] = []
    for step, values in clock.each(rows):
        at = int((_WALL + step) * 1000)
        waiting += [Metric(name, value, at, step) for name, value in zip(names, values, strict=True)]
        if (step + 1) % most == 0:
            client.log_batch(run_id, metrics=waiting)
            waiting = []
    if waiting:
        client.log_batch(run_id, metrics=waiting)
    seconds = clock.elapsed()
    with contextlib.closing(sqlite3.connect(database)) as connection:
        (found,) = connection.execute("SELECT count(*) FROM metrics").fetchone()
    return seconds, int(found)


TRACKERS = {
    "trackio": Tracker(("trackio",), "trackio", "finish() returned: committed in its SQLite file", _trackio),
    "wandb": Tracker(("wandb",), "wandb", "offline, finish() returned: in the .wandb file, closed by its service", _wandb),
    "tensorboard": Tracker(
        ("tensorboard", "torch"),
        "tensorboard",
        "one add_scalar a value, SummaryWriter.flush() returned: in the event file",
        _tensorboard,
    ),
    "tensorboard-events": Tracker(
        ("tensorboard",),
        "tensorboard",
        "one event a step, EventFileWriter.flush() returned: in the event file",
        _tensorboard_events,
    ),
    "mlflow": Tracker(("mlflow",), "mlflow", "log_batch of 1,000 values returned: committed in its SQLite file", _mlflow),
}


def here() -> dict[str, str]:
    """Return the trackers that this interpreter can import, with their versions."""
    found = {}
    for name, tracker in TRACKERS.items():
        if all(importlib.util.find_spec(module) is not None for module in tracker.needs):
            found[name] = _version(tracker.package)
    return found


def _version(package: str) -> str:
    for name in (package, f"{package}-skinny"):  # MLflow comes in two sizes with one module
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return "?"


def main(arguments: Sequence[str]) -> int:
    """Print which trackers are here, or measure one: ``NAME FOLDER SERIES STEPS SECONDS``."""
    if not arguments:
        print(json.dumps(here()))
        return 0
    name, folder, series, steps, seconds = arguments
    clock = Clock(float(seconds))
    rows = rows_of(int(series), int(steps))
    with contextlib.redirect_stdout(sys.stderr):  # what trackers have to say is no part of the answer
        took, found = TRACKERS[name].run(Path(folder), names_of(int(series)), rows, clock)
    print(json.dumps({"seconds": took, "steps": clock.steps, "found": found}), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
