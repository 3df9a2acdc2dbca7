"""What a preview came to, run by run: a sentence, the loss with the marks of both, and a table."""

from collections.abc import Sequence
from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from ...analyzer.rule_trial import Move, Trial
from ...storage.records import Alert
from ...storage.results import SeriesData
from ..figures.trial import trial_figure
from ..paths import run_path
from .attributes import aria
from .parts import GRAPH_CONFIG, severity_badge

MOST_ROWS = 60
_WORDS = {"new": "new", "gone": "gone", "earlier": "earlier", "later": "later", "changed": "severity", "same": "same"}
_COLUMNS = ("", "Now", "With the form", "Severity", "Where", "What is said")
_ICONS = {"new": "+", "gone": "−", "earlier": "◂", "later": "▸", "changed": "≠", "same": "="}


def trial_card(trial: Trial, loss: SeriesData | None, number: int) -> html.Section:
    """Return the result for one run."""
    figure = trial_figure(loss, trial.moves, trial.replay.failed_at)
    plot = dcc.Graph(id=f"rule-trial-{number}", figure=figure, config=GRAPH_CONFIG, className="graph")
    label = f"Chart of the loss of {trial.run.name[:80]} with the alerts of both"
    return html.Section(
        [
            html.H3(html.A(trial.run.name, href=run_path(trial.run.id))),
            html.P(summed(trial), className="strong"),
            *[html.P(each, className="quiet") for each in notes(trial)],
            html.Div(plot, className="graph-frame", role="group", style={"minHeight": 260}, **aria(label=label)),
            _legend(),
            _table(trial.moves),
        ],
        className="rule-trial",
        **aria(label=f"Preview on {trial.run.name[:80]}"),
    )


def summed(trial: Trial) -> str:
    """Say in a sentence what would be different."""
    before = sum(move.before is not None for move in trial.moves)
    after = sum(move.after is not None for move in trial.moves)
    if not trial.moves:
        return "No alert, neither by the rule as it is nor as the form has it."
    counted = [(trial.count(verdict), _WORDS[verdict]) for verdict in ("new", "gone", "earlier", "later", "changed")]
    told = ", ".join(f"{count} {'with another severity' if word == 'severity' else word}" for count, word in counted if count)
    return f"{_alerts(before)} as the rule is, {after} as the form has it: {told or 'the same ones'}."


def notes(trial: Trial) -> list[str]:
    """Say how the first warning lies to the failure, and how far the run was replayed."""
    replay = trial.replay
    before = [move.before for move in trial.moves if move.before is not None]
    after = [move.after for move in trial.moves if move.after is not None]
    if replay.failed_at is not None:
        leads = f"{_lead(replay.failed_at, before)} as it is, {_lead(replay.failed_at, after)} as the form has it"
        said = [f"The run {replay.outcome} at step {replay.failed_at:,}. First alert of this rule: {leads}."]
    elif replay.failure is not None:
        said = [f"The run left its best at step {replay.failure.step:,} and recovered: every warning here is one too many."]
    else:
        said = ["The run did not fail: every warning here is one too many."]
    if not replay.whole:
        said.append(
            f"Replayed up to step {replay.last_step:,} of {trial.run.last_step:,}: then the time for a preview was up. "
            f"foreshock backtest {trial.run.id[:8]} replays all of it."
        )
    return said


def _lead(failed_at: int, alerts: Sequence[Alert]) -> str:
    if not alerts:
        return "none"
    lead = failed_at - min(alert.first_step for alert in alerts)
    return f"{abs(lead):,} steps {'before' if lead >= 0 else 'after'} it"


def _alerts(count: int) -> str:
    return f"{count:,} alert{'' if count == 1 else 's'}"


def _legend() -> html.Div:
    entries = (("○", "above: as the rule is"), ("●", "below: as the form has it"), ("|", "the failure"))
    marks = [html.Span([html.Span(icon, className="icon", **aria(hidden="true")), label]) for icon, label in entries]
    return html.Div(marks, className="legend")


def _table(moves: Sequence[Move]) -> Any:
    if not moves:
        return None
    ordered = sorted(moves, key=lambda move: move.verdict == "same")[:MOST_ROWS]
    head = html.Thead(html.Tr([html.Th(each, scope="col") for each in _COLUMNS]))
    table = html.Table([head, html.Tbody([_table_row(move) for move in ordered])], className="rule-moves")
    more = len(moves) - len(ordered)
    rest = [html.P(f"… and {more:,} more.", className="quiet")] if more > 0 else []
    return html.Div([html.Div(table, className="scroll", tabIndex="0", role="group", **aria(label="Alerts side by side")), *rest])


def _table_row(move: Move) -> html.Tr:
    verdict = move.verdict
    by = f" by {abs(move.steps):,}" if verdict in ("earlier", "later") else ""
    icon = html.Span(_ICONS[verdict], className="icon", **aria(hidden="true"))
    cells: list[Component] = [
        html.Td([icon, f"{_WORDS[verdict]}{by}"], className="rule-verdict"),
        html.Td(f"step {move.before.first_step:,}" if move.before is not None else "–"),
        html.Td(f"step {move.after.first_step:,}" if move.after is not None else "–"),
        html.Td(severity_badge(move.alert.severity)),
        html.Td(html.Code(move.alert.module) if move.alert.module else "the run"),
        html.Td(move.alert.message, className="rule-said"),
    ]
    return html.Tr(cells, className=f"move-{verdict}")
