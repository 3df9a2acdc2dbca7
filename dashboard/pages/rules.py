"""The list of rules: the layout."""

from typing import Any

from dash import dcc, html

from ...storage.base import Store
from ...storage.records import Run
from ..paths import run_path
from ..updates import Updates
from .attributes import aria, data

_MOST_RUNS = 200


def rules_page(store: Store, run: Run | None, words: Updates) -> html.Main:
    """Return the page with its list as it is now; ``sections.rules`` keeps it up to date."""
    return html.Main(
        [
            dcc.Store(id="rules-run", data=run.id if run is not None else ""),
            dcc.Store(id="rules-page-ticket"),
            dcc.Store(id="rules-replayed"),
            html.H1("Rules", className="page-title"),
            html.P(
                "A rule watches signals of a run and raises an alert when they look like trouble. What is changed here, runs that "
                "train take over within seconds; every change is kept, and can be taken back.",
                className="quiet rules-lead",
            ),
            html.Div([_run_choice(store, run), _search()], className="rules-bar card"),
            _replay(run),
            html.Div(words["rules-troubles"]["children"], id="rules-troubles"),
            html.Div(words["rules-list"]["children"], id="rules-list"),
            html.P("No rule has these words.", id="rules-none", className="card", hidden=True),
        ],
        id="rules-page",
        className="page",
        **data(live=""),
    )


def _run_choice(store: Store, run: Run | None) -> html.Label:
    runs = store.runs(limit=_MOST_RUNS)
    if run is not None and run.id not in {each.id for each in runs}:
        runs.append(run)
    options: Any = [{"label": "any new run", "value": ""}, *({"label": run_label(each), "value": each.id} for each in runs)]
    picker = dcc.Dropdown(
        id="rules-run-choice",
        options=options,
        value=run.id if run is not None else "",
        clearable=False,
        className="picker wide-picker",
        maxHeight=420,
    )
    return html.Label([html.Span("As they hold for", className="label"), picker], className="layer-choice")


def run_label(run: Run) -> str:
    """Return a run's name with what tells it from others of that name."""
    project = f" · {run.project}" if run.project else ""
    return f"{run.name[:80]}{project} · {run.id[:8]}"


def _search() -> html.Div:
    field = dcc.Input(
        id="rules-search",
        type="search",
        placeholder="loss, window, changed, off, fired …",
        className="rules-search",
        debounce=False,
    )
    label = html.Label([html.Span("Search", className="label"), field], className="layer-choice")
    return html.Div([label, html.Span(id="rules-count", className="quiet", role="status")], className="rules-find")


def _replay(run: Run | None) -> html.Section:
    said = [
        html.Span(id="rules-replay-said", role="status", **aria(live="polite")),
        html.Button("Replay again", id="rules-replay-go", type="button", className="button"),
        *([html.A("Open the run", href=run_path(run.id), className="button")] if run is not None else []),
    ]
    return html.Section(
        said, id="rules-replay", className="card rules-replay", hidden=run is None, **aria(label="Replay of this run")
    )
