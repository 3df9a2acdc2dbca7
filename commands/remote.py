"""The HTTP API of a dashboard elsewhere, for commands that are given ``--url`` instead of a store (docs/api.md).

The standard library does: three kinds of requests, and a host that only looks needs nothing else installed.
"""

import http.client
import json
import os
import ssl
from collections.abc import Iterator
from typing import Annotated, Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import typer

TOKEN = "FORESHOCK_TOKEN"
TIMEOUT_S = 30.0
MOST_BYTES = 256 * 1024 * 1024

UrlOption = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help="Ask a dashboard's API instead of a store: http://host:8050."),
]
TokenOption = Annotated[
    str | None,
    typer.Option("--token", metavar="TOKEN", help=f"Token for --url; better in {TOKEN}, where no list of processes shows it."),
]


class RemoteError(Exception):
    """The dashboard said no, cannot be reached, or what was given is no way to ask it; the message says which.

    ``status`` is HTTP's: 400 also for what was not even sent, 0 where nobody answered.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Remote:
    """A dashboard's API.

    Args:
        url: Where the dashboard is, with its prefix if it has one.
        token: What to sign in with; empty where nobody has to.

    Raises:
        RemoteError: that is no address of a dashboard.
    """

    def __init__(self, url: str, token: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
            raise RemoteError(
                400, f"{url!r} is no address of a dashboard. Write one such as http://127.0.0.1:8050 or https://host/foreshock"
            )
        if not (token.isascii() and token.isprintable() and " " not in token):
            raise RemoteError(
                400, f"The token holds what no token holds (blanks, newlines, odd letters); look at --token or {TOKEN}"
            )
        self.url = url.rstrip("/")
        self._headers = {"accept": "application/json", **({"authorization": f"Bearer {token}"} if token else {})}
        self._opener = build_opener(_NoRedirects)

    def get(self, *path: str, **query: Any) -> dict[str, Any]:
        """Return what is at a path; arguments that are None are left out, lists are repeated.

        Raises:
            RemoteError: see the class.
        """
        given = {
            name: str(value).lower() if isinstance(value, bool) else value for name, value in query.items() if value is not None
        }
        return self._ask("GET", self._at(path) + ("?" + urlencode(given, doseq=True) if given else ""), None)

    def post(self, *path: str, **body: Any) -> dict[str, Any]:
        """Ask for a change, and return what came of it.

        Raises:
            RemoteError: see the class.
        """
        return self._ask("POST", self._at(path), json.dumps(body).encode())

    def all(self, *path: str, most: int, **query: Any) -> Iterator[dict[str, Any]]:
        """Yield what a list holds, page by page, at most ``most`` of it.

        Raises:
            RemoteError: see the class.
        """
        cursor = None
        while most > 0:
            page = self.get(*path, limit=min(most, 200), cursor=cursor, **query)
            items = page[path[-1]]
            yield from items[:most]
            most -= len(items)
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def _at(self, path: tuple[str, ...]) -> str:
        return "/".join([self.url, "api/v1", *(quote(part, safe="") for part in path)])

    def _ask(self, method: str, address: str, body: bytes | None) -> dict[str, Any]:
        headers = self._headers | ({"content-type": "application/json"} if body is not None else {})
        try:
            with self._opener.open(Request(address, body, headers, method=method), timeout=TIMEOUT_S) as answer:
                return _object(answer.read(MOST_BYTES), self.url)
        except HTTPError as error:
            raise RemoteError(error.code, _said(error, self.url)) from None
        except (URLError, OSError, http.client.HTTPException, ssl.SSLError) as error:
            why = error.reason if isinstance(error, URLError) else error
            raise RemoteError(0, f"No dashboard answers at {self.url}: {why}. Is it running, and is the address right?") from None


class _NoRedirects(HTTPRedirectHandler):
    """Follows nothing: a token must not be carried to another address."""

    def redirect_request(self, *_: Any) -> None:
        """Return no further request."""


def remote(url: str | None, token: str | None, store: str | None) -> Remote | None:
    """Return the dashboard that a command is to ask; None where it is to open a store.

    Raises:
        BadParameter: both were given.
    """
    if url is None:
        return None
    if store is not None:
        raise typer.BadParameter("give one of --url and --store: a dashboard to ask, or a store to open", param_hint="--url")
    return Remote(url, token or os.environ.get(TOKEN, ""))


def _object(body: bytes, url: str) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RemoteError(0, f"What answers at {url} is no dashboard of foreshock's.")
    return found


def _said(error: HTTPError, url: str) -> str:
    """Return what an error says for people."""
    try:
        told = json.loads(error.read(64 * 1024))["error"]
        message = str(told["message"])
    except (ValueError, KeyError, TypeError, OSError):
        where = error.headers.get("location")
        return f"{url} answered {error.code} {error.reason}" + (f", and points to {where}: use that address." if where else ".")
    if error.code == 401:
        message += f" Give a token with --token or {TOKEN}; `foreshock token create NAME` makes one, where the store is."
    return message
