"""What a report says, as plain data: gathered from the store, and all that the page is made of."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..figures.style import Figure
from ..verdict import Verdict


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure with what it says to those who cannot see it.

    Args:
        name: makes the id of its place on the page.
        label: what is drawn, for screen readers.
        summary: what it shows, in a sentence; empty where there is nothing to say.
    """

    name: str
    label: str
    figure: Figure
    summary: str = ""

    @property
    def height(self) -> int:
        """Height in pixels, kept free for it before it is drawn."""
        return int(self.figure["layout"]["height"])


@dataclass(frozen=True, slots=True)
class Fact:
    """A labelled figure or word."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """A card with one chart: its title, and what trouble it lets the reader recognise."""

    title: str
    hint: str
    chart: Chart
    note: str = ""


@dataclass(frozen=True, slots=True)
class Reason:
    """A possible cause of an alert. ``doc`` names its page among the report's, empty where there is none."""

    title: str
    sure: str
    reasons: Sequence[str]
    remedy: str
    doc: str = ""


@dataclass(frozen=True, slots=True)
class Warned:
    """One alert: what, where, since when, why, what to do, and the series around it."""

    id: str
    severity: str
    state: str
    open: bool
    steps: str
    message: str
    module: str
    rule: str
    measured: str
    reasons: Sequence[Reason]
    remedy: str
    charts: Sequence[Chart] = ()


@dataclass(frozen=True, slots=True)
class Happened:
    """One event."""

    when: str
    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Ruled:
    """One rule in force."""

    title: str
    name: str
    severity: str
    looks_at: str
    fired: int
    changed: str


@dataclass(frozen=True, slots=True)
class Page:
    """The page of a cause that an alert names, as safe HTML."""

    doc: str
    html: str


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a report shows."""

    name: str
    run_id: str
    project: str
    state: str
    life: str
    subtitle: str
    verdict: Verdict
    outlook: Sequence[str]
    facts: Sequence[Fact]
    configuration: Sequence[Fact]
    loss: Picture
    risk: Picture
    heatmaps: Sequence[Picture]
    gradient: Picture
    alerts: Sequence[Warned]
    alerts_left_out: str
    events: Sequence[Happened]
    events_left_out: str
    cost: Picture
    cost_facts: Sequence[Fact]
    troubles: Sequence[str]
    rules: Sequence[Ruled]
    rules_note: str
    causes: Sequence[Page]
    made: Sequence[Fact]

    def charts(self) -> list[Chart]:
        """Return every chart, in the order of the page."""
        pictures = [self.loss, self.risk, *self.heatmaps, self.gradient, self.cost]
        return [picture.chart for picture in pictures] + [chart for alert in self.alerts for chart in alert.charts]
