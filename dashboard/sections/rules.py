"""The list of rules, live: what is in force, what of it is changed and by whom, and what each has fired on in the run."""

from collections import Counter
from collections.abc import Sequence

from dash import dcc, html
from dash.development.base_component import Component

from ...analyzer.rule_layers import GIVEN, RuleLayers, flat, in_force, shown, value_of
from ...analyzer.rules import Rule
from ...storage.base import Store
from ...storage.records import Run
from ..pages.attributes import data
from ..pages.parts import severity_badge
from ..paths import rules_path
from ..reading import shown_alerts
from ..rule_words import TOPICS, origin_words, topic_of, watches
from ..updates import Updates


class RulesList:
    """Every rule, by topic.

    Args:
        run_id: the run whose rules these are; empty for those that any run starts from.
    """

    def __init__(self, store: Store, run_id: str) -> None:
        self._store = store
        self._run = store.run(run_id) if run_id else None
        self._revision = ""
        self._layers: RuleLayers | None = None

    @property
    def subject(self) -> str:
        """All runs: a rule may be changed for any of them."""
        return ""

    def paint(self) -> Updates:
        """Return the whole list."""
        revision = self._store.rules_revision()
        if self._layers is None or revision != self._revision:
            self._revision, self._layers = revision, in_force(self._store, self._run)
        fired = Counter(alert.rule for alert in shown_alerts(self._store, self._run)) if self._run is not None else None
        return {
            "rules-list": {"children": _groups(self._layers, self._run, fired)},
            "rules-troubles": {"children": troubles(self._layers, self._run)},
        }

    def advance(self) -> Updates:
        """Return the list; what has not changed is not sent."""
        return self.paint()

    def tick(self) -> Updates:
        """Return nothing: the list says nothing about time."""
        return {}


def troubles(layers: RuleLayers, run: Run | None) -> list[Component]:
    """Return what is left out, and what is not known, in words."""
    said = [f"Version {each.version.version} of {each.version.rule} is left out: {each.reason}" for each in layers.refused]
    said += [f"Not known here, and left out: {each}" for each in layers.unknown]
    parts: list[Component] = (
        [html.Ul([html.Li(html.Span(each)) for each in said], className="troubles rule-troubles")] if said else []
    )
    if run is not None and GIVEN not in run.meta:
        missing = "This run did not note what it was given in foreshock.toml or rules=; if it was given any, that is missing here."
        parts.append(html.P(missing, className="quiet foot"))
    return parts


def _groups(layers: RuleLayers, run: Run | None, fired: Counter[str] | None) -> list[Component]:
    changed = layers.rules.differences(layers.default)
    groups: dict[str, list[Component]] = {topic: [] for topic in TOPICS}
    for rule in layers.rules.values():
        differing = list(flat(changed.get(rule.name, {})))
        groups[topic_of(rule)].append(_entry(layers, rule, run, differing, fired))
    return [
        html.Section(
            [html.H2(topic, className="section-title"), html.Div(entries, className="rule-entries")], className="rule-topic"
        )
        for topic, entries in groups.items()
        if entries
    ]


def _entry(layers: RuleLayers, rule: Rule, run: Run | None, differing: Sequence[str], fired: Counter[str] | None) -> Component:
    href = rules_path(run.id if run is not None else "", rule.name)
    head: list[Component] = [
        html.H3(dcc.Link(rule.title or rule.name, href=href), className="rule-title"),
        severity_badge(rule.severity),
        html.Span("on" if rule.enabled else "off", className=f"rule-switch {'is-on' if rule.enabled else 'is-off'}"),
    ]
    if differing:
        head.append(html.Span("changed", className="rule-changed"))
    parts: list[Component] = [
        html.Div(head, className="rule-head"),
        html.P(watches(rule)),
        *([html.P(rule.why, className="quiet")] if rule.why else []),
    ]
    if differing:
        parts.append(html.Ul([html.Li(_difference(layers, rule, path)) for path in differing], className="rule-differences"))
    if fired is not None:
        count = fired[rule.name]
        has = f"Fired {count:,} time{'' if count == 1 else 's'} in this run." if count else "Has not fired in this run."
        would = html.Span(id={"kind": "rule-would", "rule": rule.name})
        parts.append(html.P([html.Span(has, className="strong" if count else ""), " ", would], className="rule-fired"))
    words = " ".join([rule.name, rule.title, rule.why, watches(rule), *rule.parameters, topic_of(rule), str(rule.severity)])
    states = " ".join(
        ["on" if rule.enabled else "off", "changed" if differing else "", "fired" if fired and fired[rule.name] else ""]
    )
    return html.Article(parts, className="rule-entry card", **data(words=f"{words} {states}".lower()))


def _difference(layers: RuleLayers, rule: Rule, path: str) -> list[Component | str]:
    default = layers.default.get(rule.name)
    usual = f" (default {shown(value_of(default, path))})" if default is not None else ""
    label = path.rpartition(".")[2].replace("_", " ")
    origin = origin_words(layers.origin(rule.name, path))
    return [f"{label} {shown(value_of(rule, path))}{usual}", html.Span(f" – {origin}", className="quiet")]
