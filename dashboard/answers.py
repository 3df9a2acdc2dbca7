"""What the store answered since the last news: the tabs that follow a run wake together and ask the same."""

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from ..storage.base import Store
from ..storage.records import Run

KEPT = frozenset({"alerts", "changes", "events", "newest", "notifications", "read", "run", "series"})
"""Questions whose answers are short, and change only with what was written."""
_MOST = 200


class Answers:
    """A store that is not asked the same again until it was written to. Any thread may ask.

    It is asked every time while nobody listens to it. Answers are shared: who asked must not change them.

    Args:
        whole: Returns the store.
    """

    def __init__(self, whole: Callable[[], Store]) -> None:
        self.whole = whole
        self._lock = threading.Lock()
        self._known: dict[Hashable, Future[Any]] = {}
        self._hearing = False

    def hear(self, hearing: bool) -> None:
        """Note whether ``forget`` is called, from now on, whenever the store was written to."""
        with self._lock:
            self._hearing, self._known = hearing, {}

    def forget(self) -> None:
        """Forget all answers: something was written. What is being asked just now reaches only those who wait for it already."""
        with self._lock:
            self._known = {}

    def __getattr__(self, name: str) -> Any:
        ask = getattr(self.whole(), name)
        return partial(self._answer, name, ask) if name in KEPT else ask

    def _answer(self, name: str, ask: Callable[..., Any], *args: Any, **more: Any) -> Any:
        key = name, _fixed(args), _fixed(more)
        with self._lock:
            if not self._hearing:
                known, mine = None, None
            elif (known := self._known.get(key)) is None:
                if len(self._known) >= _MOST:
                    self._known = {}
                mine = self._known[key] = Future()
        if known is not None:
            return known.result()
        try:
            answer = ask(*args, **more)
        except BaseException as error:
            if mine is not None:
                self._drop(key, mine)
                mine.set_exception(error)
            raise
        if mine is not None:
            mine.set_result(answer)
        return answer

    def _drop(self, key: Hashable, mine: Future[Any]) -> None:
        """Forget a question that failed: the next who asks it tries again."""
        with self._lock:
            if self._known.get(key) is mine:
                del self._known[key]


def _fixed(value: Any) -> Hashable:
    """Return arguments as something that can be looked up."""
    if isinstance(value, Run):
        return value.id
    if isinstance(value, Mapping):
        return tuple((name, _fixed(value[name])) for name in sorted(value))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_fixed(one) for one in value)
    return value  # type: ignore[no-any-return]
