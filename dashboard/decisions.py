"""A person's decisions: about alerts, and about messages that could not be delivered."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import dash
from dash import ALL, MATCH, Input, Output, State
from dash.exceptions import PreventUpdate

from ..analyzer import handling
from ..storage.base import Store
from ..storage.errors import ReadOnlyStoreError, StoreError
from ..storage.records import AlertState
from .pressed import pressed
from .source import StoreSource
from .who import person

SILENCES: Mapping[str, tuple[str, float | None]] = {
    "silence-1h": ("1 hour", 3600.0),
    "silence-8h": ("8 hours", 8 * 3600.0),
    "silence-1d": ("1 day", 86400.0),
    "silence-run": ("This run", None),
}
"""Choice -> (label, seconds; None: until it is ended)."""
UNDO = "unsilence"


def decide(app: dash.Dash, source: StoreSource) -> None:
    """Register the callbacks of the buttons. What they change shows with the next push, about half a second later."""

    @app.callback(
        Output({"kind": "decision-note", "alert": MATCH}, "children"),
        Input({"kind": "decision", "alert": MATCH, "state": ALL}, "n_clicks"),
        State({"kind": "decision-note", "alert": MATCH}, "id"),
        prevent_initial_call=True,
    )
    async def set_state(clicks: list[int | None], note: dict[str, Any]) -> str:
        chosen = pressed()
        return await asyncio.to_thread(_told, lambda: record(source(), note["alert"], chosen["state"]))

    @app.callback(
        Output({"kind": "letter-note", "letter": MATCH}, "children"),
        Input({"kind": "letter", "letter": MATCH}, "n_clicks"),
        State({"kind": "letter-note", "letter": MATCH}, "id"),
        prevent_initial_call=True,
    )
    async def send_again(clicks: int | None, note: dict[str, Any]) -> str:
        if not clicks:
            raise PreventUpdate
        return await asyncio.to_thread(_told, lambda: retry(source(), note["letter"]))


def record(store: Store, alert_id: str, choice: str) -> str:
    """Write a decision under the name of the user who runs the dashboard; return what to say of it.

    A silence is about the alert's rule, in its module and run, so that it holds for the next episodes too.

    Raises:
        KeyError: no such alert, or no such choice.
        StoreError: it could not be written.
    """
    if choice in SILENCES:
        seconds, now = SILENCES[choice][1], time.time()
        until = None if seconds is None else now + seconds
        handling.silence(store, {alert_id: None}, handling.Scope.LAYER, until=until, by=person(), now=now)
    elif choice == UNDO:
        if handling.unsilence(store, alert_id, by=person()):
            return "A wider silence covers it too: the alert's page shows which."
    else:
        outcome = handling.decide(store, {alert_id: None}, AlertState(choice), by=person())
        if outcome.refused:
            return outcome.refused[0][1]
    return "Saved."


def retry(store: Store, letter: str) -> str:
    """Let a message that was given up wait again, to be sent now; return what to say of it.

    Raises:
        StoreError: it could not be written.
    """
    return "It is tried again now." if store.retry_notification(letter, at=time.time()) else "It waits already, or was sent."


def _told(work: Callable[[], str]) -> str:
    try:
        return work()
    except ReadOnlyStoreError as error:
        return str(error)
    except StoreError as error:
        return f"Could not be saved: {error}"
    except (KeyError, ValueError):
        return "This alert is no longer in the store."
