"""Which runs the list shows, and in which order: filters, columns to sort by, groups, and the choices that the filters offer."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..storage.records import Severity
from .paths import RunsView
from .roster import Figures, Listed
from .searching import terms_of
from .vitals import Life, life

NAMELESS = "–"
"""What a run without a project is listed under."""
NO_ALERTS = "none"
_MOST_CHOICES = 300
"""Projects or tags that a filter offers: those of most runs."""

LIFE_ORDER = (Life.LIVE, Life.STALE, Life.LOST, Life.CRASHED, Life.TERMINATED, Life.FINISHED)

Alerts = Mapping[Severity, int]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the list: its name in the address, its heading, and what it is sorted by.

    Args:
        key: Takes a run, its figures and the time.
        numeric: Largest first where it is sorted for the first time.
        measured: Whether the key needs the figures.
    """

    name: str
    heading: str
    key: Callable[[Listed, Figures, float], Any]
    numeric: bool = False
    hint: str = ""
    measured: bool = False


def _or_least(value: float | None) -> float:
    return float("-inf") if value is None or value != value else value


def project_of(one: Listed) -> str:
    """Return the name of the project that a run is listed under."""
    return one.run.project or NAMELESS


def badness(alerts: Alerts) -> tuple[int, ...]:
    """Return numbers of open alerts, the most severe first: what is larger is worse."""
    return tuple(alerts.get(severity, 0) for severity in reversed(Severity))


COLUMNS = (
    Column("name", "Run", lambda one, _, now: one.run.name.casefold()),
    Column("project", "Project", lambda one, _, now: one.run.project.casefold()),
    Column("state", "State", lambda one, _, now: LIFE_ORDER.index(life(one.run, now))),
    Column("alerts", "Alerts", lambda one, _, now: badness(one.alerts), numeric=True, hint="Open alerts"),
    Column(
        "risk",
        "Risk",
        lambda _, seen, now: _or_least(seen.risk),
        True,
        "How likely the run is to fail soon, 0 to 100",
        measured=True,
    ),
    Column("loss", "Loss", lambda _, seen, now: _or_least(seen.loss), numeric=True, measured=True),
    Column("step", "Last step", lambda one, _, now: one.run.last_step, numeric=True),
    Column(
        "rate", "Steps/s", lambda _, seen, now: _or_least(seen.rate), True, "Steps per second, of the last 50 steps", measured=True
    ),
    Column("heartbeat", "Heartbeat", lambda one, _, now: one.run.heartbeat_at, numeric=True),
    Column("started", "Started", lambda one, _, now: one.run.created_at, True, "When it began, and how long it has run"),
    Column(
        "cost", "Cost", lambda _, seen, now: _or_least(seen.cost), True, "Share of training time spent on monitoring", measured=True
    ),
)


def narrowed(listed: Iterable[Listed], view: RunsView, now: float) -> list[Listed]:
    """Return the runs that a view shows, in the order given."""
    terms = terms_of(view.text)
    tests: list[Callable[[Listed], bool]] = []
    if view.states:
        tests.append(lambda one: life(one.run, now).value in view.states)
    if view.projects:
        tests.append(lambda one: project_of(one) in view.projects)
    if view.tags:
        tests.append(lambda one: any(tag in view.tags for tag in one.run.tags))
    if view.alerts:
        tests.append(lambda one: _alerts_match(one.alerts, view.alerts))
    if terms:
        tests.append(lambda one: one.words.match(terms))
    return [one for one in listed if all(test(one) for test in tests)]


def _alerts_match(alerts: Alerts, wanted: str) -> bool:
    if wanted == NO_ALERTS:
        return not any(alerts.values())
    least = next((severity.rank for severity in Severity if severity.value == wanted), 0)
    return any(count for severity, count in alerts.items() if severity.rank >= least)


def ordered(
    listed: Sequence[Listed], column: Column | None, view: RunsView, figures: Mapping[str, Figures], now: float
) -> list[Listed]:
    """Sort runs by a column; those that are equal there, and all without a column, stay as they are given: newest first."""
    if column is None:
        return list(listed)
    unknown, key = Figures(), column.key
    return sorted(listed, key=lambda one: key(one, figures.get(one.run.id, unknown), now), reverse=view.descending)


@dataclass(frozen=True, slots=True)
class Group:
    """The heading of a project's runs: how many are in which state, and what stands against them.

    Args:
        continued: Whether its first runs stand on the page before.
    """

    name: str
    closed: bool
    states: Mapping[Life, int]
    alerts: Alerts
    continued: bool = False

    @property
    def size(self) -> int:
        """Number of its runs."""
        return sum(self.states.values())


Item = Listed | Group


def arranged(runs: Sequence[Listed], view: RunsView, now: float) -> list[Item]:
    """Return the list's rows in order: runs, under headings where they are grouped. The group of the first run comes first."""
    if not view.group:
        return list(runs)
    groups: dict[str, list[Listed]] = {}
    for one in runs:
        groups.setdefault(project_of(one), []).append(one)
    items: list[Item] = []
    for name, members in groups.items():
        alerts: Counter[Severity] = Counter()
        for one in members:
            alerts.update(one.alerts)
        closed = view.closed(name)
        items.append(Group(name, closed, Counter(life(one.run, now) for one in members), alerts))
        items += [] if closed else members
    return items


def page_of(items: Sequence[Item], page: int, size: int) -> list[Item]:
    """Return a page of the list; where it begins within a group, the group's heading stands above it again."""
    first = (page - 1) * size
    shown = list(items[first : first + size])
    if shown and isinstance(shown[0], Listed):
        above = next((item for item in reversed(items[:first]) if isinstance(item, Group)), None)
        shown = [*([replace(above, continued=True)] if above is not None else []), *shown]
    return shown


Choices = list[dict[str, str]]
"""What a filter offers: ``{"label": shown, "value": chosen}``."""


def choices(listed: Sequence[Listed], view: RunsView, now: float) -> dict[str, Choices]:
    """Return what the filters ``states``, ``projects`` and ``tags`` offer, each with how many runs there are of it.

    What is chosen is always among it: a choice that is not there could not be taken back.
    """
    states = Counter(life(one.run, now).value for one in listed)
    projects = Counter(project_of(one) for one in listed)
    tags = Counter(tag for one in listed for tag in one.run.tags)
    return {
        "states": _offered(states, view.states, [state.value for state in LIFE_ORDER]),
        "projects": _offered(projects, view.projects),
        "tags": _offered(tags, view.tags),
    }


def _offered(counts: Counter[str], chosen: Sequence[str], order: Sequence[str] = ()) -> Choices:
    common = [name for name, _ in counts.most_common(_MOST_CHOICES)]
    names = [name for name in order if name in counts] if order else sorted(common, key=str.casefold)
    names += [name for name in chosen if name not in names]
    return [{"label": f"{name} ({counts[name]:,})", "value": name} for name in names]
