"""The alerts of one run: opened with evidence and a message, kept up to date, explained, resolved."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Any

from ..storage.records import Alert, AlertState, Severity, StepRecord, derived_id
from .diagnosis import changed_materially, diagnose
from .episodes import Watcher
from .facts import LASTING, Facts, Observation
from .states import alert_from_plain, alert_to_plain
from .tracks import Feed, Track
from .wording import fill, join, number, place, series_name

_REDIAGNOSE_STEPS = 50
_REPORT_STEPS = 100
_MOST_REWRITES = 20
_MEMORY_STEPS = 500
_CAME_BACK_STEPS = 60
_START_STEPS = 10
_SWAMPED = 3.0
"""Update over weight from which a warm-up to the same rate is no cure; without a warm-up the zoo's failing runs begin at 1."""
_MOST_NAMED = 3
_ALSO = " The same in "


@dataclass(slots=True)
class _Entry:
    """An alert and what is not written into it at every step.

    ``members`` are the modules at which it is open now; ``others`` those that joined it after the first, of which it tells.
    """

    alert: Alert
    last_step: int
    updated_at: float
    rewrites: int = 0
    members: dict[str, None] = field(default_factory=dict)
    others: dict[str, None] = field(default_factory=dict)

    def join(self, module: str) -> None:
        """Count another module in and say so."""
        self.members[module] = None
        if module == self.alert.module or module in self.others:
            return
        self.others[module] = None
        count, named = len(self.others), [place(other) for other in islice(self.others, _MOST_NAMED)]
        more = f", such as {join(named)}" if count > _MOST_NAMED else f": {join(named)}"
        message = self.alert.message.partition(_ALSO)[0]
        told = f"{message}{_ALSO}{count:,} other module{'s' if count > 1 else ''}{more}."
        self.alert = replace(self.now(), message=told)

    def now(self) -> Alert:
        """Return the alert as it stands now."""
        if self.last_step == self.alert.last_step:
            return self.alert
        return replace(self.alert, last_step=self.last_step, updated_at=self.updated_at)


