"""What the live push sends: patches that, applied in the browser's way, leave the same picture as painting it anew."""

import asyncio
import copy
import math
import queue
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import dash
import pytest
from foreshock.dashboard import decisions, factory, live
from foreshock.dashboard.desk import NewsDesk
from foreshock.dashboard.live import Section
from foreshock.dashboard.pace import Pace
from foreshock.dashboard.showings import Showings, Steering
from foreshock.dashboard.source import StoreSource
from foreshock.dashboard.updates import Sender, Updates, digests
from foreshock.storage.base import Listener, Store
from foreshock.storage.records import (
    AlertState,
    Batch,
    Event,
    Notification,
    NotificationState,
    SeriesKey,
    Silence,
    StepRecord,
    new_id,
)
from foreshock.storage.results import News

LAYER = "blocks.1.attn.q"
SECTIONS: dict[str, tuple[Any, ...]] = {
    "loss": (),
    "gradient": (),
    "overhead": (),
    "risk": (),
    "heat_a": ("spectral_alignment.sign_diversity", LAYER),
    "heat_b": ("weight.spectral_norm", LAYER),
    "distribution": (LAYER,),
    "layer_signal": (LAYER, "attention.max_logit"),
    "layer_facts": (LAYER, None, None),
    "head": (),
    "choices": (LAYER, "spectral_alignment.sign_diversity", "weight.spectral_norm"),
}


class Screen:
    """The properties of the components on a page, changed by updates as the browser changes them."""

    def __init__(self) -> None:
        self.shown: dict[tuple[str, str], Any] = {}
        self.patches = 0
        self.replacements = 0

    def show(self, updates: Any) -> None:
        for component, properties in updates.items():
            for name, value in properties.items():
                if isinstance(value, dash.Patch):
                    self.patches += 1
                    for operation in value.to_plotly_json()["operations"]:
                        self._apply(self.shown[component, name], operation)
                else:
                    self.replacements += 1
                    self.shown[component, name] = copy.deepcopy(value)

    def _apply(self, target: Any, operation: dict[str, Any]) -> None:
        *path, last = operation["location"]
        for key in path:
            target = target[key]
        value = copy.deepcopy(operation["params"]["value"])
        if operation["operation"] == "Assign":
            target[last] = value
        else:
            assert operation["operation"] == "Extend"
            target[last].extend(value)


def make(store: Store, run_id: str, name: str) -> Section:
    section: Section = getattr(factory, name)(store, run_id, *SECTIONS[name])
    return section


def traces(figure: dict[str, Any]) -> list[dict[str, Any]]:
    """What a figure draws, without the colours' range, which a long look may have widened."""
    return [{name: trace[name] for name in ("x", "y", "z", "text", "x0", "dx") if name in trace} for trace in figure["data"]]


@pytest.mark.parametrize("name", ["loss", "gradient", "overhead", "risk", "heat_a", "heat_b", "distribution", "layer_signal"])
def test_patches_leave_the_picture_that_painting_anew_gives(name: str, store: Store, simulated: ModuleType) -> None:
    run = simulated.begin_run(store, "growing")
    simulation = simulated.Simulation(failing=True)
    simulated.write_steps(store, run.id, simulation, 0, 300)
    live, screen = make(store, run.id, name), Screen()
    screen.show(live.paint())
    for start, stop in ((300, 310), (310, 311), (311, 450), (450, 700)):
        simulated.write_steps(store, run.id, simulation, start, stop)
        screen.show(live.advance())
    assert live.advance() == {}
    fresh = Screen()
    fresh.show(make(store, run.id, name).paint())
    assert screen.shown.keys() == fresh.shown.keys()
    ((key, figure),) = [(key, value) for key, value in fresh.shown.items() if key[1] == "figure"]
    assert traces(screen.shown[key]) == traces(figure)
    assert screen.patches >= 3
    assert screen.replacements == len(fresh.shown)


@pytest.mark.parametrize("name", ["loss", "heat_a", "distribution", "layer_signal"])
def test_a_picture_begins_with_the_first_sample_and_again_with_a_segment(name: str, store: Store, simulated: ModuleType) -> None:
    run = simulated.begin_run(store, "young")
    simulation = simulated.Simulation(failing=True)
    live, screen = make(store, run.id, name), Screen()
    screen.show(live.paint())
    simulated.write_steps(store, run.id, simulation, 0, 200)
    screen.show(live.advance())
    segment = store.open_segment(run.id, 150, 1.0)
    simulated.write_steps(store, run.id, simulation, 150, 260, segment)
    screen.show(live.advance())
    fresh = Screen()
    fresh.show(make(store, run.id, name).paint())
    for key, value in fresh.shown.items():
        if key[1] == "figure":
            assert traces(screen.shown[key]) == traces(value)


