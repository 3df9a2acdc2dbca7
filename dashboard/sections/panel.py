"""Several sections that stand together and are painted in one go: one loop for all charts of a panel."""

from collections.abc import Iterable, Sequence
from typing import Any

from ..live import Section, Updates


class Panel:
    """A section made of others, all of the same subject."""

    def __init__(self, parts: Sequence[Section]) -> None:
        self._parts = parts

    @property
    def subject(self) -> str:
        """Id of the run."""
        return self._parts[0].subject

    def paint(self) -> Updates:
        """Return everything that the parts show."""
        return _joined(part.paint() for part in self._parts)

    def advance(self) -> Updates:
        """Return what changed in any of them."""
        return _joined(part.advance() for part in self._parts)

    def tick(self) -> Updates:
        """Return what changed with time."""
        return _joined(part.tick() for part in self._parts)


def _joined(updates: Iterable[Updates]) -> Updates:
    found: dict[str, Any] = {}
    for one in updates:
        found |= one
    return found
