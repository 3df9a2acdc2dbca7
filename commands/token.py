"""The commands ``token create``, ``list``, ``revoke``: who may open the dashboard from elsewhere."""

import getpass
import time
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from .output import JsonOption, StoreOption, note, opened_store, seconds_of, show, show_json

if TYPE_CHECKING:
    from rich.table import Table

    from ..storage.records import Token

token = typer.Typer(help="Who may open the dashboard, and use its API: make a token, list them, revoke one.", no_args_is_help=True)


def add_commands(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(token, name="token")


@token.command("create", epilog="Example: foreshock token create ada --write --expires 90d")
def create(
    name: Annotated[str, typer.Argument(help="Whose it is; the name stands beside what is decided with it.")],
    read: Annotated[bool, typer.Option("--read", help="It may see everything, and change nothing.")] = False,
    write: Annotated[bool, typer.Option("--write", help="It may decide about alerts and rules too.")] = False,
    expires: Annotated[str, typer.Option(metavar="TIME", help="How long it holds, such as 30d; else until it is revoked.")] = "",
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token and print it, once: only its digest is kept."""
    from ..dashboard.access.secrets import digest, new_token
    from ..storage.errors import InvalidRecordError
    from ..storage.records import Token

    if read == write:
        raise typer.BadParameter("say what it may do: either --read or --write", param_hint="--read / --write")
    now, secret = time.time(), new_token()
    made = Token(digest(secret), name, write, now, _user(), now + seconds_of(expires, "--expires") if expires else None)
    with closing(opened_store(store)) as opened:
        try:
            opened.add_token(made)
        except InvalidRecordError as error:
            raise typer.BadParameter(str(error), param_hint="NAME") from None
        address = opened.url
    if as_json:
        show_json({"token": secret, **_plain(made, now)})
        return
    note(f"{name} may {'decide' if write else 'read'}, {_until(made)}, in {address}. This is shown once; keep it like a password:")
    typer.echo(secret)


@token.command("list", epilog="Example: foreshock token list")
def list_(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """List the tokens: whose, what they may do, until when. Their secrets are nowhere."""
    with closing(opened_store(store)) as opened:
        found, address, now = opened.tokens(), opened.url, time.time()
    if as_json:
        show_json([_plain(each, now) for each in found])
    elif found:
        show(_table(found, now))
    else:
        note(f"No tokens in {address}. Make one: foreshock token create NAME --write")


@token.command("revoke", epilog="Example: foreshock token revoke ada")
def revoke(name: Annotated[str, typer.Argument(help="Name of the token.")], store: StoreOption = None) -> None:
    """Revoke a token: it lets nobody in any more, and who is signed in with it is out within seconds."""
    with closing(opened_store(store)) as opened:
        if not opened.remove_token(name):
            names = ", ".join(each.name for each in opened.tokens()) or "none"
            raise typer.BadParameter(f"there is no token of the name {name!r}; there are: {names}", param_hint="NAME")
    typer.echo(f"Revoked {name}.")


def _plain(each: "Token", now: float) -> dict[str, object]:
    return {
        "name": each.name,
        "may_write": each.may_write,
        "created_at": each.created_at,
        "created_by": each.created_by,
        "expires_at": each.expires_at,
        "expired": not each.holds(now),
    }


def _until(each: "Token") -> str:
    return "until it is revoked" if each.expires_at is None else f"until {_moment(each.expires_at)}"


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def _table(found: "list[Token]", now: float) -> "Table":
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("name", "may", "made", "by", "holds"):
        table.add_column(column, overflow="fold")
    for each in found:
        holds = _until(each) if each.holds(now) else f"expired {_moment(each.expires_at or now)}"
        table.add_row(each.name, "read and decide" if each.may_write else "read", _moment(each.created_at), each.created_by, holds)
    return table


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container whose user id has no name
        return ""
