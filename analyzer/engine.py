"""The engine: feeds a run's steps to its rules and keeps the alerts. Live and replayed runs go through the same ``feed``.

Plain Python on the hot path: the engine runs on a thread beside training and shares its interpreter lock. Nothing here looks at the
wall clock; time is what the step records say.
"""

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

from ..storage.records import Alert, AlertState, Batch, SeriesKey, StepRecord
from .alerts import AlertBook
from .episodes import Turn, Watcher, begins_anew
from .facts import Facts
from .risk import SIGNAL, RiskModel
from .risk_course import RiskCourse
from .rules import RuleSet
from .tracks import Feed, Plan, Track, matches, positions

_MOST_PLANS = 64
_STATE_VERSION = 1


class Engine:
    """Judges one run. Not thread-safe: feed it from one thread; ``alerts`` may be read from any.

    Args:
        run_id: the run; batches of another are refused.
        rules: the rules; the package's defaults when None.
        risk: the model behind ``risk``; the package's own when None.
    """

    def __init__(self, run_id: str, rules: RuleSet | None = None, *, risk: RiskModel | None = None) -> None:
        self.run_id = run_id
        self.rules = rules if rules is not None else RuleSet.default()
        self._risk_model = risk
        self.reset()

    def reset(self) -> None:
        """Forget everything, alerts too."""
        self._segment = -1
        self._watchers: dict[tuple[str, str], Watcher] = {}
        self._tracks: dict[SeriesKey, Track] = {}
        self._related: dict[tuple[str, str], list[Track]] = {}
        self._plans: dict[int, tuple[tuple[SeriesKey, ...], Plan]] = {}
        self._plan_of: dict[tuple[SeriesKey, ...], Plan] = {}
        self._guarding: set[Watcher] = set()
        self._ended: dict[tuple[str, str], int] = {}
        self._facts = Facts()
        self._book = AlertBook(self.run_id)
        self.risk = RiskCourse(self._risk_model)

    @property
    def alerts(self) -> list[Alert]:
        """All alerts that have fired so far, oldest first, each as it stands now."""
        return self._book.alerts()

    def feed(self, batch: Batch) -> list[Alert]:
        """Take a batch and return the alerts that are new or changed by it, ready to be saved.

        Steps of an earlier segment than the latest, and steps a series has already passed, are ignored.

        Raises:
            ValueError: the batch belongs to another run.
        """
        if batch.run_id != self.run_id:
            raise ValueError(f"the engine of run {self.run_id!r} was given a batch of run {batch.run_id!r}")
        if batch.segment < self._segment or not batch.steps:
            return []
        if batch.segment > self._segment:
            if self._segment >= 0:
                self._rewind(batch.steps[0])
            self._segment = batch.segment
        for record in batch.steps:
            self._feed_record(record)
        return self._book.take_changed()

    def finish(self, time: float) -> list[Alert]:
        """End the run: what was pending is dropped. Returns alerts whose last step was not yet reported."""
        for watcher in self._watchers.values():
            watcher.drop_pending()
        self._guarding = {watcher for watcher in self._guarding if watcher.open}
        self._book.settle(time)
        return self._book.take_changed()

    def adopt(self, alerts: Iterable[Alert]) -> None:
        """Take over what is stored of this run, when it is resumed: episodes are counted on, so that an alert of the new segment
        is a new one, and what was open stays open until it clears. Alerts the engine knows already are left as they are.

        Args:
            alerts: as ``Store.alerts(run)`` returns them, oldest first.
        """
        active = {rule.name for rule in self.rules.active}
        for alert in alerts:
            if self._book.adopt(alert) and alert.rule in active:
                still_open = alert.state is not AlertState.RESOLVED
                self._watcher(alert.rule, alert.module).adopt(alert.episode, still_open=still_open)
                if still_open:
                    self.risk.turned(alert.rule, alert.module, alert.severity, alert.last_step, fired=True)

    def change_rules(self, rules: RuleSet, record: StepRecord) -> None:
        """Judge by other rules from this step on. What ``feed`` returns next includes the alerts that this closes.

        A changed number keeps what was learned, and alerts that are open or pending (see ``Watcher.change``). Where a rule now
        looks at other signals, reduces them otherwise, or looks at their other side, it begins anew, as a new one does; its open
        alerts are resolved, and so are those of a rule that is switched off or gone, or that looks at their module no more.
        """
        active = {rule.name: rule for rule in rules.active}
        for (name, module), watcher in list(self._watchers.items()):
            rule = active.get(name)
            if rule is None or begins_anew(watcher.rule, rule) or not (rule.across or matches(rule, module)):
                self._end(watcher, record)
            elif rule != watcher.rule:
                watcher.change(rule)
        self.rules = rules
        self._plans.clear()
        self._plan_of.clear()

    def _end(self, watcher: Watcher, record: StepRecord) -> None:
        """Let a watcher go; the next on its module counts its episodes on."""
        name, module = at = watcher.rule.name, watcher.module
        if watcher.open:
            self.risk.turned(name, module, watcher.rule.severity, record.step, fired=False)
            self._book.resolve(watcher, record)
        self._guarding.discard(watcher)
        self._ended[at] = watcher.episode
        del self._watchers[at]

    @classmethod
    def replay(cls, run_id: str, batches: Iterable[Batch], rules: RuleSet | None = None) -> "Engine":
        """Return an engine that has seen a stored run, as ``Store.batches`` yields it."""
        engine = cls(run_id, rules)
        for batch in batches:
            engine.feed(batch)
        return engine

    # -- one step ------------------------------------------------------------------------------------------------

    def _feed_record(self, record: StepRecord) -> None:
        plan = self._plan(record.keys)
        step, values = record.step, record.values
        clean = isfinite(sum(values))  # one pass in C; a false alarm (overflowing sum) only takes the slower way
        if plan.loss >= 0:
            self._facts.feed_loss(step, values[plan.loss])
        if plan.learning_rate >= 0:
            self._facts.feed_rate(step, values[plan.learning_rate])
        if plan.effective >= 0:
            self._facts.feed_effective(values[plan.effective])
        for place, track in plan.tracks:
            if track.last_step is None or step > track.last_step:
                track.points.append((step, values[place]))
                track.last_step = step
        if clean:
            for watch, place, feed in plan.single:
                if (turn := watch(step, values[place])) is not None:
                    self._turned(turn, feed, record)
        else:
            for _, place, feed in plan.single:
                if isfinite(values[place]) and (turn := feed.watcher.feed(step, values[place])) is not None:
                    self._turned(turn, feed, record)
        for feed in plan.joined:
            if step < feed.watcher.due:
                continue
            inputs = feed.inputs(values)
            if inputs is not None and (turn := feed.watcher.feed(step, *inputs)) is not None:
                self._turned(turn, feed, record)
        if not clean or self._guarding:
            self._guard(plan, record)
        self._book.advance(record, self._watchers, self._facts, self._tracks.values())
        self.risk.feed(step, values[plan.loss] if plan.loss >= 0 else None)

    def _guard(self, plan: Plan, record: StepRecord) -> None:
        """Feed the rules that look for non-finite values: only where there is one, or one was seen lately."""
        for feed in plan.guards:
            found = [record.values[place] for place in feed.places[0]]
            value = next((value for value in found if not isfinite(value)), found[0])
            turn = feed.watcher.feed(record.step, value)
            (self._guarding.add if feed.watcher.busy else self._guarding.discard)(feed.watcher)
            if turn is not None:
                self._turned(turn, feed, record)

    def _turned(self, turn: Turn, feed: Feed, record: StepRecord) -> None:
        rule, module = feed.watcher.rule, feed.watcher.module
        self.risk.turned(rule.name, module, rule.severity, record.step, fired=turn is Turn.FIRED)
        if turn is Turn.FIRED:
            self._book.open(feed, self._segment, record)
        else:
            self._book.resolve(feed.watcher, record)

    def _rewind(self, record: StepRecord) -> None:
        """A new segment begins: what lay at or after its first step will come again, and alerts raised there are undone."""
        step = record.step
        for rule, module in self._book.undo(record):
            if (watcher := self._watchers.get((rule, module))) is not None:
                watcher.undo(step)
                self._guarding.discard(watcher)
                self.risk.turned(rule, module, watcher.rule.severity, step, fired=False)
        for watcher in self._watchers.values():
            watcher.rewind(step)
        for track in self._tracks.values():
            track.rewind(step)
        self._facts.rewind(step)
        self._book.rewind(step)
        self.risk.rewind(step)

    # -- plans ---------------------------------------------------------------------------------------------------

    def _plan(self, keys: tuple[SeriesKey, ...]) -> Plan:
        """Return the plan for these keys: at once for the identical tuple, by its hash (some 100 us) for an equal one."""
        known = self._plans.get(id(keys))
        if known is not None and known[0] is keys:
            return known[1]
        plan = self._plan_of.get(keys)
        if plan is None:
            if len(self._plan_of) >= _MOST_PLANS:
                self._plan_of.clear()
            plan = self._plan_of[keys] = self._make_plan(keys)
        if len(self._plans) >= _MOST_PLANS:
            self._plans.clear()
        self._plans[id(keys)] = (keys, plan)  # the tuple is kept, so that its id stays its own
        return plan

    def _make_plan(self, keys: tuple[SeriesKey, ...]) -> Plan:
        plan = Plan()
        places = positions(keys)
        places.pop((SIGNAL, ""), None)  # ours: a live run is judged before it is there, so a replayed one must not see it
        plan.loss = places.get(("loss", ""), [-1])[0]
        plan.learning_rate = places.get(("learning_rate", ""), [-1])[0]
        plan.effective = places.get(("learning_rate.effective", ""), [-1])[0]
        watched: set[int] = set()
        for rule in self.rules.active:
            inputs = list(rule.signals.values())
            of_rule = [at for at in places if at[0] in inputs[0] and matches(rule, at[1])]
            if rule.across and of_rule:
                every = {(inputs[0][0], ""): [place for at in of_rule for place in places[at]]}
                feeds = [self._make_feed(rule.name, "", inputs, {**places, **every}, keys)]
            else:
                feeds = [
                    self._make_feed(rule.name, module, inputs, places, keys) for module in dict.fromkeys(at[1] for at in of_rule)
                ]
            for feed in feeds:
                watched.update(place for group in feed.places for place in group)
                if feed.watcher.detector.SEES_NON_FINITE:
                    plan.guards.append(feed)
                elif len(feed.places) == 1 and len(feed.places[0]) == 1 and not feed.watcher.detector.BY_RANK:
                    plan.single.append((feed.watcher.feed, feed.places[0][0], feed))
                else:
                    plan.joined.append(feed)
        plan.tracks = [(place, self._track(keys[place])) for place in sorted(watched)]
        return plan

    def _make_feed(
        self,
        rule: str,
        module: str,
        inputs: list[tuple[str, ...]],
        places: Mapping[tuple[str, str], list[int]],
        keys: tuple[SeriesKey, ...],
    ) -> Feed:
        groups = [tuple(place for signal in signals for place in places.get((signal, module), ())) for signals in inputs]
        for count, signals in enumerate(inputs[1:], 1):
            if not groups[count]:  # beside a module's own signals stand those of the whole run: its loss, say
                groups[count] = tuple(place for signal in signals for place in places.get((signal, ""), ()))
        tracks = tuple(tuple(self._track(keys[place]) for place in group) for group in groups)
        known = tuple(
            self._known(signals[0], module) if signals and not group else () for group, signals in zip(groups, inputs, strict=True)
        )
        return Feed(self._watcher(rule, module), tuple(groups), tracks, known)

    def _known(self, signal: str, module: str) -> list[Track]:
        """Return the list of tracks of a signal that is not in this tuple of keys: the module's, or the whole run's."""
        at = (signal, "") if (signal, module) not in self._related and (signal, "") in self._related else (signal, module)
        return self._related.setdefault(at, [])

    def _watcher(self, rule: str, module: str) -> Watcher:
        watcher = self._watchers.get((rule, module))
        if watcher is None:
            watcher = self._watchers[rule, module] = Watcher(self.rules[rule], module)
            if (episode := self._ended.pop((rule, module), None)) is not None:
                watcher.adopt(episode, still_open=False)
        return watcher

    def _track(self, key: SeriesKey) -> Track:
        track = self._tracks.get(key)
        if track is None:
            track = self._tracks[key] = Track(key)
            self._related.setdefault((key.signal, key.module), []).append(track)
        return track

    # -- state ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return everything learned and every alert as plain data (numbers, texts, lists, dicts), fit for a checkpoint."""
        return {
            "version": _STATE_VERSION,
            "segment": self._segment,
            "watchers": [watcher.state_dict() for watcher in self._watchers.values()],
            "ended": [[*at, episode] for at, episode in self._ended.items()],
            "tracks": [track.state_dict() for track in self._tracks.values()],
            "facts": self._facts.state_dict(),
            "book": self._book.state_dict(),
            "risk": self.risk.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``. Rules that are gone are left out; a rule changed since keeps its episodes and learns anew.

        Raises:
            ValueError: the state was written by a newer version.
        """
        if state.get("version") != _STATE_VERSION:
            raise ValueError(
                f"analyzer state of version {state.get('version')!r} given; this foreshock reads version {_STATE_VERSION}"
            )
        self.reset()
        self._segment = state["segment"]
        for saved in state["tracks"]:
            track = Track.from_state(saved)
            self._tracks[track.key] = track
            self._related.setdefault((track.key.signal, track.key.module), []).append(track)
        active = {rule.name: rule for rule in self.rules.active}
        for saved in state["watchers"]:
            if saved["rule"] in active:
                watcher = Watcher(active[saved["rule"]], saved["module"])
                watcher.load_state_dict(saved)
                self._watchers[saved["rule"], saved["module"]] = watcher
                if watcher.detector.SEES_NON_FINITE and watcher.busy:
                    self._guarding.add(watcher)
        self._ended = {(rule, module): episode for rule, module, episode in state.get("ended", ())}
        self._facts.load_state_dict(state["facts"])
        self._book.load_state_dict(state["book"])
        if "risk" in state:  # else it was written before there was a risk, which then begins anew
            self.risk.load_state_dict(state["risk"], active)
