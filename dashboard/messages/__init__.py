"""What goes with a message about an alert besides its words: a small chart, and the alert as data. Imports Pillow when it draws."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...storage.records import Alert


class MessageExtras:
    """Charts and data for the courier."""

    def chart(self, alert: Alert) -> bytes:
        """Draw an alert's evidence as a PNG.

        Raises:
            ChartError: Pillow is not installed, or there is nothing to draw.
        """
        from .chart import evidence_png

        return evidence_png(alert)

    def data(
        self, alerts: Sequence[Alert], names: Mapping[str, str], addresses: Mapping[str, str], test: bool = False
    ) -> dict[str, Any]:
        """Return what a webhook is told of alerts (see ``payload.WebhookData``).

        Args:
            names: run id -> name of the run.
            addresses: alert id -> address of its page, where it is known.
            test: whether this is only a test.
        """
        from .payload import webhook_data

        return webhook_data(alerts, names, addresses, test=test)
