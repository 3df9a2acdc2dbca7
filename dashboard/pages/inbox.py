"""The inbox: alerts of all runs, what needs a person on top. The layout, and one row."""

from collections.abc import Mapping, Sequence
from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from ...analyzer.handling import scope_words
from ...storage.records import AlertState, Severity, Silence, derived_id
from ...storage.results import AlertLine
from ..paths import alert_path, alerts_path, run_path
from ..sieve import STATES, Sieve
from ..updates import Updates, digests
from ..vitals import ago, moment
from .alerts import STATE_WORDS
from .asking import ask, asking, choices
from .attributes import aria, data
from .parts import refused, severity_badge

PICKERS = (("run", "Run"), ("project", "Project"), ("rule", "Rule"), ("cause", "Likeliest cause"))
"""Part of the sieve -> label of the list that chooses it."""


def inbox_page(sieve: Sieve, words: Updates) -> html.Main:
    """Return the inbox as it is now; ``sections.inbox`` keeps it up to date.

    Args:
        words: What its parts say now, as ``sections.inbox`` paints them.
    """
    parts = {name: properties["children"] for name, properties in words.items() if "children" in properties}
    return html.Main(
        [
            dcc.Store(id="sieve", data=sieve.query()),
            dcc.Store(id="inbox-ticket"),
            dcc.Store(id="inbox-painted", data=digests({name: {"children": part} for name, part in parts.items()})),
            html.Div(
                [html.H1("Alerts", className="page-title"), html.Div(parts["inbox-counts"], id="inbox-counts", role="status")],
                className="inbox-head",
            ),
            _filters(sieve),
            html.Div(parts["inbox-list"], id="inbox-list"),
            html.Div(parts["inbox-pager"], id="inbox-pager"),
            html.Div(parts["inbox-silences"], id="inbox-silences"),
            _bar(),
            *asking(),
        ],
        id="inbox",
        className="page",
        **data(live=""),
    )


def _filters(sieve: Sieve) -> html.Section:
    """Return the controls of the sieve. ``assets/alerts.js`` keeps them, the address and the list together."""
    states = [_toggle(label, "state", value, on=value == sieve.state) for value, (label, _) in STATES.items()]
    severities = [
        _toggle(severity.value.capitalize(), "severity", severity.value, on=severity in sieve.severities)
        for severity in reversed(Severity)
    ]
    search = dcc.Input(
        id="inbox-text",
        type="search",
        value=sieve.text,
        placeholder="Search message, rule, layer, run",
        className="inbox-search",
    )
    lists = [
        html.Div(
            [html.Label(label, htmlFor=f"inbox-{part}"), html.Select(options(sieve, part), id=f"inbox-{part}", **data(sift=part))],
            className="field",
        )
        for part, label in PICKERS
    ]
    opened = any(getattr(sieve, part) for part, _ in PICKERS)
    more = html.Details([html.Summary("Run, project, rule, cause"), html.Div(lists, className="inbox-lists")], open=opened)
    rows = [
        html.Div(states, role="group", className="inbox-toggles inbox-states", **aria(label="State")),
        html.Div(severities, role="group", className="inbox-toggles", **aria(label="Severity; none chosen shows all")),
        html.Div(_toggle("Group by run", "by", "run", on=sieve.by_run), className="inbox-toggles"),
        html.Label([html.Span("Search alerts", className="visually-hidden"), search], className="inbox-search-label"),
    ]
    return html.Section(
        [html.Div(rows, className="inbox-row-of-filters"), more], className="inbox-filters", **aria(label="Filters")
    )


def _toggle(label: str, part: str, value: str, *, on: bool) -> html.Button:
    pressed = aria(pressed=str(on).lower())
    return html.Button(label, type="button", className="toggle", **data(sift=part, value=value), **pressed)


def options(sieve: Sieve, part: str, counted: Mapping[str, tuple[str, int]] | None = None) -> list[Component]:
    """Return what a list offers.

    Args:
        counted: value -> (name, number of alerts); None where it is not known yet: then what is chosen is offered alone.
    """
    value = getattr(sieve, part)
    known = counted if counted is not None else ({value: (value, -1)} if value else {})
    named = {each: f"{name} ({count:,})" if count >= 0 else name for each, (name, count) in known.items()}
    return [html.Option("any", value=""), *(html.Option(name, value=each) for each, name in named.items())]


