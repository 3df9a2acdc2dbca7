"""The zoo in words: what docs/zoo.md says of every scenario, from its own fields and from what ``foreshock zoo check`` found."""

import inspect
from collections.abc import Callable, Iterable
from importlib import import_module

from .check import Checked, recorded, spread
from .scenario import SPLITS, Scenario, scenarios

Table = Callable[[Iterable[str], Iterable[Iterable[str]]], str]
_HEAD = ("scenario", "onset", "cause", "ends", "as it says", "fails at step", "steps", "seconds")


def document(table: Table) -> str:
    """Return the scenarios as Markdown, by split and family.

    Args:
        table: writes a table, from its head and its rows.
    """
    found = recorded()
    parts = [_summary(found)]
    for split in SPLITS:
        parts.append(f"## Split `{split}`\n")
        known = [each for each in scenarios().values() if each.split == split]
        families = sorted({each.family for each in known})
        parts += (_family([each for each in known if each.family == family], found, table) for family in families)
    return "\n".join(parts)


def _summary(found: list[Checked]) -> str:
    failing = [each for each in scenarios().values() if each.fails]
    healthy = [each for each in scenarios().values() if not each.fails]
    families = {each.family for each in scenarios().values()}
    right = sum(each.expected for each in found)
    causes = {each.cause_id for each in failing}
    return (
        f"{len(failing)} scenarios that fail, of {len(causes)} causes, and {len(healthy)} that do not, in {len(families)} "
        f"families. {len(found)} runs were checked; {right} of them ended as they say.\n"
    )


def _family(members: list[Scenario], found: list[Checked], table: Table) -> str:
    module = import_module(f"{__package__}.scenarios.{members[0].family}")
    head = inspect.getdoc(module) or ""
    members = sorted(members, key=lambda each: not each.fails)  # those that fail first
    rows = [_row(each, [one for one in found if one.scenario == each.name]) for each in members]
    members_in_words = "\n".join(f"- `{each.name}`: {each.title}. {_sentence(each.cause)}" for each in members)
    sources = "; ".join(dict.fromkeys(each.source for each in members))
    parts = [f"### `{members[0].family}`", head.replace("``", "`"), members_in_words, f"{table(_HEAD, rows)}\nSource: {sources}.\n"]
    return "\n\n".join(parts)


def _row(each: Scenario, its: list[Checked]) -> Iterable[str]:
    right = f"{sum(one.expected for one in its)} of {len(its)}" if its else "not checked"
    others = sorted({one.outcome for one in its} - {each.expected})
    recovered = sum(one.transient for one in its)
    return (
        f"`{each.name}`",
        each.onset or "healthy",
        f"`{each.cause_id}`" if each.cause_id else "",
        each.expected
        + (f" (recovers: {recovered} of {len(its)})" if recovered else "")
        + (f" (also: {', '.join(others)})" if others else ""),
        right,
        spread([one.step for one in its]),
        f"{each.steps:,}",
        spread([one.seconds for one in its]),
    )


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."
