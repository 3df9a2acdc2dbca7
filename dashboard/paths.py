"""The addresses of the pages. A permalink holds what the reader looks at: run, layer and signals.

Every link is made by a function here, called while a request is answered: it begins with the prefix of the reverse proxy before us.
"""

from contextvars import ContextVar
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, unquote, urlencode

from .signals import FIRST_SIGNAL, SECOND_SIGNAL

_RUN = "/run/"
_CAUSE = "/cause/"


_PREFIX: ContextVar[str] = ContextVar("foreshock_prefix", default="")


def serve_below(prefix: str) -> None:
    """Say below which path the pages stand, for the rest of this request: ``/foreshock``, or ``''``."""
    _PREFIX.set(prefix)


def under(path: str) -> str:
    """Return the address of a path of ours, as a browser must write it."""
    return _PREFIX.get() + path


def inner(path: str) -> str:
    """Return a path without the prefix; as it is where it does not begin so."""
    prefix = _PREFIX.get()
    return path[len(prefix) :] or "/" if prefix and (path + "/").startswith(prefix + "/") else path


def place_of(path: str | None) -> tuple[str, str]:
    """Return (first part, the rest, unquoted) of a path: ``/run/a%2Fb`` -> ``("run", "a/b")``; what is only ``/`` has neither."""
    place, _, rest = inner(path or "").lstrip("/").partition("/")
    return place, unquote(rest).rstrip("/")


@dataclass(frozen=True, slots=True)
class View:
    """What a run's page shows, as its address says it: the signals of the two heatmaps, the chosen layer, and its signal."""

    module: str | None = None
    signal: str = FIRST_SIGNAL
    compare: str = SECOND_SIGNAL
    detail: str | None = None


def run_path(run_id: str) -> str:
    """Return the path of a run's page."""
    return under(_RUN + quote(run_id, safe=""))


def cause_path(doc: str) -> str:
    """Return the path of a cause's page. ``doc`` is the page's name, as ``Cause.doc`` has it."""
    return under(_CAUSE + quote(doc, safe=""))


def view_of(search: str | None) -> View:
    """Return the view that a query string describes; what it leaves out takes its default."""
    given = parse_qs((search or "").lstrip("?"))
    usual = View()
    return View(
        module=given.get("module", [None])[0],
        signal=given.get("signal", [usual.signal])[0],
        compare=given.get("compare", [usual.compare])[0],
        detail=given.get("detail", [None])[0],
    )


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
    return under("/" + ("?" + urlencode(query) if query else ""))
