"""The commands ``notify``: try a channel, see what could not be delivered, print what receivers of alerts need."""

import dataclasses
import json
import time
from contextlib import closing
from enum import StrEnum
from functools import partial
from typing import Annotated, Any

import typer

from .output import JsonOption, StoreOption, note, opened_store

notify = typer.Typer(
    help="Where alerts are sent: try a channel, see what could not be delivered, get what receivers need.", no_args_is_help=True
)


class Printed(StrEnum):
    """What can be printed."""

    SCHEMA = "schema"
    RULES = "rules"
    SCRAPE = "scrape"
    ALERTMANAGER = "alertmanager"
    TEMPLATE = "template"


_FILES = {
    Printed.SCHEMA: ("messages", "webhook.schema.json"),
    Printed.RULES: ("prometheus", "foreshock.rules.yml"),
    Printed.SCRAPE: ("prometheus", "scrape.yml"),
    Printed.ALERTMANAGER: ("prometheus", "alertmanager.yml"),
}


def add_commands(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(notify, name="notify")


@notify.command("test", epilog="Example: foreshock notify test slack://tokenA/tokenB/tokenC")
def test(url: Annotated[str, typer.Argument(help="An Apprise URL; https://appriseit.com/services lists them.")]) -> None:
    """Send a test message to a channel, as alerts will look there, and say how it went."""
    from ..analyzer.channels import Channel, ChannelError
    from ..analyzer.markup import escape
    from ..analyzer.sending import Message, printable, send
    from ..config import load_settings
    from ..dashboard.messages.example import example_alert
    from ..telling import telling

    try:
        channel = Channel.of(url)
    except ChannelError as error:
        note(f"Error: {error}")
        raise typer.Exit(2) from None
    told, now = telling(load_settings()), time.time()
    alert = example_alert(now)
    title, body = dataclasses.replace(told.messages, page="").write(alert, run="example")
    lead = "This is a test message: alerts of your training runs will arrive here, and look like this."
    chart = partial(told.extras.chart, alert) if channel.charts else None
    data = partial(told.extras.data, [alert], {alert.run_id: "example"}, {}, test=True)
    message = Message("foreshock: test", f"{lead}\n\n**{escape(title)}**\n\n{body}", chart=chart, data=data)
    wrong = send(channel.url, message)
    if wrong and chart is not None:
        with_chart, wrong = wrong, send(channel.url, dataclasses.replace(message, chart=None))
        if not wrong:
            note(f"With a chart the channel said: {with_chart}. Put chart=no into its URL to send none.")
    if wrong:
        note(f"Not delivered to {printable(url)}: {wrong}")
        raise typer.Exit(1)
    typer.echo(f"Delivered to {printable(url)}.")
    if chart is not None and (why := _undrawn(chart)):
        note(f"There was no chart: {why}")
    if channel.quiet is not None and (until := channel.quiet.end(now)) is not None:
        note(f"Quiet hours hold there until {channel.quiet.words(until)}: alerts {_waits(channel.critical_waits)} wait until then.")


@notify.command("failed", epilog="Example: foreshock notify failed --retry")
def failed(
    retry: Annotated[bool, typer.Option("--retry", help="Put them back, to be tried anew.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most this many.")] = 50,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List notifications that were given up, with the reason. Exit status 1 where there are any and they are left so."""
    from ..analyzer.sending import printable
    from ..storage.records import NotificationState

    with closing(opened_store(store)) as opened:
        found = opened.notifications(states=[NotificationState.FAILED], limit=limit)
        if retry:
            for entry in found:
                opened.retry_notification(entry.id, at=time.time())
    plain: list[dict[str, Any]] = [dataclasses.asdict(entry) | {"channel": printable(entry.channel)} for entry in found]
    if as_json:
        typer.echo(json.dumps(plain, indent=2))
    else:
        lines = [f"{each['channel']}  {each['title']}  after {each['attempts']} tries: {each['error']}" for each in plain]
        typer.echo("\n".join(lines) or "Everything was delivered, or still waits for its turn.")
    raise typer.Exit(1 if found and not retry else 0)


@notify.command("print", epilog="Example: foreshock notify print rules > foreshock.rules.yml")
def print_(
    what: Annotated[
        Printed,
        typer.Argument(
            help="schema: the JSON Schema of webhooks; rules, scrape: for Prometheus; alertmanager: for Alertmanager; "
            "template: of messages, for foreshock.toml."
        ),
    ],
) -> None:
    """Print a file that receivers of alerts need: the schema of webhooks, rules for Prometheus, the template of messages."""
    if what is Printed.TEMPLATE:
        from ..analyzer.messages import BODY, TITLE

        typer.echo(f"[message]\ntitle = '''{TITLE}'''\nbody = '''\n{BODY}'''")
        return
    from importlib.resources import files

    from .. import dashboard

    folder, name = _FILES[what]
    typer.echo(files(dashboard).joinpath(folder, name).read_text("utf-8"), nl=False)


def _undrawn(chart: Any) -> str:
    try:
        chart()
    except Exception as error:  # noqa: BLE001 - the courier, too, goes on whatever it is
        return str(error)
    return ""


def _waits(critical: bool) -> str:
    return "of every severity" if critical else "that are not critical"
