"""Which monitors are open, and how a process ends: signals, interpreter exit, forks.

A run must say how it ended, and a forked child must keep its hands off it.
"""

import atexit
import logging
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterable
from types import FrameType
from typing import Any, Protocol

from .storage.records import RunStatus

log = logging.getLogger("foreshock")


class Closeable(Protocol):
    """What is kept alive until the process ends."""

    def close(self, status: RunStatus | str = RunStatus.FINISHED) -> None:
        """Write everything out and mark the run; may be called twice."""

    def abandon(self) -> None:
        """Forget threads and connections: they belong to the parent process."""


class AlreadyWatchedError(RuntimeError):
    """The model has a monitor already."""


_open: "weakref.WeakSet[Any]" = weakref.WeakSet()
# Root module -> its monitor.
_watched: "weakref.WeakKeyDictionary[Any, Any]" = weakref.WeakKeyDictionary()
_previous_handler: Any = None
_placed = False


def monitor_of(root: object) -> Any:
    """Return the open monitor that watches this root module, or None."""
    return _watched.get(root)


def keep(monitor: Closeable, roots: Iterable[object]) -> None:
    """Close ``monitor`` when the process ends, however it ends, and abandon it in forked children.

    Args:
        monitor: an open monitor.
        roots: the models it watches.
    """
    global _placed, _previous_handler
    _open.add(monitor)
    _watched.update(dict.fromkeys(roots, monitor))
    if _placed:
        return
    _placed = True
    atexit.register(_at_exit)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_in_child)
    # Only the main thread may place handlers; elsewhere interpreter exit still flushes.
    if threading.current_thread() is threading.main_thread():
        _previous_handler = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, _on_sigterm)


def release(monitor: Closeable) -> None:
    """Forget a monitor that was closed."""
    _open.discard(monitor)
    for root in [root for root, its in _watched.items() if its is monitor]:
        del _watched[root]


def how_the_script_ended() -> RunStatus:
    """Return what the interpreter's end says of a run that is still open then."""
    # Python leaves the exception that ended the script here; 3.12 renamed it.
    failed = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    interrupted = isinstance(failed, KeyboardInterrupt)
    return RunStatus.FINISHED if failed is None else RunStatus.TERMINATED if interrupted else RunStatus.CRASHED


def _at_exit() -> None:
    _close_all(how_the_script_ended())


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    _close_all(RunStatus.TERMINATED)
    if callable(_previous_handler):
        _previous_handler(number, frame)
    elif _previous_handler != signal.SIG_IGN:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)


def _close_all(status: RunStatus) -> None:
    for monitor in list(_open):
        try:
            monitor.close(status)
        except Exception:
            log.exception("closing a monitor failed")


def _in_child() -> None:
    for monitor in list(_open):
        monitor.abandon()
    _open.clear()
    _watched.clear()
