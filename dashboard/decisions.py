"""A person's decisions: about alerts, and about messages that could not be delivered."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import dash
from dash import ALL, MATCH, Input, Output, State
from dash.exceptions import PreventUpdate

from ..storage.base import Store
from ..storage.errors import IllegalTransitionError, ReadOnlyStoreError, StoreError
from ..storage.records import Alert, AlertState, Silence, new_id
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
        chosen = dash.ctx.triggered_id
        if not chosen or not any(clicks):
            raise PreventUpdate
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
        StoreError: it could not be written, or the alert cannot go there.
    """
    now = time.time()
    if choice in SILENCES:
        seconds = SILENCES[choice][1]
        alert = _found(store, alert_id)
        until = None if seconds is None else now + seconds
        scope = Silence(new_id(), rule=alert.rule, module=alert.module, run_id=alert.run_id)
        store.add_silence(replace(scope, until=until, created_at=now, created_by=person()))
    elif choice == UNDO:
        alert = _found(store, alert_id)
        for silence in store.silences(active_at=now):
            if about(silence, alert):
                store.end_silence(silence.id, at=now, by=person())
        if _found(store, alert_id).state is AlertState.SILENCED:
            return "A wider silence covers it too: see foreshock silence --list."
    else:
        store.set_alert_state(alert_id, AlertState(choice), at=now, by=person())
    return "Saved."


def about(silence: Silence, alert: Alert) -> bool:
    """Return whether a silence is about this very alert, or its rule in its module and run, and nothing wider."""
    if silence.alert_id:
        return silence.alert_id == alert.id
    return (silence.rule, silence.module, silence.run_id) == (alert.rule, alert.module, alert.run_id)


def retry(store: Store, letter: str) -> str:
    """Let a message that was given up wait again, to be sent now; return what to say of it.

    Raises:
        StoreError: it could not be written.
    """
    return "It is tried again now." if store.retry_notification(letter, at=time.time()) else "It waits already, or was sent."


def _told(work: Callable[[], str]) -> str:
    try:
        return work()
    except (IllegalTransitionError, ReadOnlyStoreError) as error:
        return str(error)
    except StoreError as error:
        return f"Could not be saved: {error}"
    except (KeyError, ValueError):
        return "This alert is no longer in the store."


def _found(store: Store, alert_id: str) -> Alert:
    open_ones = store.alerts(states=[state for state in AlertState if state is not AlertState.RESOLVED])
    found = next((alert for alert in open_ones if alert.id == alert_id), None)
    if found is None:
        raise KeyError(alert_id)
    return found
