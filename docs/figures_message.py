"""Draw the chart that docs/notifications.md shows: ``python docs/figures_message.py``. It is that of ``foreshock notify test``."""

from pathlib import Path

from foreshock.dashboard.messages.chart import evidence_png
from foreshock.dashboard.messages.example import example_alert

PLACE = Path(__file__).resolve().parent / "images" / "message-chart.png"

if __name__ == "__main__":
    PLACE.write_bytes(evidence_png(example_alert(0.0)))
