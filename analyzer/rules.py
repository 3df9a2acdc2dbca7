"""Rules as data: what is watched, by which detector, how sensitively, and what is said. Defaults stand in ``rules.toml``.

Overrides are merged key by key: change a parameter, disable a rule (``enabled = false``), or add one (give it a ``detector`` and
``signals``). Nothing misspelt is ever merged silently.
"""

import json
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Union

from ..storage.records import Severity, derived_id
from . import plugins
from .detectors import Detector
from .detectors.base import Setting
from .rule_checks import RuleError, check_rule

__all__ = ["Rule", "RuleError", "RuleSet"]

RuleSource = Union["RuleSet", str, Path, Mapping[str, Any], None]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, checked and complete.

    Args:
        name: its name in rules.toml; alerts carry it.
        title: what it warns of, in a few words.
        detector: name of the detector.
        signals: for each detector input the signals that feed it (several signals of a module feed it in turn).
        severity: of its alerts.
        message: template of the alert's message.
        remedy: what to do.
        reduce: how the heads and ranks of a module (with ``across`` those of all) become one number: max, min, mean, or the value
            that a ``third`` of them do not exceed.
        across: all matching modules together are one series, judged once; the loss beside it is the run's.
        gather: modules at which it fires while an alert of it is open are counted in that alert, not given one each.
        modules: glob patterns; only matching modules are watched.
        interval: steps between two samples that are judged, at least; denser ones are passed over.
        warmup: steps after a series' first sample in which nothing is judged (nor learned).
        persistence: samples in a row that must stand out before an alert fires.
        clear: samples in a row that must be normal before it resolves.
        cooldown: steps after it resolved before the same module can fire again; doubles with every episode.
        parameters: of the detector.
        links: papers or pages.
        why: what trouble it tells of, in a sentence.
        enabled: a disabled rule is listed but not run.
    """

    name: str
    title: str
    detector: str
    signals: Mapping[str, tuple[str, ...]]
    severity: Severity
    message: str
    remedy: str
    reduce: str
    modules: tuple[str, ...]
    interval: int
    warmup: int
    persistence: int
    clear: int
    cooldown: int
    parameters: Mapping[str, Setting]
    links: tuple[str, ...] = ()
    why: str = ""
    gather: bool = False
    across: bool = False
    enabled: bool = True

    def build(self) -> Detector:
        """Return a fresh detector for one module."""
        return Detector.registry[self.detector](self.parameters)

    @property
    def fingerprint(self) -> str:
        """Identify what decides when the rule fires: learned state is carried over only to a rule with the same one."""
        deciding = (
            self.detector,
            dict(self.signals),
            self.reduce,
            *(("across",) if self.across else ()),
            self.modules,
            self.warmup,
            self.persistence,
            self.clear,
            self.cooldown,
        )
        return derived_id(json.dumps([*deciding, dict(self.parameters)], sort_keys=True))


class RuleSet(Mapping[str, Rule]):
    """All rules by name. Immutable; ``merged`` returns another one."""

    def __init__(self, tables: Mapping[str, Mapping[str, Any]]) -> None:
        """Check and complete rule tables as they stand in TOML.

        Raises:
            RuleError: naming every bad key and what is allowed.
        """
        problems: list[tuple[str, str, str]] = []
        self._tables = {name: dict(table) for name, table in tables.items()}
        self._rules: dict[str, Rule] = {}
        for name, table in self._tables.items():
            fields, found = check_rule(name, table)
            problems += found
            if not found:
                self._rules[name] = Rule(name=name, **fields)
        if problems:
            raise RuleError(problems)

    def __getitem__(self, name: str) -> Rule:
        return self._rules[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rules)

    def __len__(self) -> int:
        return len(self._rules)

    @property
    def active(self) -> tuple[Rule, ...]:
        """The enabled rules."""
        return tuple(rule for rule in self._rules.values() if rule.enabled)

    @property
    def tables(self) -> Mapping[str, Mapping[str, Any]]:
        """The rules as they stand in TOML: what was given of each, without the defaults that hold beside it."""
        return self._tables

    def differences(self, other: "RuleSet") -> dict[str, dict[str, Any]]:
        """Return what, merged into ``other``, gives these rules: the tables of rules that it lacks, else the keys that differ."""
        found = {name: _differing(table, other._tables.get(name, {})) for name, table in self._tables.items()}
        return {name: changes for name, changes in found.items() if changes}

    def replaced(self, tables: Mapping[str, Mapping[str, Any]]) -> "RuleSet":
        """Return these rules with the tables of some of them, whole, in the place of their own.

        Raises:
            RuleError: see ``__init__``.
        """
        return RuleSet({**self._tables, **tables})

    def only(self, names: Collection[str]) -> "RuleSet":
        """Return these rules with all but some of them switched off."""
        return RuleSet({name: {**table, **({} if name in names else {"enabled": False})} for name, table in self._tables.items()})

    @classmethod
    def default(cls) -> "RuleSet":
        """Return the rules that come with the package, and those that other distributions bring (see ``plugins``)."""
        plugins.load()
        rules = cls(_package_tables())
        for name, tables in plugins.rule_tables():
            try:
                rules = rules.merged(tables)
            except RuleError as error:
                plugins.report(name, error)
        return rules

    @classmethod
    def load(cls, source: RuleSource = None) -> "RuleSet":
        """Return the default rules with ``source`` merged in.

        Args:
            source: None; a TOML file with ``[rules.NAME]`` tables (a foreshock.toml may hold other tables too); a mapping of such
                tables by rule name; or a RuleSet, which is returned as it is.

        Raises:
            RuleError: names file, line, the bad key and what is allowed.
            OSError: the file cannot be read.
        """
        if isinstance(source, RuleSet):
            return source
        if source is None:
            return cls.default()
        if isinstance(source, Mapping):
            return cls.default().merged(source)
        path = Path(source)
        text = path.read_text("utf-8")
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise RuleError([("", "", str(error))], source=str(path)) from None
        strangers = [] if path.name == "foreshock.toml" else sorted(set(document) - {"rules"})
        if strangers:
            problems = [("", key, f"unknown table {key!r}; allowed: rules tables, such as [rules.loss_spike]") for key in strangers]
            raise RuleError(problems, source=str(path), text=text)
        return cls.default().merged(document.get("rules", {}), source=str(path), text=text)

    def merged(self, overrides: Mapping[str, Any], *, source: str = "", text: str = "") -> "RuleSet":
        """Return these rules with ``overrides`` merged in key by key.

        Args:
            overrides: tables by rule name, or ``{"rules": tables}``.
            source: file name for error messages.
            text: the file's text, to name lines.

        Raises:
            RuleError: see ``load``.
        """
        if set(overrides) == {"rules"} and isinstance(overrides["rules"], Mapping):
            overrides = overrides["rules"]
        tables = {name: dict(table) for name, table in self._tables.items()}
        problems: list[tuple[str, str, str]] = []
        for name, table in overrides.items():
            if not isinstance(table, Mapping):
                problems.append((name, "", f"got {table!r}; allowed: a table, such as [rules.{name}]"))
            elif name not in tables and "detector" not in table:
                problems.append(
                    (
                        name,
                        "",
                        f"no rule has that name; rules: {', '.join(sorted(tables))}. A new rule needs a detector and signals",
                    )
                )
            elif "detector" in table and name in tables and table["detector"] != tables[name]["detector"]:
                problems.append(
                    (name, "detector", f"is {tables[name]['detector']!r} and cannot change; add a rule under another name instead")
                )
            else:
                tables[name] = _overlaid(tables.get(name, {}), table)
        if not problems:
            try:
                return RuleSet(tables)
            except RuleError as error:
                problems = list(error.problems)
        raise RuleError(problems, source=source, text=text)


@cache
def _package_tables() -> Mapping[str, Mapping[str, Any]]:
    """Return the tables of the package, read once: that takes some hundredths of a second. Nobody changes them."""
    tables: dict[str, dict[str, Any]] = tomllib.loads(files(__package__).joinpath("rules.toml").read_text("utf-8"))["rules"]
    return tables


def _overlaid(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``table`` with ``changes`` laid over it; sub-tables are merged, everything else is replaced."""
    merged = dict(table)
    for key, value in changes.items():
        below = merged.get(key)
        merged[key] = {**below, **value} if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def _differing(table: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of ``table`` whose values are others in ``other``, sub-tables by key."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        below = other.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            if inner := {name: each for name, each in value.items() if name not in below or below[name] != each}:
                found[key] = inner
        elif key not in other or below != value:
            found[key] = value
    return found
