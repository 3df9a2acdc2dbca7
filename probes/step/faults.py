"""Counts what goes wrong inside the monitor. Nothing raised here ever reaches the training loop."""

import logging
import time
from collections import defaultdict
from collections.abc import Callable

import torch

from ..base import Guard

log = logging.getLogger("foreshock")

FAULTS_UNTIL_OFF = 3


class Faults:
    """Catches, counts and reports the monitor's own faults, by source ("probe spectral", "gradient norm", ...).

    A source that fails three times in a row is switched off for the rest of the run.
    """

    def __init__(self) -> None:
        self.total = 0
        self.seconds = 0.0
        """Time spent inside guarded work so far."""
        self.seconds_of: defaultdict[str, float] = defaultdict(float)
        """The same by source."""
        self._counts: dict[str, int] = {}
        self._in_a_row: dict[str, int] = {}
        self._told: set[str] = set()
        self._off: set[str] = set()
        self._report: Callable[[str, str], None] | None = None
        self._unreported: list[tuple[str, str]] = []

    def report_to(self, report: Callable[[str, str], None] | None) -> None:
        """Tell ``report(source, message)`` of each source's first fault, and when it is switched off; those so far, too."""
        self._report = report
        while report is not None and self._unreported:
            report(*self._unreported.pop(0))

    def guard(self, source: str) -> Guard:
        """Return ``run`` for one source, as probes and taps take it: a hook that returned its result would change the model."""

        def guarded(work: Callable[[], None]) -> None:
            self.run(source, work)

        return guarded

    def is_off(self, source: str) -> bool:
        """Tell whether the source was switched off."""
        return source in self._off

    def run(self, source: str, work: Callable[[], None]) -> bool:
        """Run ``work``; return whether it succeeded."""
        started = time.perf_counter()
        try:
            # What we compute is no business of a TorchFunctionMode, ours or the user's: it would be asked at every operation.
            with torch._C.DisableTorchFunction():
                work()
        except Exception as error:  # noqa: BLE001 - the law: a fault of ours is counted, never raised into training
            self.note(source, error)
            return False
        finally:
            taken = time.perf_counter() - started
            self.seconds += taken
            self.seconds_of[source] += taken
        return True

    def count(self, source: str) -> int:
        """Return how often the source failed so far."""
        return self._counts.get(source, 0)

    def succeeded(self, source: str) -> None:
        """Note a clean sample: the run of faults in a row ends."""
        self._in_a_row.pop(source, None)

    def note(self, source: str, error: Exception) -> None:
        """Count a fault."""
        self.total += 1
        self._counts[source] = self.count(source) + 1
        in_a_row = self._in_a_row[source] = self._in_a_row.get(source, 0) + 1
        what = f"{type(error).__name__}: {error}"
        if source not in self._told:
            self._told.add(source)
            log.warning("%s failed and was skipped; training goes on. %s", source, what, exc_info=error)
            self._tell(source, f"{source} failed: {what}")
        if in_a_row == FAULTS_UNTIL_OFF and source.startswith("probe "):
            self._off.add(source)
            log.warning("%s failed %d times in a row and is switched off for this run", source, in_a_row)
            self._tell(source, f"{source} switched off after {in_a_row} faults in a row: {what}")

    def _tell(self, source: str, message: str) -> None:
        if self._report is not None:
            self._report(source, message)
        else:
            self._unreported.append((source, message))
