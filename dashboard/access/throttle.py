"""How often somebody may guess. Counted in this process: of several, each lets as many through."""

import ipaddress
import time
from collections import OrderedDict, deque
from collections.abc import Callable

WINDOW = 60.0
PER_ADDRESS, ALTOGETHER = 10, 300
"""Failures within the window, in seconds, after which an address waits, and after which all who have failed wait."""
_MOST_ADDRESSES = 10_000


class Throttle:
    """Counts failures to sign in. Used on the event loop's thread.

    When all addresses together fail too often, only those without a failure of their own are still heard, so that a flood does not
    lock out the people who have a token.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._all: deque[float] = deque(maxlen=ALTOGETHER)
        self.failures = 0
        """How many there were since the start."""

    def wait(self, address: str) -> float:
        """Return the seconds until this address may try again; 0 when it may now."""
        now, mine = self._clock(), self._failures.get(_network(address))
        if not mine:
            return 0.0
        full = mine if len(mine) >= PER_ADDRESS else self._all if len(self._all) >= ALTOGETHER else None
        return max(0.0, full[0] + WINDOW - now) if full else 0.0

    def failed(self, address: str) -> None:
        """Note a failure."""
        now, network = self._clock(), _network(address)
        self.failures += 1
        self._all.append(now)
        self._failures.setdefault(network, deque(maxlen=PER_ADDRESS)).append(now)
        self._failures.move_to_end(network)
        while self._failures and (len(self._failures) > _MOST_ADDRESSES or self._latest() <= now - WINDOW):
            self._failures.popitem(last=False)

    def succeeded(self, address: str) -> None:
        """Forget an address's failures."""
        self._failures.pop(_network(address), None)

    def _latest(self) -> float:
        """Return when the address that failed longest ago did so last."""
        return next(iter(self._failures.values()))[-1]


def _network(address: str) -> str:
    """Return what is counted as one: an address, or the /64 of an IPv6 one, which one machine has whole."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    return str(found) if found.version == 4 else str(ipaddress.ip_network((found, 64), strict=False))
