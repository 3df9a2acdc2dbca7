"""What monitors on this machine noted when they could not write: shown beside what the store itself holds."""

import time
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache

from dash import html
from dash.development.base_component import Component

from ..storage.records import Run
from ..storage.trouble import Trouble, path, recent
from .pages.attributes import aria
from .vitals import ago

_RECENT = 24 * 3600.0
_READ = 200
_SHOWN = 5


def troubles_of_run(run: Run) -> list[Trouble]:
    """Return the newest troubles of one run, newest first."""
    return [trouble for trouble in _noted(_stamp()) if trouble.run_id == run.id][:_SHOWN]


def troubles_of_store(url: str) -> list[Trouble]:
    """Return the newest troubles, within a day, of runs that meant to write to a store; newest first."""
    since = time.time() - _RECENT
    return [trouble for trouble in _noted(_stamp()) if trouble.time >= since and trouble.store in ("", url)][:_SHOWN]


def trouble_list(noted: Sequence[Trouble], *, with_run: bool = False) -> list[Component]:
    """Return troubles as a list; nothing where there are none."""
    if not noted:
        return []
    now = time.time()
    rows = [
        html.Li(
            [
                html.Span(ago(now - trouble.time), className="trouble-time"),
                html.Span([html.Strong(f"{trouble.run}: ") if with_run else "", trouble.message]),
            ]
        )
        for trouble in noted
    ]
    title = [html.H2("Noted by monitors on this machine", className="section-title")] if with_run else []
    return [*title, html.Ul(rows, className="troubles", **aria(label="Troubles noted by the monitor"))]


def _stamp() -> tuple[int, int]:
    """Return what changes with the log, so that it is read again only then."""
    with suppress(OSError, RuntimeError):
        state = path().stat()
        return state.st_mtime_ns, state.st_size
    return 0, 0


@lru_cache(maxsize=1)
def _noted(stamp: tuple[int, int]) -> tuple[Trouble, ...]:
    return tuple(recent(_READ))
