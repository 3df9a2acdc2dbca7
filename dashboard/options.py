"""How the dashboard is served: where, to whom, and behind what."""

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SESSION_LENGTH = 12 * 3600.0
_EVERYWHERE = ("0.0.0.0", "::")


class OptionError(ValueError):
    """The dashboard cannot be served like this; the message says what would do."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is not about the store. Nothing here may differ between server processes that share one address.

    Args:
        host: Address to listen on.
        auth: Whether a visitor has to sign in.
        session_length: Seconds that a browser stays signed in.
        prefix: Path under which a reverse proxy shows the dashboard, ``/foreshock``; empty for none.
        trusted_proxies: Addresses or networks whose ``X-Forwarded-For``, ``-Proto`` and ``-Host`` are believed.
        allowed_hosts: Further host names under which the dashboard answers.

    Raises:
        OptionError: these options do not go together.
    """

    host: str = "127.0.0.1"
    auth: bool = False
    session_length: float = SESSION_LENGTH
    prefix: str = ""
    trusted_proxies: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.local and not self.auth:
            raise OptionError(
                f"Cannot serve the dashboard at {self.host!r} without a log-in: anybody who reaches it could see the runs "
                "and decide about alerts. Either make a token and ask for it:\n"
                "  foreshock token create NAME --write\n"
                f"  foreshock dashboard --host {self.host or '0.0.0.0'} --auth\n"
                "or let only this machine open it (--host 127.0.0.1, as is usual), and from another one use an SSH tunnel:\n"
                "  ssh -L 8050:127.0.0.1:8050 HOST   and open http://127.0.0.1:8050"
            )
        if self.prefix != clean_prefix(self.prefix):
            raise OptionError(f"{self.prefix!r} is no prefix; it would be {clean_prefix(self.prefix)!r}")
        for proxy in self.trusted_proxies:
            _network(proxy)
        for name in self.allowed_hosts:
            _host_name(name)

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the address."""
        return self.host in LOOPBACK

    def answers_to(self, host: str) -> bool:
        """Return whether a Host header names us.

        A page elsewhere could let its own name point here and read what we show (DNS rebinding). Bare addresses cannot be had that
        way, so beyond this machine they are answered to as well.
        """
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        if name in LOOPBACK or name in {allowed.lower().strip("[]") for allowed in self.allowed_hosts}:
            return True
        return not self.local and (_is_address(name) or name in (self.host.lower(), *_own_names()))


def clean_prefix(given: str) -> str:
    """Return a prefix as it is used: ``foreshock/`` -> ``/foreshock``; ``/`` is none.

    Raises:
        OptionError: it is more than a path.
    """
    path = given.strip("/")
    if any(letter in path for letter in "?#%\\<>\"' ") or not path.isascii() or not path.isprintable():
        raise OptionError(
            f"--prefix {given!r}: write a plain path such as /foreshock, of letters, digits, '-', '_', '.', '~' and '/'"
        )
    if any(part in ("", ".", "..") for part in path.split("/")) and path:
        raise OptionError(f"--prefix {given!r}: write a plain path such as /foreshock, without empty parts or dots alone")
    return f"/{path}" if path else ""


def _network(given: str) -> None:
    try:
        ipaddress.ip_network(given, strict=False)
    except ValueError:
        raise OptionError(
            f"--trusted-proxy {given!r}: write the address or network that the proxy's connections come from, such as 127.0.0.1 or "
            "10.0.0.0/8; names are not looked up"
        ) from None


def _host_name(given: str) -> None:
    if _is_address(given.strip("[]")):
        return
    if not given or any(letter in given for letter in ":/*@ ") or not given.isascii():
        raise OptionError(
            f"--allow-host {given!r}: write a host's name as the browser's address bar has it, without port, path or '*'"
        )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _own_names() -> tuple[str, ...]:
    """Return what this machine calls itself."""
    return (socket.gethostname().lower(),)


def shown_host(host: str) -> str:
    """Return the host of an address to print: of one that means all, this machine's name."""
    return socket.gethostname() if host in _EVERYWHERE else f"[{host}]" if ":" in host else host
