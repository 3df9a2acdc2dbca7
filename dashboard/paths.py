"""The addresses of the pages. A permalink holds the whole view: run, layer, signals, zoom, smoothing and scales."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode

from .pictures import Panel
from .signals import FIRST_SIGNAL, SECOND_SIGNAL

_RUN = "/run/"
_CAUSE = "/cause/"
_TABLE = "/table/"


def place_of(path: str | None) -> tuple[str, str]:
    """Return (first part, the rest, unquoted) of a path: ``/run/a%2Fb`` -> ``("run", "a/b")``; what is only ``/`` has neither."""
    place, _, rest = (path or "").lstrip("/").partition("/")
    return place, unquote(rest).rstrip("/")


def _kept(usual: str | None, prop: str) -> Any:
    """Return a field of the view: the component of its name keeps it in that property, and so does the address."""
    return field(default=usual, metadata={"property": prop})


@dataclass(frozen=True, slots=True)
class View:
    """What a run's page shows, as its address says it. Another part of it is another line here: links and Back follow.

    The signals of the two heatmaps, the chosen layer and its signal; and of all charts over steps the window, the smoothing and the
    scales, as ``Lens.of`` reads them; the open panel, and the head and step that the panels are about.
    """

    module: str | None = _kept(None, "value")
    signal: str = _kept(FIRST_SIGNAL, "value")
    compare: str = _kept(SECOND_SIGNAL, "value")
    detail: str | None = _kept(None, "value")
    window: str | None = _kept(None, "data")
    smoothing: str = _kept("0", "value")
    scales: str | None = _kept(None, "data")
    panel: str = _kept(Panel.LAYER.value, "data")
    head: str | None = _kept(None, "value")
    step: str | None = _kept(None, "value")


KEPT: Mapping[str, str] = {part.name: part.metadata["property"] for part in fields(View)}
"""Component id -> the property in which it keeps its part of the view."""


def run_path(run_id: str) -> str:
    """Return the path of a run's page."""
    return _RUN + quote(run_id, safe="")


def cause_path(doc: str) -> str:
    """Return the path of a cause's page. ``doc`` is the page's name, as ``Cause.doc`` has it."""
    return _CAUSE + quote(doc, safe="")


def view_of(search: str | None) -> View:
    """Return the view that a query string describes; what it leaves out takes its default."""
    given = parse_qs((search or "").lstrip("?"))
    return View(**{name: given[name][0] for name in KEPT if name in given})


def whole(written: object) -> int | None:
    """Return a whole number of 15 digits or fewer as the address or a control gives it; None where it is none."""
    text = str(written)
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 15 else None


def table_path(run_id: str) -> str:
    """Return the path under which what a run's charts draw stands as CSV, a file a chart: ``PATH/GRAPH.csv``."""
    return f"{_TABLE}{quote(run_id, safe='')}"


Order = tuple[str, bool, int]
"""Column and direction (True: largest first) of the list of runs, and its page, from 1."""


def order_of(search: str | None) -> Order:
    """Return (column, descending, page) of the list of runs."""
    given = parse_qs((search or "").lstrip("?"))
    page = given.get("page", ["1"])[0]
    return given.get("sort", [""])[0], given.get("order", ["asc"])[0] == "desc", int(page) if page.isdecimal() else 1


def runs_path(order: Order = ("", False, 1)) -> str:
    """Return the path of the list of runs in this order, at this page."""
    column, descending, page = order
    query = {"sort": column, "order": "desc" if descending else "asc"} if column else {}
    query |= {"page": str(page)} if page > 1 else {}
    return "/" + ("?" + urlencode(query) if query else "")
