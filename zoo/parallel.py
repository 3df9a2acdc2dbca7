"""Work done in fresh processes, each with one thread."""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, TypeVar

T = TypeVar("T")


def in_processes(
    work: Callable[..., T], calls: Iterable[tuple[Any, ...]], jobs: int, environment: dict[str, str] | None = None
) -> Iterator[T]:
    """Yield ``work(*call)`` for each call, as they are done; what one raises is raised here, and no more are begun.

    Args:
        work: a module's function: a fresh process imports it.
        calls: arguments of each call.
        jobs: processes at a time.
        environment: set in those processes.
    """
    variables = {"OMP_NUM_THREADS": "1"} | (environment or {})
    # Forking a process in which torch has run threads can hang.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _prepare, (variables,)) as pool:
        try:
            yield from (done.result() for done in as_completed([pool.submit(work, *call) for call in calls]))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _prepare(variables: dict[str, str]) -> None:
    os.environ.update(variables)
