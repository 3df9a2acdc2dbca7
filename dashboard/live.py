"""The live push: a loop per section of a page that sends, over Dash's WebSocket, only what changed.

A section paints itself once, then sleeps until the news desk hears that its run was written to, asks the store what is new after
its cursor and sends patches; every few seconds its words about time ("2 min ago") are said anew, without asking the store. It sends
when the tab has drawn what it was sent before (see ``pace``). The loop belongs to one *showing* of the section: it ends when the
same tab asks anew (another layer, another page), when the tab is hidden or closed, and when the server stops. A tab that comes
back - shown again, or reconnected - starts a new loop, which paints everything up to now: no gap can stay. Without a WebSocket (a
browser that has no SharedWorker) Dash calls the same functions over HTTP; they then paint once, and the page asks again every few
seconds.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

import dash
from dash import Input, State
from dash.exceptions import PreventUpdate

from ..storage.errors import StoreError
from .desk import NewsDesk, Subscription
from .pace import Pace
from .showings import Showings, Steering
from .updates import Sender, Updates

logger = logging.getLogger(__name__)

TICK = 5.0
"""Seconds after which a section's words about time are said anew."""
TRY_AGAIN = 2.0
MOST_TRY_AGAIN = 8.0
"""Seconds until a section that failed is drawn anew: at first, and when it goes on failing."""
LIVENESS_EVERY = 10.0
ANSWER_WITHIN = 5.0
MOST_MISSES = 3
"""A busy browser answers late; only one that stays silent this often in a row is taken to be gone."""


class Section(Protocol):
    """A part of a page that follows the store. Its methods run on a worker thread, one at a time."""

    @property
    def subject(self) -> str:
        """Id of the run that it follows; ``''`` where it follows all of them."""

    def paint(self) -> Updates:
        """Return everything the section shows, and remember how far it has read."""

    def advance(self) -> Updates:
        """Return what changed since the last call of any method; empty when nothing did."""

    def tick(self) -> Updates:
        """Return what changes with time alone. Does not ask the store."""


class Lensed(Section, Protocol):
    """A section that draws over steps, which the reader may zoom, smooth and scale."""

    def look(self, graph: str, looks: Sequence[Any]) -> None:
        """Look at it as the values of ``Lens.of`` say; ``graph`` is the one that it fills."""


def follow(
    app: dash.Dash,
    showings: Showings,
    desk: NewsDesk,
    name: str,
    *inputs: Input | State,
    make: Callable[..., Section],
    page: str,
    place: str,
    painted: str = "",
    lens: Sequence[State] = (),
    heavy: bool = False,
    quick: bool = False,
    shown: Callable[..., bool] | None = None,
) -> None:
    """Register a live section.

    Args:
        desk: Tells when the store was written to.
        name: The section's name.
        page: Name of the page it stands on. The page has a component of that id, and a store ``PAGE-ticket``.
        inputs: What it depends on; a change of an ``Input`` begins a new showing.
        place: Id of a component that only this section fills. As an input it never changes; it is what tells Dash two sections
            apart that depend on the same inputs.
        make: Called on a worker thread with the values of ``inputs``, returns the section.
        painted: Id of a store with the ``digests`` of what the server painted into the page itself. It holds for the first
            showing only, which empties it.
        lens: How its reader looks at it, as the page says. A change does not begin a new showing: ``Showings.steer`` tells of it.
        heavy: Whether it takes long to paint: it then lets others go first.
        quick: Whether it is drawn quickly and watched by its reader: it rests less than others do (see ``pace``).
        shown: Told the values of ``inputs``, says whether the section can be seen just now. What cannot costs nothing.
    """
    already = [State(painted, "data")] if painted else []

    # What stands in a panel may not be there yet.
    where = Input(place, "id", allow_optional=shown is not None)
    dependencies = (Input(f"{page}-ticket", "data"), where, *already, *inputs, *lens)

    @app.callback(*dependencies, websocket=True, persistent=True)
    async def run_section(ticket: dict[str, Any] | None, there: str | None, *values: Any) -> None:
        sender = Sender(values[0] if painted else None)
        values = values[len(already) :]
        if not ticket or not there:
            raise PreventUpdate
        tab, number = str(ticket["tab"]), int(ticket["number"])
        token = showings.begin(tab, name, number)
        try:
            plain, looks = values[: len(values) - len(lens)], values[len(values) - len(lens) :]
            if ticket["visible"] and (shown is None or shown(*plain)):
                sender.send({painted: {"data": None}} if painted else {})
                pace, current = showings.pace(tab), partial(showings.current, tab, name, token)
                steering = showings.steering(tab, name, place) if lens else Steering(pace)
                view = View(current, page, place, sender, pace, steering, showings, heavy, quick)
                await _show(view, lambda: lensed(make(*plain), place, looks), desk)
        finally:
            showings.end(tab, name, token)


def lensed(section: Section, place: str, looks: Sequence[Any]) -> Section:
    """Return a section, looked at as the values of ``Lens.of`` say; where there are none, as it is."""
    if looks:
        cast(Lensed, section).look(place, looks)
    return section