def test_non_finite_values_reach_an_open_page(store: Store, simulated: ModuleType) -> None:
    run = simulated.begin_run(store, "breaking")
    key = (SeriesKey("loss"),)
    store.write(Batch(new_id(), run.id, 0, tuple(StepRecord(step, 0.0, key, [1.0]) for step in range(5))))
    live, screen = make(store, run.id, "loss"), Screen()
    screen.show(live.paint())
    store.write(Batch(new_id(), run.id, 0, (StepRecord(5, 0.0, key, [math.nan]), StepRecord(6, 0.0, key, [math.inf]))))
    screen.show(live.advance())
    marks, _, _, line = screen.shown["loss", "figure"]["data"]
    assert marks["x"] == [5, 6]
    assert marks["marker"]["symbol"] == ["x", "triangle-up"]
    assert line["y"][-2:] == [None, None]


def test_alerts_and_events_reach_an_open_page(store: Store, simulated: ModuleType) -> None:
    run = simulated.begin_run(store, "warned")
    simulated.write_steps(store, run.id, simulated.Simulation(failing=True), 0, 100)
    chart, head = make(store, run.id, "loss"), make(store, run.id, "head")
    screen, sender_screen = Screen(), Screen()
    screen.show(chart.paint())
    sender_screen.show(head.paint())
    alerts = simulated.failing_alerts(run.id)
    store.save_alerts(alerts)
    store.add_event(Event(new_id(), run.id, 0, 90, 1.0, "resume", "Resumed."))
    store.add_event(Event(new_id(), run.id, 0, 95, 2.0, "intervention", "Stabilised attention is in."))
    screen.show(chart.advance())
    assert screen.shown["loss", "figure"]["data"][1]["x"] == [alert.first_step for alert in store.alerts(run)]
    assert screen.shown["loss", "figure"]["data"][2]["x"] == [90, 95]
    assert [shape["x0"] for shape in screen.shown["loss", "figure"]["layout"]["shapes"]][-1] == 95
    sender_screen.show(head.advance())
    assert "level-critical" in str(sender_screen.shown["verdict", "children"])
    store.set_alert_state(alerts[0].id, AlertState.RESOLVED, at=1.0)
    store.set_alert_state(alerts[1].id, AlertState.RESOLVED, at=1.0)
    sender_screen.show(head.advance())
    assert "level-healthy" in str(sender_screen.shown["verdict", "children"])


def test_a_run_without_risk_shows_a_dash(store: Store, simulated: ModuleType) -> None:
    run = simulated.begin_run(store, "older")
    store.write(Batch(new_id(), run.id, 0, (StepRecord(0, 0.0, (SeriesKey("loss"),), [1.0]),)))
    table, head, chart = factory.overview(store, "?sort=risk&order=desc"), make(store, run.id, "head"), make(store, run.id, "risk")
    assert table.paint()["runs-table"]["data"]["lines"][0]["cells"]["risk"] == "–"
    said = head.paint()
    assert "nothing has been measured yet" in said["risk-words"]["children"]
    assert _fact(said["verdict"]["children"], "Risk") == "–"
    assert "No risk" in str(chart.paint()["risk"]["figure"]["layout"]["annotations"])
    store.write(Batch(new_id(), run.id, 0, (StepRecord(1, 0.0, (SeriesKey("risk"),), [41.6]),)))
    assert _fact(head.advance()["verdict"]["children"], "Risk") == "42"
    assert chart.advance()["risk"]["figure"]["data"][3]["y"] == [41.6]


def _of(component: Any, kind: str) -> list[Any]:
    """The components of a kind below one, or below several."""
    parts = component if isinstance(component, list) else [component]
    return [found for part in parts for found in part._traverse() if type(found).__name__ == kind]


def _fact(component: Any, label: str) -> Any:
    """What a labelled figure says."""
    labels, values = _of(component, "Dt"), _of(component, "Dd")
    return next(value.children[0].children for name, value in zip(labels, values, strict=True) if name.children == label)


