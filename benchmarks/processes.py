"""Processes that measure themselves and answer with a line of JSON."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

_PATIENCE = 900.0  # seconds after which a process that does not end is given up


class FailedError(Exception):
    """A process did not do its work; the message says how it ended."""


def told(command: Sequence[str], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run a process and return the JSON that it prints last.

    Raises:
        FailedError: it failed, did not end or printed none.
    """
    around = os.environ | {"PYTHONSAFEPATH": "1"} | dict(environment or {})
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=around, timeout=_PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise FailedError(f"no end after {_PATIENCE:.0f} s") from None
    # Trackers may say goodbye after it.
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        last = (done.stderr.strip() or "nothing was said").splitlines()[-1]
        raise FailedError(f"exit status {done.returncode}: {last}")
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer
