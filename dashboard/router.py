"""Which page an address shows."""

import asyncio
from dataclasses import replace

import dash
from dash import Input, Output, dcc, html
from dash.development.base_component import Component

from ..analyzer.diagnosis import page, patterns
from ..storage.base import Store
from ..storage.errors import StoreError, UnknownRunError
from .paths import cause_of, order_of, run_of, view_of
from .source import StoreSource


def route(app: dash.Dash, source: StoreSource) -> None:
    """Register the callback that fills the page when the address changes.

    A run's page keeps its own query (layer, signals) up to date in the browser, without passing here.
    """

    @app.callback(Output("page", "children"), Input("url", "pathname"), Input("url", "search"))
    async def show(path: str | None, search: str | None) -> Component:
        return await asyncio.to_thread(lambda: page_at(source(), path, search))


def page_at(store: Store, path: str | None, search: str | None) -> Component:
    """Return the page at a path: the list of runs, a run, a cause, or a page that says that there is nothing here."""
    from .layers import usual_layer
    from .pages.cause import cause_page
    from .pages.overview import overview_page
    from .pages.parts import message
    from .pages.run import run_page
    from .sections.head import Head
    from .sections.overview import Overview

    back = html.P(dcc.Link("See all runs", href="/", className="button"))
    if (doc := cause_of(path)) is not None:
        try:
            text = page(doc)
        except ValueError as error:
            return message("There is no such cause", html.P(str(error)), back)
        return cause_page(doc, text, {pattern.doc: pattern.title for pattern in patterns()})
    reference = run_of(path)
    if reference is None and path not in (None, "", "/"):
        return message("There is no such page", html.P([html.Code(path), " is not an address of this dashboard."]), back)
    try:
        if reference is None:
            order = order_of(search)
            return overview_page(order, Overview(store, *order).paint()["runs"]["children"])
        run, view = store.run(reference), view_of(search)
        if view.module is None:
            view = replace(view, module=usual_layer(store, run))
        return run_page(run, view, Head(store, run).paint())
    except UnknownRunError:
        where = html.P(["The store ", html.Code(store.url), " has no run whose id or name is ", html.Code(reference), "."])
        return message(
            "There is no such run", where, html.P("It may be in another store, or its name may be spelt differently."), back
        )
    except StoreError as error:
        return message("The store cannot be read just now", html.P(str(error)), html.P("Reload the page to try again."), back)