def test_a_silence_from_the_page_covers_the_next_episode_and_is_undone(store: Store, simulated: ModuleType) -> None:
    run = simulated.begin_run(store, "noisy")
    alert = simulated.failing_alerts(run.id)[0]
    again = replace(alert, id=new_id(), episode=1, first_step=900, last_step=900)
    elsewhere = replace(alert, id=new_id(), module="blocks.0.attn.q")
    store.save_alerts([alert, elsewhere])
    assert decisions.record(store, alert.id, "silence-8h") == "Saved."
    store.save_alerts([again])
    silenced, firing = AlertState.SILENCED, AlertState.FIRING
    states = lambda: {each.id: each.state for each in store.alerts(run)}  # noqa: E731 - asked thrice
    assert states() == {alert.id: silenced, again.id: silenced, elsewhere.id: firing}
    (silence,) = store.silences()
    assert silence.until is not None
    assert silence.until - silence.created_at == 8 * 3600.0
    assert decisions.record(store, again.id, decisions.UNDO) == "Saved."
    assert states() == {alert.id: firing, again.id: firing, elsewhere.id: firing}
    store.add_silence(Silence(new_id(), run_id=run.id, created_at=1.0))
    assert "wider silence" in decisions.record(store, alert.id, decisions.UNDO)
    assert states()[alert.id] is silenced


def test_dead_letters_of_a_run_and_of_the_store(store: Store, simulated: ModuleType) -> None:
    run, other = simulated.begin_run(store, "mute"), simulated.begin_run(store, "other")
    head, table = make(store, run.id, "head"), factory.overview(store, "")
    assert "letter" not in str(head.paint()["monitor-facts"])
    for each in (run, other):
        alert = simulated.failing_alerts(each.id)[0]
        entry = Notification(new_id(), alert.id, "slack://secret/token", f"foreshock: warning in {each.name}", "It fell.")
        store.save_alerts([alert], [entry])
        store.settle_notification(replace(entry, state=NotificationState.FAILED, attempts=8, error="410 gone"))
    said, listed = str(head.advance()["monitor-facts"]), str(table.paint()["overview-troubles"])
    assert "after 8 tries: 410 gone" in said
    assert "warning in mute" in said
    assert "warning in other" not in said
    assert "warning in other" in listed
    assert "secret" not in said + listed
    dead = store.notifications(states=[NotificationState.FAILED])
    assert [decisions.retry(store, letter.id) for letter in dead] == ["It is tried again now."] * 2
    assert decisions.retry(store, dead[0].id) == "It waits already, or was sent."
    assert "letter" not in str(head.advance()["monitor-facts"])


def test_choices_follow_the_run(store: Store, simulated: ModuleType) -> None:
    run = simulated.begin_run(store, "young")
    choices = factory.choices(store, run.id, None, None, None)
    assert choices.paint() == {}
    simulated.write_steps(store, run.id, simulated.Simulation(failing=False), 0, 20)
    updates = choices.advance()
    assert updates["module"]["value"] == simulated.layers()[0]
    assert len(updates["module"]["options"]) == 12
    assert updates["signal"]["value"] == "spectral_alignment.sign_diversity"
    assert updates["compare"]["value"] == "weight.spectral_norm"
    assert choices.advance() == {}


def test_the_page_opens_with_the_layer_that_matters(store: Store, simulated: ModuleType) -> None:
    run = simulated.write_failing_run(store, steps=300)
    assert factory.choices(store, run.id, "no such layer", None, None).paint()["module"]["value"] == LAYER


def test_without_alerts_it_opens_with_a_layer_that_has_an_alignment(store: Store, simulated: ModuleType) -> None:
    run = simulated.begin_run(store, "calm")
    key = tuple(SeriesKey("gradient.module_norm", name) for name in ("embed", LAYER))
    store.write(Batch(new_id(), run.id, 0, (StepRecord(0, 0.0, key, [1.0, 1.0]),)))
    assert factory.choices(store, run.id, None, None, None).paint()["module"]["value"] == "embed"
    key = (SeriesKey("spectral_alignment.sign_diversity", LAYER),)
    store.write(Batch(new_id(), run.id, 0, (StepRecord(1, 1.0, key, [1.0]),)))
    assert factory.choices(store, run.id, None, None, None).paint()["module"]["value"] == LAYER


