"""Processes that measure themselves and answer with a line of JSON."""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

_PATIENCE = 900.0  # seconds after which a process that does not end is given up


class FailedError(Exception):
    """A process did not do its work; the message says how it ended."""


def told(command: Sequence[str], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run a process and return the JSON that it prints last.

    It runs in an empty folder of its own, where what it spools and notes goes with it, and no settings of this one are seen.

    Raises:
        FailedError: it failed, did not end or printed none.
    """
    around = {name: value for name, value in os.environ.items() if not name.startswith("FORESHOCK_")}
    around |= {"PYTHONSAFEPATH": "1"} | dict(environment or {})
    try:
        with tempfile.TemporaryDirectory(prefix="foreshock_bench_") as folder:
            around["FORESHOCK_HOME"] = folder
            options: dict[str, Any] = {"cwd": folder, "env": around, "timeout": _PATIENCE}
            done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    except subprocess.TimeoutExpired:
        raise FailedError(f"no end after {_PATIENCE:.0f} s") from None
    # Trackers may say goodbye after it.
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        last = (done.stderr.strip() or "nothing was said").splitlines()[-1]
        raise FailedError(f"exit status {done.returncode}: {last}")
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer
