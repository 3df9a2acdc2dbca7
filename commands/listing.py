"""The commands that read a store: ``runs``, ``alerts``, and ``explain``, which says more of what alerts name."""

import time
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from .output import JsonOption, StoreOption, console, note, opened_store, plain, show, show_json
from .remote import TokenOption, UrlOption, remote

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..storage.records import Alert, Run

_STYLES = {"critical": "bold red", "warning": "yellow", "info": "cyan"}


def add_commands(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(epilog="Example: foreshock runs --project gpt2 --json")(runs)
    app.command(epilog="Example: foreshock alerts gpt2-bf16 --open")(alerts)
    app.command(epilog="Example: foreshock explain low-precision-attention")(explain)


def runs(
    project: Annotated[str | None, typer.Option(help="Only runs of this project.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many, newest first.")] = 20,
    store: StoreOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """List runs, newest first, with their open alerts."""
    from ..storage.records import AlertState

    if elsewhere := remote(url, token, store):
        from .far import far_runs

        (listed, alarms), where = far_runs(elsewhere, project, limit), elsewhere.url
    else:
        with closing(opened_store(store)) as opened:
            listed, where = opened.runs(project=project, limit=limit), opened.url
            open_states = [state for state in AlertState if state is not AlertState.RESOLVED]
            alarms = Counter((alert.run_id, str(alert.severity)) for alert in opened.alerts(states=open_states))
    if as_json:
        show_json([plain(run) | {"open_alerts": _by_severity(alarms, run.id)} for run in listed])
    elif listed:
        show(_run_table(listed, alarms))
    else:
        note(f"No runs in {where} yet. `foreshock demo` makes one; `foreshock.watch(model, optimizer)` makes yours.")


def alerts(
    run: Annotated[
        str | None, typer.Argument(help="A run's name, id, or first letters of the id; without it, alerts of all runs.")
    ] = None,
    only_open: Annotated[bool, typer.Option("--open", help="Leave out resolved alerts.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most this many.")] = 50,
    store: StoreOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """List alerts with what was seen, the likely cause and the remedy."""
    from ..storage.records import AlertState

    if elsewhere := remote(url, token, store):
        from .far import far_alerts, far_run, far_runs

        chosen = far_run(elsewhere, run) if run is not None else None
        found = far_alerts(elsewhere, chosen, only_open, limit)
        known = [chosen] if chosen else [] if as_json else far_runs(elsewhere, None, 1000)[0]
    else:
        states = [state for state in AlertState if state is not AlertState.RESOLVED] if only_open else None
        with closing(opened_store(store)) as opened:
            chosen = opened.run(run) if run is not None else None
            found = opened.alerts(chosen, states=states, limit=limit)
            known = [chosen] if chosen else [] if as_json else opened.runs()
    names = {each.id: each.name for each in known}
    if as_json:
        show_json([plain(alert) for alert in found])
    elif found:
        for alert in found:
            show(_alert_text(alert, names.get(alert.run_id, alert.run_id)))
    else:
        note(f"No {'open ' if only_open else ''}alerts{f' in run {chosen.name}' if chosen else ''}.")


def explain(
    cause: Annotated[str | None, typer.Argument(metavar="[CAUSE]", help="As an alert names it; else all are listed.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Explain a cause that alerts name: how it looks, why it happens, how to be sure, what to do."""
    from ..analyzer.diagnosis import page, patterns

    known = {pattern.doc: pattern.title for pattern in patterns()}
    asked = {pattern.doc: pattern.interventions for pattern in patterns()}
    if cause is not None and cause.replace("_", "-") not in known:
        raise typer.BadParameter(f"{cause!r} is none of {', '.join(known)}.", param_hint="CAUSE")
    chosen = [cause.replace("_", "-")] if cause is not None else list(known)
    if as_json:
        show_json([{"cause": doc, "title": known[doc], "interventions": asked[doc], "page": page(doc)} for doc in chosen])
    elif cause is not None:
        typer.echo(page(cause), nl=False)
    else:
        width = max(map(len, known))
        typer.echo("\n".join(f"{doc:{width}}  {title}" for doc, title in known.items()))


def _by_severity(alarms: Counter[tuple[str, str]], run_id: str) -> dict[str, int]:
    return {severity: count for severity in _STYLES if (count := alarms[run_id, severity])}


def _ago(moment: float) -> str:
    """Say how long ago something was, in its largest unit."""
    seconds = max(0.0, time.time() - moment)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def _run_table(runs: "list[Run]", alarms: Counter[tuple[str, str]]) -> "RenderableType":
    from rich.table import Table
    from rich.text import Text

    from ..dashboard.vitals import life

    now = time.time()
    narrow = console().width < 66
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("run", overflow="fold")
    if not narrow:
        table.add_column("id", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("heard", justify="right", no_wrap=True)
    table.add_column("open alerts", min_width=10)
    for run in runs:
        parts = [Text(f"{count} {severity}", _STYLES[severity]) for severity, count in _by_severity(alarms, run.id).items()]
        identity = [] if narrow else [run.id[:8]]
        step = str(run.last_step) if run.last_step >= 0 else "-"
        table.add_row(run.name, *identity, life(run, now).value, step, _ago(run.heartbeat_at), Text(", ").join(parts) or "-")
    return table


def _alert_text(alert: "Alert", run_name: str) -> "RenderableType":
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    from ..analyzer.messages import likeliest

    head = Text.assemble(
        (f"{alert.severity} ", _STYLES[alert.severity]),
        (alert.rule, "bold"),
        f" · step {alert.first_step} · {alert.module or 'whole model'} · {alert.state} · run {run_name}",
    )
    body = [alert.message]
    if alert.diagnosis:
        cause = alert.diagnosis[0]
        more = f" More: foreshock explain {cause.doc}" if cause.doc else ""
        body.append(
            f"Likely cause: {cause.title} ({cause.confidence:.0%}). {'; '.join(each.rstrip('.') for each in cause.reasons)}.{more}"
        )
    _, remedy = likeliest(alert)
    if remedy:
        body.append(f"Remedy: {remedy}")
    return Group(head, Padding(Text("\n".join(body)), (0, 0, 1, 2), expand=False))
