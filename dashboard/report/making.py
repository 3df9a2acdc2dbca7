"""From a run to its page: what the command writes and the dashboard serves."""

from dataclasses import dataclass

from ...storage.base import Store
from ...storage.records import Run
from .content import Report
from .gather import Progress, gather
from .page import as_html
from .wanted import Wanted


@dataclass(frozen=True, slots=True)
class Made:
    """A report and its page."""

    report: Report
    page: str


def make(store: Store, run: Run, wanted: Wanted | None = None, progress: Progress = lambda done, total: None) -> Made:
    """Read a run and lay it out: some seconds at most, however long the run.

    Raises:
        ReportError: there is nothing to report, or not of what was asked for.
        StoreError: the store cannot be read.
    """
    report = gather(store, run, wanted or Wanted(), progress)
    return Made(report, as_html(report))
