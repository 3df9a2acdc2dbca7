"""One rule, live: what is in force and where it comes from, its history, and what it fired on in the run."""

from collections.abc import Mapping, Sequence
from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from ...analyzer.rule_edits import summary, words
from ...analyzer.rule_layers import RuleLayers, in_force, shown, value_of
from ...storage.base import Store
from ...storage.records import Alert, RuleVersion, Run
from ..pages.attributes import aria
from ..pages.parts import refused, severity_badge
from ..paths import alert_path, rules_path, run_path
from ..reading import shown_alerts
from ..rule_words import fields_of, origin_words, scopes_of, seen_of
from ..updates import Updates
from ..vitals import moment

_MOST_VERSIONS = 50
_MOST_ALERTS = 20


class RuleState:
    """What a rule's page shows beside its form.

    Args:
        seen: the versions that the form was made from, by scope; when they are not the newest any more, that is said.
    """

    def __init__(self, store: Store, rule: str, run_id: str, seen: Mapping[str, int] | None) -> None:
        self._store, self._rule, self._seen = store, rule, seen
        self._run = store.run(run_id) if run_id else None
        self._revision = ""
        self._layers: RuleLayers | None = None
        self._history: Sequence[RuleVersion] = ()

    @property
    def subject(self) -> str:
        """All runs: a rule may be changed for any of them."""
        return ""

    def paint(self) -> Updates:
        """Return every part."""
        revision = self._store.rules_revision()
        if self._layers is None or revision != self._revision:
            self._revision, self._layers = revision, in_force(self._store, self._run)
            self._history = history_of(self._store, self._rule, self._run)
        layers = self._layers
        if self._rule not in layers.rules:
            return {"rule-news": {"children": "This rule is gone: what added it was taken back."}}
        updates: dict[str, dict[str, Any]] = {
            f"rule-origin-{number}": {"children": in_words(layers, self._rule, field.path)}
            for number, field in enumerate(fields_of(layers.rules[self._rule]))
        }
        scopes = scopes_of(self._run.project if self._run else "", self._run.id if self._run else "")
        now = seen_of(layers, self._rule, scopes)
        updates["rule-history"] = {"children": history_list(self._history, layers, self._rule, now)}
        updates["rule-news"] = {"children": self._news(now)}
        if self._run is not None:
            alerts = [alert for alert in shown_alerts(self._store, self._run) if alert.rule == self._rule]
            updates["rule-alerts"] = {"children": alert_lines(alerts, self._run)}
        return updates

    def advance(self) -> Updates:
        """Return every part; what has not changed is not sent."""
        return self.paint()

    def tick(self) -> Updates:
        """Return nothing: no part says anything about time."""
        return {}

    def _news(self, now: Mapping[str, int]) -> Any:
        if self._seen is None or dict(self._seen) == dict(now):
            return None
        newest = next((each for each in self._history if now.get(_name(each)) == each.version), None)
        who = (newest.created_by if newest is not None else "") or "Somebody"
        here = rules_path(self._run.id if self._run is not None else "", self._rule)
        return html.P(
            [
                html.Strong(f"{who} has changed this rule since you opened it. "),
                "What is in force stands beside each field. ",
                html.A("Load it into the form", href=here, className="button"),
            ],
            className="rule-notice",
        )


def _name(version: RuleVersion) -> str:
    return "run" if version.run_id else "project" if version.project else "store"


def history_of(store: Store, rule: str, run: Run | None) -> list[RuleVersion]:
    """Return the versions of a rule that concern a run, newest first."""
    found = store.rule_history(rule, limit=500)
    mine = [
        each for each in found if each.scope == ("", "") or (run is not None and each.scope in ((run.project, ""), ("", run.id)))
    ]
    return mine[:_MOST_VERSIONS]


def in_words(layers: RuleLayers, rule: str, path: str) -> list[Component]:
    """Return a field's value in force, and where it comes from."""
    origin = layers.origin(rule, path)
    changed = origin != "default"
    value = html.Span(shown(value_of(layers.rules[rule], path)), className="rule-value strong" if changed else "rule-value")
    return [value, html.Span(origin_words(origin), className="quiet")]


def history_list(versions: Sequence[RuleVersion], layers: RuleLayers, rule: str, seen: Mapping[str, int]) -> list[Component]:
    """Return a rule's versions, each with a way back to it."""
    if not versions:
        return [html.P("Nobody has changed this rule in this store.", className="quiet")]
    latest = {name: number for name, number in seen.items() if number}
    items: list[Component] = []
    for version in versions:
        name = _name(version)
        newest = latest.get(name) == version.version
        head = [
            html.Span(f"Version {version.version} {words(version.scope)}", className="strong"),
            html.Span(f"{version.created_by or 'somebody'}, {moment(version.created_at)}", className="quiet"),
            *([html.Span("in force", className="rule-changed")] if newest and version.changes else []),
        ]
        parts: list[Component] = [html.Div(head, className="rule-head"), html.P(summary(version), className="rule-summary")]
        if version.comment:
            parts.append(html.P(version.comment, className="rule-comment"))
        buttons = []
        if newest and version.changes:
            buttons.append(_button("Reset", f"Take back what was changed {words(version.scope)}", name, 0, seen))
        if not newest:
            said = f"Go back to version {version.version} {words(version.scope)}"
            buttons.append(_button("Go back to this", said, name, version.version, seen))
        if buttons:
            parts.append(html.Div(buttons, className="decisions"))
        items.append(html.Li(parts))
    return [html.Ol(items, className="rule-versions")]


def _button(label: str, said: str, scope: str, to: int, seen: Mapping[str, int]) -> html.Button:
    name = {"kind": "rule-back", "scope": scope, "to": to, "seen": seen.get(scope, 0)}
    return html.Button(label, id=name, type="button", className="button", **refused(), **aria(label=said))


def alert_lines(alerts: Sequence[Alert], run: Run) -> list[Component]:
    """Return what the rule fired on in the run."""
    if not alerts:
        return [html.P("It has not fired in this run.", className="quiet")]
    items = [
        html.Li(
            [
                severity_badge(alert.severity),
                html.Span(f"step {alert.first_step:,}", className="quiet"),
                " ",
                dcc.Link(alert.message, href=alert_path(alert.id)),
            ]
        )
        for alert in alerts[:_MOST_ALERTS]
    ]
    more = len(alerts) - _MOST_ALERTS
    rest = [html.P(dcc.Link(f"… and {more:,} more: see the run", href=run_path(run.id)))] if more > 0 else []
    return [html.Ol(items, className="rule-alert-lines"), *rest]
