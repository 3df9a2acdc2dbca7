"""The addresses of the pages. A permalink holds the whole view: which runs; or a run, layer, signals, zoom, smoothing, scales.

Every link is made by a function here, called while a request is answered: it begins with the prefix of the reverse proxy before us.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode

from ..analyzer.messages import alert_path as told_path
from .pictures import Panel
from .signals import FIRST_SIGNAL, SECOND_SIGNAL

_RUN = "/run/"
_CAUSE = "/cause/"
_RULES = "/rules"
_REPORT = "/report/"
_ALERTS = "/alerts"
_TABLE = "/table/"

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
    return under(_RUN + quote(run_id, safe=""))


def report_path(run_id: str) -> str:
    """Return the path of a run's report, one HTML file. What is there is no page of the application: it needs a plain link."""
    return under(_REPORT + quote(run_id, safe=""))


def cause_path(doc: str) -> str:
    """Return the path of a cause's page. ``doc`` is the page's name, as ``Cause.doc`` has it."""
    return under(_CAUSE + quote(doc, safe=""))


def rules_path(run_id: str = "", rule: str = "") -> str:
    """Return the path of the list of rules, or of one rule, as a run is judged by them."""
    return under(_RULES + (f"/{quote(rule, safe='')}" if rule else "") + (f"?{urlencode({'run': run_id})}" if run_id else ""))


def run_of(search: str | None) -> str:
    """Return the run that a query names; empty where it names none."""
    return parse_qs((search or "").lstrip("?")).get("run", [""])[0]


def alerts_path(query: Mapping[str, str] | None = None) -> str:
    """Return the path of the inbox; ``query`` as ``Sieve.query`` gives it."""
    return under(_ALERTS + ("?" + urlencode(query) if query else ""))


def alert_path(alert_id: str) -> str:
    """Return the path of an alert's page: the one that notifications lead to."""
    return under(told_path(alert_id))


def layer_path(run_id: str, module: str, steps: tuple[int, int], signal: str = "") -> str:
    """Return the path of a run's page at a layer, the steps from the first to the last and, where given, one of its signals."""
    query = {"module": module, "detail": signal, "window": f"{steps[0]}-{steps[1]}"}
    return run_path(run_id) + "?" + urlencode({name: value for name, value in query.items() if value})


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
    return under(_TABLE + quote(run_id, safe=""))


OPEN_GROUPS, CLOSED_GROUPS = "open", "closed"
_MOST_PAGE_DIGITS = 6


@dataclass(frozen=True, slots=True)
class RunsView:
    """What the list of runs shows, as its address says it.

    Args:
        text: What is searched for.
        states: States (``Life``) to which the list is narrowed; none means all. So for ``projects`` and ``tags``.
        alerts: ``critical``, ``warning`` or ``info``: runs with an open alert of that severity or worse; ``none``: without any.
        sort: Column to sort by; empty for newest first.
        descending: Largest first.
        page: From 1; one past the end shows the last.
        group: ``open`` or ``closed``: runs stand in groups by project, which are open (closed) unless named in ``flipped``.
    """

    text: str = ""
    states: tuple[str, ...] = ()
    projects: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    alerts: str = ""
    sort: str = ""
    descending: bool = False
    page: int = 1
    group: str = ""
    flipped: tuple[str, ...] = ()

    @property
    def narrowed(self) -> bool:
        """Whether some runs are left out."""
        return bool(self.text.strip() or self.states or self.projects or self.tags or self.alerts)

    def closed(self, group: str) -> bool:
        """Return whether a group shows its heading only."""
        return (self.group == CLOSED_GROUPS) != (group in self.flipped)

    def everything(self) -> "RunsView":
        """Return the view without what narrows it."""
        return replace(self, text="", states=(), projects=(), tags=(), alerts="", page=1)


def runs_view_of(search: str | None) -> RunsView:
    """Return the view of the list of runs that a query string describes; what it leaves out takes its default."""
    given = parse_qs((search or "").lstrip("?"), keep_blank_values=True)

    def one(name: str) -> str:
        return given.get(name, [""])[0]

    def many(name: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(given.get(name, [])))

    page = one("page")
    return RunsView(
        text=one("q"),
        states=many("state"),
        projects=many("project"),
        tags=many("tag"),
        alerts=one("alerts"),
        sort=one("sort"),
        descending=one("order") == "desc",
        page=max(1, int(page)) if page.isdecimal() and len(page) <= _MOST_PAGE_DIGITS else 1,
        group=one("group") if one("group") in (OPEN_GROUPS, CLOSED_GROUPS) else "",
        flipped=many("flip"),
    )


def runs_path(view: RunsView = RunsView()) -> str:
    """Return the path of the list of runs in this view of it."""
    query: list[tuple[str, str]] = [("q", view.text)] if view.text else []
    for name, values in (("state", view.states), ("project", view.projects), ("tag", view.tags)):
        query += [(name, value) for value in values]
    query += [("alerts", view.alerts)] if view.alerts else []
    query += [("sort", view.sort), ("order", "desc" if view.descending else "asc")] if view.sort else []
    query += [("group", view.group)] if view.group else []
    query += [("flip", value) for value in view.flipped] if view.group else []
    query += [("page", str(view.page))] if view.page > 1 else []
    return under("/" + ("?" + urlencode(query) if query else ""))


AXES = ("step", "time", "share")
"""What the x axis of a comparison can be: training steps, time since the first step, share of the run."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the page that compares runs shows, as its address says it.

    Args:
        runs: Ids (or names) of the runs, in the order in which they are drawn.
        signal: The signal that is overlaid beside the loss.
        module: The layer of which, for a signal that is measured by layer.
        axis: One of ``AXES``.
        log: Whether the values' axes are logarithmic.
        baseline: The run from which the differences of the others' losses are drawn; empty for none.
    """

    runs: tuple[str, ...] = ()
    signal: str = ""
    module: str = ""
    axis: str = AXES[0]
    log: bool = False
    baseline: str = ""

    def without(self, run_id: str) -> "Comparison":
        """Return the comparison of the other runs."""
        runs = tuple(one for one in self.runs if one != run_id)
        return replace(self, runs=runs, baseline="" if self.baseline == run_id else self.baseline)


def comparison_of(search: str | None) -> Comparison:
    """Return the comparison that a query string describes."""
    given = parse_qs((search or "").lstrip("?"))
    # Split before it is decoded: an id may hold a comma.
    pairs = [part.partition("=") for part in (search or "").lstrip("?").split("&")]
    runs = dict.fromkeys(unquote(one) for name, _, listed in pairs if name == "runs" for one in listed.split(",") if one)
    axis = given.get("x", [AXES[0]])[0]
    return Comparison(
        tuple(runs),
        given.get("signal", [""])[0],
        given.get("module", [""])[0],
        axis if axis in AXES else AXES[0],
        given.get("y", [""])[0] == "log",
        given.get("base", [""])[0],
    )


def compare_path(comparison: Comparison = Comparison()) -> str:
    """Return the path of the page that compares runs."""
    usual = Comparison()
    query = {
        "signal": comparison.signal,
        "module": comparison.module,
        "x": "" if comparison.axis == usual.axis else comparison.axis,
        "y": "log" if comparison.log else "",
        "base": comparison.baseline,
    }
    parts = [f"runs={','.join(quote(run_id, safe='') for run_id in comparison.runs)}"] if comparison.runs else []
    parts += [urlencode({name: value}) for name, value in query.items() if value]
    return under("/compare" + ("?" + "&".join(parts) if parts else ""))
