"""A person's decisions about alerts."""

import asyncio
import getpass
import time
from typing import Any

import dash
from dash import ALL, MATCH, Input, Output, State
from dash.exceptions import PreventUpdate

from ..storage.base import StoreError
from ..storage.records import AlertState
from .source import StoreSource


def decide(app: dash.Dash, source: StoreSource) -> None:
    """Register the callbacks of the buttons Acknowledge and Resolve. The card changes with the next push, within half a second."""

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
        try:
            await asyncio.to_thread(record, source, note["alert"], AlertState(chosen["state"]))
        except KeyError:
            return "This alert is no longer in the store."
        except StoreError as error:
            return f"Could not be saved: {error}"
        return "Saved."


def record(source: StoreSource, alert_id: str, state: AlertState) -> None:
    """Write a decision under the name of the user who runs the dashboard."""
    source().set_alert_state(alert_id, state, at=time.time(), by=_user())


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container whose user id has no name
        return ""
