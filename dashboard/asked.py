"""What a reader asks for in the inbox or on an alert's page: checked, done, and told. The asking itself is ``assets/alerts.js``."""

import asyncio
import re
import time
from collections.abc import Mapping
from typing import Any

import dash
from dash import Input, Output
from dash.exceptions import PreventUpdate

from ..analyzer import handling
from ..analyzer.handling import HandlingError, Scope
from ..storage.base import Store
from ..storage.errors import ReadOnlyStoreError, StoreError
from ..storage.records import AlertState
from .source import StoreSource
from .who import person

DONE: Mapping[str, str] = {
    AlertState.ACKNOWLEDGED.value: "acknowledged",
    AlertState.RESOLVED.value: "resolved",
    AlertState.FIRING.value: "opened again",
    AlertState.SILENCED.value: "silenced",
}
"""States that may be asked for -> what was then done."""
UNSILENCE, END_SILENCE, COMMENT = "unsilence", "end", "comment"
_MOST_ALERTS = 500
_MOST_AHEAD = 10 * 365 * 86400.0
_IDENTITY = re.compile(r"[0-9a-f]{32}")


def take_requests(app: dash.Dash, source: StoreSource) -> None:
    """Register the callback that does what is asked. What it changes shows with the next push."""

    @app.callback(Output("answered", "data"), Input("asked", "data"), prevent_initial_call=True)
    async def answer(asked: dict[str, Any] | None) -> dict[str, Any]:
        if not isinstance(asked, dict):
            raise PreventUpdate
        return await asyncio.to_thread(lambda: answered(source(), asked))


def answered(store: Store, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Do what is asked; return ``{"number": of the request, "ok": whether it was understood and done, "text": what to say}``."""
    ok = False
    try:
        text = fulfilled(store, asked, by=person())
        ok = True
    except (HandlingError, ReadOnlyStoreError) as error:
        text = str(error)
    except StoreError as error:
        text = f"Could not be saved: {error}"
    except KeyError as error:
        text = f"It is no longer in the store: {error.args[0]}."
    return {"number": asked.get("number"), "ok": ok, "text": text}


def fulfilled(store: Store, asked: Mapping[str, Any], *, by: str) -> str:
    """Do what is asked, in the name of a person; return what became of it.

    Args:
        asked: ``action``; ``alerts``, id -> the state in which it was seen, or None; ``comment``; for a silence ``scope`` and
            ``until`` (seconds since the epoch; None: until it is ended); ``silence``, the one to end; ``id`` of a comment.

    Raises:
        HandlingError: it makes no sense; nothing was done.
        KeyError: there is no such alert or silence.
        StoreError: the store cannot be written.
    """
    action, alerts, comment = asked.get("action"), _alerts(asked.get("alerts")), asked.get("comment") or ""
    if not isinstance(comment, str):
        raise HandlingError("A comment is text.")
    if action == END_SILENCE:
        count = store.end_silence(str(asked.get("silence")), at=time.time(), by=by)
        return f"The silence has ended; {count:,} {'alert fires' if count == 1 else 'alerts fire'} again."
    if not alerts:
        raise HandlingError("No alert was chosen.")
    if action == COMMENT:
        identity = str(asked.get("id"))
        for alert_id in alerts:
            handling.comment_on(store, alert_id, comment, by=by, identity=identity if _IDENTITY.fullmatch(identity) else "")
        return "Your comment was added."
    if action == UNSILENCE:
        wider = [alert_id for alert_id in alerts if handling.unsilence(store, alert_id, by=by)]
        return "A wider silence covers it still; the alert's page shows which." if wider else "No longer silenced."
    if action == AlertState.SILENCED.value:
        return _silence(store, alerts, asked, comment, by)
    if action not in DONE:
        raise HandlingError(f"{action!r} is nothing that can be done to an alert; allowed: {', '.join(DONE)}.")
    return handling.told(handling.decide(store, alerts, AlertState(action), by=by, comment=comment), DONE[action])


def _silence(store: Store, alerts: Mapping[str, AlertState | None], asked: Mapping[str, Any], comment: str, by: str) -> str:
    scope, until = asked.get("scope"), asked.get("until")
    if scope not in list(Scope):
        raise HandlingError(f"{scope!r} is no scope of a silence; allowed: {', '.join(Scope)}.")
    if until is not None and (
        isinstance(until, bool) or not isinstance(until, int | float) or not until < time.time() + _MOST_AHEAD
    ):
        raise HandlingError("A silence ends at a time within ten years, or when somebody ends it.")
    outcome = handling.silence(store, alerts, Scope(scope), until=until, by=by, comment=comment)
    return handling.told(outcome, "silenced" if scope == Scope.ALERT else "covered by the silence")


def _alerts(given: Any) -> dict[str, AlertState | None]:
    if not isinstance(given, dict):
        return {}
    if len(given) > _MOST_ALERTS:
        raise HandlingError(f"At most {_MOST_ALERTS} alerts at a time; these are {len(given):,}.")
    known = {state.value: state for state in AlertState}
    return {str(alert_id): known.get(seen) if isinstance(seen, str) else None for alert_id, seen in given.items()}
