"""Rules in plain words, and their fields as a form has them: label, unit, what is allowed, and the way from text to value."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..analyzer.detectors import Detector
from ..analyzer.detectors.base import Parameter
from ..analyzer.rule_checks import COUNTS
from ..analyzer.rule_edits import words
from ..analyzer.rule_layers import Origin, RuleLayers, shown
from ..analyzer.rules import Rule
from ..storage.records import RuleVersion, Severity
from .signals import describe
from .vitals import moment

_TOPICS = (
    ("Broken numbers", ("nonfinite",)),
    ("Loss and learning rate", ("loss", "learning_rate")),
    ("Gradients", ("gradient",)),
    ("Attention", ("attention",)),
    ("Rounding and number formats", ("rounding", "numerics")),
    ("Weights and updates", ("weight", "update", "spectral_alignment", "adam")),
    ("Units", ("activation",)),
    ("Distributed training", ("rank",)),
    ("The monitor itself", ("monitor",)),
)
OTHER = "Other"
TOPICS = (*(topic for topic, _ in _TOPICS), OTHER)


@dataclass(frozen=True, slots=True)
class Field:
    """One thing of a rule that the page lets people change.

    Args:
        path: such as ``parameters.z``.
        allowed: the range, in words.
        choices: words of which one is chosen; a text is typed where there are none.
    """

    path: str
    label: str
    meaning: str
    unit: str = ""
    allowed: str = ""
    choices: tuple[str, ...] = ()


def topic_of(rule: Rule) -> str:
    """Return the heading under which a rule stands."""
    if Detector.registry[rule.detector].SEES_NON_FINITE:
        return "Broken numbers"
    first = next((name for names in rule.signals.values() for name in names), "")
    return next((topic for topic, roots in _TOPICS if first.partition(".")[0] in roots), OTHER)


def watches(rule: Rule) -> str:
    """Say what a rule watches, in a sentence."""
    names = dict.fromkeys(title for signals in rule.signals.values() for title in map(_title, signals))
    listed = list(names)
    what = listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])} and {listed[-1]}"
    where = "" if rule.modules == ("*",) else f" in modules called {', '.join(rule.modules)}"
    return f"Watches {what}{where} for {Detector.registry[rule.detector].SEES}."


def _title(signal: str) -> str:
    """Return what a signal is called within a sentence."""
    title = describe(signal).title.replace(" · ", " ")
    return title.lower() if title[:2].istitle() else title


def fields_of(rule: Rule) -> list[Field]:
    """Return the fields of a rule: whether it is on, its severity, the detector's numbers, and those that every rule has."""
    fields = [
        Field("enabled", "This rule is", "a rule that is off raises no alerts", choices=("on", "off")),
        Field("severity", "Severity", "of its alerts", choices=tuple(str(each) for each in Severity)),
    ]
    fields += [_number(f"parameters.{name}", each) for name, each in Detector.registry[rule.detector].PARAMETERS.items()]
    fields += [_number(name, each) for name, each in COUNTS.items()]
    patterns = "only these are watched: names or patterns such as *.attn.*, with a comma between two"
    return [*fields, Field("modules", "Modules", patterns, allowed="at least one pattern; * is all")]


def _number(path: str, number: Parameter) -> Field:
    label = label_of(path)
    whole = "whole number, " if isinstance(number.default, int) else ""
    return Field(path, label, number.meaning, number.unit, "" if number.choices else whole + _span(number), number.choices)


def _span(number: Parameter) -> str:
    if math.isinf(number.low) and math.isinf(number.high):
        return "any number"
    return f"at least {number.low:,.7g}" if math.isinf(number.high) else f"{number.low:,.7g} to {number.high:,.7g}"


def label_of(path: str) -> str:
    """Return what a field is called."""
    usual = {"enabled": "This rule is"}
    return usual.get(path) or path.rpartition(".")[2].replace("_", " ").capitalize()


def text_of(value: Any) -> str:
    """Write a value as it stands in its field."""
    return ", ".join(value) if isinstance(value, tuple) else shown(value) if isinstance(value, bool) else _plain(value)


def _plain(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else str(value)


def parsed(path: str, text: str) -> Any:
    """Return the value that a text means; what means none stays text, which the checks of rules refuse by name."""
    text = text.strip()
    if path == "enabled":
        return {"on": True, "off": False}.get(text, text)
    if path == "modules":
        return [each for each in re.split(r"[,\s]+", text) if each]
    if path == "severity":
        return text
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def origin_words(origin: Origin) -> str:
    """Say where a value comes from."""
    if isinstance(origin, RuleVersion):
        return f"{origin.created_by or 'somebody'}, {moment(origin.created_at)}, {words(origin.scope)}"
    return {"default": "default", "file": "the run's own foreshock.toml or rules="}[origin]


def scopes_of(project: str, run_id: str) -> dict[str, tuple[str, str]]:
    """Return the scopes in which a page can change a rule, by the names that its choices have."""
    scopes = {"store": ("", "")}
    if project:
        scopes["project"] = (project, "")
    if run_id:
        scopes["run"] = ("", run_id)
    return scopes


def seen_of(layers: RuleLayers, rule: str, scopes: Mapping[str, tuple[str, str]]) -> dict[str, int]:
    """Return the number of the newest version in each scope; 0 where there is none."""
    found = {name: layers.seen(rule, scope) for name, scope in scopes.items()}
    return {name: version.version if version is not None else 0 for name, version in found.items()}