@dataclass(frozen=True, slots=True)
class View:
    """One showing of a section in a tab: whether it is still the current one, its page and place, and the ways to the tab."""

    current: Callable[[], bool]
    page: str
    place: str
    sender: Sender
    pace: Pace
    steering: Steering
    showings: Showings
    heavy: bool
    quick: bool = False

    async def work(self, do: Callable[[], Updates]) -> Updates:
        """Do some work of the section on a worker thread, when it is its turn."""
        async with self.showings.turns.mine(heavy=self.heavy, first=self.steering.leads):
            return await asyncio.to_thread(do)

    def send(self, updates: Updates) -> None:
        """Send updates, and ask the tab to say when it has drawn them."""
        number = None
        if self.sender.send(updates):
            self.showings.pushes += 1
            number = self.pace.sent(quick=self.quick)
            # An attribute, which the page's script watches: a callback would cost the browser more than many a chart.
            dash.set_props("beat", {"title": str(number)})
        if self.steering.leads:
            self.pace.leader_sent(number)


async def _show(view: View, make: Callable[[], Section], desk: NewsDesk) -> None:
    """Paint, then keep sending what changed until this showing is over. No fault ends it: it says so and begins anew."""
    socket = dash.ctx.websocket
    liveness, pause = Liveness(socket, view), TRY_AGAIN
    while view.current() and not (socket and socket.is_shutdown):
        try:
            section = await asyncio.to_thread(make)
            with desk.subscribed(section.subject) as news:
                view.steering.wake = news.tell
                updates = await view.work(section.paint)
                if not view.current():
                    return
                view.send({"store-trouble": {"children": desk.notice}, **updates})
                if socket is None:
                    return
                pause = TRY_AGAIN
                await _follow(section, view, desk, news, liveness)
                return
        except StoreError as error:
            view.showings.faults += 1
            note = f"The store cannot be read just now: {error}"
        except Exception as error:  # a section that ended here would leave a page that looks live and is not
            view.showings.faults += 1
            logger.exception("a section of the page failed; it is drawn anew")
            note = f"A part of this page failed and is tried again ({type(error).__name__}); the dashboard's log says why."
        if not view.current():
            return
        view.send({"store-trouble": {"children": note}})
        if socket is None:
            return
        await asyncio.sleep(pause)
        if not await liveness.holds():
            return
        pause = min(2 * pause, MOST_TRY_AGAIN)


async def _follow(section: Section, view: View, desk: NewsDesk, news: Subscription, liveness: "Liveness") -> None:
    """Send what changed whenever there is news and the tab has drawn what it was sent last."""
    said = time.monotonic()
    while await liveness.holds():
        heard = await news.wait(min(TICK, liveness.due))
        if not heard and time.monotonic() - said < TICK:
            continue
        if not await view.pace.turn(liveness.due, unless=lambda: view.steering.due, quick=view.quick):
            continue
        if view.steering.due and not view.steering.leads:
            await view.pace.led()
        news.clear()
        said = time.monotonic()
        if view.steering.due:
            lensed(section, view.place, view.steering.take())
            updates = await view.work(section.paint)
        else:
            updates = await view.work(section.advance if heard else section.tick)
        if view.current() and not view.steering.due:  # or what was painted is no longer what the reader looks at
            view.send({"store-trouble": {"children": desk.notice}, **updates})


class Liveness:
    """Whether a showing goes on: it is the current one, and its tab, asked now and then, still shows the page.

    A closed tab cannot say goodbye: its socket may be shared with other tabs.
    """

    def __init__(self, socket: Any, view: View) -> None:
        self._socket, self._view = socket, view
        self._asked, self._misses = time.monotonic(), 0

    @property
    def due(self) -> float:
        """Seconds until the tab is asked again."""
        return max(0.0, self._asked + LIVENESS_EVERY - time.monotonic())

    async def holds(self) -> bool:
        """Return whether the showing goes on; asks the tab when that is due."""
        if not self._view.current() or self._socket.is_shutdown:
            return False
        if self.due > 0:
            return True
        shown = await self._shows()
        self._asked = time.monotonic()
        self._misses = 0 if shown else self._misses + 1
        if shown and self._view.pace.owed_for > LIVENESS_EVERY:
            self._view.pace.forgive()
        return shown is not False and self._misses < MOST_MISSES and self._view.current()

    async def _shows(self) -> bool | None:
        """Ask the tab; None where it does not answer."""
        try:
            return await self._socket.get_prop(self._view.page, "id", timeout=ANSWER_WITHIN) is not None
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

    @app.callback(Input("looking", "data"), websocket=True)
    async def steer(looking: dict[str, Any] | None) -> None:
        if looking:
            showings.steer(str(looking["tab"]), tuple(looking["looks"]), str(looking["first"]))

    @app.callback(Input("drawn", "data"), websocket=True)
    async def note_drawn(drawn: dict[str, Any] | None) -> None:
        if drawn:
            showings.drawn(str(drawn["tab"]), int(drawn["number"]))

    @app.callback(websocket=True, persistent=True)
    async def ring() -> None:
        # Dash calls a callback without inputs again on every reconnection. The bell makes the page ask anew.
        dash.set_props("bell", {"data": time.time()})
