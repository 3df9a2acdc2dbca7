"""Cursors: where a page of a list ended. Opaque to callers; what they hold is checked, because anybody can write one."""

import base64
import binascii
import json
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from .errors import ApiError

T = TypeVar("T")
Place = tuple[float, str]
"""(time, id) of the last thing on a page."""

_LONGEST = 600


def written(place: Place) -> str:
    """Return a cursor."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def read(cursor: str) -> Place:
    """Return where a cursor says that the last page ended.

    Raises:
        ApiError: it is none of ours.
    """
    try:
        if len(cursor) > _LONGEST or not cursor.isascii():
            raise ValueError
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        at, name = json.loads(raw)
        if isinstance(at, bool) or not isinstance(at, int | float) or not isinstance(name, str) or not math.isfinite(at):
            raise ValueError
        return float(at), name
    except (ValueError, TypeError, OverflowError, RecursionError, binascii.Error):
        message = (
            "This cursor is none that this server gave out: use next_cursor of the page before, or leave it out for the first page."
        )
        raise ApiError(422, "invalid_request", message, where="query.cursor") from None


def page(
    items: Sequence[T], place: Callable[[T], Place], cursor: str | None, limit: int, *, descending: bool
) -> tuple[list[T], str | None]:
    """Return (one page, cursor of the next) of things in order of time and, among those of one time, of id."""
    ordered = sorted(items, key=lambda item: place(item)[1])
    ordered.sort(key=lambda item: place(item)[0], reverse=descending)
    if cursor:
        at, name = read(cursor)

        def later(item: T) -> bool:
            mine = place(item)
            return mine[1] > name if mine[0] == at else (mine[0] < at) == descending

        ordered = [item for item in ordered if later(item)]
    chosen = ordered[:limit]
    return chosen, written(place(chosen[-1])) if len(ordered) > limit else None
