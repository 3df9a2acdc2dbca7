"""Ranks causes by the pattern of what was seen in a run. The knowledge stands in ``causes.toml``; this only weighs it."""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from ..storage.records import Cause
from .facts import Observation
from .wording import join

_MOST_CAUSES = 4
_LEAST_CONFIDENCE = 0.1
_MATERIAL_CHANGE = 0.15


@dataclass(frozen=True, slots=True)
class Pattern:
    """What speaks for and against one cause. ``signs`` gives each observation's weight, negative where it speaks against."""

    name: str
    title: str
    requires: frozenset[str]
    signs: Mapping[str, float]
    remedy: str
    doc: str


@cache
def patterns() -> tuple[Pattern, ...]:
    """Return the patterns of ``causes.toml``."""
    tables = tomllib.loads(files(__package__).joinpath("causes.toml").read_text("utf-8"))
    return tuple(
        Pattern(name, table["title"], frozenset(table["requires"]), table["signs"], table["remedy"], table["doc"])
        for name, table in tables.items()
    )


def diagnose(observations: Iterable[Observation]) -> tuple[Cause, ...]:
    """Rank causes, likeliest first. Nothing is named for which none of its required signs was seen.

    Confidence is ``(1 - prod(1 - w)) * prod(1 - |v|)`` over the signs seen for (w) and against (v) the cause.
    """
    seen: dict[str, list[Observation]] = {}
    for observation in observations:
        seen.setdefault(observation.name, []).append(observation)
    causes = [cause for pattern in patterns() if (cause := _weigh(pattern, seen))]
    causes.sort(key=lambda cause: -cause.confidence)
    return tuple(causes[:_MOST_CAUSES])


def _weigh(pattern: Pattern, seen: Mapping[str, Sequence[Observation]]) -> Cause | None:
    if not pattern.requires & seen.keys():
        return None
    doubt, against = 1.0, 1.0
    reasons: list[str] = []
    counter: list[str] = []
    for name, weight in sorted(pattern.signs.items(), key=lambda sign: -sign[1]):
        if name not in seen:
            continue
        if weight > 0:
            doubt *= 1.0 - weight
            reasons.append(_reason(seen[name]))
        else:
            against *= 1.0 + weight
            counter.append(f"Against it: {_reason(seen[name])}")
    confidence = round((1.0 - doubt) * against, 2)
    if confidence < _LEAST_CONFIDENCE:
        return None
    return Cause(pattern.name, pattern.title, confidence, (*reasons, *counter), pattern.remedy, pattern.doc)


def _reason(observations: Sequence[Observation]) -> str:
    """Tell the first observation in full and name the other modules."""
    first = observations[0]
    others = list(dict.fromkeys(item.module for item in observations[1:] if item.module and item.module != first.module))
    text = first.text.rstrip(".")
    if not others:
        return text
    named = join(others) if len(others) <= 3 else f"{len(others)} other modules"
    return f"{text}; likewise {named}"


def changed_materially(old: Sequence[Cause], new: Sequence[Cause]) -> bool:
    """Say whether an alert's diagnosis is worth rewriting: another cause in front, or a clearly different confidence in it."""
    if not old or not new:
        return bool(old) != bool(new)
    return old[0].name != new[0].name or abs(old[0].confidence - new[0].confidence) >= _MATERIAL_CHANGE
