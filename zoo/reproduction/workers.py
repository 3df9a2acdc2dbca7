"""Training runs in worker processes of their own, at most two at a time, with a progress bar."""

import json
import multiprocessing
import os
import sys
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .runs import Job, made_with, perform

PROCESSES = 2


def train_all(todo: list[Job], *, threads: int) -> list[dict[str, Any]]:
    """Train what has no result of these versions yet; return every result, in order.

    Raises:
        Exception: whatever a run raised; runs that have not begun are not begun.
    """
    kept = {job.file: result for job in todo if (result := _kept(job)) is not None}
    missing = [job for job in todo if job.file not in kept]
    processes = max(1, min(PROCESSES, len(missing), (os.cpu_count() or 1) // threads))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, console=Console(file=sys.stderr)) as bar,
        # Threads and locks of this process must not be forked; Linux' default would.
        ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        task = bar.add_task("training runs", total=len(todo), completed=len(kept))
        futures = {pool.submit(perform, job): job for job in missing}
        for future in futures:
            future.add_done_callback(lambda _: bar.advance(task))
        done, running = wait(futures, return_when=FIRST_EXCEPTION)
        for future in running:
            future.cancel()
        for future in done:
            kept[futures[future].file] = future.result()
    return [kept[job.file] for job in todo]


def _kept(job: Job) -> dict[str, Any] | None:
    """Return a result of an earlier call, if it was made by the same versions and all that goes with it is there."""
    if not job.file.exists() or (job.capture_at is not None and not job.captured.exists()):
        return None
    result: dict[str, Any] = json.loads(job.file.read_text("utf-8"))
    return result if result.get("made_with") == made_with() else None
