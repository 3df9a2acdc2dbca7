"""Replays that readers ask for: on threads of their own, with progress, ended when nobody waits for them any more."""

import asyncio
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import dash
from dash import ALL, Input, State
from dash.exceptions import PreventUpdate

from ..storage.errors import StoreError
from ..storage.records import Run, derived_id
from .live import Liveness, View
from .rule_changes import Answer, Form, refused
from .showings import Showings, Steering
from .source import StoreSource
from .updates import Sender, Updates

if TYPE_CHECKING:
    from ..analyzer.rule_layers import RuleLayers
    from ..analyzer.rules import RuleSet

SECONDS = 60.0
"""At most so long a run is replayed for a page; what comes later is said to be missing."""
MOST_RUNS = 6
_LOOK = 0.25  # seconds between two words of progress, and two looks whether the reader is still there
_KEPT = 64

# Replays are Python through and through and share its lock: more at once would only slow the pages down. The others wait in line.
_POOL = ThreadPoolExecutor(max_workers=2, thread_name_prefix="foreshock-replay")


class Stopped(Exception):
    """Nobody waits for the replay any more."""


class Replaying:
    """One replay on its way: a function is given it, and calls ``step`` with the number of steps just done.

    Args:
        total: how many steps there will be, about.
    """

    def __init__(self, work: Callable[["Replaying"], Any], total: int) -> None:
        self._work, self._total = work, max(1, total)
        self._done = 0
        self._began = False
        self._stopped = threading.Event()

    def run(self) -> Any:
        """Do the work, on the thread of whoever calls.

        Raises:
            Stopped: it was stopped.
        """
        self._began = True
        self.step(0)
        return self._work(self)

    def step(self, count: int) -> None:
        """Count steps, and end here if it was stopped."""
        self._done += count
        if self._stopped.is_set():
            raise Stopped

    def stop(self) -> None:
        """Let it end at its next step. Any thread may call."""
        self._stopped.set()

    @property
    def progress(self) -> str:
        """How far it is, in words."""
        if not self._began:
            return "Waiting for other replays to end …"
        return f"Replaying: {min(99, 100 * self._done // self._total)} % …"


def replays(app: dash.Dash, source: StoreSource, showings: Showings) -> None:
    """Register the replay of the list of rules, and the preview of one."""
    known = _Known()

    @app.callback(
        Input("rules-page-ticket", "data"),
        Input("rules-replay-go", "n_clicks"),
        State("rules-run", "data"),
        State("rules-replayed", "data"),
        websocket=True,
        persistent=True,
    )
    async def replay_all(ticket: dict[str, Any] | None, clicks: int | None, run_id: str, replayed: Any) -> None:
        again = dash.ctx.triggered_id == "rules-replay-go"
        if not ticket or not run_id or not ticket["visible"]:
            raise PreventUpdate
        if not again and (replayed or showings.running(str(ticket["tab"]), "replay")):
            raise PreventUpdate
        place = Place("replay", "rules-page", "rules-replay-said", "rules-replay-go")
        await _attended(showings, ticket, place, partial(_fired, source, run_id, known), _counts)

    @app.callback(
        Input("rule-preview-go", "n_clicks"),
        State("rule-page-ticket", "data"),
        State({"kind": "rule-field", "path": ALL}, "value"),
        State({"kind": "rule-field", "path": ALL}, "id"),
        State("rule-of", "data"),
        State("rule-base", "data"),
        State("rule-scope", "value"),
        State("rule-others", "value"),
        websocket=True,
        persistent=True,
        prevent_initial_call=True,
    )
    async def preview(
        clicks: int | None,
        ticket: dict[str, Any] | None,
        values: list[Any],
        names: list[dict[str, str]],
        subject: dict[str, str],
        base: dict[str, str],
        scope: str,
        others: list[str] | None,
    ) -> None:
        if not clicks or not ticket:
            raise PreventUpdate
        form = Form.of(subject, values, names, base)
        place = Place("preview", "rule-page", "rule-preview-said", "rule-preview-go", "rule-preview-stop")
        await _attended(showings, ticket, place, partial(_tried, source, form, scope, others or []), _shown)

    @app.callback(
        Input("rule-preview-stop", "n_clicks"), State("rule-page-ticket", "data"), websocket=True, prevent_initial_call=True
    )
    async def stop(clicks: int | None, ticket: dict[str, Any] | None) -> None:
        if clicks and ticket:
            token = showings.begin(str(ticket["tab"]), "preview", int(ticket["number"]))  # what ran is current no more: it ends
            showings.end(str(ticket["tab"]), "preview", token)
            dash.set_props("rule-preview-said", {"children": "Stopped."})
            dash.set_props("rule-preview-stop", {"hidden": True})
            dash.set_props("rule-preview-go", {"disabled": False})


