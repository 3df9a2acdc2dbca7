"""Wait for something to happen on the event loop, for so long and no longer."""

import asyncio
import contextlib


async def happens(event: asyncio.Event, within: float) -> bool:
    """Return whether an event is set, at the latest after ``within`` seconds.

    Unlike ``asyncio.wait_for`` of Python 3.11 it does not lose the end of its task where that comes together with the event: the
    loops of a closed tab would go on, and the server could not stop without cutting them off.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, within)):
            await event.wait()
    return event.is_set()
