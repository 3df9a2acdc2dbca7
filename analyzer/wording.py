"""Numbers and messages in plain words."""

import math
import re
from collections.abc import Iterable, Mapping
from string import Formatter

from ..storage.records import SeriesKey

_CLAUSE = re.compile(r"\[([^\[\]]*)\]")


def number(value: float) -> str:
    """Return a number with three sensible digits: ``0.0412``, ``3.16``, ``643``, ``52,000``, ``1.3e+12`` as ``1.3e12``."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "infinity" if value > 0 else "-infinity"
    size = abs(value)
    if size == 0.0:
        return "0"
    if size >= 999_500_000 or size < 0.000_999_5:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    if size >= 99.95:
        digits = 2 - math.floor(math.log10(size)) if size >= 999.5 else 0
        return f"{round(value, digits):,.0f}"
    text = f"{value:.{max(0, 2 - math.floor(math.log10(size)))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def step_number(step: int) -> str:
    """Return a step with thousands separators."""
    return f"{step:,}"


def place(module: str, head: int = -1) -> str:
    """Name a module and head: ``blocks.1.attn head 0``; the whole run where there is no module."""
    if not module:
        return "the run"
    return f"{module} head {head}" if head >= 0 else module


def series_name(key: SeriesKey) -> str:
    """Name a series for people: ``attention.max_logit of blocks.1.attn head 0``."""
    name = f"{key.signal} of {place(key.module, key.head)}" if key.module else key.signal
    return f"{name} on rank {key.rank}" if key.rank >= 0 else name


def say(value: float | int | str) -> str:
    """Return one fact as text: whole numbers are steps or counts, other numbers get three digits."""
    if isinstance(value, str):
        return value
    return step_number(value) if isinstance(value, int) else number(value)


def fill(template: str, facts: Mapping[str, float | int | str]) -> str:
    """Fill a message template. A clause in square brackets is left out when one of its facts is missing or NaN."""

    def known(name: str) -> bool:
        return name in facts and facts[name] == facts[name]

    def clause(match: re.Match[str]) -> str:
        return match[1] if all(known(name) for name in placeholders(match[1])) else ""

    text = _CLAUSE.sub(clause, template)
    return text.format_map({name: say(facts[name]) if name in facts else "n/a" for name in placeholders(text)})


def placeholders(template: str) -> list[str]:
    """Return the names in a template's braces.

    Raises:
        ValueError: the braces do not match.
    """
    return [name for _, name, _, _ in Formatter().parse(template) if name is not None]


def join(parts: Iterable[str]) -> str:
    """Return ``a``, ``a and b`` or ``a, b and c``."""
    words = list(parts)
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)


def uncapital(text: str) -> str:
    """Begin in lower case inside a sentence, but leave abbreviations as they are."""
    return text[:1].lower() + text[1:] if text[1:2].islower() or text[1:2] == " " else text
