"""The list of runs: what narrows it, and what it says when it is empty."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from dash import dcc, html

from ...storage.records import Severity
from ..listing import NO_ALERTS
from ..paths import OPEN_GROUPS, RunsView, compare_path
from ..searching import LONGEST
from ..updates import Updates, digests
from .attributes import aria, data
from .run_table import view_link

ATTACH = """with foreshock.watch(model, optimizer, run="my-run") as monitor:
    ...
    monitor.step(loss)          # at the end of every step"""

ALERT_CHOICES = (
    (Severity.CRITICAL.value, "critical"),
    (Severity.WARNING.value, "warning or worse"),
    (Severity.INFO.value, "any open alert"),
    (NO_ALERTS, "no open alert"),
)


def overview_page(search: str, view: RunsView, words: Updates) -> html.Main:
    """Return the page with its list as it is now; ``sections.overview`` keeps it up to date.

    Args:
        search: The query of its address, of which ``view`` was made.
        words: What ``sections.overview`` paints.
    """
    return html.Main(
        [
            dcc.Store(id="runs-search", data=search),
            dcc.Store(id="overview-ticket"),
            dcc.Store(id="overview-painted", data=digests(words)),
            html.Div(
                [
                    html.H1("Runs", className="page-title"),
                    html.P(words["runs-count"]["children"], id="runs-count", className="quiet", role="status"),
                ],
                className="title-line",
            ),
            _tools(view, words),
            html.Div(
                [
                    html.Div(id="runs-list"),  # filled by assets/runs.js
                    html.Div(words["runs-empty"]["children"], id="runs-empty"),
                ],
                id="runs",
                className="card flush",
            ),
            dcc.Store(id="runs-table", data=words["runs-table"]["data"]),
            dcc.Store(id="runs-drawn"),
            dcc.Store(id="runs-changed"),
            _selection(),
            html.Div(words["overview-troubles"]["children"], id="overview-troubles"),
        ],
        id="overview",
        className="page",
        **data(live=""),
    )


def _tools(view: RunsView, words: Updates) -> html.Div:
    # The box itself is made by assets/runs.js: Dash's own would write an older text over what is being typed on a busy machine.
    place = html.Div(id="run-search-place", **data(value=view.text[:LONGEST], longest=str(LONGEST)))
    alerts = [{"label": label, "value": value} for value, label in ALERT_CHOICES]
    filters = (
        ("filter-state", "State", words["filter-state"]["options"], list(view.states), True),
        ("filter-alerts", "Alerts", alerts, view.alerts or None, False),
        ("filter-project", "Project", words["filter-project"]["options"], list(view.projects), True),
        ("filter-tag", "Tag", words["filter-tag"]["options"], list(view.tags), True),
    )
    group = dcc.Checklist(
        options=[{"label": "Group by project", "value": OPEN_GROUPS}],
        value=[OPEN_GROUPS] if view.group else [],
        id="group-runs",
        className="group-choice",
    )
    return html.Div(
        [
            html.Label(
                [html.Span("Search runs", className="visually-hidden"), place], htmlFor="run-search", className="run-search-label"
            ),
            dcc.Store(id="run-search-text", data=view.text[:LONGEST]),
            *(_filter(*one) for one in filters),
            html.Div(group, role="group", **aria(label="Grouping")),
        ],
        className="tools",
        role="search",
        **aria(label="Search and filter runs"),
    )


def _filter(name: str, label: str, options: Sequence[Any], value: Any, several: bool) -> html.Label:
    picker = dcc.Dropdown(
        id=name,
        options=list(options),
        value=value,
        multi=several,
        placeholder=f"Any {label.lower()}",
        className="picker filter",
        maxHeight=320,
    )
    return html.Label([html.Span(label, className="visually-hidden"), picker])


def _selection() -> html.Div:
    """Return the bar that tells which runs are selected, filled and shown by ``assets/runs.js``."""
    parts = [
        html.Span(id="picked-words", role="status"),
        dcc.Link("Compare", href=compare_path(), id="compare-link", className="button primary"),
        html.Button("Clear selection", id="picked-clear", type="button", className="button"),
    ]
    return html.Div(parts, id="selection", className="selection", hidden=True, **data(compare=compare_path()))


def count_words(found: int, total: int, view: RunsView) -> list[Any]:
    """Return how many runs are listed of how many, and the way back to all of them."""
    words: list[Any] = [_runs(total) if not view.narrowed else f"{found:,} of {_runs(total)}"]
    if len(view.text) > LONGEST:
        words.append(f" · only the first {LONGEST} letters are searched for")
    if view.narrowed:
        words += [" · ", view_link("Clear filters", view.everything(), id="clear-filters")]
    return words


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count:,} runs"


def nothing_matches(view: RunsView, count: Callable[[RunsView], int]) -> html.Div:
    """Return what the list says when no run is left: what narrows it, and how many there are without each of these.

    Args:
        count: Returns how many runs a view shows.
    """
    parts = (
        (view.text.strip(), f"the search “{view.text.strip()[:60]}”", replace(view, text="", page=1)),
        (view.states, f"the state {' or '.join(view.states)}", replace(view, states=(), page=1)),
        (view.alerts, "the choice of alerts", replace(view, alerts="", page=1)),
        (view.projects, f"the project {' or '.join(view.projects)[:60]}", replace(view, projects=(), page=1)),
        (view.tags, f"the tag {' or '.join(view.tags)[:60]}", replace(view, tags=(), page=1)),
    )
    ways = []
    for used, words, wider in parts:
        if used:
            found = count(wider)
            rest = view_link(f"there are {found:,}", wider) if found else "there is still none"
            ways.append(html.Li(["Without ", html.Span(words, dir="auto"), ": ", rest]))
    return html.Div(
        [
            html.H2("No run matches"),
            html.P("Every run that is stored is left out by what you asked for."),
            html.Ul(ways),
            html.P(view_link("Clear all filters", view.everything(), className="view-link button")),
        ],
        className="empty",
        id="no-match",
    )


def nothing_yet(address: str) -> html.Div:
    """Return what an empty store shows: how to get a first run."""
    return html.Div(
        [
            html.H2("No run has been recorded yet"),
            html.P(["This page watches ", html.Code(address), ". A run appears here as soon as it has started."]),
            html.H3("Watch your own training"),
            html.P("Two lines in any PyTorch loop:"),
            html.Pre(html.Code(ATTACH)),
            html.H3("Or see it work first"),
            html.P("Trains a small model that fails in a known way, in about two minutes:"),
            html.Pre(html.Code("foreshock demo")),
        ],
        className="empty",
        id="no-runs",
    )
