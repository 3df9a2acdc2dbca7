"""Where the run is heading, in plain words, under its verdict."""

import time

from dash import html

from ...analyzer.outlook import outlook
from ...analyzer.outlook_words import sentences
from ...storage.records import Severity
from ..live import Updates
from ..reading import is_open, shown_alerts
from ..vitals import vitals
from .paced import PacedSection


class OutlookWords(PacedSection):
    """The sentences of the run's outlook, each measured anew."""

    def make(self) -> Updates:
        """Return the sentences."""
        self.run = self.store.run(self.run.id)
        alerts = shown_alerts(self.store, self.run)
        healthy = not any(is_open(alert) and alert.severity is not Severity.INFO for alert in alerts)
        found = outlook(self.store, self.run, alerts, running=vitals(self.run, time.time()).running)
        words = sentences(found, healthy=healthy)
        return {"outlook": {"children": [html.P(sentence) for sentence in words]}}
