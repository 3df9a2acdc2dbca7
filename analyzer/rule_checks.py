"""Checks on rule tables: every key known, every value allowed, every message fillable. Errors name what mends them."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from ..storage.records import Severity
from .detectors import COMMON_FACTS, Detector
from .detectors.base import Parameter
from .plugins import problems as problems_of_plugins
from .wording import placeholders

Problem = tuple[str, str, str]
"""(rule, key, what is wrong); rule and key may be empty."""

REDUCTIONS = ("max", "min", "mean", "median", "third")
COUNTS: Mapping[str, Parameter] = {
    "interval": Parameter(1, "steps", "samples nearer together than this are passed over", 1),
    "warmup": Parameter(0, "steps", "nothing is judged so long after a series begins", 0),
    "persistence": Parameter(1, "samples", "so many in a row must stand out before an alert fires", 1),
    "clear": Parameter(10, "samples", "so many in a row must be normal before it resolves", 1),
    "cooldown": Parameter(200, "steps", "so long after it resolved the same module stays quiet; doubles with every episode", 0),
}
"""The numbers that every rule has."""
_TEXTS = ("title", "why", "message", "remedy")
_KEYS = (
    *_TEXTS,
    "detector",
    "signals",
    "severity",
    "reduce",
    "modules",
    *COUNTS,
    "parameters",
    "links",
    "gather",
    "across",
    "enabled",
)


class RuleError(ValueError):
    """Rules that cannot be used. ``problems`` lists (rule, key, what is wrong)."""

    def __init__(self, problems: Sequence[Problem], *, source: str = "", text: str = "") -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(_sentence(problem, source, text) for problem in self.problems))


def _sentence(problem: Problem, source: str, text: str) -> str:
    rule, key, wrong = problem
    line = line_of(text, rule, key) if text else None
    where = f"{source}, line {line}: " if line else f"{source}: " if source else ""
    what = f"[rules.{rule}] " if rule else ""
    return f"{where}{what}{f'{key}: ' if key else ''}{wrong}"


def line_of(text: str, rule: str, key: str) -> int | None:
    """Return the line (from 1) of a rule's key in a TOML text, of the rule's table when the key is not found."""
    table, last = "", key.rpartition(".")[2]
    found = None
    for count, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[([^\[\]]+)\]", line):
            table = header[1].replace('"', "").replace(" ", "")
            if not rule and table.partition(".")[0] == key:
                return count
            if found is None and (table == f"rules.{rule}" or table.startswith(f"rules.{rule}.")):
                found = count
        inside = table == f"rules.{rule}" or table.startswith(f"rules.{rule}.") if rule else table == ""
        if inside and last and re.search(rf"(^|[\s{{,.]){re.escape(last)}\s*=", line):
            return count
    return found


def check_rule(name: str, table: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Return a rule's complete fields and everything that is wrong with it."""
    problems: list[Problem] = []

    def wrong(key: str, what: str) -> None:
        problems.append((name, key, what))

    for key in sorted(set(table) - set(_KEYS)):
        wrong(key, f"unknown key{_meant(key, _KEYS)}; allowed: {', '.join(sorted(_KEYS))}")
    kind = table.get("detector")
    if not isinstance(kind, str) or kind not in Detector.registry:
        broken = "; ".join(f"{plugin}: {why}" for plugin, why in problems_of_plugins().items())
        hint = f". Plug-ins that could not be loaded: {broken}" if broken else ""
        wrong(
            "detector", f"got {kind!r}{_meant(str(kind), Detector.registry)}; allowed: {', '.join(sorted(Detector.registry))}{hint}"
        )
        return {}, problems
    detector = Detector.registry[str(kind)]
    fields: dict[str, Any] = {"detector": kind}
    fields["title"] = table.get("title", name.replace("_", " ").capitalize())
    fields["why"] = table.get("why", "")
    fields["message"] = table.get("message", "{series} is {value} at step {step}[, against {threshold}].")
    fields["remedy"] = table.get("remedy", "")
    for key in _TEXTS:
        if not isinstance(fields[key], str):
            wrong(key, f"got {fields[key]!r}; allowed: text")
    if isinstance(fields["message"], str):
        problems += [(name, "message", what) for what in _message_problems(fields["message"], detector)]
    severity = table.get("severity", "warning")
    if severity in list(Severity):
        fields["severity"] = Severity(severity)
    else:
        wrong("severity", f"got {severity!r}; allowed: {', '.join(Severity)}")
    fields["reduce"] = table.get("reduce", "max")
    if fields["reduce"] not in REDUCTIONS:
        wrong("reduce", f"got {fields['reduce']!r}; allowed: {', '.join(REDUCTIONS)}")
    for key, usual in (("gather", False), ("across", False), ("enabled", True)):
        fields[key] = table.get(key, usual)
        if not isinstance(fields[key], bool):
            wrong(key, f"got {fields[key]!r}; allowed: true, false")
    for key, default in (("modules", ["*"]), ("links", [])):
        value = table.get(key, default)
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
            wrong(key, f"got {value!r}; allowed: a list of texts")
        else:
            fields[key] = tuple(value)
    for key, number in COUNTS.items():
        fields[key] = number.default
        try:
            fields[key] = number.check(table.get(key, number.default))
        except ValueError as error:
            wrong(key, str(error))
    fields["signals"], found = _check_signals(table.get("signals"), detector)
    problems += [(name, "signals", what) for what in found]
    fields["parameters"], mistakes = _check_parameters(table.get("parameters", {}), detector)
    problems += [(name, f"parameters.{key}" if key else "parameters", what) for key, what in mistakes]
    if not problems and "rebaseline" in fields["parameters"] and fields["parameters"]["rebaseline"] < fields["persistence"]:
        wrong(
            "parameters.rebaseline", f"must be at least persistence ({fields['persistence']}), or a shift would never be reported"
        )
    return fields, problems


