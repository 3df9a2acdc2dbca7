"""A TCP proxy in front of a database server that a test may cut: refuse, reset, hang, tear a commit apart."""

import contextlib
import socket
import struct
import threading
from typing import Literal

from sqlalchemy import make_url

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends a reset
_PORTS = {"postgresql": 5432, "mysql": 3306}


class Proxy:
    """Forwards every connection to the server of ``url`` until told otherwise; ``self.url`` leads through it."""

    def __init__(self, url: str) -> None:
        given = make_url(url)
        self._target = given.host or "127.0.0.1", given.port or _PORTS[given.get_backend_name()]
        self._ends: list[socket.socket] = []
        self._flowing = threading.Event()
        self._flowing.set()
        self._swallowing = False
        self._tear: Literal["", "before", "after"] = ""
        self._committing: socket.socket | None = None
        self.torn = 0
        self._listener: socket.socket | None = None
        self._port = 0
        self._listen()
        self.url = given.set(host="127.0.0.1", port=self._port).render_as_string(hide_password=False)

    def refuse(self) -> None:
        """Reset every connection and refuse new ones: the server was stopped."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self._reset()

    def hang(self) -> None:
        """Accept, and forward nothing: the server is frozen."""
        self._flowing.clear()

    def swallow(self) -> None:
        """Accept, and drop whatever comes: what hung in it will never be answered, even when new connections work again."""
        self._swallowing = True

    def tear(self, when: Literal["before", "after"]) -> None:
        """Reset at the next commit, before the server hears of it or before the client hears of its success."""
        self._tear = when

    def restore(self) -> None:
        """Work again. Connections that were swallowed stay dead."""
        self._swallowing = False
        self._flowing.set()
        if self._listener is None:
            self._listen()

    def close(self) -> None:
        """Stop."""
        self.refuse()
        self._flowing.set()

    def _listen(self) -> None:
        self._listener = listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        listener.listen(100)
        self._port = listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
                server = socket.create_connection(self._target)
            except OSError:
                return
            self._ends += [client, server]
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, target, source is client), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, to_server: bool) -> None:
        dead = False
        while True:
            try:
                data = source.recv(1 << 16)
                self._flowing.wait()
                dead = dead or self._swallowing
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    return
                if dead:
                    continue
                if to_server and self._tear and b"COMMIT" in data:
                    when, self._tear = self._tear, ""
                    if when == "before":
                        self._torn()
                        return
                    self._committing = target
                elif source is self._committing:  # its answer: it is committed
                    self._committing = None
                    self._torn()
                    return
                target.sendall(data)
            except OSError:
                return

    def _torn(self) -> None:
        self._reset()
        self.torn += 1

    def _reset(self) -> None:
        ends, self._ends = self._ends, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                end.shutdown(socket.SHUT_RDWR)
            end.close()
