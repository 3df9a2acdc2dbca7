"""The page of one alert: what, where, since when; what to do; why; the evidence; who did what."""

from collections.abc import Mapping, Sequence
from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from ...analyzer.handling import MOST_LETTERS
from ...analyzer.rules import Rule
from ...analyzer.wording import place, series_name
from ...storage.records import Alert, AlertState, Run, Silence
from ...storage.results import AlertLine, SeriesData
from ..bundles import Bundle
from ..figures import evidence, loss, risk
from ..figures.evidence import evidence_figure
from ..history import Entry
from ..paths import alert_path, alerts_path, layer_path, run_path
from ..sections.around import HEIGHT, LOSS_GRAPH, RISK_GRAPH, window
from ..sieve import Sieve
from ..signals import describe
from ..updates import Updates, digests
from ..vitals import ago, moment
from .alerts import STATE_WORDS, cause_parts, rule_link
from .asking import asking, choices
from .attributes import aria, data
from .inbox import end_button, silence_words
from .parts import GRAPH_CONFIG, card, graph, number, refused, severity_badge


def alert_page(alert: Alert, words: Updates) -> html.Main:
    """Return the layout of an alert's page.

    Args:
        words: What its parts say now, as ``sections.dossier`` paints them.
    """
    parts = {name: properties["children"] for name, properties in words.items() if "children" in properties}
    told = html.Div(
        [
            card("What to do", html.Div(parts["alert-remedy"], id="alert-remedy"), name="remedy-card"),
            card("Why", html.Div(parts["alert-why"], id="alert-why"), name="why-card"),
            card("Before and after it", html.Div(parts["alert-related"], id="alert-related"), name="related-card"),
            card("Flight recorder", html.Div(parts["alert-bundles"], id="alert-bundles"), name="bundle-card"),
        ],
        className="alert-told",
    )
    around = [
        graph(LOSS_GRAPH, "Chart of the loss around the step at which the alert began", HEIGHT),
        html.H3(risk.TITLE, className="part-title"),
        graph(RISK_GRAPH, "Chart of the risk around the step at which the alert began", risk.HEIGHT),
    ]
    shown = html.Div(
        [
            html.Div(parts["alert-evidence"], id="alert-evidence", className="alert-evidence"),
            card("Loss and risk around it", *around, hint=loss.RECOGNISE, name="around-card"),
        ],
        className="alert-shown",
    )
    return html.Main(
        [
            dcc.Store(id="alert-id", data=alert.id),
            dcc.Store(id="alert-page-ticket"),
            dcc.Store(id="alert-page-painted", data=digests({name: {"children": parts[name]} for name in parts})),
            html.Div(parts["alert-head"], id="alert-head"),
            html.Div(parts["alert-decisions"], id="alert-decisions", className="alert-decisions"),
            html.Div([told, shown], className="alert-columns"),
            card("History", html.Div(parts["alert-history"], id="alert-history"), _comment(alert), name="history-card"),
            *asking(),
        ],
        id="alert-page",
        className="page",
        **data(live=""),
    )


def _comment(alert: Alert) -> html.Div:
    return html.Div(
        [
            html.Label("Add a comment; it changes nothing else", htmlFor="comment-text"),
            html.Textarea(id="comment-text", rows=3, maxLength=MOST_LETTERS, dir="auto"),
            html.Button("Add comment", id="comment-add", type="button", className="button", **refused(), **data(alert=alert.id)),
        ],
        className="field comment-form",
    )


def head(alert: Alert, run: Run | None, now: float, state: str) -> list[Component]:
    """Return what is going on, where, and since when.

    Args:
        run: None where it is gone.
        state: Who brought it into its state, and when.
    """
    name = (run.name if run is not None else "") or alert.run_id[:8]
    crumbs = html.Nav(
        [
            dcc.Link("← All alerts", href=alerts_path()),
            dcc.Link("Alerts of this run", href=alerts_path(Sieve(run=alert.run_id, state="all").query())),
        ],
        className="crumbs",
        **aria(label="Breadcrumb"),
    )
    badges = html.Div(
        [
            severity_badge(alert.severity),
            html.Span(STATE_WORDS[alert.state], className=f"state state-{alert.state.value}", id="alert-state"),
        ],
        className="alert-head",
    )
    signal = alert.evidence[0].key.signal if alert.evidence and alert.evidence[0].key.module == alert.module else ""
    at = layer_path(alert.run_id, alert.module, window(alert), signal)
    layer: Any = dcc.Link(html.Code(alert.module), href=at) if alert.module else dcc.Link("the whole model", href=at)
    first = f"step {alert.first_step:,}" if alert.first_step >= 0 else "before its first step"
    facts = [
        _fact("Run", dcc.Link(name, href=run_path(alert.run_id))),
        _fact("Layer", layer),
        _fact("Since", f"{first} · {moment(alert.created_at)}, {ago(now - alert.created_at)}"),
        _fact("Last seen", f"step {alert.last_step:,}" if alert.last_step >= 0 else "–"),
    ]
    said = [html.P(state, className="quiet state-words")] if state else []
    title = html.H1(alert.message, className="page-title alert-title", dir="auto")
    return [crumbs, html.Div([badges, title, html.Dl(facts, className="alert-facts"), *said], className=_style(alert))]