class Place:
    """Where on a page a replay shows: name of its showing, the page, and the ids of its words and buttons."""

    def __init__(self, name: str, page: str, said: str, go: str, stop: str = "") -> None:
        self.name, self.page, self.said, self.go, self._stop = name, page, said, go, stop

    def running(self, words: str) -> Updates:
        """Return what the page shows while it goes on."""
        return {
            self.said: {"children": words},
            self.go: {"disabled": True},
            **({self._stop: {"hidden": False}} if self._stop else {}),
        }

    @property
    def ended(self) -> Updates:
        """What the buttons are like afterwards."""
        return {self.go: {"disabled": False}, **({self._stop: {"hidden": True}} if self._stop else {})}


async def _attended(
    showings: Showings, ticket: dict[str, Any], place: Place, begin: Callable[[], Replaying], show: Callable[[Any], Updates]
) -> None:
    """Begin a replay and tell its progress as long as the reader is there; show what it came to.

    Args:
        begin: called on a worker thread.
        show: turns its result into what the page shows; called on a worker thread.
    """
    tab, number = str(ticket["tab"]), int(ticket["number"])
    token = showings.begin(tab, place.name, number)
    pace, current = showings.pace(tab), partial(showings.current, tab, place.name, token)
    view = View(current, place.page, place.name, Sender(), pace, Steering(pace), showings, heavy=False)
    socket = dash.ctx.websocket
    job: Replaying | None = None
    try:
        if not view.current():
            return
        view.sender.send(place.running("Beginning …"))
        job = await asyncio.to_thread(begin)
        await _until_done(view, socket, job, place, show)
    except Stopped:
        pass
    except StoreError as error:
        if view.current():
            view.sender.send({**place.ended, place.said: {"children": f"The store cannot be read just now: {error}"}})
    finally:
        if job is not None:
            job.stop()
        showings.end(tab, place.name, token)


async def _until_done(view: View, socket: Any, job: Replaying, place: Place, show: Callable[[Any], Updates]) -> None:
    liveness = Liveness(socket, view) if socket is not None else None
    task = asyncio.get_running_loop().run_in_executor(_POOL, job.run)
    while not task.done():
        await asyncio.wait({task}, timeout=_LOOK)
        if liveness is not None and not await liveness.holds():
            job.stop()
            await asyncio.wait({task})
            task.exception()  # looked at, so that nobody complains of it
            return
        if not task.done():
            view.sender.send(place.running(job.progress))
    found = await task
    updates = await asyncio.to_thread(show, found)
    if view.current():
        view.sender.send({**place.ended, **updates})


class _Known:
    """What the last replays came to, so that coming back to a page costs nothing. Any thread may ask."""

    def __init__(self) -> None:
        self._found: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> Any:
        """Return it, or None."""
        with self._lock:
            return self._found.get(key)

    def put(self, key: str, found: Any) -> None:
        """Keep it; the oldest goes."""
        with self._lock:
            self._found[key] = found
            while len(self._found) > _KEPT:
                self._found.popitem(last=False)


def _fired(source: StoreSource, run_id: str, known: _Known) -> Replaying:
    """Begin to replay a run by the rules in force: how often each fires, and in words how far it came."""
    from ..analyzer.rule_layers import in_force
    from ..analyzer.rule_trial import replay

    store = source()
    run = store.run(run_id)
    rules = in_force(store, run).rules
    key = _digest(run, rules)

    def work(job: Replaying) -> Any:
        found = known.get(key)
        if found is None:
            done = replay(store, run, [rules], progress=job.step, seconds=SECONDS)
            first: dict[str, list[int]] = {}
            for alert in done.engines[0].alerts:
                first.setdefault(alert.rule, []).append(alert.first_step)
            fired = {rule: [len(steps), min(steps)] for rule, steps in first.items()}
            if done.last_step is None:
                said = "This run has no steps yet."
            elif done.whole:
                said = f"Replayed all {done.steps:,} steps by these rules in {done.seconds:.1f} s: {_counted(fired)}."
            else:
                said = (
                    f"Replayed up to step {done.last_step:,} of {run.last_step:,}; then the {SECONDS:.0f} s for a page were up: "
                    f"{_counted(fired)}. foreshock backtest {run.id[:8]} replays all of it."
                )
            found = ({"fired": fired, "whole": done.whole, "at": time.time()}, said)
            known.put(key, found)
        return found

    return Replaying(work, run.last_step + 1)


