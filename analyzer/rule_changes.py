"""What of a run's rules is not as in the package: kept with the run, so that it can be told later what judged it."""

from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from typing import Any

from .rules import Rule, RuleSet


def changes(rules: RuleSet) -> dict[str, dict[str, Any]]:
    """Return rule name -> what of it differs from the package's rule, in plain values; all of it where the package has none.

    ``RuleSet.default().merged(changes(rules))`` are these rules again.
    """
    usual = RuleSet.default()
    known = set(usual)
    told = {name: _plain(rules[name], usual[name] if name in known else None) for name in rules}
    return {name: differing for name, differing in told.items() if differing}


def _plain(rule: Rule, usual: Rule | None) -> dict[str, Any]:
    differing: dict[str, Any] = {}
    for field in fields(rule):
        value, before = getattr(rule, field.name), getattr(usual, field.name) if usual is not None else None
        if field.name == "name" or value == before:
            continue
        if field.name == "parameters":
            known = before if isinstance(before, Mapping) else {}
            differing["parameters"] = {key: _value(one) for key, one in value.items() if known.get(key) != one}
        else:
            differing[field.name] = _value(value)
    return differing


def _value(value: Any) -> Any:
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, Mapping):
        return {str(key): _value(one) for key, one in value.items()}
    return [_value(one) for one in value] if isinstance(value, (tuple, list, frozenset, set)) else value
