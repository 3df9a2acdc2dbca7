"""Ranks causes by the pattern of what was seen in a run. The knowledge stands in ``causes.toml``; this only weighs it."""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from ..storage.records import Cause
from .facts import NAMES, Observation
from .wording import fill, join, step_number

_MOST_CAUSES = 4
_LEAST_CONFIDENCE = 0.1
_MATERIAL_CHANGE = 0.15
_PAST_WARMUP = 2000
_BEARABLE = 0.1
"""Update over weight, both as root mean squares, that the first steps of small healthy runs bear without a warm-up."""
_COURSE = "course"
_FAILED = ("broken_by_update", "loss_degradation", "non_finite")
"""What tells that a run has failed: later findings are its consequences more often than its causes, and count for half."""
_LATER = 0.5
_QUERY_OR_KEY = re.compile(r"(.*\.)?(w_?|to_|linear_)?(q|k|query|key)(_proj|_lin)?$", re.IGNORECASE)
"""Names of layers that make queries or keys; parts of fused ones end so too."""
INTERVENTIONS = ("capture", "checkpoint", "skip_step", "lower_learning_rate", "stabilized_attention", "rollback", "stop")
"""What a cause may recommend: the names that ``watch(interventions=...)`` takes, the mildest first."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """What speaks for and against one cause.

    Args:
        name, title: of the cause.
        requires: observations of which one must have been seen.
        also: more of which one must have been seen; empty where ``requires`` is enough.
        signs: each observation's weight, negative where it speaks against the cause.
        remedy: what to do; a template, see ``wording.fill``, over ``Facts.known`` and ``first``, the first finding's step.
        interventions: what foreshock can do about it when asked to, of INTERVENTIONS; what is best first.
        doc: name of its page in ``causes/``.
        remedy_at_start: what to do where the first updates swamped the weights: there is nothing to go back to then.
    """

    name: str
    title: str
    requires: frozenset[str]
    also: frozenset[str]
    signs: Mapping[str, float]
    remedy: str
    interventions: tuple[str, ...]
    doc: str
    remedy_at_start: str = ""

    def __post_init__(self) -> None:
        strangers = [name for name in self.interventions if name not in INTERVENTIONS]
        if strangers or not self.interventions:
            raise ValueError(f"[{self.name}] interventions: got {strangers or 'none'}; allowed: {', '.join(INTERVENTIONS)}")


@cache
def patterns() -> tuple[Pattern, ...]:
    """Return the patterns of ``causes.toml``.

    Raises:
        ValueError: a cause recommends an intervention that there is not.
    """
    tables = tomllib.loads(files(__package__).joinpath("causes.toml").read_text("utf-8"))
    return tuple(
        Pattern(
            name,
            table["title"],
            frozenset(table["requires"]),
            frozenset(table.get("also", ())),
            table["signs"],
            table["remedy"],
            tuple(table["interventions"]),
            table["doc"],
            table.get("remedy_at_start", ""),
        )
        for name, table in tables.items()
    )


def page(doc: str) -> str:
    """Return the page of a cause, as Markdown: what it is, how it looks, how to be sure, what to do.

    Args:
        doc: name of the page, as ``Cause.doc`` has it, or of the cause.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    known = {pattern.doc for pattern in patterns()}
    name = doc.replace("_", "-")
    if name not in known:
        raise ValueError(f"there is no cause {doc!r}; there are: {', '.join(sorted(known))}")
    return files(__package__).joinpath("causes", f"{name}.md").read_text("utf-8")


def diagnose(observations: Iterable[Observation]) -> tuple[Cause, ...]:
    """Rank causes, likeliest first. Nothing is named for which none of its required signs was seen: no cause may fit.

    Confidence is ``(1 - prod(1 - w)) * prod(1 - |v|)`` over the signs seen for (w) and against (v) the cause; findings that
    came only after the run had failed count for half.
    """
    seen: dict[str, list[Observation]] = {}
    for observation in observations:
        seen.setdefault(observation.name, []).append(observation)
    # What an observation knew when it was made, such as the rate at the first warning, goes before what is known now.
    course = seen.pop(_COURSE, [])
    known: dict[str, float | int] = {"first": _first_step(seen)}
    for observation in (*course, *(item for items in seen.values() for item in items)):
        known.update(observation.known)
    if known["first"] > _PAST_WARMUP:
        text = f"it began at step {step_number(int(known['first']))}, when any warm-up would have been over"
        seen["past_warmup"] = [Observation("past_warmup", text, int(known["first"]))]
    if _of_queries_and_keys(seen.get("layer_update_growth", ())):
        text = "of all layers it is the queries and keys whose updates grow"
        seen["query_key_growth"] = [Observation("query_key_growth", text, int(known["first"]))]
    if {"times", "rate"} <= known.keys():
        known["bearable"] = known["rate"] * _BEARABLE / known["times"]
    causes = [cause for pattern in patterns() if (cause := _weigh(pattern, seen, known))]
    causes.sort(key=lambda cause: -cause.confidence)
    return tuple(causes[:_MOST_CAUSES])


def _of_queries_and_keys(observations: Sequence[Observation]) -> bool:
    return bool(observations) and all(_QUERY_OR_KEY.match(item.module) for item in observations)


def _first_step(seen: Mapping[str, Sequence[Observation]]) -> int:
    """Return the step of the first finding; facts are dated otherwise."""
    return min((item.step for name, items in seen.items() if name not in NAMES for item in items), default=0)


def _weigh(pattern: Pattern, seen: Mapping[str, Sequence[Observation]], known: Mapping[str, float | int]) -> Cause | None:
    if not pattern.requires & seen.keys() or (pattern.also and not pattern.also & seen.keys()):
        return None
    doubt, against = 1.0, 1.0
    failed = min((item.step for name in _FAILED for item in seen.get(name, ())), default=None)
    reasons: list[str] = []
    counter: list[str] = []
    for name, weight in sorted(pattern.signs.items(), key=lambda sign: -sign[1]):
        if name not in seen:
            continue
        if failed is not None and name not in NAMES and min(item.step for item in seen[name]) > failed:
            weight *= _LATER
        if weight > 0:
            doubt *= 1.0 - weight
            reasons.append(_reason(seen[name]))
        else:
            against *= 1.0 + weight
            counter.append(f"Against it: {_reason(seen[name])}")
    confidence = round((1.0 - doubt) * against, 2)
    if confidence < _LEAST_CONFIDENCE:
        return None
    remedy = pattern.remedy_at_start if "bearable" in known and pattern.remedy_at_start else pattern.remedy
    return Cause(pattern.name, pattern.title, confidence, (*reasons, *counter), fill(remedy, known), pattern.doc)


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
