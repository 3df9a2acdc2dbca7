"""A small log on the local disk of what could not reach the store, because the store cannot tell of its own absence.

One JSON object a line in ``trouble.jsonl`` under ``FORESHOCK_HOME`` (default ``~/.foreshock``), about 1 MB at most: at half
of that the file is set aside once, the older one goes. Nothing here ever raises: this is where other failures end up.
"""

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from .codec import clean
from .records import Run

HOME = "FORESHOCK_HOME"
_MOST_BYTES = 512 * 1024  # of each of the two files
_MOST_LETTERS = 2000


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that went wrong. ``lost`` counts the samples that are gone for good because of it."""

    time: float
    run: str
    run_id: str
    store: str
    kind: str
    message: str
    lost: int = 0


def path() -> Path:
    """Return where the log is kept."""
    home = os.environ.get(HOME)
    return (Path(home).expanduser() if home else Path.home() / ".foreshock") / "trouble.jsonl"


def record(trouble: Trouble) -> None:
    """Append to the log. Where even that fails, the trouble is forgotten."""
    with suppress(OSError, RuntimeError, ValueError, TypeError):  # RuntimeError: a user without a home folder
        log = path()
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists() and log.stat().st_size > _MOST_BYTES:
            log.replace(_older(log))
        row = {name: value[:_MOST_LETTERS] if isinstance(value, str) else value for name, value in asdict(trouble).items()}
        line = clean(json.dumps(row, ensure_ascii=False)) + "\n"
        # One write of one line: lines of several processes do not mix.
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


def recent(limit: int = 50) -> list[Trouble]:
    """Return the newest troubles, newest first. Lines that cannot be read are passed over."""
    lines: list[str] = []
    with suppress(RuntimeError):
        for log in (_older(path()), path()):
            with suppress(OSError):
                lines += log.read_text("utf-8", "replace").splitlines()
    found: list[Trouble] = []
    names = {item.name for item in fields(Trouble)}
    for line in reversed(lines):
        if len(found) >= limit:
            break
        with suppress(ValueError, TypeError, AttributeError):
            found.append(Trouble(**{name: value for name, value in json.loads(line).items() if name in names}))
    return found


def _older(log: Path) -> Path:
    return log.with_name("trouble.1.jsonl")


class Reporter:
    """Tells of trouble in two places: the caller's ``on_trouble`` (which logs or counts) and the log on disk.

    Args:
        run: whose trouble it is.
        on_trouble: called with a message for people and the exception, if there was one. What it raises is swallowed.
    """

    def __init__(self, run: Run, on_trouble: Callable[[str, Exception | None], None]) -> None:
        self.store = ""
        self._run = run
        self._on_trouble = on_trouble
        self._told: set[str] = set()

    def tell(self, kind: str, message: str, error: Exception | None = None, *, lost: int = 0) -> None:
        """Report."""
        record(Trouble(time.time(), self._run.name, self._run.id, self.store, kind, message, lost))
        with suppress(Exception):  # the caller's function: whatever it raises, the writer goes on
            self._on_trouble(message, error)

    def tell_once(self, kind: str, message: str, error: Exception | None = None) -> bool:
        """Report unless this kind was reported by this method before; return whether it was told now."""
        if kind in self._told:
            return False
        self._told.add(kind)
        self.tell(kind, message, error)
        return True

    def again(self, kind: str) -> None:
        """Let ``tell_once`` report this kind another time."""
        self._told.discard(kind)
