"""Work done in fresh processes, each with one thread."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, TypeVar

T = TypeVar("T")


def in_processes(work: Callable[..., T], calls: Iterable[tuple[Any, ...]], jobs: int) -> Iterator[T]:
    """Yield ``work(*call)`` for each call, in any order; what it raises is raised here.

    Args:
        work: a module's function: a fresh process imports it.
        calls: arguments of each call.
        jobs: processes at a time; with 1 everything runs here, in order.
    """
    if jobs == 1:
        yield from (work(*call) for call in calls)
        return
    # Forking a process in which torch has run threads can hang.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        try:
            yield from (done.result() for done in as_completed([pool.submit(work, *call) for call in calls]))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
