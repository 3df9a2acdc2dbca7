"""The addresses of the pages. A permalink holds what the reader looks at: run, layer and signals."""

from dataclasses import dataclass
from urllib.parse import parse_qs, quote, unquote, urlencode

from .pictures import Panel
from .signals import FIRST_SIGNAL, SECOND_SIGNAL

_RUN = "/run/"
_CAUSE = "/cause/"


def place_of(path: str | None) -> tuple[str, str]:
    """Return (first part, the rest, unquoted) of a path: ``/run/a%2Fb`` -> ``("run", "a/b")``; what is only ``/`` has neither."""
    place, _, rest = (path or "").lstrip("/").partition("/")
    return place, unquote(rest).rstrip("/")


@dataclass(frozen=True, slots=True)
class View:
    """What a run's page shows, as its address says it: the signals of the two heatmaps, the chosen layer, and its signal; the open
    panel, and the head and step that it is about.
    """

    module: str | None = None
    signal: str = FIRST_SIGNAL
    compare: str = SECOND_SIGNAL
    detail: str | None = None
    panel: str = Panel.LAYER.value
    head: int | None = None
    step: int | None = None


def run_path(run_id: str) -> str:
    """Return the path of a run's page."""
    return _RUN + quote(run_id, safe="")


def cause_path(doc: str) -> str:
    """Return the path of a cause's page. ``doc`` is the page's name, as ``Cause.doc`` has it."""
    return _CAUSE + quote(doc, safe="")


def view_of(search: str | None) -> View:
    """Return the view that a query string describes; what it leaves out takes its default."""
    given = parse_qs((search or "").lstrip("?"))
    usual = View()
    return View(
        module=given.get("module", [None])[0],
        signal=given.get("signal", [usual.signal])[0],
        compare=given.get("compare", [usual.compare])[0],
        detail=given.get("detail", [None])[0],
        panel=next((panel.value for panel in Panel if [panel.value] == given.get("panel")), usual.panel),
        head=_whole(given.get("head", [""])[0]),
        step=_whole(given.get("step", [""])[0]),
    )


def _whole(written: str) -> int | None:
    """Return a whole number of 15 digits or fewer; None where it is none."""
    return int(written) if written.isascii() and written.isdecimal() and len(written) <= 15 else None


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
