"""Finding runs by words: what a run is searched by, and whether it matches."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..storage.records import Run

LONGEST = 200
"""Letters of a search that are read; what is longer is cut, and that is said."""

_DEPTH = 4
_MOST_SETTINGS = 400


def settings(meta: Mapping[str, Any]) -> dict[str, str]:
    """Return facts and configuration of a run as flat text: ``{"optimizer": {"lr": 0.1}}`` gives ``{"optimizer.lr": "0.1"}``.

    The first few hundred of them; what lies deeper than four levels, and lists, are one value.
    """
    found: dict[str, str] = {}
    for path, value in _flat(meta, "", _DEPTH):
        if len(found) >= _MOST_SETTINGS:
            break
        found[path] = value if isinstance(value, str) else str(value)
    return found


def _flat(values: Mapping[str, Any], prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value and depth > 1:
            yield from _flat(value, f"{prefix}{name}.", depth - 1)
        else:
            yield f"{prefix}{name}", value


class Words:
    """What one run is searched by: name, project, tags, id, and its settings as ``name=value``."""

    __slots__ = ("_settings", "_text")

    def __init__(self, run: Run) -> None:
        found = settings(run.meta)
        pairs = [f"{name}={value}" for name, value in found.items()]
        self._text = "\n".join([run.name, run.project, *run.tags, run.id, *pairs]).casefold()
        self._settings = {name.casefold(): value.casefold() for name, value in found.items()}

    def match(self, terms: Sequence[str]) -> bool:
        """Return whether every term is found. A term ``lr=1e-3`` also finds the number 0.001, and ``optimizer.lr``."""
        return all(term in self._text or ("=" in term and self._has(term)) for term in terms)

    def _has(self, term: str) -> bool:
        name, _, value = term.partition("=")
        wanted = _number(value)
        return wanted is not None and any(
            (path == name or path.endswith(f".{name}")) and _number(given) == wanted for path, given in self._settings.items()
        )


def terms_of(text: str) -> list[str]:
    """Return the words of a search, in the form in which they are compared."""
    return text[:LONGEST].casefold().split()


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
