"""The page of all signals: what each is, by which formula, who measures it, and which rules look at it. Read by generate.py."""

import tomllib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from foreshock.analyzer.rules import RuleSet
from foreshock.dashboard.signals import CATALOGUE, HISTOGRAM, SPECTRUM, Trouble
from foreshock.probes.base import Probe
from foreshock.probes.registry import known_probes

TOLD: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
WORRYING = {Trouble.HIGH: "high", Trouble.LOW: "low", Trouble.AWAY: "far from 0"}
DISTRIBUTIONS = {
    HISTOGRAM: (
        "Distribution of alignment",
        "One band around 0 is healthy; a band that wanders to one side is a layer gone one-signed.",
    ),
    SPECTRUM: ("Spectrum of the weight", "A bulk that sinks away from the top: one singular value outgrows all others."),
}
OF_RANKS = {
    "rank.checksum": ("Checksum of a rank's weights", "Ranks that differ hold different weights: one has silently drifted."),
    "rank.loss": ("Loss of each rank", "A rank that leaves the others sees other data, or its weights have drifted."),
    "rank.gradient_norm": ("Gradient norm of each rank", "A rank whose gradients stand out from the others'."),
}
"""Signals of probes that the page draws in pictures of their own, and so have no words in the catalogue."""


def pages(paragraphs: Callable[[type[Probe]], Sequence[str]], preset: Callable[[type[Probe]], str]) -> Iterable[str]:
    """Yield a part for each probe, and one for what is kept of every run.

    Raises:
        KeyError: a signal has no formula or no words yet.
    """
    rules = RuleSet.default().active
    yield _run_wide(rules)
    for name, probe in known_probes().items():
        told = {label: rest for label, _, rest in (each.partition(": ") for each in paragraphs(probe))}
        yield f"## Probe {name}\n"
        yield f"{paragraphs(probe)[0]} Preset: {preset(probe)}. Details: [probes](probes.md#{name}).\n"
        yield f"Cost: {told['Cost']}\n"
        yield f"Source: {told['Source']}\n"
        yield from (_signal(signal, rules) for signal in probe.signals)


def _signal(name: str, rules: Sequence[Any]) -> str:
    formula = f"`{TOLD['formula'][name]}`"
    if name in CATALOGUE:
        info = CATALOGUE[name]
        title, meaning, unit, worrying = info.title, info.recognise, info.unit, WORRYING[info.trouble]
    else:
        (title, meaning), unit, worrying = (DISTRIBUTIONS | OF_RANKS)[name], "", ""
    return _entry(name, title, meaning, formula, unit, worrying, _watching(name, rules))


def _run_wide(rules: Sequence[Any]) -> str:
    parts = [
        _entry(name, told["title"], told["meaning"], told.get("formula", ""), told.get("unit", ""), "", _watching(name, rules))
        for name, told in TOLD["run"].items()
    ]
    lead = "Kept of every run. What you hand to `monitor.step(loss, name=value)` stands beside it under its own name.\n"
    return "\n".join(["## Of the whole run\n", lead, *parts])


def _watching(name: str, rules: Sequence[Any]) -> list[str]:
    return [rule.name for rule in rules if any(name in names for names in rule.signals.values())]


def _entry(name: str, title: str, meaning: str, formula: str, unit: str, worrying: str, rules: Sequence[str]) -> str:
    facts = [
        f"Formula: {formula}" if formula else "",
        f"Unit: {unit}" if unit else "",
        f"Worrying: {worrying}" if worrying else "",
    ]
    facts.append("Rules: " + ", ".join(f"`{rule}`" for rule in rules) if rules else "No rule looks at it by itself")
    return f"### `{name}`\n\n**{title}.** {meaning}\n\n{'. '.join(fact for fact in facts if fact)}.\n"