def test_attention_as_a_whole_is_seen_with_its_parts(store: Store, simulated: ModuleType) -> None:
    run = simulated.begin_run(store, "whole")
    simulated.write_steps(store, run.id, simulated.Simulation(failing=True), 0, 50)
    key = (SeriesKey("attention.max_logit", "blocks.1.attn", head=0), SeriesKey("attention.entropy_mean", "blocks.1.attn", head=0))
    store.write(Batch(new_id(), run.id, 0, (StepRecord(50, 0.0, key, [30.0, 0.5]),)))
    store.save_alerts(simulated.failing_alerts(run.id, module="blocks.1.attn"))
    assert factory.distribution(store, run.id, "blocks.1.attn").paint()["distribution-of"]["children"] == LAYER
    assert len(factory.heat_a(store, run.id, None, "blocks.1.attn").paint()["heat-a"]["figure"]["layout"]["shapes"]) == 4
    facts = factory.layer_facts(store, run.id, "blocks.1.attn", None, "weight.spectral_norm").paint()
    assert facts["detail"]["value"] == "attention.entropy_mean", "the signal on which the layer's leading alert rests"
    chart = factory.layer_signal(store, run.id, "blocks.1.attn", None).paint()["layer-signal"]["figure"]
    assert "Attention entropy" in chart["layout"]["yaxis"]["title"]["text"]


def test_the_values_of_a_layer_are_those_of_the_chosen_step(store: Store, simulated: ModuleType) -> None:
    run = simulated.begin_run(store, "steps")
    key = (SeriesKey("weight.spectral_norm", LAYER),)
    values = ((0, 1.5), (10, 2.5), (20, 3.5))
    store.write(Batch(new_id(), run.id, 0, tuple(StepRecord(step, 0.0, key, [value]) for step, value in values)))

    def said(step: str | None) -> str:
        return str(factory.layer_facts(store, run.id, LAYER, step, None).paint()["layer-facts"]["children"])

    assert "3.5" in said(None)
    assert "The newest values." in said(None)
    assert "2.5" in said("15")
    assert "3.5" not in said("15")
    assert "up to step 15." in said("15")


@pytest.mark.parametrize("name", ["overview", "head"])
def test_time_passes_without_asking_the_store(
    name: str, store: Store, simulated: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = simulated.begin_run(store, "quiet")
    section = factory.overview(store, "") if name == "overview" else make(store, run.id, name)
    section.paint()
    store.close()
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 95.0)
    assert "1 min ago" in str(section.tick())


def test_one_listener_wakes_those_whose_run_was_written_to(store: Store, simulated: ModuleType) -> None:
    listeners: list[Listener] = []

    class Told(Listener):
        def __init__(self) -> None:
            listeners.append(self)
            self.told: queue.Queue[News] = queue.Queue()

        def wait(self, timeout: float) -> News:
            try:
                return self.told.get(timeout=timeout)
            except queue.Empty:
                return News()

        def close(self) -> None:
            self.told.put(News())

    source = StoreSource(store)
    store.listen = Told  # type: ignore[method-assign]

    async def play() -> None:
        desk = NewsDesk(source)
        with desk.subscribed("a") as first, desk.subscribed("b") as second, desk.subscribed("") as whole:
            for subscription in (first, second, whole):
                assert await subscription.wait(20.0), "what was written before there was a listener"
                subscription.clear()
            listeners[0].told.put(News(frozenset({"b"})))  # type: ignore[attr-defined]
            assert await second.wait(20.0)
            assert await whole.wait(20.0)
            assert not await first.wait(0.05)
        desk.close()

    asyncio.run(play())
    assert len(listeners) == 1


def test_a_property_is_sent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(dash, "set_props", lambda component, properties: sent.append((component, properties)))
    sender, patch = Sender(), dash.Patch()
    sender.send({"a": {"children": ["x"], "className": "c"}})
    sender.send({"a": {"children": ["x"], "className": "d"}, "b": {"figure": patch}})
    sender.send({"b": {"figure": patch}})
    assert [(component, list(properties)) for component, properties in sent] == [
        ("a", ["children", "className"]),
        ("a", ["className"]),
        ("b", ["figure"]),
        ("b", ["figure"]),
    ]


