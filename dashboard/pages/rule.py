"""One rule: the layout of its page, with the form that changes it."""

from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from ...analyzer.rule_layers import RuleLayers, shown, value_of
from ...analyzer.rules import Rule
from ...storage.base import Store
from ...storage.records import Run
from ..paths import rules_path, run_path
from ..rule_words import Field, fields_of, scopes_of, seen_of, text_of, watches
from ..sections.rule import alert_lines, history_list, history_of, in_words
from .attributes import data
from .parts import card, severity_badge
from .rules import run_label

_MOST_OTHERS = 100


def rule_page(store: Store, run: Run | None, layers: RuleLayers, name: str) -> html.Main:
    """Return the page of a rule as it holds for a run; ``sections.rule`` keeps all but the form up to date."""
    rule, run_id = layers.rules[name], run.id if run is not None else ""
    scopes = scopes_of(run.project if run is not None else "", run_id)
    fields = fields_of(rule)
    seen = seen_of(layers, name, scopes)
    history = history_list(history_of(store, name, run), layers, name, seen)
    alerts = [alert for alert in store.alerts(run) if alert.rule == name] if run is not None else []
    back = dcc.Link(f"All rules{f' for {run.name[:60]}' if run is not None else ''}", href=rules_path(run_id))
    return html.Main(
        [
            dcc.Store(id="rule-of", data={"rule": name, "run": run_id}),
            dcc.Store(id="rule-page-ticket"),
            dcc.Store(id="rule-seen", data=seen),
            dcc.Store(id="rule-base", data={field.path: text_of(value_of(rule, field.path)) for field in fields}),
            html.P(back, className="breadcrumb"),
            html.Div([_about(rule), _fired(alerts, run)] if run is not None else _about(rule), className="row wide-left rule-top"),
            html.Div(id="rule-news", role="status"),
            _settings(layers, rule, fields, scopes, run),
            _preview(store, run),
            card("History", html.Div(history, id="rule-history"), name="rule-history-card", hint=_HISTORY),
            *([] if run is not None else [html.Div(id="rule-alerts", hidden=True)]),
        ],
        id="rule-page",
        className="page",
        **data(live=""),
    )


_HISTORY = "Every change of this rule, newest first. Going back to an older one is a new change; nothing is ever lost."


def _about(rule: Rule) -> html.Section:
    title = html.Div(
        [html.H1(rule.title or rule.name, className="page-title"), severity_badge(rule.severity), html.Code(rule.name)],
        className="title-line",
    )
    parts: list[Component] = [title, html.P(watches(rule), className="strong")]
    if rule.why:
        parts.append(html.P(rule.why))
    if rule.remedy:
        parts.append(html.P([html.Strong("What to do when it fires: "), rule.remedy], className="quiet"))
    if rule.links:
        parts.append(html.P(["Sources: ", ", ".join(rule.links)], className="quiet"))
    return html.Section(parts, className="card rule-about")


def _fired(alerts: Any, run: Run) -> html.Section:
    open_run = html.A("Open the run", href=run_path(run.id), className="button")
    return card(
        "Fired in this run",
        html.Div(alert_lines(alerts, run), id="rule-alerts", className="rule-alerts"),
        actions=open_run,
        name="rule-fired",
    )


