"""The page to sign in on, and the way out. Plain HTML that needs no script: a form with one field."""

import time
from html import escape
from http.cookies import SimpleCookie
from urllib.parse import parse_qs, quote, urlsplit

from ...storage.errors import StoreError
from ..asgi import Receive, Scope, Send, answer, whole_body
from ..options import Options
from .door import Door
from .throttle import Throttle

LOGIN, LOGOUT = "/login", "/logout"
COOKIE = "foreshock_session"
_MOST_BYTES = 8192
_LONGEST_NEXT = 2000

_PAGE = """<!DOCTYPE html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>Sign in · foreshock</title>
    <link rel="icon" type="image/svg+xml" href="{prefix}/assets/mark.svg">
    <script src="{prefix}/assets/theme.js"></script>
    <link rel="stylesheet" href="{prefix}/assets/foreshock.css">
    <link rel="stylesheet" href="{prefix}/assets/page-access.css">
  </head>
  <body class="sign-in">
    <main class="card sign-in-card">
      <p class="brand"><span class="mark" aria-hidden="true"></span><span>foreshock</span></p>
      <h1>Sign in</h1>
      {trouble}
      <form method="post" action="{prefix}/login">
        <input type="hidden" name="next" value="{next}">
        <input type="text" name="username" value="foreshock" autocomplete="username" readonly hidden>
        <label for="token">Access token</label>
        <input id="token" name="token" type="password" required autofocus autocomplete="current-password" spellcheck="false"
          autocapitalize="none" maxlength="256" aria-describedby="token-help{described}"{invalid}>
        <p id="token-help" class="hint">Whoever runs this dashboard makes one with
          <code>foreshock token create NAME --read</code> or <code>--write</code>.</p>
        <button type="submit" class="button primary">Sign in</button>
      </form>
    </main>
  </body>
</html>
"""


class LoginPages:
    """Signs visitors in and out."""

    def __init__(self, options: Options, door: Door, throttle: Throttle) -> None:
        self._options, self._door, self._throttle = options, door, throttle

    async def login(self, scope: Scope, receive: Receive, send: Send, session: str) -> None:
        """Show the form, or take what was written into it."""
        if scope["method"] == "POST":
            await self._take(scope, receive, send, session)
        elif scope["method"] in ("GET", "HEAD"):
            given = parse_qs(scope["query_string"].decode("latin-1"))
            await self._show(send, 200, local(given.get("next", [""])[0]))
        else:
            await answer(send, 405, b"", {"allow": "GET, HEAD, POST"})

    async def logout(self, scope: Scope, receive: Receive, send: Send, session: str) -> None:
        """End the session of this browser, and show the form."""
        if scope["method"] != "POST":
            await answer(send, 405, b"", {"allow": "POST"})
            return
        if session:
            try:
                await self._door.close_session(session)
            except StoreError:
                await self._show(
                    send, 503, "/", "The store cannot be reached just now, so your session could not be ended. Try again."
                )
                return
        await self._leave(send, LOGIN, {"set-cookie": self._cookie(scope, "", 0)})

    async def _take(self, scope: Scope, receive: Receive, send: Send, old: str) -> None:
        body = await whole_body(receive, _MOST_BYTES)
        form = parse_qs((body or b"").decode("utf-8", "replace"))
        token, onward = form.get("token", [""])[0].strip(), local(form.get("next", [""])[0])
        client = scope.get("client")
        address = str(client[0]) if client else ""
        if wait := self._throttle.wait(address):
            seconds = int(wait) + 1
            said = f"Too many attempts from your address failed. Try again in {seconds} seconds."
            await self._show(send, 429, onward, said, {"retry-after": str(seconds)})
            return
        try:
            opened = await self._door.open_session(token) if token else None
            if opened is not None and old:
                await self._door.close_session(old)
        except StoreError:
            await self._show(send, 503, onward, "The store cannot be asked just now who you are. Try again in a moment.")
            return
        if opened is None:
            self._throttle.failed(address)
            await self._show(send, 401, onward, "This token is not known here. It may be misspelt, revoked, or out of date.")
            return
        self._throttle.succeeded(address)
        secret, ends = opened
        await self._leave(send, onward, {"set-cookie": self._cookie(scope, secret, max(1, int(ends - time.time())))})

    async def _leave(self, send: Send, path: str, headers: dict[str, str]) -> None:
        location = self._options.prefix + quote(path, safe="/?&=%+:,;@!$'()*~-._")
        await answer(send, 303, b"", {"location": location, "cache-control": "no-store", **headers})

    async def _show(self, send: Send, status: int, onward: str, trouble: str = "", headers: dict[str, str] | None = None) -> None:
        said = f'<p id="trouble" class="sign-in-trouble" role="alert">{escape(trouble)}</p>' if trouble else ""
        page = _PAGE.format(
            prefix=escape(self._options.prefix),
            next=escape(onward, quote=True),
            trouble=said,
            described=" trouble" if trouble else "",
            invalid=' aria-invalid="true"' if status == 401 else "",
        )
        kind = {"content-type": "text/html; charset=utf-8", "cache-control": "no-store"}
        await answer(send, status, page.encode(), {**kind, **(headers or {})})

    def _cookie(self, scope: Scope, secret: str, seconds: int) -> str:
        """Return the Set-Cookie header: out of scripts' reach, not sent by requests of other pages, by HTTPS only if we are."""
        cookie: SimpleCookie = SimpleCookie()
        cookie[COOKIE] = secret
        morsel = cookie[COOKIE]
        morsel["path"] = self._options.prefix + "/"
        morsel["max-age"] = seconds
        morsel["httponly"] = True
        morsel["samesite"] = "Lax"  # Strict would ask everybody to sign in again who comes by the link in a notification
        if scope["scheme"] == "https":
            morsel["secure"] = True
        return morsel.OutputString()


def destination(scope: Scope) -> str:
    """Return the address that a request was for, below the prefix, to come back to after signing in."""
    query = scope["query_string"].decode("latin-1")
    return quote(scope["path"], safe="/:@!$&'()*+,;=~-._") + (f"?{query}" if query else "")


def local(address: str) -> str:
    """Return an address of ours as it is, and the first page for any other: nobody is sent elsewhere from here."""
    own = address.startswith("/") and not address.startswith("//") and "\\" not in address and address.isprintable()
    try:
        parts = urlsplit(address)
    except ValueError:
        return "/"
    if not own or parts.scheme or parts.netloc or len(address) > _LONGEST_NEXT or parts.path in (LOGIN, LOGOUT):
        return "/"
    return address