def test_what_the_page_was_made_with_is_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(dash, "set_props", lambda component, properties: sent.append((component, properties)))
    first = {"alerts": {"children": ["a"]}, "verdict": {"children": "Healthy"}}
    sender = Sender(digests(first))
    sender.send(first)
    sender.send({"alerts": {"children": ["a", "b"]}})
    sender.send({"alerts": {"children": ["a"]}})
    assert sent == [("alerts", {"children": ["a", "b"]}), ("alerts", {"children": ["a"]})]


def test_showings_end_when_the_tab_asks_anew_or_leaves() -> None:
    showings = Showings()
    first = showings.begin("tab", "loss", 1)
    other = showings.begin("other tab", "loss", 1)
    second = showings.begin("tab", "loss", 2)
    assert not showings.current("tab", "loss", first)
    showings.end("tab", "loss", first)
    assert showings.current("tab", "loss", second)
    showings.retire("tab", 3)
    assert not showings.current("tab", "loss", second)
    assert showings.current("other tab", "loss", other)
    showings.end("other tab", "loss", other)
    assert len(showings) == 0


def test_a_request_that_was_overtaken_shows_nothing() -> None:
    showings = Showings()
    newer = showings.begin("tab", "loss", 2)
    older = showings.begin("tab", "loss", 1)
    assert showings.current("tab", "loss", newer)
    assert not showings.current("tab", "loss", older)


class Tab:
    """Stands for the browser's end of the socket: what it answers when asked whether it shows the page."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.asked, self.is_shutdown = list(answers), 0, False

    async def get_prop(self, _component: str, _name: str, timeout: float) -> Any:
        self.asked += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Fragile:
    """A section that fails at every third look."""

    made = 0
    subject = "run"

    def __init__(self) -> None:
        Fragile.made += 1
        self.looks = 0

    def paint(self) -> Updates:
        return {"chart": {"children": f"painted {Fragile.made}"}}

    def advance(self) -> Updates:
        self.looks += 1
        if self.looks == 3:
            raise ZeroDivisionError("a surprise")
        return {"chart": {"children": f"painted {Fragile.made}, look {self.looks}"}}

    def tick(self) -> Updates:
        return {}


class Desk:
    """Has news all the time, or never."""

    notice = ""

    def __init__(self, *, busy: bool) -> None:
        self.busy = busy

    @contextmanager
    def subscribed(self, _run_id: str) -> Iterator[Any]:
        async def wait(timeout: float) -> bool:
            await asyncio.sleep(0.001 if self.busy else timeout)
            return self.busy

        yield SimpleNamespace(wait=wait, clear=lambda: None, tell=lambda: None)


class Willing(Pace):
    """The pace of a tab that draws in no time."""

    async def turn(self, timeout: float, unless: Callable[[], bool] = lambda: False, *, quick: bool = False) -> bool:
        return True


def view_of(pace: Pace) -> live.View:
    return live.View(lambda: True, "run-page", "chart", Sender(), pace, Steering(pace), Showings(), heavy=False)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    sent: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(dash, "set_props", lambda component, properties: sent.append((component, properties)))
    monkeypatch.setattr(live, "TRY_AGAIN", 0.001)
    monkeypatch.setattr(live, "LIVENESS_EVERY", 0.15)
    return sent


@pytest.mark.parametrize(
    ("answers", "asked"),
    [
        ([TimeoutError()] * 3, 3),
        ([TimeoutError(), "run-page", TimeoutError(), TimeoutError(), "run-page", None], 6),
        ([None], 1),
        ([dash.exceptions.WebsocketDisconnected()], 1),
    ],
)
def test_a_loop_ends_with_its_tab_and_not_before(
    answers: list[Any], asked: int, sent: list[tuple[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tab = Tab(*answers)
    monkeypatch.setattr(dash, "ctx", SimpleNamespace(websocket=tab))
    Fragile.made = 0

    async def show() -> None:
        await live._show(view_of(Willing()), Fragile, Desk(busy=True))  # type: ignore[arg-type]

    asyncio.run(show())
    assert tab.asked == asked
    assert ("chart", {"children": "painted 2"}) in sent, "a fault ends no loop: the section is drawn anew"
    told = [str(properties) for component, properties in sent if component == "store-trouble"]
    assert any("(ZeroDivisionError)" in words for words in told), "and it is told"
    assert not any("a surprise" in words for words in told), "what it says may be nobody's business: that stands in the log"


def test_a_tab_that_has_not_drawn_is_sent_no_more_until_it_answers(
    sent: list[tuple[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sent meanwhile is sent once, together."""
    tab = Tab(*["run-page"] * 1000)
    monkeypatch.setattr(dash, "ctx", SimpleNamespace(websocket=tab))
    monkeypatch.setattr(live, "LIVENESS_EVERY", 60.0)
    monkeypatch.setattr(Fragile, "advance", lambda self: {"chart": {"children": str(time.monotonic())}})

    async def show() -> list[int]:
        pace = Pace()
        monkeypatch.setattr("foreshock.dashboard.pace.PERIOD", 0.05)
        loop = asyncio.create_task(live._show(view_of(pace), Fragile, Desk(busy=True)))  # type: ignore[arg-type]
        counts = []
        for _ in range(3):
            while not pace.owed:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.2)
            counts.append(len([each for each in sent if each[0] == "chart"]))
            (*_, beat) = [properties["title"] for component, properties in sent if component == "beat"]
            pace.drawn(int(beat))
        loop.cancel()
        return counts

    assert asyncio.run(show()) == [1, 2, 3]


