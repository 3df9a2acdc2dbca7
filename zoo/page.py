"""The live page in a process of its own, so that serving it and training do not share an interpreter lock."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from types import TracebackType

_PREFERRED_PORT = 8050
_PATIENCE_S = 60.0


class LivePage:
    """``foreshock dashboard`` as a child process, ended with the ``with`` block.

    Args:
        store: URL of the store it shows.
        port: to listen on; 8050 by default, another free one when that is taken.
    """

    def __init__(self, store: str, port: int | None = None) -> None:
        self._store = store
        self.port = port or _free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self._process: subprocess.Popen[bytes] | None = None
        self._was_up = False

    def __enter__(self) -> "LivePage":
        command = [sys.executable, "-P", "-m", "foreshock", "dashboard", "--port", str(self.port)]
        quiet = subprocess.DEVNULL
        # The address may hold a password, which a command line would show to everybody on this machine.
        environment = os.environ | {"FORESHOCK_STORE": self._store}
        self._process = subprocess.Popen(command, stdout=quiet, stderr=quiet, stdin=quiet, env=environment)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
            self._process.kill()

    def serving(self) -> bool:
        """Tell whether the page answers now."""
        if self._process is None or self._process.poll() is not None:
            return False
        try:
            with urllib.request.urlopen(f"{self.url}healthz", timeout=2) as answer:
                up = bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False
        self._was_up = self._was_up or up
        return up

    def served(self) -> bool:
        """Tell whether the page ever answered."""
        return self._was_up or self.serving()

    def wait_until_serving(self) -> bool:
        """Wait until the page answers, for at most a minute; return whether it does."""
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            if self.serving():
                return True
            if self._process is None or self._process.poll() is not None:
                return False
            time.sleep(0.1)
        return False

    def wait(self) -> None:
        """Wait until the page's process ends."""
        if self._process is not None:
            self._process.wait()


def _free_port() -> int:
    for port in (_PREFERRED_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(os.name != "nt"))
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no free port on 127.0.0.1")