def _counted(fired: dict[str, list[int]]) -> str:
    count = sum(each for each, _ in fired.values())
    if not count:
        return "no rule fires"
    rules = "1 rule fires" if len(fired) == 1 else f"{len(fired)} rules fire"
    return f"{rules}, {count:,} alert{'' if count == 1 else 's'}"


def _counts(found: Any) -> Updates:
    """Return what the list shows of a replay."""
    counted, said = found
    return {"rules-replayed": {"data": counted}, "rules-replay-said": {"children": said}}


def _digest(run: Run, rules: "RuleSet") -> str:
    tables = json.dumps(rules.tables, sort_keys=True, default=str)
    return derived_id(run.id, run.last_step, run.heartbeat_at, tables)


def _tried(source: StoreSource, form: Form, scope: str, others: list[str]) -> Replaying:
    """Begin to try a form on runs: its own first, then the others that were chosen."""
    from ..analyzer.rule_edits import revised, trying
    from ..analyzer.rule_layers import in_force
    from ..analyzer.rule_trial import try_rules
    from ..analyzer.rules import RuleError
    from .reading import line
    from .rule_words import scopes_of

    store = source()
    run = store.run(form.run_id) if form.run_id else None
    chosen = list(dict.fromkeys([*([form.run_id] if form.run_id else []), *others]))
    runs = [store.run(each) for each in chosen[:MOST_RUNS]]
    left = len(chosen) - len(runs)
    total = sum(each.last_step + 1 for each in runs)

    def work(job: Replaying) -> Any:
        place = scopes_of(run.project if run is not None else "", form.run_id)[scope]
        layers = in_force(store, run)
        try:
            changes = revised(layers, form.rule, place, form.edited)
        except RuleError as error:
            return refused(error)
        found = []
        for each in runs:
            mine = in_force(store, each)
            if form.rule not in mine.rules:
                continue
            # In another run the change is tried as it would come there: in the scope chosen, or, if that is one run, in its own.
            there = ("", each.id) if place[1] else place if place[0] in ("", each.project) else (each.project, "")
            try:
                after = trying(
                    mine, form.rule, there, changes if there == place else _with_own(mine, form.rule, there, changes)
                ).rules
            except RuleError as error:
                return refused(error)
            trial = try_rules(store, each, mine.rules, after, [form.rule], progress=job.step, seconds=SECONDS / len(runs))
            found.append((trial, line(store, each.id, "loss")))
        return found, left, bool(form.edited)

    return Replaying(work, total)


def _with_own(layers: "RuleLayers", rule: str, scope: tuple[str, str], changes: dict[str, Any]) -> dict[str, Any]:
    """Return changes laid over those that hold there already."""
    from ..analyzer.rule_layers import flat, nested

    version = layers.seen(rule, scope)
    return nested({**(flat(version.changes) if version is not None else {}), **flat(changes)})


def _shown(found: Any) -> Updates:
    """Return what a preview shows: what is wrong with the form, or run by run what would be different."""
    if isinstance(found, Answer):
        return {"rule-preview-said": {"children": "The form cannot be tried:"}, "rule-preview": {"children": found.problems[1:]}}
    from .pages.trial import trial_card

    trials, left, edited = found
    if not trials:
        said = "Choose a run to try it on." if not left else "None of these runs has this rule."
        return {"rule-preview-said": {"children": said}, "rule-preview": {"children": []}}
    seconds, steps = sum(trial.replay.seconds for trial, _ in trials), sum(trial.replay.steps for trial, _ in trials)
    said = f"Replayed {steps:,} steps of {len(trials)} run{'' if len(trials) == 1 else 's'} in {seconds:.1f} s."
    said += "" if edited else " Nothing is edited in the form, so both are the same."
    said += f" {left} more were chosen than fit a preview ({MOST_RUNS})." if left else ""
    cards = [trial_card(trial, loss, number) for number, (trial, loss) in enumerate(trials)]
    return {"rule-preview-said": {"children": said}, "rule-preview": {"children": cards}}
