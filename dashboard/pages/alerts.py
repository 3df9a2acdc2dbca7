"""Alerts as cards: what, where, since when, why, what to do, and the reader's decision."""

from collections.abc import Sequence
from textwrap import shorten
from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from ...analyzer.handling import about
from ...storage.records import Alert, AlertState, Cause, Silence
from .. import who
from ..decisions import SILENCES, UNDO
from ..paths import alert_path, cause_path, rules_path
from ..reading import is_open
from ..vitals import moment
from .asking import ask
from .attributes import aria, data
from .parts import refused, severity_badge

STATE_WORDS = {
    AlertState.PENDING: "pending",
    AlertState.FIRING: "open",
    AlertState.ACKNOWLEDGED: "acknowledged",
    AlertState.SILENCED: "silenced",
    AlertState.RESOLVED: "resolved",
}


def alert_list(alerts: Sequence[Alert], last_step: int, silences: Sequence[Silence] = ()) -> list[Component]:
    """Return all alerts as cards, open ones first, the most severe on top.

    Args:
        silences: Those that hold now; a silenced alert says by which of them, and until when.
    """
    if not alerts:
        watched = (
            f"Watched up to step {last_step:,}: nothing alarming."
            if last_step >= 0
            else "They appear here once steps are recorded."
        )
        return [html.Div([html.P("No alerts.", className="strong"), html.P(watched, className="quiet")], className="empty small")]
    ordered = sorted(alerts, key=lambda alert: (not is_open(alert), -alert.severity.rank, alert.first_step))
    return [alert_card(alert, silences) for alert in ordered]


def alert_card(alert: Alert, silences: Sequence[Silence] = ()) -> html.Article:
    """Return one alert."""
    steps = (
        f"step {alert.first_step:,}" if alert.last_step <= alert.first_step else f"steps {alert.first_step:,} – {alert.last_step:,}"
    )
    head = [
        severity_badge(alert.severity),
        html.Span(STATE_WORDS[alert.state], className=f"state state-{alert.state.value}"),
        html.Span(steps, className="quiet"),
    ]
    parts: list[Any] = [
        html.Div(head, className="alert-head"),
        html.P(dcc.Link(alert.message, href=alert_path(alert.id)), className="alert-message"),
    ]
    if alert.module:
        parts.append(html.P([html.Span("Layer ", className="quiet"), html.Code(alert.module)], className="alert-where"))
    if alert.state is AlertState.SILENCED:
        parts.append(html.P(_silenced(alert, silences), className="quiet alert-where"))
    reasons = _reasons(alert)
    if reasons:
        parts.append(html.Details([html.Summary("Why, and what to do"), *reasons]))
    if is_open(alert):
        note = html.Span(id={"kind": "decision-note", "alert": alert.id}, className="quiet", role="status")
        parts.append(html.Div([*_decisions(alert), note], className="decisions"))
    return html.Article(
        parts,
        id={"kind": "alert", "alert": alert.id},
        className=f"alert severity-{alert.severity.value}" + ("" if is_open(alert) else " closed"),
        **data(rule=alert.rule),
    )


def _reasons(alert: Alert) -> list[Component]:
    parts: list[Component] = []
    causes = sorted(alert.diagnosis, key=lambda cause: -cause.confidence)
    if causes:
        parts.append(html.Ol([html.Li(cause_parts(cause)) for cause in causes], className="causes"))
    if alert.remedy:
        parts.append(html.P([html.Strong("What to do: "), alert.remedy], className="remedy"))
    if alert.value is not None and alert.threshold is not None:
        measured = f"Measured {alert.value:.4g}, threshold {alert.threshold:.4g} (rule "
        parts.append(html.P([measured, rule_link(alert), ")."], className="quiet"))
    elif parts:
        parts.append(html.P(["Rule ", rule_link(alert), "."], className="quiet"))
    return parts


def rule_link(alert: Alert) -> Component:
    """Return the name of an alert's rule, which leads to the rule's page: what it watches, and how to change it for this run."""
    return dcc.Link(html.Code(alert.rule), href=rules_path(alert.run_id, alert.rule))


def cause_parts(cause: Cause, *, remedy: bool = True) -> list[Component]:
    """Return a cause with how well it fits, its reasons, what to do, and the way to its page."""
    sure = html.Span(f"{100 * cause.confidence:.0f} %", className="confidence", title="How well the measurements fit this cause")
    parts: list[Component] = [html.Div([html.Strong(cause.title), sure], className="cause-head")]
    if cause.reasons:
        parts.append(html.Ul([html.Li(reason) for reason in cause.reasons]))
    if cause.remedy and remedy:
        parts.append(html.P(cause.remedy, className="remedy"))
    if cause.doc:
        parts.append(html.P(html.A("How to be sure, and what to do next time", href=cause_path(cause.doc), target="_blank")))
    return parts


def _silenced(alert: Alert, silences: Sequence[Silence]) -> str:
    """Return until when an alert is silenced, and by whom; of several silences that which holds longest."""
    mine = [silence for silence in silences if about(silence, alert)] or list(silences)
    if not mine:
        return "Silenced."
    longest = max(mine, key=lambda silence: silence.until if silence.until is not None else float("inf"))
    until = "until it is ended" if longest.until is None else f"until {moment(longest.until)}"
    return f"Silenced {until}{f' by {longest.created_by}' if longest.created_by else ''}; it still counts as open."


def _decisions(alert: Alert) -> list[Component]:
    parts: list[Component] = []
    if who.refusal():
        labels = (("Acknowledge", AlertState.ACKNOWLEDGED), ("Silence", AlertState.SILENCED), ("Resolve", AlertState.RESOLVED))
        parts = [_button(alert, label, state.value) for label, state in labels if state is not alert.state]
        return [*parts, html.Span("You may only read.", className="quiet", title=who.refusal())]
    if alert.state is not AlertState.ACKNOWLEDGED:
        parts.append(_button(alert, "Acknowledge", AlertState.ACKNOWLEDGED.value))
    if alert.state is AlertState.FIRING:
        choices = [_button(alert, label, name, f"Silence, {label.lower()}") for name, (label, _) in SILENCES.items()]
        summary = html.Summary("Silence", className="button", title="Tell nobody of it, nor of its next episodes")
        parts.append(html.Details([summary, html.Div(choices, className="choices")], className="silence"))
    if alert.state is AlertState.SILENCED:
        parts.append(_button(alert, "Undo silence", UNDO))
    # It cannot be undone.
    return [
        *parts,
        ask("Resolve …", AlertState.RESOLVED, alert.id, alert.state, about=shorten(alert.message, 140, placeholder=" …")),
    ]


def _button(alert: Alert, label: str, choice: str, said: str = "") -> html.Button:
    return html.Button(
        label,
        id={"kind": "decision", "alert": alert.id, "state": choice},
        type="button",
        className="button",
        **refused(),
        **aria(label=f"{said or label}: {alert.message[:80]}"),
    )
