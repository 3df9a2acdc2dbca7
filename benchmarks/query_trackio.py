"""Reads one metric of a long run with trackio, for ``foreshock bench query``. Run as a script, perhaps by another interpreter.

It needs nothing of foreshock. The run is logged first, which takes minutes at full size; only reading is timed.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def read(folder: Path, series: int, steps: int, points: int, times: int) -> tuple[list[float], int]:
    """Return the seconds of each read of one metric, decimated by trackio to so many points, and the points that came.

    Raises:
        RuntimeError: trackio did not keep every step.
    """
    os.environ |= {"TRACKIO_DIR": str(folder), "HF_HUB_OFFLINE": "1"}
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    source = random.Random(0)
    run = trackio.init(project="bench", name="bench", embed=False, auto_log_cpu=False, auto_log_gpu=False)
    names = [f"metric.{number}" for number in range(series)]
    for step in range(steps):
        run.log({name: source.random() for name in names}, step=step)
        while len(run._queued_logs) > 2_000:  # at its end it waits half a minute for what is left, no longer
            time.sleep(0.05)
    run.finish()
    if len(SQLiteStorage.get_metric_values("bench", "bench", names[0])) != steps:
        raise RuntimeError(f"trackio does not have all of {steps} steps")
    seconds = []
    for number in range(times):
        began = time.perf_counter()
        found = SQLiteStorage.get_metric_values("bench", "bench", names[number % series], max_points=points)
        seconds.append(time.perf_counter() - began)
    return seconds, len(found)


def main(arguments: Sequence[str]) -> int:
    """Print whether trackio is here, or read: ``FOLDER SERIES STEPS POINTS TIMES``."""
    if not arguments:
        here = importlib.util.find_spec("trackio") is not None
        print(json.dumps({"trackio": importlib.metadata.version("trackio")} if here else {}))
        return 0
    with contextlib.redirect_stdout(sys.stderr):
        seconds, points = read(Path(arguments[0]), *(int(argument) for argument in arguments[1:]))
    print(json.dumps({"seconds": seconds, "points": points}), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
