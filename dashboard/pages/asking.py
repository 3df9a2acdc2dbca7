"""The dialog in which a reader confirms a decision about alerts, and the stores that carry it to the server and back.

``assets/alerts.js`` opens it for elements with ``data-ask`` and fills in what it is about.
"""

from textwrap import shorten

from dash import dcc, html
from dash.development.base_component import Component

from ...analyzer.handling import MOST_LETTERS, Scope
from ...storage.records import AlertState
from .attributes import aria, data
from .parts import refused

TIMES = (("3600", "1 hour"), ("28800", "8 hours"), ("86400", "1 day"), ("until", "until a time …"), ("", "until it is ended"))
SCOPES = (
    (Scope.ALERT, "this alert only"),
    (Scope.LAYER, "this rule in this layer of this run"),
    (Scope.RULE, "this rule in this run"),
    (Scope.RUN, "the whole run"),
    (Scope.PROJECT, "the whole project"),
)


def asking() -> list[Component]:
    """Return the dialog, its stores, and the place where it is said what became of a decision."""
    words = [html.H2("", id="asking-title"), html.P("", id="asking-what", className="quiet")]
    comment = html.Div(
        [
            html.Label("Comment (optional)", htmlFor="asking-comment"),
            html.Textarea(id="asking-comment", rows=2, maxLength=MOST_LETTERS, dir="auto"),
        ],
        className="field",
        id="asking-why",
    )
    buttons = html.Div(
        [
            html.Button("Cancel", id="asking-cancel", type="button", className="button"),
            html.Button("", id="asking-confirm", type="button", className="button primary"),
        ],
        className="asking-buttons",
    )
    error = html.P("", id="asking-error", className="asking-error", role="alert")
    dialog = html.Dialog([*words, _silence(), comment, error, buttons], id="asking", **aria(labelledby="asking-title"))
    said = html.Div(
        [
            html.Span("", id="said-text"),
            html.Button("×", id="said-close", type="button", className="said-close", **aria(label="Dismiss")),
        ],
        id="said",
        className="said",
        hidden="hidden",
        role="status",
    )
    return [dcc.Store(id="asked"), dcc.Store(id="answered"), dialog, said]


def _silence() -> html.Fieldset:
    time = html.Div(
        [
            html.Label("For how long", htmlFor="asking-time"),
            html.Select([html.Option(label, value=value) for value, label in TIMES], id="asking-time"),
        ],
        className="field",
    )
    until = html.Div(
        [
            html.Label("Until, in your time zone: year-month-day hour:minute", htmlFor="asking-until"),
            html.Textarea(id="asking-until", rows=1, maxLength=16, inputMode="text", placeholder="2026-12-31 09:00"),
        ],
        className="field",
        id="asking-until-field",
        hidden="hidden",
    )
    scope = html.Div(
        [
            html.Label("What is to be silent", htmlFor="asking-scope"),
            html.Select([html.Option(label, value=value.value) for value, label in SCOPES], id="asking-scope"),
        ],
        className="field",
    )
    note = html.P("A silence holds for what is open and what is still to come. Nothing is sent meanwhile.", className="quiet small")
    return html.Fieldset([scope, time, until, note], id="asking-silence", hidden="hidden")


def ask(
    label: str,
    action: str,
    alert_id: str = "",
    seen: AlertState | None = None,
    *,
    about: str = "",
    now: bool = False,
    style: str = "",
) -> html.Button:
    """Return a button that asks for something to be done to an alert; without an id, to those that are selected.

    Args:
        about: What screen readers hear besides the label, and what the dialog is about.
        now: Do it at once, without the dialog.
    """
    given = {"ask": action, "alert": alert_id, "seen": seen.value if seen else "", "about": about}
    return html.Button(
        label,
        type="button",
        className=f"button {style}".strip(),
        **refused(),
        **data(**{name: value for name, value in given.items() if value}, **({"now": "yes"} if now else {})),
        **(aria(label=f"{label.rstrip(' …')}: {about}") if about else {}),
    )


def choices(alert_id: str, state: AlertState, about: str, *, at_once: bool) -> list[Component]:
    """Return the buttons for what may be done to an alert in its state.

    Args:
        at_once: Acknowledge with one touch, without asking for a comment.
    """
    shown = shorten(about, 140, placeholder=" …")
    parts: list[Component] = []
    if state in (AlertState.FIRING, AlertState.SILENCED):
        parts.append(ask("Acknowledge", AlertState.ACKNOWLEDGED, alert_id, state, about=shown, now=at_once, style="primary"))
    if state is AlertState.SILENCED:
        parts.append(ask("Undo silence", "unsilence", alert_id, state, about=shown, now=True))
    elif AlertState.SILENCED in state.successors:
        parts.append(ask("Silence …", AlertState.SILENCED, alert_id, state, about=shown))
    if state is AlertState.ACKNOWLEDGED:
        parts.append(ask("Take back", AlertState.FIRING, alert_id, state, about=shown))
    if AlertState.RESOLVED in state.successors:
        parts.append(ask("Resolve …", AlertState.RESOLVED, alert_id, state, about=shown))
    return parts
