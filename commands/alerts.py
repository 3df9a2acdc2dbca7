"""The commands about alerts: ``ack``, ``resolve``, ``silence``, ``watchdog``. Imports what is heavy when run."""

import dataclasses
import getpass
import json
import signal
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import seconds_of
from .remote import Remote, TokenOption, UrlOption, remote

if TYPE_CHECKING:
    from ..storage import Store
    from ..storage.records import Alert, AlertState

StoreOption = Annotated[
    str | None, typer.Option("--store", metavar="URL", help="SQLAlchemy URL; else FORESHOCK_STORE, else foreshock.toml.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print data as JSON, and nothing else.")]
AlertArgument = Annotated[str, typer.Argument(help="An alert's id, or its first letters: `foreshock alerts --json` shows them.")]
CommentOption = Annotated[str, typer.Option("--comment", metavar="TEXT", help="Why; kept with the decision.")]


def add_commands(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(epilog='Example: foreshock ack 3fa1 --comment "known, watching it"')(ack)
    app.command(epilog="Example: foreshock resolve 3fa1")(resolve)
    app.command(epilog="Example: foreshock silence --rule loss_spike --run gpt2-bf16 --for 2h")(silence)
    app.command(epilog="Example: foreshock watchdog --store postgresql+psycopg://host/db")(watchdog)


def ack(
    alert: AlertArgument, comment: CommentOption = "", store: StoreOption = None, url: UrlOption = None, token: TokenOption = None
) -> None:
    """Acknowledge an alert: it stays open, and nothing more is sent about it."""
    from ..storage.records import AlertState

    _decide(alert, AlertState.ACKNOWLEDGED, comment, store, remote(url, token, store))


def resolve(
    alert: AlertArgument, comment: CommentOption = "", store: StoreOption = None, url: UrlOption = None, token: TokenOption = None
) -> None:
    """Resolve an alert: it is over. What comes after is a new alert."""
    from ..storage.records import AlertState

    _decide(alert, AlertState.RESOLVED, comment, store, remote(url, token, store))


def silence(
    alert: Annotated[str | None, typer.Argument(help="One alert, by its id or its first letters.")] = None,
    rule: Annotated[str, typer.Option(help="All alerts of this rule.")] = "",
    module: Annotated[str, typer.Option(help="All alerts about this module.")] = "",
    run: Annotated[str, typer.Option(help="All alerts of this run: name, id, or first letters of the id.")] = "",
    project: Annotated[str, typer.Option(help="All alerts of this project.")] = "",
    for_: Annotated[str, typer.Option("--for", metavar="TIME", help="How long, such as 30m, 2h, 1d; else until it is ended.")] = "",
    end: Annotated[str, typer.Option(metavar="ID", help="End the silence with this id now.")] = "",
    list_: Annotated[bool, typer.Option("--list", help="List the silences that hold now.")] = False,
    comment: CommentOption = "",
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Silence alerts, open ones and those to come; scopes narrow each other. What still fires when it ends is told then."""
    from ..storage.records import Silence, new_id

    now = time.time()
    with closing(_open(store)) as opened:
        if list_:
            found = opened.silences(active_at=now)
            if as_json:
                typer.echo(json.dumps([dataclasses.asdict(each) for each in found], indent=2))
            else:
                typer.echo("\n".join(_silence_line(each) for each in found) or "No silence holds now.")
            return
        if end:
            try:
                count = opened.end_silence(end, at=now, by=_user())
            except KeyError as error:
                raise typer.BadParameter(str(error.args[0]), param_hint="--end") from None
            typer.echo(f"Ended; {count} alerts fire again.")
            return
        if not (alert or rule or module or run or project):
            raise typer.BadParameter("name an alert, or a scope with --rule, --module, --run or --project")
        made = Silence(
            new_id(),
            alert_id=_find(opened, alert).id if alert else "",
            rule=rule,
            module=module,
            run_id=opened.run(run).id if run else "",
            project=project,
            until=now + seconds_of(for_, "--for") if for_ else None,
            created_at=now,
            created_by=_user(),
            comment=comment,
        )
        count = opened.add_silence(made)
        typer.echo(
            json.dumps(dataclasses.asdict(made), indent=2)
            if as_json
            else f"{_silence_line(made)}\n{count} open alerts are silent now."
        )


def watchdog(
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 5.0,
    lost_after: Annotated[float, typer.Option(min=0.5, help="Least seconds without a sign of life until a run is lost.")] = 60.0,
    stalled_after: Annotated[float, typer.Option(min=0.5, help="Least seconds without a step until a run is stalled.")] = 300.0,
    store: StoreOption = None,
) -> None:
    """Watch over the runs of a store: tell when one died or stands still, deliver what it left. Runs until interrupted.

    `foreshock dashboard` does the same while it runs; of several, one acts and the others stand by.
    """
    from ..config import load_settings
    from ..telling import telling

    told = telling(load_settings(store=store))
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    with closing(_open(store)) as opened:
        guard = told.watchdog(opened, every=every, lost_after=lost_after, stalled_after=stalled_after)
        guard.start()
        typer.echo(f"Watching the runs in {opened.url}; stop with Ctrl+C.", err=True)
        over.wait()
        guard.close()


def _decide(reference: str, state: "AlertState", comment: str, store: str | None, elsewhere: Remote | None) -> None:
    from ..analyzer.handling import HandlingError, decide

    if elsewhere is not None:
        from .far import far_alert

        alert = far_alert(elsewhere, reference)
        elsewhere.post("alerts", alert.id, {"acknowledged": "acknowledge", "resolved": "resolve"}[state], comment=comment)
        typer.echo(f"{alert.rule} at step {alert.first_step}: {state}")
        return
    with closing(_open(store)) as opened:
        alert = _find(opened, reference)
        try:
            outcome = decide(opened, {alert.id: None}, state, by=_user(), comment=comment)
        except HandlingError as error:
            raise typer.BadParameter(str(error), param_hint="--comment") from None
        for _, why in outcome.refused:
            typer.echo(f"Error: {why}", err=True)
            raise typer.Exit(2)
        typer.echo(f"{alert.rule} at step {alert.first_step}: {state}")


def _find(store: "Store", reference: str) -> "Alert":
    """Return the alert whose id begins so."""
    try:
        return store.alert(reference)
    except KeyError as error:
        raise typer.BadParameter(str(error.args[0]), param_hint="ALERT") from None


def _silence_line(silence: Any) -> str:
    scopes = {
        "alert": silence.alert_id[:8],
        "rule": silence.rule,
        "module": silence.module,
        "run": silence.run_id[:8],
        "project": silence.project,
    }
    scope = " ".join(f"{name}={value}" for name, value in scopes.items() if value)
    until = time.strftime("until %Y-%m-%d %H:%M:%S", time.localtime(silence.until)) if silence.until else "until it is ended"
    return f"{silence.id}  {scope}  {until}  {silence.created_by}  {silence.comment}".rstrip()


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container whose user id has no name
        return ""


def _open(store: str | None) -> "Store":
    from ..config import load_settings
    from ..storage import open_store

    return open_store(load_settings(store=store).store, create=False)
