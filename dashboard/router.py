"""Which page an address shows."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

import dash
from dash import Input, Output, dcc, html
from dash.development.base_component import Component

from ..analyzer.diagnosis import page, patterns
from ..storage.base import Store
from ..storage.errors import StoreError, UnknownRunError
from .lens import Lens
from .paths import comparison_of, place_of, rules_path, run_of, runs_path, runs_view_of, view_of
from .source import StoreSource


def route(app: dash.Dash, source: StoreSource) -> None:
    """Register the callback that fills the page when the address changes.

    A run's page keeps its own query (layer, signals) up to date in the browser, without passing here.
    """

    @app.callback(Output("page", "children"), Input("url", "pathname"), Input("url", "search"))
    async def show(path: str | None, search: str | None) -> Component:
        return await asyncio.to_thread(lambda: page_at(source(), path, search))


def page_at(store: Store, path: str | None, search: str | None) -> Component:
    """Return the page at a path, or a page that says that there is nothing here, or why it cannot be shown just now."""
    place, name = place_of(path)
    try:
        maker = _PAGES.get(place)
        return maker(store, name, search or "") if maker is not None else _nowhere(path or "/")
    except UnknownRunError:
        return _no_run(store, run_of(search) or name)
    except StoreError as error:
        return _message("The store cannot be read just now", html.P(str(error)), html.P("Reload the page to try again."))


# Pages are imported when one is asked for: the server listens before numpy and the figures are there.


def _runs(store: Store, name: str, search: str) -> Component:
    from .pages.overview import overview_page
    from .sections.overview import Overview

    if name:
        return _nowhere(f"/{name}")
    view = runs_view_of(search)
    return overview_page(search, view, Overview(store, view).paint())


def _run(store: Store, name: str, search: str) -> Component:
    from .factory import loss
    from .layers import usual_layer
    from .pages.run import run_page
    from .sections.head import Head

    run, view = store.run(name), view_of(search)
    if view.module is None:
        view = replace(view, module=usual_layer(store, run))
    first = loss(store, run.id)
    first.lens = Lens.of("loss", view.window, view.smoothing, view.scales)
    return run_page(run, view, {**Head(store, run).paint(), **first.paint()})


def _compare(store: Store, _name: str, search: str) -> Component:
    from .comparing import compared
    from .pages.compare import compare_page, nothing_to_compare
    from .sections.compare import CompareTable

    comparison = comparison_of(search)
    found = compared(store, comparison)
    if not found.runs:
        return nothing_to_compare(found)
    words = CompareTable(store, [run.id for run in found.runs], comparison.baseline).paint()
    return compare_page(comparison, found, words)


def _cause(_store: Store, name: str, _search: str) -> Component:
    from .pages.cause import cause_page

    try:
        text = page(name)
    except ValueError as error:
        return _message("There is no such cause", html.P(str(error)))
    return cause_page(name, text, {pattern.doc: pattern.title for pattern in patterns()})


def _rules(store: Store, name: str, search: str) -> Component:
    from .sections.rules import RulesList

    run = store.run(run_of(search)) if run_of(search) else None
    if not name:
        from .pages.rules import rules_page

        return rules_page(store, run, RulesList(store, run.id if run else "").paint())
    from ..analyzer.rule_layers import in_force
    from .pages.rule import rule_page

    layers = in_force(store, run)
    return rule_page(store, run, layers, name) if name in layers.rules else _no_rule(name)


def _no_rule(name: str) -> Component:
    where = html.P(["No rule is called ", html.Code(name), ", neither in the package nor in the store."])
    return _message("There is no such rule", where, html.P(dcc.Link("See all rules", href=rules_path(), className="button")))


def _alerts(store: Store, name: str, search: str) -> Component:
    from .pages.inbox import inbox_page
    from .sections.inbox import Inbox
    from .sieve import sieve_at

    if name:
        return _nowhere(f"/alerts/{name}")
    sieve = sieve_at(search)
    return inbox_page(sieve, Inbox(store, sieve).paint())


def _alert(store: Store, name: str, _search: str) -> Component:
    from .pages.alert import alert_page
    from .paths import alerts_path
    from .sections.dossier import Dossier

    try:
        dossier = Dossier(store, name)
    except KeyError:
        where = html.P(["The store ", html.Code(store.url), " has no alert ", html.Code(name), ". Its run may have been deleted."])
        return _message("There is no such alert", where, html.P(dcc.Link("See all alerts", href=alerts_path(), className="button")))
    words = dossier.paint()
    return alert_page(dossier.alert, words)


_PAGES: Mapping[str, Callable[[Store, str, str], Component]] = {
    "": _runs,
    "run": _run,
    "compare": _compare,
    "cause": _cause,
    "alerts": _alerts,
    "alert": _alert,
    "rules": _rules,
}
"""First part of the path -> what makes its page of (the store, the rest of the path, the query)."""


def _no_run(store: Store, reference: str) -> Component:
    where = html.P(["The store ", html.Code(store.url), " has no run whose id or name is ", html.Code(reference), "."])
    return _message("There is no such run", where, html.P("It may be in another store, or its name may be spelt differently."))


def _nowhere(path: str) -> Component:
    return _message("There is no such page", html.P([html.Code(path), " is not an address of this dashboard."]))


def _message(title: str, *body: Component) -> Component:
    from .pages.parts import message

    return message(title, *body, html.P(dcc.Link("See all runs", href=runs_path(), className="button")))
