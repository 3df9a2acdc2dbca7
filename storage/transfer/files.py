"""Files and folders that appear whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .packages import TransferError


@contextmanager
def replacing(path: Path, *, force: bool) -> Iterator[Path]:
    """Yield a temporary name beside ``path`` to write to; when the block ends it takes its place, when it raises it is removed.

    Works for a file and for a folder.

    Raises:
        TransferError: ``path`` is there and ``force`` is not given, or its folder is missing.
    """
    path = Path(os.path.abspath(path.expanduser()))
    if not path.parent.is_dir():
        raise TransferError(f"The folder {path.parent} does not exist. Mend it with: mkdir -p {path.parent}")
    _refuse(path, force)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    _remove(partial)
    try:
        yield partial
        _sync(partial)
        _refuse(path, force)  # it may have come meanwhile
        _take_place(partial, path)
    except BaseException:
        _remove(partial)
        raise


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    return sum(each.stat().st_size for each in ([path] if path.is_file() else path.rglob("*")) if each.is_file())


def _refuse(path: Path, force: bool) -> None:
    if path.exists() and not force:
        raise TransferError(f"{path} is there already, and is left as it is. Name another, or replace it with --force.")


def _take_place(partial: Path, path: Path) -> None:
    if not path.is_dir():
        partial.replace(path)
        return
    # A folder cannot be renamed over one that holds something: the old one steps aside until the new one stands.
    aside = path.with_name(f".{path.name}.{os.getpid()}.old")
    path.rename(aside)
    try:
        partial.rename(path)
    except OSError:
        aside.rename(path)
        raise
    _remove(aside)


def _sync(partial: Path) -> None:
    for each in [partial] if partial.is_file() else [*partial.rglob("*"), partial]:
        with suppress(OSError):  # not every file system lets a folder be opened
            descriptor = os.open(each, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
