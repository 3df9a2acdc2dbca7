"""Where messages go: Apprise URLs, and what foreshock itself reads of them.

Three parameters of a URL are ours and are taken away before Apprise sees it: ``quiet`` (quiet hours), ``quiet_critical=yes``
(critical alerts wait too) and ``chart=no`` (no pictures). They stand in the URL so that they go where it goes: into the store, and
from there to whichever process delivers.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote_plus, unquote_plus

from .quiet import QuietHours, QuietHoursError

OURS = ("quiet", "quiet_critical", "chart")
_YES, _NO = ("yes", "true", "on", "1"), ("no", "false", "off", "0")


class ChannelError(ValueError):
    """A channel is wrong in what foreshock reads of it; the message says what, and what is allowed."""


@dataclass(frozen=True, slots=True)
class Channel:
    """One place that messages go to.

    Args:
        url: as Apprise is given it.
        quiet: when it wants to hear of critical alerts only.
        critical_waits: then not even of these.
        charts: whether pictures go there.
    """

    url: str
    quiet: QuietHours | None = None
    critical_waits: bool = False
    charts: bool = True

    @classmethod
    def of(cls, given: str) -> "Channel":
        """Read a channel.

        Raises:
            ChannelError: a parameter of ours has a value that is not allowed.
        """
        return _read(given)

    @classmethod
    def lenient(cls, given: str) -> "Channel":
        """Read a channel as it stands in a store: one that is wrong, written by another version, has no quiet hours."""
        try:
            return _read(given)
        except ChannelError:
            return cls(bare(given))


def bare(given: str) -> str:
    """Return a channel's URL without the parameters that are ours: what tells one channel from another."""
    ours, others = _split(given)
    if not ours:
        return given
    head, mark, _ = given.partition("?")
    return f"{head}{mark if others else ''}{'&'.join(others)}"


def with_quiet(channels: Iterable[str], quiet_hours: str, *, critical_waits: bool) -> tuple[str, ...]:
    """Return channels with quiet hours where a channel has none of its own; ``quiet=`` with nothing after it wants none.

    Raises:
        ChannelError: a parameter of ours has a value that is not allowed.
        QuietHoursError: these are none.
    """
    added = []
    if quiet_hours:
        QuietHours.parse(quiet_hours)
        added = [f"quiet={quote_plus(quiet_hours, safe=':,')}", *(["quiet_critical=yes"] if critical_waits else [])]
    told = []
    for given in channels:
        _read(given)
        ours, _ = _split(given)
        more = [] if "quiet" in ours else added
        told.append(f"{given}{'&' if '?' in given else '?'}{'&'.join(more)}" if more else given)
    return tuple(told)


def _split(given: str) -> tuple[dict[str, str], list[str]]:
    """Return our parameters of a URL, and the others as they stand there."""
    ours, others = {}, []
    for part in given.partition("?")[2].split("&"):
        name, _, value = part.partition("=")
        if name in OURS:
            ours[name] = unquote_plus(value)
        elif part:
            others.append(part)
    return ours, others


@lru_cache(maxsize=256)
def _read(given: str) -> Channel:
    ours, _ = _split(given)
    scheme = given.partition(":")[0]
    try:
        quiet = QuietHours.parse(ours["quiet"]) if ours.get("quiet") else None
    except QuietHoursError as error:
        raise ChannelError(f"{scheme}://...?quiet=: {error}") from None
    return Channel(bare(given), quiet, _switch(scheme, ours, "quiet_critical", False), _switch(scheme, ours, "chart", True))


def _switch(scheme: str, ours: dict[str, str], name: str, default: bool) -> bool:
    value = ours.get(name, "").lower()
    if value and value not in _YES + _NO:
        raise ChannelError(f"{scheme}://...?{name}={value}: allowed are yes and no")
    return value in _YES if value else default
