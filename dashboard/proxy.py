"""Behind a reverse proxy: the path that it adds, and what it says of the visitor."""

import ipaddress

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from . import paths
from .asgi import ASGIApp, Receive, Scope, Send, header
from .options import Options


class Forwarded:
    """Makes a request look as it did before the proxies that are trusted: the visitor's address, scheme and host, no prefix.

    A proxy may pass the prefix on or take it away; both work. What others say of themselves in ``X-Forwarded-*`` is not believed.
    """

    def __init__(self, app: ASGIApp, options: Options) -> None:
        self._prefix = options.prefix
        self._trusted = [ipaddress.ip_network(proxy, strict=False) for proxy in options.trusted_proxies]
        self._app: ASGIApp = app
        if self._trusted:
            self._app = ProxyHeadersMiddleware(app, list(map(str, self._trusted)))  # type: ignore[arg-type, assignment]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] in ("http", "websocket"):
            paths.serve_below(self._prefix)
            scope["path"] = paths.inner(scope["path"])
            scope.pop("raw_path", None)
            if (host := header(scope, b"x-forwarded-host")) and self._trusts(scope):
                first = host.split(",")[0].strip().encode("latin-1")
                scope["headers"] = [(name, first if name == b"host" else value) for name, value in scope["headers"]]
        await self._app(scope, receive, send)

    def _trusts(self, scope: Scope) -> bool:
        try:
            peer = ipaddress.ip_address(scope["client"][0])
        except (KeyError, TypeError, ValueError):
            return False
        return any(peer in network for network in self._trusted)
