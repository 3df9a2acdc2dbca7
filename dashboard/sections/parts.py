"""Several sections that stand together and are painted in one go: one loop for all charts of a panel."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..updates import Updates
from .following import RunSection


class Parts:
    """A section made of others, all of the same run.

    Args:
        parts: By the id of the graph or table that each fills.
    """

    def __init__(self, parts: Mapping[str, RunSection]) -> None:
        self.parts = parts

    def look(self, graph: str, looks: Sequence[Any]) -> None:
        """Look at all parts so, each on its own scale."""
        for name, part in self.parts.items():
            part.look(name, looks)

    @property
    def subject(self) -> str:
        """Id of the run."""
        return next(iter(self.parts.values())).subject

    def paint(self) -> Updates:
        """Return everything that the parts show."""
        return _joined(part.paint() for part in self.parts.values())

    def advance(self) -> Updates:
        """Return what changed in any of them."""
        return _joined(part.advance() for part in self.parts.values())

    def tick(self) -> Updates:
        """Return what changed with time."""
        return _joined(part.tick() for part in self.parts.values())


def _joined(updates: Iterable[Updates]) -> Updates:
    return {component: properties for one in updates for component, properties in one.items()}