def _settings(
    layers: RuleLayers, rule: Rule, fields: list[Field], scopes: dict[str, tuple[str, str]], run: Run | None
) -> html.Section:
    rows = [_row(layers, rule, field, number) for number, field in enumerate(fields)]
    head = html.Div(
        [html.Span(each) for each in ("Setting", "Value", "Allowed", "In force now")], className="rule-row rule-row-head"
    )
    labels = {"store": "all runs of this store", "project": "", "run": ""}
    if run is not None:
        labels |= {"project": f"the project {run.project[:60]}", "run": f"this run only, {run.name[:60]}"}
    scope = dcc.RadioItems(
        options=[{"label": labels[name], "value": name} for name in scopes],
        value=list(scopes)[-1] if run is not None else "store",
        id="rule-scope",
        className="rule-scope",
    )
    save = html.Div(
        [
            html.Fieldset([html.Legend("Change it for", className="label"), scope], className="rule-scopes"),
            html.Label(
                [
                    html.Span("Comment", className="label"),
                    dcc.Input(id="rule-comment", type="text", maxLength=2000, placeholder="why", className="rule-comment-field"),
                ],
                className="rule-comment-label",
            ),
            html.Div(
                [
                    html.Button("Preview", id="rule-preview-go", type="button", className="button"),
                    html.Button("Save", id="rule-save", type="button", className="button primary"),
                    html.Button("Undo my edits", id="rule-undo", type="button", className="button"),
                ],
                className="decisions",
            ),
        ],
        className="rule-save",
    )
    problems = html.Div(id="rule-problems", role="alert")
    note = html.P(id="rule-note", role="status", className="rule-note")
    return card("Settings", html.Div([head, *rows], className="rule-rows"), problems, save, note, name="rule-settings")


def _row(layers: RuleLayers, rule: Rule, field: Field, number: int) -> html.Div:
    default = layers.default.get(rule.name)
    usual = f"default {shown(value_of(default, field.path))}" if default is not None else "no default: the store added this rule"
    name: Any = {"kind": "rule-field", "path": field.path}
    value = text_of(value_of(rule, field.path))
    label = [html.Span(field.label, className="rule-label"), html.Span(field.meaning, className="quiet rule-meaning")]
    if field.choices:
        choice = dcc.RadioItems(
            options=[{"label": each, "value": each} for each in field.choices],
            value=value,
            id=name,
            className="segmented",
            inline=True,
        )
        cell: list[Component] = [
            html.Div(label, className="rule-name"),
            html.Fieldset([html.Legend(field.label, className="visually-hidden"), choice], className="rule-control"),
        ]
    else:
        control = dcc.Input(id=name, type="text", value=value, className="rule-input", spellCheck=False)
        unit = html.Span(field.unit, className="quiet rule-unit")
        cell = [
            html.Label(
                [html.Span(label, className="rule-name"), html.Span([control, unit], className="rule-control")],
                className="rule-cell",
            )
        ]
    problem = html.Span(id={"kind": "rule-problem", "path": field.path}, className="rule-problem")
    allowed = html.Div([html.Span(field.allowed), html.Span(usual, className="quiet")], className="rule-allowed")
    return html.Div(
        [
            *cell,
            allowed,
            html.Div(in_words(layers, rule.name, field.path), id=f"rule-origin-{number}", className="rule-origin"),
            problem,
        ],
        className="rule-row" + ("" if field.choices else " rule-row-text"),
    )


def _preview(store: Store, run: Run | None) -> html.Section:
    others = [each for each in store.runs(limit=_MOST_OTHERS) if run is None or (each.project == run.project and each.id != run.id)]
    picker = dcc.Dropdown(
        id="rule-others",
        options=[{"label": run_label(each), "value": each.id} for each in others],
        value=[],
        multi=True,
        placeholder="other runs of the project" if run is not None else "choose runs to try it on",
        className="picker wide-picker",
        maxHeight=360,
    )
    label = "Try it also on" if run is not None else "Try it on"
    choice = html.Label([html.Span(label, className="label"), picker], className="layer-choice")
    said = html.Div(
        [
            html.Span(id="rule-preview-said", role="status"),
            html.Button("Stop", id="rule-preview-stop", type="button", className="button", hidden=True),
        ],
        className="rule-preview-said",
    )
    hint = "Replays stored runs by this rule as it is in force and as the form has it, side by side. Nothing is changed by it."
    return card("Preview", choice, said, html.Div(id="rule-preview"), hint=hint, name="rule-preview-card")
