"""The live push: a loop per section of a page that sends, over Dash's WebSocket, only what changed.

A section paints itself once, then every half second asks the store what was written after its cursor and sends patches. The loop
belongs to one *showing* of the section: it ends when the same tab asks anew (another layer, another page), when the tab is hidden
or closed, and when the server stops. A tab that comes back - shown again, or reconnected - starts a new loop, which paints
everything up to now: no gap can stay. Without a WebSocket (a browser that has no SharedWorker) Dash calls the same functions over
HTTP; they then paint once, and the page asks again every few seconds.
"""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import dash
from dash import Input, State
from dash.exceptions import PreventUpdate
from plotly.utils import PlotlyJSONEncoder  # type: ignore[import-untyped]

from ..storage.base import StoreError

logger = logging.getLogger(__name__)

PERIOD = 0.5
LIVENESS_EVERY = 10.0
ANSWER_WITHIN = 5.0
MOST_MISSES = 3
"""A busy browser answers late; only one that stays silent this often in a row is taken to be gone."""

Updates = Mapping[str, Mapping[str, Any]]
"""Component id -> property -> new value (or a ``dash.Patch`` of the old one).

A component's ``children`` go alone: where another property of it arrives in the same frame, Dash's renderer keeps the old children.
"""


class Section(Protocol):
    """A part of a page that follows the store. Its methods run on a worker thread, one at a time."""

    def paint(self) -> Updates:
        """Return everything the section shows, and remember how far it has read."""

    def advance(self) -> Updates:
        """Return what changed since the last call of either method; empty when nothing did."""


class Showings:
    """Which showing of each section is the newest, by tab. Used on the event loop's thread; a showing removes itself at its end."""

    def __init__(self) -> None:
        self._newest: dict[tuple[str, str], tuple[int, object]] = {}

    def begin(self, tab: str, section: str, number: int) -> object:
        """Make this the section's current showing in that tab and return its token. ``number`` counts the tab's own requests.

        A request that was overtaken by a newer one of its tab gets a token that is not current.
        """
        token = object()
        newest = self._newest.get((tab, section))
        if newest is None or newest[0] <= number:
            self._newest[tab, section] = (number, token)
        return token

    def current(self, tab: str, section: str, token: object) -> bool:
        """Return whether no newer showing has begun."""
        entry = self._newest.get((tab, section))
        return entry is not None and entry[1] is token

    def end(self, tab: str, section: str, token: object) -> None:
        """Forget a showing, unless a newer one has taken its place."""
        if self.current(tab, section, token):
            del self._newest[tab, section]

    def retire(self, tab: str, number: int) -> None:
        """End every showing of a tab that began before its request ``number``: the reader went to another page, or away."""
        for key in [key for key, entry in self._newest.items() if key[0] == tab and entry[0] < number]:
            del self._newest[key]

    def __len__(self) -> int:
        return len(self._newest)


def digests(updates: Updates) -> dict[str, str]:
    """Return what a ``Sender`` must know of the updates that a page was made with: ``"COMPONENT.PROPERTY"`` -> digest."""
    return {
        f"{component}.{name}": _digest(value) for component, properties in updates.items() for name, value in properties.items()
    }


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, cls=PlotlyJSONEncoder).encode(), digest_size=16).hexdigest()


class Sender:
    """Sends updates to one tab, leaving out properties whose value is what was sent last.

    Args:
        painted: digests of what the page shows already. Replacing a button under the reader's finger would lose the click.
    """

    def __init__(self, painted: Mapping[str, str] | None = None) -> None:
        self._sent: dict[str, str] = dict(painted or {})

    def send(self, updates: Updates) -> None:
        """Send what differs from the last value sent. Patches always go."""
        for component, properties in updates.items():
            fresh = {name: value for name, value in properties.items() if self._is_new(component, name, value)}
            if fresh:
                dash.set_props(component, fresh)

    def _is_new(self, component: str, name: str, value: Any) -> bool:
        if isinstance(value, dash.Patch):
            return True
        digest = _digest(value)
        if self._sent.get(f"{component}.{name}") == digest:
            return False
        self._sent[f"{component}.{name}"] = digest
        return True