def _fact(label: str, value: Any) -> html.Div:
    return html.Div([html.Dt(label), html.Dd(value)])


def _style(alert: Alert) -> str:
    over = " closed" if alert.state is AlertState.RESOLVED else ""
    return f"card alert-summary severity-{alert.severity.value}{over}"


def decisions(alert: Alert, silences: Sequence[Silence], run_names: Mapping[str, str]) -> list[Component]:
    """Return the buttons for what may be done now, and the silences that cover the alert."""
    parts: list[Component] = []
    buttons = choices(alert.id, alert.state, alert.message, at_once=False)
    if buttons:
        parts.append(html.Div(buttons, className="inbox-actions"))
    else:
        parts.append(html.P("It is over, and cannot be opened again: what comes later is a new alert.", className="quiet"))
    if silences:
        rows = [html.Li([_silence(each, run_names), end_button(each, run_names)]) for each in silences]
        parts.append(html.Ul(rows, className="silences", **aria(label="Silences that cover this alert")))
    return parts


def _silence(silence: Silence, run_names: Mapping[str, str]) -> html.Div:
    return html.Div([html.Span("Silence:", className="quiet"), *silence_words(silence, run_names)], className="silence-said")


def charts(alert: Alert) -> list[Component]:
    """Return a card for each series of the evidence."""
    cards: list[Component] = []
    for count, piece in enumerate(alert.evidence):
        points = SeriesData(piece.key, [alert.segment] * len(piece.steps), piece.steps, piece.values)
        figure = evidence_figure(points, describe(piece.key.signal), piece, alert)
        plot = dcc.Graph(id=f"evidence-{count}", figure=figure, config=GRAPH_CONFIG, className="graph")
        name = series_name(piece.key)
        about = f"Chart of {name} up to the alert, {describe(piece.key.signal).unit or 'as measured'}"
        frame = html.Div(plot, className="graph-frame", style={"minHeight": evidence.HEIGHT}, role="group", **aria(label=about))
        title = describe(piece.key.signal).title
        of = html.Code(place(piece.key.module, piece.key.head), className="of-layer") if piece.key.module else None
        hint = evidence.RECOGNISE if count == 0 else ""
        cards.append(card(title, frame, hint=hint, actions=of, name=f"evidence-{count}-card"))
    if not cards:
        words = html.P("This rule judges by signs of life, not by a series: there is nothing to draw.", className="quiet")
        cards.append(card("Evidence", words, name="evidence-card"))
    return cards


def why(alert: Alert, rule: Rule | None) -> list[Component]:
    """Return the ranked causes, and the rule that fired with what it measured."""
    causes = sorted(alert.diagnosis, key=lambda cause: -cause.confidence)
    parts: list[Component] = []
    if causes:
        parts.append(html.Div(cause_parts(causes[0], remedy=False), className="cause"))
        if len(causes) > 1:
            count = f"{len(causes) - 1} less likely {'cause' if len(causes) == 2 else 'causes'}"
            named = ", ".join(f"{each.title} {100 * each.confidence:.0f} %" for each in causes[1:])
            summary = html.Summary([f"{count}: ", html.Span(named, className="quiet")])
            items = [html.Li(cause_parts(each)) for each in causes[1:]]
            parts.append(html.Details([summary, html.Ol(items, className="causes")], className="lesser-causes"))
    else:
        parts.append(html.P("What was seen fits none of the causes that foreshock knows.", className="quiet"))
    measured = []
    if alert.value is not None:
        measured.append(f"measured {number(alert.value)}")
    if alert.threshold is not None:
        measured.append(f"threshold {number(alert.threshold)}")
    title = f": {rule.title}" if rule is not None else ""
    said: list[Any] = [html.Span("Rule ", className="quiet"), rule_link(alert), title, html.Span(f" ({', '.join(measured)})")]
    parts.append(html.P(said if measured else said[:-1], className="rule-line"))
    return parts


