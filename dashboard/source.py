"""The store behind the pages, which may still be being opened while the first page is served."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import cast

from ..storage.base import Store
from .access.reader import as_seen
from .answers import Answers


class StoreSource:
    """Gives the store to whoever asks, as soon as there is one.

    Args:
        store: A store, or a function that opens one. The function is called by ``open``, once.
    """

    def __init__(self, store: Store | Callable[[], Store]) -> None:
        self._opener = None if isinstance(store, Store) else store
        self._opened: Future[Store] = Future()
        self._beside: list[Callable[[], None]] = []
        self.answers = Answers(self.whole)
        """What it answered since the last news."""
        if isinstance(store, Store):
            self._opened.set_result(store)

    def open(self) -> None:
        """Open the store. What goes wrong is raised here, and for all who wait."""
        if self._opener is None:
            return
        try:
            self._opened.set_result(self._opener())
        except BaseException as error:
            self._opened.set_exception(error)
            raise

    def __call__(self) -> Store:
        """Return the store, as the visitor whose request this is may use it.

        Waits while it is being opened, so never call this on the event loop's thread.
        """
        return as_seen(self.whole())

    def live(self) -> Store:
        """Return the store for what reads it after each news of it: the same is asked once, however many want to know.

        Waits as well.
        """
        self.whole()
        return as_seen(cast(Store, self.answers))

    def whole(self) -> Store:
        """Return the store itself, for what the server does of its own accord. Waits as well."""
        return self._opened.result()

    def beside(self, close: Callable[[], None]) -> None:
        """Have this called before the store is closed: for what works on it by itself."""
        self._beside.append(close)

    def close(self) -> None:
        """Close the store if it was opened here, and what works beside it in any case."""
        for close in self._beside:
            close()
        if self._opener is not None and self._opened.done() and self._opened.exception() is None:
            self._opened.result().close()