class AlertBook:
    """Keeps a run's alerts. Rewriting is limited: an open alert is reported again when its diagnosis changes materially, and else
    at ever longer distances.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._entries: dict[str, _Entry] = {}
        self._open: dict[tuple[str, str], _Entry] = {}
        self._changed: dict[str, None] = {}
        self._stale = False
        self._diagnosed_step = 0
        self._lasting: dict[str, Observation] = {}

    def alerts(self) -> list[Alert]:
        """Return all alerts, oldest first."""
        return [entry.now() for entry in list(self._entries.values())]

    def open(self, feed: Feed, segment: int, record: StepRecord) -> None:
        """A watcher's alert fired: a new one, or one more module of an alert that gathers them."""
        watcher, rule, finding = feed.watcher, feed.watcher.rule, feed.watcher.finding
        assert finding is not None
        if rule.gather and (gathered := self._gathered(rule.name)):
            self._open[rule.name, watcher.module] = gathered
            gathered.last_step, gathered.updated_at = record.step, record.time
            gathered.join(watcher.module)
            self._changed[gathered.alert.id] = None
            return
        shown = feed.shown()
        driver = shown[0].key
        evidence = tuple(
            track.evidence(finding.threshold, finding.baseline) if count == 0 else track.evidence()
            for count, track in enumerate(shown)
        )
        facts = {
            "place": place(watcher.module, driver.head if rule.reduce != "mean" else -1),
            "module": watcher.module or "the run",
            "signal": driver.signal,
            "series": series_name(driver),
            "step": record.step,
            "value": finding.value,
            **{name: value for name in ("threshold", "baseline") if (value := getattr(finding, name)) is not None},
            **finding.facts,
        }
        alert = Alert(
            id=derived_id(self._run_id, rule.name, watcher.module, watcher.episode),
            run_id=self._run_id,
            rule=rule.name,
            module=watcher.module,
            episode=watcher.episode,
            severity=rule.severity,
            state=AlertState.FIRING,
            segment=segment,
            first_step=record.step,
            last_step=record.step,
            created_at=record.time,
            updated_at=record.time,
            message=_sentence(fill(rule.message, facts)),
            value=finding.value,
            threshold=finding.threshold,
            evidence=evidence,
            remedy=rule.remedy,
        )
        entry = _Entry(alert, record.step, record.time, members={watcher.module: None})
        self._entries[alert.id] = entry
        self._open[rule.name, watcher.module] = entry
        self._changed[alert.id] = None
        self._stale = True

    def adopt(self, alert: Alert) -> bool:
        """Take over an alert that another engine raised; False where it is known already."""
        if alert.id in self._entries:
            return False
        self._entries[alert.id] = entry = _Entry(alert, alert.last_step, alert.updated_at, members={alert.module: None})
        if alert.state is not AlertState.RESOLVED:
            self._open[alert.rule, alert.module] = entry
        return True

    def resolve(self, watcher: Watcher, record: StepRecord) -> None:
        """A watcher's alert is over; one that gathers modules is, once it is over at all of them."""
        entry = self._open.pop((watcher.rule.name, watcher.module), None)
        if entry is None:
            return
        entry.members.pop(watcher.module, None)
        if entry.members:
            return
        entry.last_step, entry.updated_at = record.step, record.time
        entry.alert = replace(entry.alert, state=AlertState.RESOLVED, last_step=record.step, updated_at=record.time)
        self._changed[entry.alert.id] = None
        self._stale = True

    def _gathered(self, rule: str) -> _Entry | None:
        """Return the rule's open alert."""
        return next((entry for (name, _), entry in self._open.items() if name == rule), None)

    def advance(
        self, record: StepRecord, watchers: Mapping[tuple[str, str], Watcher], facts: Facts, tracks: Iterable[Track]
    ) -> None:
        """A step is over: move open alerts on, and explain them anew where something fired, resolved, or time has passed."""
        if not self._open and not self._stale:
            return
        step = record.step
        for at, entry in self._open.items():
            if at in watchers and watchers[at].last_step == step:
                entry.last_step, entry.updated_at = step, record.time
                reported = entry.alert.last_step
                if step - reported >= max(_REPORT_STEPS, (reported - entry.alert.first_step) // 2):
                    entry.alert = entry.now()
                    self._changed[entry.alert.id] = None
        if self._stale or step - self._diagnosed_step >= _REDIAGNOSE_STEPS:
            self._explain(step, facts, tracks)

    def settle(self, time: float) -> None:
        """The run ended: bring what is stored up to date."""
        for entry in self._open.values():
            if entry.last_step != entry.alert.last_step:
                entry.alert = replace(entry.now(), updated_at=max(time, entry.updated_at))
                self._changed[entry.alert.id] = None

    def undo(self, record: StepRecord) -> list[tuple[str, str]]:
        """The run goes on from ``record`` in a new segment: close what was raised at its step or later, for that has not happened
        in the course that counts. Returns rule and module of each.
        """
        undone = [at for at, entry in self._open.items() if entry.alert.first_step >= record.step]
        for at in undone:
            entry = self._open.pop(at)
            entry.members.clear()
            entry.alert = replace(entry.now(), state=AlertState.RESOLVED, updated_at=record.time)
            entry.last_step = entry.alert.last_step
            self._changed[entry.alert.id] = None
            self._stale = True
        return undone

    def rewind(self, step: int) -> None:
        """The run resumed at ``step``: distances are counted from there."""
        self._diagnosed_step = min(self._diagnosed_step, step)
        for entry in self._open.values():
            entry.last_step = max(entry.last_step, entry.alert.last_step)

    def take_changed(self) -> list[Alert]:
        """Return the alerts new or changed since the last call."""
        changed = [self._entries[identity].now() for identity in self._changed]
        self._changed.clear()
        return changed

    def _explain(self, step: int, facts: Facts, tracks: Iterable[Track]) -> None:
        """Rank causes by what is open now or was shortly before, and write them into the open alerts where that changes much.

        What the learning rate did stays a reason for as long as an alert is open, though its course moves on.
        """
        self._stale = False
        self._diagnosed_step = step
        loud = [entry.alert.first_step for entry in self._open.values() if entry.alert.severity is not Severity.INFO]
        seen = {observation.name: observation for observation in facts.observations(step, tracks)}
        self._lasting = {**{name: item for name, item in seen.items() if name in LASTING}, **self._lasting} if loud else {}
        causes = diagnose([*self._findings(min(loud, default=step)), *{**seen, **self._lasting}.values()])
        for entry in self._open.values():
            alert = entry.alert
            if entry.rewrites >= _MOST_REWRITES or not changed_materially(alert.diagnosis, causes):
                continue
            entry.rewrites += 1
            entry.alert = replace(entry.now(), diagnosis=causes)
            self._changed[alert.id] = None

    def _findings(self, since: int) -> list[Observation]:
        """Return what is open, or was within the last steps before the first open warning."""
        recent = [
            entry.alert
            for entry in self._entries.values()
            if entry.alert.state is not AlertState.RESOLVED or entry.last_step >= since - _MEMORY_STEPS
        ]
        found = [Observation(alert.rule, alert.message, alert.first_step, alert.module) for alert in recent]
        for alert in recent:
            took = alert.last_step - alert.first_step
            if alert.rule == "loss_spike" and alert.state is AlertState.RESOLVED and took <= _CAME_BACK_STEPS:
                found.append(Observation("loss_came_back", f"the loss came back within {took} steps", alert.last_step))
            times = alert.value if alert.rule == "oversized_updates" and alert.first_step <= _START_STEPS else None
            if times is not None and times >= _SWAMPED:
                text = f"the first updates were {number(times)} times as large as the weights, which no warm-up mends"
                found.append(Observation("swamped_at_start", text, alert.first_step, known={"times": times}))
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return all alerts and their bookkeeping as plain data."""
        return {
            "entries": [
                {
                    "alert": alert_to_plain(entry.alert),
                    "last_step": entry.last_step,
                    "updated_at": entry.updated_at,
                    "rewrites": entry.rewrites,
                    "members": list(entry.members),
                    "others": list(entry.others),
                }
                for entry in self._entries.values()
            ],
            "changed": list(self._changed),
            "stale": self._stale,
            "diagnosed_step": self._diagnosed_step,
            "lasting": [asdict(observation) for observation in self._lasting.values()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``."""
        for saved in state["entries"]:
            entry = _Entry(alert_from_plain(saved["alert"]), saved["last_step"], saved["updated_at"], saved["rewrites"])
            still_open = [entry.alert.module] if entry.alert.state is not AlertState.RESOLVED else []
            entry.members = dict.fromkeys(
                saved.get("members", still_open)
            )  # states written before alerts gathered modules have none
            entry.others = dict.fromkeys(saved.get("others", ()))
            self._entries[entry.alert.id] = entry
            self._open.update(dict.fromkeys(((entry.alert.rule, module) for module in entry.members), entry))
        self._changed = dict.fromkeys(state["changed"])
        self._stale, self._diagnosed_step = state["stale"], state["diagnosed_step"]
        self._lasting = {saved["name"]: Observation(**saved) for saved in state["lasting"]}


def _sentence(text: str) -> str:
    """Begin with a capital letter, unless the text begins with a name such as ``weight.spectral_norm``."""
    return text if "." in text.partition(" ")[0] else text[:1].upper() + text[1:]