def remedy(alert: Alert, first: Alert | None = None, rule: Rule | None = None) -> list[Component]:
    """Return what to do: by the likeliest cause, and by the rule.

    Args:
        first: The run's first warning, where that came before this alert: a checkpoint to go back to is older than it.
        rule: The rule of that warning.
    """
    causes = sorted(alert.diagnosis, key=lambda cause: -cause.confidence)
    told = [text for text in (causes[0].remedy if causes else "", alert.remedy) if text]
    parts: list[Component] = [html.P(text, className="remedy") for text in dict.fromkeys(told)]
    if first is not None:
        why = f": {rule.title}." if rule is not None else "."
        step = dcc.Link(f"step {first.first_step:,}", href=alert_path(first.id))
        parts.append(html.P(["The first warning of this run came at ", step, why], className="remedy"))
    return parts or [html.P("The rule names no remedy.", className="quiet")]


def bundle_list(bundles: Sequence[Bundle]) -> list[Component]:
    """Return the bundles with the command that tells what each shows."""
    if not bundles:
        return [
            html.P("Nothing was captured around this step.", className="quiet"),
            html.P(
                ["With ", html.Code("interventions=['capture']"), " the next alert keeps the last sampled steps for inspection."],
                className="quiet small",
            ),
        ]
    return [html.Ul([html.Li(_bundle(each)) for each in bundles], className="bundles")]


def _bundle(bundle: Bundle) -> list[Component]:
    size = f"{bundle.bytes / 2**20:,.1f} MiB, " if bundle.bytes is not None else ""
    parts: list[Component] = [
        html.P(html.Code(bundle.path), className="path"),
        html.P(
            f"{size}written {moment(bundle.written_at)} at step {bundle.step:,} on {bundle.host or 'a host unknown'}",
            className="quiet",
        ),
    ]
    if not bundle.own:
        parts.append(html.P("Another alert of this time asked for it.", className="quiet"))
    if bundle.missing:
        parts.append(html.P(bundle.missing, className="missing"))
    if bundle.verdict:
        parts.append(html.P(["Verdict on rounding: ", html.Strong(bundle.verdict)]))
    else:
        note = html.Span("; with --store URL its verdict is noted here.", className="quiet")
        parts.append(html.P([html.Code(bundle.command), note], className="command"))
    return parts


def related_list(lines: Sequence[AlertLine], alert: Alert) -> list[Component]:
    """Return other alerts of the run that began about then."""
    if not lines:
        return [html.P("No other alert of this run began around this step.", className="quiet")]
    rows = []
    for line in lines:
        other = line.alert
        apart = other.first_step - alert.first_step
        when = "at the same step" if not apart else f"{abs(apart):,} steps {'later' if apart > 0 else 'earlier'}"
        head: list[Any] = [
            severity_badge(other.severity),
            html.Span(STATE_WORDS[other.state], className=f"state state-{other.state.value}"),
            html.Span(when, className="quiet"),
        ]
        rows.append(html.Li([html.Div(head, className="alert-head"), dcc.Link(other.message, href=alert_path(other.id))]))
    return [html.Ul(rows, className="related")]


def history_list(entries: Sequence[Entry]) -> list[Component]:
    """Return what happened, the oldest first. What people wrote is text, in their own line breaks and direction."""
    return [html.Ol([html.Li(_entry(entry)) for entry in entries], className="history")]


def _entry(entry: Entry) -> list[Component]:
    when = moment(entry.time) if entry.time < float("inf") else "soon"
    who: list[Any] = [html.Strong(entry.who, dir="auto"), " "] if entry.who else []
    parts: list[Component] = [html.Span(when, className="quiet when"), html.Span([*who, entry.what], className="what")]
    if entry.words:
        parts.append(html.P(entry.words, className="said-by-people", dir="auto"))
    if entry.letter:
        retry = html.Button("Retry", id={"kind": "letter", "letter": entry.letter}, type="button", className="button", **refused())
        note = html.Span(id={"kind": "letter-note", "letter": entry.letter}, className="quiet", role="status")
        parts.append(html.Div([retry, note], className="decisions"))
    return parts
