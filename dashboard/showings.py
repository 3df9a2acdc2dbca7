"""Which showing of each live section is the newest in each tab, and how its reader wants to look at it."""

from collections.abc import Callable, Sequence
from typing import Any

from .pace import Pace
from .turns import Turns


class Steering:
    """How one section's reader wants to look at it, until the section has taken note. Used on the event loop's thread."""

    def __init__(self, pace: Pace, place: str = "") -> None:
        self._pace = pace
        self.place = place
        self._wanted: Sequence[Any] | None = None
        self._first = ""
        self.wake: Callable[[], None] = lambda: None
        """Ends the wait of the section's loop."""

    @property
    def due(self) -> bool:
        """Whether there is something to take note of."""
        return self._wanted is not None

    @property
    def leads(self) -> bool:
        """Whether the reader acted on just this."""
        return self._first == self.place != ""

    def turn_to(self, values: Sequence[Any], first: str) -> None:
        """Want this; a reader who waits is answered before the tab has rested."""
        self._wanted, self._first = values, first
        self._pace.hurry()
        self.wake()

    def take(self) -> Sequence[Any]:
        """Return what is wanted, and forget it."""
        wanted, self._wanted = self._wanted or (), None
        return wanted


class Showings:
    """Which showing of each section is the newest, by tab. Used on the event loop's thread; a showing removes itself at its end."""

    def __init__(self) -> None:
        self._newest: dict[tuple[str, str], tuple[int, object]] = {}
        self._paces: dict[str, Pace] = {}
        self._steering: dict[tuple[str, str], Steering] = {}
        self.turns = Turns()
        self.pushes = self.faults = 0
        """How often something was sent to a tab, and how often a section failed, since the start."""

    def steering(self, tab: str, section: str, place: str) -> Steering:
        """Return what tells a section of a tab, which fills ``place``, from now on that the reader looks at it in another way."""
        self._steering[tab, section] = Steering(self.pace(tab), place)
        return self._steering[tab, section]

    def steer(self, tab: str, values: Sequence[Any], first: str = "") -> None:
        """Tell all sections of a tab how the reader looks at them now.

        Args:
            first: the graph that the reader is about: it is drawn before the others.
        """
        told = [steering for (there, _), steering in self._steering.items() if there == tab]
        if any(steering.place == first for steering in told):
            self.pace(tab).lead()
        for steering in told:
            steering.turn_to(values, first)

    def pace(self, tab: str) -> Pace:
        """Return the pace that all sections of a tab keep to."""
        return self._paces.setdefault(tab, Pace())

    def drawn(self, tab: str, number: int) -> None:
        """Note what a tab has drawn."""
        if tab in self._paces:
            self._paces[tab].drawn(number)

    def begin(self, tab: str, section: str, number: int) -> object:
        """Make this the section's current showing in that tab and return its token. ``number`` counts the tab's own requests.

        A request that was overtaken by a newer one of its tab gets a token that is not current.
        """
        token = object()
        newest = self._newest.get((tab, section))
        if newest is None or newest[0] <= number:
            self._newest[tab, section] = (number, token)
        return token

    def running(self, tab: str, section: str) -> bool:
        """Return whether there is a showing that has not ended."""
        return (tab, section) in self._newest

    def current(self, tab: str, section: str, token: object) -> bool:
        """Return whether no newer showing has begun."""
        entry = self._newest.get((tab, section))
        return entry is not None and entry[1] is token

    def end(self, tab: str, section: str, token: object) -> None:
        """Forget a showing, unless a newer one has taken its place."""
        if self.current(tab, section, token):
            del self._newest[tab, section]
        if not any(key[0] == tab for key in self._newest):
            self._paces.pop(tab, None)
            self._steering = {key: one for key, one in self._steering.items() if key[0] != tab}

    def retire(self, tab: str, number: int) -> None:
        """End every showing of a tab that began before its request ``number``: the reader went to another page, or away."""
        for key in [key for key, entry in self._newest.items() if key[0] == tab and entry[0] < number]:
            del self._newest[key]

    def __len__(self) -> int:
        return len(self._newest)

    @property
    def tabs(self) -> int:
        """Number of tabs that are being sent to."""
        return len({tab for tab, _ in self._newest})