def _bar() -> html.Div:
    """Return what can be done to the selected alerts. It is shown while there are any."""
    return html.Div(
        [
            html.Span("", id="inbox-picked", className="strong", **aria(live="polite")),
            ask("Acknowledge …", AlertState.ACKNOWLEDGED, style="primary"),
            ask("Silence …", AlertState.SILENCED),
            ask("Resolve …", AlertState.RESOLVED),
            html.Button("Clear", id="inbox-clear", type="button", className="button"),
        ],
        id="inbox-bar",
        className="inbox-bar",
        hidden="hidden",
        role="region",
        **aria(label="Selected alerts"),
    )


def row_id(alert_id: str) -> str:
    """Return the id of an alert's row (a component's id must not hold every letter that an alert's id may)."""
    return f"alert-{derived_id(alert_id)}"


def rows_of(
    lines: Sequence[AlertLine], now: float, groups: Mapping[str, Mapping[Severity, int]] | None, version: int = 0
) -> Component:
    """Return the list of alerts.

    Args:
        version: How often the list was made anew. It stands in it and in its rows, so that neither is taken for what was sent
            already, when the other was sent since.
        groups: Run id -> severity -> number of alerts that match; where given, a heading goes before each run's alerts.
    """
    items: list[Component] = []
    for place, line in enumerate(lines):
        if groups is not None and (place == 0 or lines[place - 1].alert.run_id != line.alert.run_id):
            items.append(_group(line, groups.get(line.alert.run_id, {})))
        picker = html.Button(
            html.Span("", className="box", **aria(hidden="true")),
            type="button",
            role="checkbox",
            className="inbox-pick",
            **data(pick=line.alert.id),
            **aria(checked="false", label=f"Select: {line.alert.message[:80]}"),
        )
        body = html.Div(row_of(line, now, version, with_run=groups is None), id=row_id(line.alert.id), className="inbox-body")
        items.append(html.Li([picker, body], className="inbox-row"))
    everything = html.Button(
        [html.Span("", className="box", **aria(hidden="true")), "Select all on this page"],
        type="button",
        role="checkbox",
        className="inbox-pick all",
        **data(pick_all="yes"),
        **aria(checked="false"),
    )
    return html.Div([everything, html.Ul(items, className="inbox-rows")], className="card flush", **data(version=str(version)))


def _group(line: AlertLine, counts: Mapping[Severity, int]) -> html.Li:
    name = dcc.Link(line.run_name or line.alert.run_id[:8], href=run_path(line.alert.run_id), className="run-link")
    badges = [severity_badge(severity, counts[severity]) for severity in reversed(Severity) if counts.get(severity)]
    project = [html.Span(line.project, className="quiet")] if line.project else []
    return html.Li([html.H2([name, *project]), html.Span(badges)], className="inbox-group")


def row_of(line: AlertLine, now: float, version: int = 0, *, with_run: bool = True) -> Component:
    """Return what one row says, and what can be done there."""
    alert = line.alert
    head = [
        severity_badge(alert.severity),
        html.Span(STATE_WORDS[alert.state], className=f"state state-{alert.state.value}"),
        html.Span(
            f"since step {alert.first_step:,} · {moment(alert.created_at)}, {ago(now - alert.created_at)}", className="quiet"
        ),
        html.Span(f"last seen step {alert.last_step:,}", className="quiet"),
    ]
    about: list[Any] = []
    if with_run:
        name = line.run_name or alert.run_id[:8]
        about.append(html.Span([html.Span("Run ", className="quiet"), dcc.Link(name, href=run_path(alert.run_id))]))
    about.append(html.Span([html.Span("Layer ", className="quiet"), html.Code(alert.module)] if alert.module else "Whole model"))
    about.append(html.Span([html.Span("Rule ", className="quiet"), alert.rule]))
    if alert.diagnosis:
        cause = max(alert.diagnosis, key=lambda each: each.confidence)
        about.append(
            html.Span([html.Span("Likeliest cause ", className="quiet"), f"{cause.title}, {100 * cause.confidence:.0f} %"])
        )
    words = [
        html.Div(head, className="alert-head"),
        html.P(dcc.Link(alert.message, href=alert_path(alert.id)), className="inbox-message"),
        html.Div(about, className="inbox-about"),
    ]
    buttons = html.Div(choices(alert.id, alert.state, alert.message, at_once=True), className="inbox-actions")
    return html.Div(
        [html.Div(words, className="inbox-words"), buttons],
        className=f"inbox-alert severity-{alert.severity.value}" + (" closed" if alert.state is AlertState.RESOLVED else ""),
        **data(state=alert.state.value, severity=alert.severity.value, version=str(version)),
    )


