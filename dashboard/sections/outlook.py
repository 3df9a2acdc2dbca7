"""Where the run is heading, in plain words, under its verdict."""

import time
from collections.abc import Sequence
from functools import cache

from dash import html

from ...analyzer.outlook import outlook
from ...analyzer.outlook_words import sentences
from ...analyzer.rules import RuleSet
from ...storage.base import Store
from ...storage.records import Alert, Run, Severity
from ..reading import is_open, shown_alerts
from ..updates import Updates
from ..vitals import vitals
from .paced import PacedSection


def outlook_sentences(store: Store, run: Run, alerts: Sequence[Alert]) -> list[str]:
    """Return what to say of a run's course, the most telling first; measured from its series."""
    healthy = not any(is_open(alert) and alert.severity is not Severity.INFO for alert in alerts)
    found = outlook(store, run, alerts, running=vitals(run, time.time()).running, rules=_default_rules())
    return sentences(found, healthy=healthy)


@cache
def _default_rules() -> RuleSet:
    return RuleSet.default()  # looks at every distribution that is installed


class OutlookWords(PacedSection):
    """The sentences of the run's outlook, each measured anew."""

    def alike(self) -> str:
        """Return what is the same for all who look at the run."""
        return "outlook"

    def make(self) -> Updates:
        """Return the sentences."""
        self.run = self.store.run(self.run.id)
        words = outlook_sentences(self.store, self.run, shown_alerts(self.store, self.run))
        return {"outlook": {"children": [html.P(sentence) for sentence in words]}}
