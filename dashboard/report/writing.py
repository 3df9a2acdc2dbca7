"""A report as a file, which appears whole or not at all."""

import re
from pathlib import Path

from ...storage.records import Run
from ...storage.transfer.files import replacing
from .wanted import ReportError

_MARK = b'<meta name="generator" content="foreshock report">'
_LOOKED_AT = 8192


def usual_name(run: Run) -> str:
    """Return the name of a run's file: what of its name every system takes, and the first letters of its id."""
    name = re.sub(r"[^\w.-]+", "-", run.name).strip("-.")[:60].rstrip("-.")
    return f"{'-'.join(part for part in ('foreshock', name, run.id[:8]) if part)}.html"


def write(page: str, path: Path, *, force: bool = False) -> int:
    """Write a page; return its size in bytes. An older report at that place is replaced.

    Raises:
        ReportError: something else is there already and ``force`` is not given, or the file cannot be written.
        TransferError: its folder does not exist.
    """
    content = page.encode()
    if path.is_dir():
        raise ReportError(f"{path} is a folder. Name a file in it: --to {path / 'report.html'}")
    try:
        if path.exists() and not force and not _is_report(path):
            raise ReportError(f"{path} is there already and is no report of ours. Name another file, or replace it with --force.")
        with replacing(path, force=True) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise ReportError(f"{path} cannot be written: {error.strerror or error}. Name another place with --to FILE.") from error
    return len(content)


def _is_report(path: Path) -> bool:
    with path.open("rb") as file:
        return _MARK in file.read(_LOOKED_AT)
