"""Where a run is heading, measured: what has left its own past furthest, how fast it grows, and which threshold it meets when.

Nothing here is guessed from alerts: every number is read from the run's series, decimated, so that the cost follows the number of
series and not the length of the run (0.15 s of processor time for 22 layers).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..storage.base import Store
from ..storage.holding import current
from ..storage.records import Alert, AlertState, Run, RunStatus, Series, SeriesKey, Severity
from ..storage.results import Envelope, SeriesData
from .movement import LEAST_PAST, LEAST_RECENT, RATE_POINTS, Crossing, Floats, Movement, Rate, crossing, moved, rate
from .risk import SIGNAL as RISK
from .rules import RuleSet
from .watched import SIGMA, WATCHED, Watched

_STRETCHES, _MOST_ROWS = 64, 100_000
"""Stretches of a series that are looked at, and of all series of a signal together."""
_LEAST_STRETCHES = 16
_CLOSER = 4
"""So many candidates of each signal are read again, closely."""
_CLOSE_POINTS = 400
_FAR = 1_000_000

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Moved:
    """A series that has left its past, with its rate of growth where that is certain."""

    key: SeriesKey
    watched: Watched
    movement: Movement
    rate: Rate | None


@dataclass(frozen=True, slots=True)
class Meeting:
    """A series on its way to a threshold of a rule."""

    key: SeriesKey
    watched: Watched
    threshold: float
    rule: str
    rate: Rate
    at: Crossing


@dataclass(frozen=True, slots=True)
class Outlook:
    """What can be said of a run's course.

    Args:
        step: The run's last step; below 0 where nothing was recorded.
        running: Whether it goes on.
        loss, lowest: Newest and lowest loss; None where there is none.
        broken: Step from which on the loss has not been finite; None while it is.
        risk: Newest risk, 0 to 100.
        signals, layers: How many signals, of how many layers, are measured.
        followed, judged: How many series are followed, and how many of them are long enough to be compared with their past.
        moved: What has left its past furthest; None where nothing has.
        others: In how many other places the same signal has left its past.
        growth: The growth of sigma_1 that goes with it (of the layer that moved, else the fastest); None where there is none.
        meeting: The threshold that is met first at the present rates, of a run that goes on.
        first_alert: The first alert of severity warning or above, and first_rule what its rule warns of.
    """

    step: int
    running: bool
    loss: float | None = None
    lowest: float | None = None
    broken: int | None = None
    risk: float | None = None
    signals: int = 0
    layers: int = 0
    followed: int = 0
    judged: int = 0
    moved: Moved | None = None
    others: int = 0
    growth: tuple[SeriesKey, Rate] | None = None
    meeting: Meeting | None = None
    first_alert: Alert | None = None
    first_rule: str = ""


def outlook(
    store: Store, run: Run, alerts: Sequence[Alert], *, running: bool | None = None, rules: RuleSet | None = None
) -> Outlook:
    """Look at a run's course.

    Args:
        alerts: The run's alerts.
        running: Whether it goes on; by default as its process said last.
        rules: Whose thresholds are drawn on to; the default ones where None.
    """
    going = run.status is RunStatus.RUNNING if running is None else running
    if run.last_step < 0:
        return Outlook(run.last_step, going)
    rules = rules or RuleSet.default()
    first, everything = _first(alerts), store.series(run.id)
    by_signal: dict[str, list[Series]] = {}
    for one in everything:
        by_signal.setdefault(one.key.signal, []).append(one)
    begun = Outlook(
        run.last_step,
        going,
        risk=_newest(store, run, RISK),
        signals=len({one.key.signal for one in everything if one.key.module}),
        layers=len({one.key.module for one in everything if one.key.module}),
        first_alert=first,
        first_rule=rules[first.rule].title if first is not None and first.rule in rules else "",
    )
    begun = _of_loss(begun, store, [one for one in by_signal.get("loss", []) if not one.key.module and one.key.rank < 0])
    look, wanted = _Look(store), [(watched, one) for watched in WATCHED for one in by_signal.get(watched.signal, ())]
    found = look.closely(wanted)
    apart = sorted((one for one in found if one.moved is not None), key=lambda one: -one.worry)
    worst = apart[0].moved if apart else None
    same = {one.key.module for one in apart if worst is not None and one.key.signal == worst.key.signal}
    return replace(
        begun,
        followed=len(wanted),
        judged=look.judged,
        moved=worst,
        others=max(0, max(len(same), look.apart.get(worst.key.signal, 0)) - 1) if worst is not None else 0,
        growth=_growth(found, worst),
        meeting=_first_meeting(found, thresholds(rules), run.last_step) if going else None,
    )


def thresholds(rules: RuleSet) -> dict[str, list[tuple[float, bool, str]]]:
    """Return signal -> (threshold, whether it is met from below, title of the rule), of the enabled rules with a fixed one."""
    found: dict[str, list[tuple[float, bool, str]]] = {}
    for rule in rules.active:
        limit = {"level": "level", "growth": "limit"}.get(rule.detector)
        value = rule.parameters.get(limit, 0.0) if limit else 0.0
        if not isinstance(value, int | float) or value <= 0.0 or rule.modules != ("*",):
            continue
        upwards = rule.parameters.get("direction", "above") == "above"
        for signal in rule.signals.get("value", ()):
            found.setdefault(signal, []).append((float(value), upwards, rule.title))
    return found


@dataclass(frozen=True, slots=True)
class _Seen:
    """One series, read closely."""

    key: SeriesKey
    watched: Watched
    moved: Moved | None
    rate: Rate | None

    @property
    def worry(self) -> float:
        """How many times what matters for this signal it has moved."""
        return self.watched.size(self.moved.movement.usual, self.moved.movement.now) if self.moved is not None else 0.0


class _Look:
    """Reads series in a few queries: all that are watched coarsely, then those closely that moved or grow most."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.apart: dict[str, int] = {}
        """Signal -> modules in which it has left its past, as far as a coarse look tells."""
        self.judged = 0

    def closely(self, wanted: Sequence[tuple[Watched, Series]]) -> list[_Seen]:
        """Return the series that are candidates for anything that is told."""
        share = min(_STRETCHES, max(_LEAST_STRETCHES, _MOST_ROWS // max(1, len(wanted))))
        moving: dict[str, list[tuple[float, int]]] = {}
        growing: dict[str, list[tuple[float, int]]] = {}
        modules: dict[str, set[str]] = {}
        coarse = self._store.envelopes([one for _, one in wanted], max_points=share)
        for place, ((watched, series), stretches) in enumerate(zip(wanted, coarse, strict=True)):
            steps, values = _middles(stretches)
            if not len(steps) or not math.isfinite(values[-1]):
                continue  # what is not finite any more is told by the alerts
            self.judged += len(steps) >= LEAST_PAST + LEAST_RECENT
            seen = moved(steps, values, up=watched.up)
            if seen is not None and watched.size(seen.usual, seen.now) >= 1.0:
                moving.setdefault(watched.signal, []).append((-watched.size(seen.usual, seen.now), place))
                modules.setdefault(watched.signal, set()).add(series.key.module)
            grows = rate(steps, values) if watched.grows else None
            if grows is not None and (grows.middle > 0) is watched.up:
                growing.setdefault(watched.signal, []).append((-abs(grows.middle), place))
        self.apart = {signal: len(names) for signal, names in modules.items()}
        every = [*moving.values(), *growing.values()]
        return self._read([wanted[place] for place in sorted({place for pairs in every for _, place in sorted(pairs)[:_CLOSER]})])

    def _read(self, chosen: Sequence[tuple[Watched, Series]]) -> list[_Seen]:
        whole = [_standing(data) for data in self._store.read([one for _, one in chosen], max_points=_CLOSE_POINTS)]
        ends = self._ends([(one, steps) for (_, one), (steps, _) in zip(chosen, whole, strict=True)])
        found = []
        for (watched, one), (steps, values) in zip(chosen, whole, strict=True):
            end = ends.get(one.id)
            grows = rate(*end) if watched.grows and end is not None else None
            grows = grows if grows is not None and grows.certain else None
            seen = moved(steps, values, up=watched.up)
            matters = seen is not None and watched.size(seen.usual, seen.now) >= 1.0
            found.append(_Seen(one.key, watched, Moved(one.key, watched, seen, grows) if seen and matters else None, grows))
        return found

    def _ends(self, series: Sequence[tuple[Series, Ints]]) -> dict[int, tuple[Ints, Floats]]:
        """Return the last points of series, all of them: as far back as so many samples can lie at the closest spacing."""
        starts: dict[int, list[Series]] = {}
        for one, steps in series:
            if len(steps) >= LEAST_PAST:
                close = int(np.diff(np.unique(steps)).min(initial=_FAR))
                starts.setdefault(int(steps[-1]) - 4 * RATE_POINTS * close, []).append(one)
        found = {}
        for start, those in starts.items():  # as a rule two: what is measured at every step, and on sampled ones
            for one, data in zip(those, self._store.read(those, start=start, max_points=8 * RATE_POINTS), strict=True):
                found[one.id] = _standing(data)
        return found


def _middles(found: Envelope) -> tuple[Ints, Floats]:
    """Return the stretches' ends and the middles of their values; nan where one has none, or ends in one that is not finite."""
    holds = current(np.asarray(found.segment, np.int64), np.asarray(found.start_step, np.int64))
    values = 0.5 * (np.asarray(found.minimum, np.float64) + np.asarray(found.maximum, np.float64))
    return np.asarray(found.end_step, np.int64)[holds], values[holds]


def _standing(data: SeriesData) -> tuple[Ints, Floats]:
    steps = np.asarray(data.steps, np.int64)
    holds = current(np.asarray(data.segments, np.int64), steps)
    return steps[holds], np.asarray(data.values, np.float64)[holds]


def _growth(found: Iterable[_Seen], worst: Moved | None) -> tuple[SeriesKey, Rate] | None:
    """Return the growth of sigma_1 of the layer that moved, or of its parts; where that has none, the fastest."""
    growing = [(one.key, one.rate) for one in found if one.watched.signal == SIGMA and one.rate is not None and one.rate.low > 0]
    if worst is None or not growing:
        return None
    near = [pair for pair in growing if _akin(pair[0].module, worst.key.module)]
    return max(near or growing, key=lambda pair: pair[1].middle)


def _akin(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}.") or (bool(one) and other.startswith(f"{one}."))


def _first_meeting(found: Iterable[_Seen], limits: dict[str, list[tuple[float, bool, str]]], step: int) -> Meeting | None:
    meetings = []
    for one in found:
        if one.rate is None:
            continue
        for threshold, upwards, rule in limits.get(one.watched.signal, ()):
            if (one.rate.level < threshold) is not upwards:
                continue  # met already
            at = crossing(one.rate, threshold, horizon=max(step, RATE_POINTS))
            if at is not None:
                meetings.append(Meeting(one.key, one.watched, threshold, rule, one.rate, at))
    return min(meetings, key=lambda meeting: meeting.at.step, default=None)


def _of_loss(begun: Outlook, store: Store, series: Sequence[Series]) -> Outlook:
    """Return the outlook with the newest and lowest loss, and since when it has not been finite."""
    if not series:
        return begun
    steps, values = _standing(store.read(series[:1], max_points=_CLOSE_POINTS)[0])
    if not len(values):
        return begun
    finite = np.isfinite(values)
    lowest = float(values[finite].min()) if finite.any() else None
    broken = None
    if not finite[-1]:
        last = np.flatnonzero(finite)
        broken = int(steps[last[-1] + 1]) if len(last) else int(steps[0])
    return replace(begun, loss=float(values[-1]), lowest=lowest, broken=broken)


def _first(alerts: Iterable[Alert]) -> Alert | None:
    told = [one for one in alerts if one.severity is not Severity.INFO and one.state is not AlertState.PENDING]
    return min(told, key=lambda one: (one.first_step, -one.severity.rank), default=None)


def _newest(store: Store, run: Run, signal: str) -> float | None:
    return store.newest([run.id], [SeriesKey(signal)]).get(run.id, {}).get(SeriesKey(signal))
