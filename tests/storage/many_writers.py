"""The other side of test_many_writers.py: many processes that log into one store at once, each with a writer of its own.

They are forked from one process that has imported everything and opened nothing: what costs a second a process is the imports.

Usage: many_writers.py URL FOLDER PROCESSES STEPS SERIES; prints one JSON object a process.
"""

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import sqlalchemy.dialects.postgresql.psycopg
import sqlalchemy.dialects.sqlite.pysqlite  # noqa: F401
from foreshock.storage import open_store
from foreshock.storage.opening import spool_place
from foreshock.storage.records import Alert, AlertState, Batch, Event, Run, RunStatus, Segment, SeriesKey, Severity, StepRecord
from foreshock.storage.records import derived_id as named
from foreshock.storage.writer import Writer


def log(url: str, folder: str, name: str, steps: int, series: int) -> None:
    troubles: list[str] = []
    run = Run(name, name, created_at=1.0, heartbeat_at=1.0)
    keys = tuple(SeriesKey("s", f"m{i}") for i in range(series))
    judged: list[int] = []

    def analyze(batch: Batch) -> Sequence[Alert]:
        judged.extend(record.step for record in batch.steps)
        if batch.steps[0].step > 0:
            return ()
        alert = named(name, "r", "", 0)
        return [Alert(alert, name, "r", "", 0, Severity.WARNING, AlertState.FIRING, 0, 0, 0, 1.0, 1.0, "m")]

    writer = Writer(
        lambda: open_store(url),
        run,
        Segment(name, 0, 0, 1.0),
        analyze=analyze,
        flush_interval=0.02,
        spool=spool_place(folder, 10**8, url),
        on_trouble=lambda message, error: troubles.append(message),
    )
    writer.start()
    longest = 0.0
    for step in range(steps):
        started = time.perf_counter()
        writer.put(StepRecord(step, float(step), keys, [float(step)] * series))
        longest = max(longest, time.perf_counter() - started)
        time.sleep(0.005)
    writer.put_event(Event(named(name, "event"), name, 0, steps, 1.0, "done", "m"))
    saved = writer.close(100.0, status=RunStatus.FINISHED)
    stats = writer.stats
    connections = len(writer.store._database._connections) if writer.store is not None else 0  # type: ignore[attr-defined]
    told = {
        "saved": saved,
        "judged": judged == list(range(steps)),
        "lost": stats.points_lost + stats.steps_dropped,
        "errors": stats.errors,
        "troubles": troubles,
        "connections": connections,
        "longest_put_ms": 1e3 * longest,
    }
    os.write(1, (json.dumps(told) + "\n").encode())  # one write: lines do not mix


def main(url: str, folder: str, processes: str, steps: str, series: str) -> int:
    gc.freeze()
    children = []
    for number in range(int(processes)):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                log(url, folder, f"{Path(folder).name}-{number:02}", int(steps), int(series))
                status = 0
            except Exception:  # noqa: BLE001 - whatever it is, the test is to see it
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        children.append(child)
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