@pytest.mark.parametrize("turns", range(6))
def test_the_end_of_a_loop_is_not_lost_when_its_tab_answers_at_that_moment(turns: int) -> None:
    async def play() -> None:
        pace = Pace()
        number = pace.sent()
        waiting = asyncio.create_task(pace.turn(60.0))
        await asyncio.sleep(0)
        pace.drawn(number)
        for _ in range(turns):
            await asyncio.sleep(0)
        if not waiting.done():
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    asyncio.run(play())


def test_what_is_watched_need_not_rest_with_the_heatmaps() -> None:
    now = 100.0

    async def play() -> None:
        nonlocal now
        pace = Pace(lambda: now)
        pace.sent()
        number = pace.sent(quick=True)
        assert not await pace.turn(0.0, quick=True), "the tab has not drawn yet"
        now += 0.4
        pace.drawn(number)
        now += 0.21
        assert await pace.turn(0.0, quick=True), "half as long as it drew"
        assert not await pace.turn(0.0)
        pace.drawn(pace.sent(quick=True))
        assert not await pace.turn(0.0, quick=True)
        now += 0.2
        assert await pace.turn(0.0, quick=True), "five times a second at most"
        now += 0.4
        assert await pace.turn(0.0), "the loss alone does not put the heatmaps off"

    asyncio.run(play())


def test_the_chart_that_the_reader_acted_on_is_drawn_before_the_others_are_made() -> None:
    now = 100.0

    async def waits(pace: Pace) -> bool:
        waiting = asyncio.create_task(pace.led())
        await asyncio.sleep(0.01)
        done = waiting.done()
        waiting.cancel()
        return not done

    async def play() -> None:
        nonlocal now
        showings = Showings()
        loss, risk = showings.steering("tab", "loss", "loss"), showings.steering("tab", "risk", "risk")
        pace = showings._paces["tab"] = Pace(lambda: now)
        assert not await waits(pace)
        showings.steer("tab", ["10-20"], "loss")
        assert loss.leads
        assert not risk.leads
        assert await waits(pace)
        number = pace.sent()
        pace.leader_sent(number)
        assert await waits(pace), "sent is not drawn"
        pace.drawn(number)
        assert not await waits(pace)
        showings.steer("tab", ["11-20"], "loss")
        pace.leader_sent(None)
        assert not await waits(pace), "it had nothing to send"
        showings.steer("tab", ["12-20"], "loss")
        now += 0.5
        assert not await waits(pace), "a busy browser keeps nobody waiting for long"
        showings.steer("tab", ["13-20"], "a chart of a panel that is closed")
        assert not await waits(pace)

    asyncio.run(play())


def test_a_tab_rests_twice_as_long_as_it_drew() -> None:
    now = 100.0

    async def turns(pace: Pace) -> bool:
        return await pace.turn(0.0)

    async def play() -> None:
        nonlocal now
        pace = Pace(lambda: now)
        assert await pace.turn(1.0)
        first, second = pace.sent(), pace.sent()
        pace.drawn(first)
        assert pace.owed
        now += 0.4
        pace.drawn(second)
        assert not await turns(pace)
        now += 0.79
        assert not await turns(pace)
        now += 0.02
        assert await pace.turn(1.0)
        pace.drawn(pace.sent())
        now += 0.4
        assert not await turns(pace), "a quick tab too is sent to twice a second at most"
        now += 0.2
        assert await pace.turn(1.0)

    asyncio.run(play())