def _check_signals(given: Any, detector: type[Detector]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    example = (
        f'a table of inputs, such as {{ {detector.INPUTS[0]} = "loss" }}; inputs of {detector.NAME}: {", ".join(detector.INPUTS)}'
    )
    if not isinstance(given, Mapping):
        return {}, [f"got {given!r}; allowed: {example}"]
    problems = [
        f"unknown input {name!r}{_meant(name, detector.INPUTS)}; allowed: {example}"
        for name in given
        if name not in detector.INPUTS
    ]
    signals: dict[str, tuple[str, ...]] = {}
    for name in detector.INPUTS:
        value = given.get(name, () if name in detector.OPTIONAL else None)
        names = (value,) if isinstance(value, str) else value
        if not isinstance(names, (list, tuple)) or not all(isinstance(item, str) and item for item in names):
            problems.append(f"input {name!r}: got {value!r}; allowed: a signal's name, or a list of them")
        elif not names and name not in detector.OPTIONAL:
            problems.append(f"input {name!r}: needs at least one signal")
        else:
            signals[name] = tuple(names)
        if isinstance(names, (list, tuple)) and len(names) > 1 and not detector.SEES_NON_FINITE:
            problems.append(f"input {name!r}: {detector.NAME} takes one signal; write a rule for each")
    return signals, problems


def _check_parameters(given: Any, detector: type[Detector]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    if not isinstance(given, Mapping):
        return {}, [("", f"got {given!r}; allowed: a table")]
    allowed = detector.PARAMETERS
    problems = [
        (name, f"unknown parameter of {detector.NAME}{_meant(name, allowed)}; allowed: {', '.join(sorted(allowed)) or 'none'}")
        for name in given
        if name not in allowed
    ]
    values: dict[str, Any] = {}
    for name, parameter in allowed.items():
        try:
            values[name] = parameter.check(given.get(name, parameter.default))
        except ValueError as error:
            problems.append((name, str(error)))
    return values, problems


def _message_problems(template: str, detector: type[Detector]) -> list[str]:
    try:
        names = placeholders(template)
    except ValueError as error:
        return [f"{error}; placeholders stand in braces, such as {{value}}"]
    allowed = {**COMMON_FACTS, **detector.FACTS}
    return [
        f"unknown placeholder {{{name}}}{_meant(name, allowed)}; allowed: {', '.join(allowed)}"
        for name in names
        if name not in allowed
    ]


def _meant(name: str, allowed: Any) -> str:
    close = get_close_matches(name, list(allowed), 1)
    return f", did you mean {close[0]!r}?" if close else ""