def counts_of(total: int, by: Mapping[tuple[str, ...], int], sieve: Sieve) -> list[Any]:
    """Return how many alerts match, and how many of what severity are open.

    Args:
        by: (state, severity) -> number of those that match, whatever their state.
    """
    still = dict.fromkeys(reversed(Severity), 0)
    for (state, severity), count in by.items():
        if AlertState(state) in STATES["open"][1]:
            still[Severity(severity)] += count
    badges: list[Any] = [severity_badge(severity, count) for severity, count in still.items() if count]
    label = "match" if sieve.narrow or sieve.state != "open" else "open"
    words = f"{total:,} {label}" if label == "open" or total != 1 else "1 matches"
    if label == "open":
        return [html.Span(words, className="strong"), html.Span(badges)] if badges else [html.Span("none open", className="quiet")]
    return [html.Span(words, className="strong"), html.Span(["open: ", *badges] if badges else "none open", className="quiet")]


def nothing(sieve: Sieve, ever: bool) -> Component:
    """Return what stands in place of the list where it would be empty."""
    if sieve.narrow or sieve.state not in ("open", "all"):
        parts: list[Component] = [
            html.H2("No alert matches"),
            html.P("None of this state, severity, run, rule, cause or text."),
            html.P(html.A("Show all open alerts", href=alerts_path(), className="button")),
        ]
    elif ever:
        parts = [
            html.H2("No open alerts"),
            html.P("Every run is quiet: what was raised has been resolved."),
            html.P(html.A("Show resolved alerts", href=alerts_path(Sieve(state="resolved").query()), className="button")),
        ]
    else:
        parts = [html.H2("No alerts yet"), html.P("Warnings appear here by themselves as soon as a run raises one.")]
    return html.Div(html.Div(parts, className="empty"), className="card flush", id="inbox-empty")


def pager(sieve: Sieve, shown: int, total: int, size: int) -> list[Component]:
    """Return where this page stands among the others, and the ways there; nothing where there is one page."""
    pages = max(1, -(-total // size))
    if pages == 1:
        return []
    page = min(sieve.page, pages)
    first = (page - 1) * size + 1

    def turn(label: str, to: int) -> html.Button:
        off = not 1 <= to <= pages
        return html.Button(label, type="button", className="button", disabled=off, **data(page=str(to)))

    words = html.Span(f"{first:,}–{first + shown - 1:,} of {total:,} alerts", className="quiet")
    parts = [turn("← Previous", page - 1), words, turn("Next →", page + 1)]
    return [html.Nav(parts, className="pager", **aria(label="Pages of the list of alerts"))]


def silence_list(silences: Sequence[Silence], run_names: Mapping[str, str]) -> list[Component]:
    """Return the silences that hold now, each with a way to end it."""
    if not silences:
        return []
    rows = [html.Li([*silence_words(each, run_names), end_button(each, run_names)]) for each in silences]
    return [
        html.H2("Silences that hold now", className="section-title"),
        html.Ul(rows, className="silences card", **aria(label="Silences that hold now")),
    ]


def silence_words(silence: Silence, run_names: Mapping[str, str]) -> list[Component]:
    """Return what a silence is about, until when, by whom and why."""
    scope = scope_words(silence, lambda run_id: run_names.get(run_id, run_id[:8]))
    what: Any = html.A("one alert", href=alert_path(silence.alert_id)) if silence.alert_id else scope
    until = "until it is ended" if silence.until is None else f"until {moment(silence.until)}"
    by = f" by {silence.created_by}" if silence.created_by else ""
    why = [html.Span(silence.comment, className="said-by-people", dir="auto")] if silence.comment else []
    return [html.Div([html.Strong(what), html.Span(f" {until}{by}", className="quiet"), *why], className="silence-words")]


def end_button(silence: Silence, run_names: Mapping[str, str]) -> html.Button:
    """Return the button that ends a silence, after a confirmation."""
    scope = scope_words(silence, lambda run_id: run_names.get(run_id, run_id[:8]))
    return html.Button(
        "End …",
        type="button",
        className="button",
        **refused(),
        **data(ask="end", silence=silence.id, about=scope[:200]),
        **aria(label=f"End the silence: {scope[:80]}"),
    )
