"""The news desk: one listener for the whole process, however many tabs are open, that wakes the loops whose run was written to."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..storage.base import Listener
from ..storage.errors import StoreError
from ..storage.results import News
from .source import StoreSource
from .waiting import happens

_WAIT = 5.0
"""Seconds after which the desk looks whether anybody is still waiting."""
_AGAIN = 1.0


class Subscription:
    """What one loop waits on. Its methods belong to the event loop that made it."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()

    async def wait(self, timeout: float) -> bool:
        """Return True as soon as the run was written to (or has been since ``clear``), False after ``timeout`` seconds."""
        return await happens(self._news, timeout)

    def clear(self) -> None:
        """Forget the news: the caller reads the store after this."""
        self._news.clear()

    def tell(self) -> None:
        """Wake who waits. May be called from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it who waited
            self._loop.call_soon_threadsafe(self._news.set)


class Backlog:
    """What was heard since somebody last asked. May be asked from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hearing = False
        self._news = News()

    def __call__(self) -> News:
        """Return what was written since the last call; that anything may have been while nobody listens to the store."""
        with self._lock:
            heard, self._news = self._news, News()
            return heard if self._hearing else News(everything=True)

    def add(self, heard: News) -> None:
        """Note what was heard."""
        with self._lock:
            self._news = News(self._news.runs | heard.runs, self._news.everything or heard.everything)

    def hear(self, hearing: bool) -> None:
        """Note whether the store is being listened to from now on."""
        with self._lock:
            self._hearing = hearing


class NewsDesk:
    """Listens to the store while somebody waits for its news, and not otherwise.

    Args:
        source: The store.
    """

    def __init__(self, source: StoreSource) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._subscriptions: set[Subscription] = set()
        self._listening = False
        self._closed = threading.Event()
        self._listener: Listener | None = None
        self.backlog = Backlog()
        """What was heard, for the list of all runs, which all tabs share."""

    @contextmanager
    def subscribed(self, run_id: str) -> Iterator[Subscription]:
        """Wait for news of a run; ``''`` for those of any run. Called on the event loop's thread."""
        subscription = Subscription(run_id)
        with self._lock:
            self._subscriptions.add(subscription)
            if not self._listening and not self._closed.is_set():
                self._listening = True
                threading.Thread(target=self._listen, name="foreshock-dashboard-news", daemon=True).start()
        try:
            yield subscription
        finally:
            with self._lock:
                self._subscriptions.discard(subscription)

    @property
    def notice(self) -> str:
        """What readers should be told about the store; asked of a store that is open."""
        return self._source.whole().notice

    def close(self) -> None:
        """Stop listening. May be called twice."""
        self._closed.set()
        with self._lock:
            listener = self._listener
        if listener is not None:
            listener.close()

    def _listen(self) -> None:
        while self._wanted():
            try:
                listener = self._source.whole().listen()
            except StoreError:
                self._closed.wait(_AGAIN)
                continue
            with contextlib.closing(listener):
                with self._lock:
                    self._listener = listener
                self._tell(News(everything=True))  # what was written before there was a listener
                self._hear(True)
                while self._wanted():
                    began = time.monotonic()
                    if heard := listener.wait(_WAIT):
                        self._tell(heard)
                    elif time.monotonic() - began < _WAIT / 2:
                        break  # it was closed under us, with its store
            self._hear(False)
            with self._lock:
                self._listener = None

    def _wanted(self) -> bool:
        with self._lock:
            self._listening = bool(self._subscriptions) and not self._closed.is_set()
            return self._listening

    def _hear(self, hearing: bool) -> None:
        self.backlog.hear(hearing)
        self._source.answers.hear(hearing)

    def _tell(self, heard: News) -> None:
        self._source.answers.forget()  # before anybody who is woken reads
        self.backlog.add(heard)
        with self._lock:
            concerned = [one for one in self._subscriptions if heard.concerns(one.run_id)]
        for subscription in concerned:
            subscription.tell()