def follow(
    app: dash.Dash,
    showings: Showings,
    name: str,
    *inputs: Input | State,
    make: Callable[..., Section],
    page: str,
    place: str,
    painted: str = "",
) -> None:
    """Register a live section.

    Args:
        name: The section's name.
        page: Name of the page it stands on. The page has a component of that id, and a store ``PAGE-ticket``.
        inputs: What it depends on; a change of an ``Input`` begins a new showing.
        place: Id of a component that only this section fills. As an input it never changes; it is what tells Dash two sections
            apart that depend on the same inputs.
        make: Called on a worker thread with the values of ``inputs``, returns the section.
        painted: Id of a store with the ``digests`` of what the server painted into the page itself. It holds for the first
            showing only, which empties it.
    """
    already = [State(painted, "data")] if painted else []

    @app.callback(Input(f"{page}-ticket", "data"), Input(place, "id"), *already, *inputs, websocket=True, persistent=True)
    async def run_section(ticket: dict[str, Any] | None, _place: str, *values: Any) -> None:
        sender = Sender(values[0] if painted else None)
        values = values[len(already) :]
        if not ticket:
            raise PreventUpdate
        tab, number = str(ticket["tab"]), int(ticket["number"])
        token = showings.begin(tab, name, number)
        try:
            if ticket["visible"]:
                sender.send({painted: {"data": None}} if painted else {})
                await _show(lambda: showings.current(tab, name, token), lambda: make(*values), page, sender)
        finally:
            showings.end(tab, name, token)


async def _show(current: Callable[[], bool], make: Callable[[], Section], page: str, sender: Sender) -> None:
    """Paint, then keep sending what changed until this showing is over. No fault ends it: it says so and begins anew."""
    socket = dash.ctx.websocket
    section: Section | None = None
    since_answer, misses = 0.0, 0
    while current() and not (socket and socket.is_shutdown):
        try:
            if section is None:
                section = await asyncio.to_thread(make)
                updates = await asyncio.to_thread(section.paint)
            else:
                updates = await asyncio.to_thread(section.advance)
            note = ""
        except StoreError as error:
            section, updates, note = None, {}, f"The store cannot be read just now: {error}"
        except Exception as error:  # a section that ended here would leave a page that looks live and is not
            logger.exception("a section of the page failed; it is drawn anew")
            section, updates, note = None, {}, f"A part of this page failed and is tried again: {type(error).__name__}: {error}"
        if not current():
            return
        sender.send({"store-trouble": {"children": note}, **updates})
        if socket is None:
            return
        pause = PERIOD if section is not None else 4 * PERIOD
        await asyncio.sleep(pause)
        since_answer += pause
        if since_answer >= LIVENESS_EVERY:
            since_answer = 0.0
            shown = await _shows(socket, page)
            misses = 0 if shown else misses + 1
            if shown is False or misses >= MOST_MISSES:
                return


async def _shows(socket: Any, page: str) -> bool | None:
    """Ask the tab whether it still shows the page; None where it does not answer.

    A closed tab cannot say goodbye: its socket may be shared with other tabs.
    """
    try:
        return await socket.get_prop(page, "id", timeout=ANSWER_WITHIN) is not None
    except TimeoutError:
        return None
    except dash.exceptions.WebsocketDisconnected:
        return False


def attend(app: dash.Dash, showings: Showings) -> None:
    """Register what every page has: the end of the loops of a page that was left, and the bell that rings on a reconnection."""

    @app.callback(Input("left", "data"), websocket=True)
    async def retire(left: dict[str, Any] | None) -> None:
        if left:
            showings.retire(str(left["tab"]), int(left["number"]))

    @app.callback(websocket=True, persistent=True)
    async def ring() -> None:
        # Dash calls a callback without inputs again on every reconnection. The bell makes the page ask anew.
        dash.set_props("bell", {"data": time.time()})
