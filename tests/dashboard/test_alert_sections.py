"""What the inbox and the page of an alert say, without a browser: sieve, requests, sections, history, bundles, evidence."""

import math
import socket
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from foreshock.analyzer import handling
from foreshock.analyzer.messages import alert_path as notified_path
from foreshock.dashboard import asked, factory, paths, updates
from foreshock.dashboard.history import history_of
from foreshock.dashboard.pages.inbox import row_id
from foreshock.dashboard.sections.around import window
from foreshock.dashboard.sections.inbox import PAGE, Inbox
from foreshock.dashboard.sieve import Sieve, sieve_at, sieve_of
from foreshock.dashboard.vitals import moment
from foreshock.storage.base import Store
from foreshock.storage.captures import INSPECTED
from foreshock.storage.records import (
    Alert,
    AlertState,
    Cause,
    Event,
    Evidence,
    Notification,
    NotificationState,
    Run,
    SeriesKey,
    Severity,
    derived_id,
    new_id,
)
from plotly import graph_objects

HOSTILE = "<script>alert('x')</script>\"' \u202e\0 100 %"


def text_of(component: Any) -> str:
    """All that a component says."""
    if isinstance(component, (list, tuple)):
        return " ".join(filter(None, map(text_of, component)))
    if isinstance(component, str):
        return component
    return text_of(getattr(component, "children", None) or "")


def raised(store: Store, run: Run, count: int, **fields: Any) -> list[Alert]:
    now = time.time()
    made = [
        Alert(
            derived_id(run.id, number), run.id, "drift", f"blocks.{number}", 0, Severity.WARNING, AlertState.FIRING, 0,
            number, number, now - 4000.0 - number, now, f"It drifts since step {number}.",
        )
        for number in range(count)
    ]  # fmt: skip
    made = [replace(alert, **fields) for alert in made]
    made = [replace(alert, id=derived_id(run.id, alert.rule, alert.module)) for alert in made]
    store.save_alerts(made)
    return made


@pytest.fixture
def run(store: Store, simulated: ModuleType) -> Run:
    made: Run = simulated.begin_run(store, "gpt2")
    return made


def test_an_address_holds_the_whole_sieve_and_nonsense_takes_its_default() -> None:
    full = Sieve("all", (Severity.CRITICAL, Severity.INFO), "r", "p", "drift", "overflow", HOSTILE, by_run=True, page=3)
    assert sieve_at(paths.alerts_path(full.query()).partition("?")[2]) == full
    assert paths.alerts_path(Sieve().query()) == "/alerts"
    for nonsense in (
        "state=x&severity=y,,&page=-1&by=z",
        "page=1e9",
        "page=99999999999999999999",
        "page=٣٣٣٣٣٣٣٣٣",
        "%00=%ff&text",
    ):
        assert sieve_at(nonsense) == Sieve()
    assert sieve_of({"state": ["open"], "text": 5, "page": 2, "run": None}) == Sieve()
    assert sieve_of(None) == Sieve()
    assert len(sieve_of({"text": "x" * 10_000}).text) == 500


def test_links_to_an_alert_are_those_that_notifications_send() -> None:
    for identity in ("a" * 32, "a/b c?#%"):
        assert paths.alert_path(identity) == notified_path(identity)
        assert paths.place_of(paths.alert_path(identity)) == ("alert", identity)


def test_the_inbox_sends_only_the_rows_that_changed(store: Store, run: Run) -> None:
    alerts = raised(store, run, PAGE + 5)
    inbox = Inbox(store, Sieve())
    whole = inbox.paint()
    assert f"{PAGE + 5} open" in text_of(whole["inbox-counts"]["children"])
    assert f"1–{PAGE} of {PAGE + 5} alerts" in text_of(whole["inbox-pager"]["children"])
    offered = factory.offers(store, {"rule": "gone"}).paint()
    assert text_of(offered["inbox-rule"]["children"]) == f"any drift ({PAGE + 5}) gone (0)"
    assert text_of(offered["inbox-run"]["children"]) == "any"
    assert "inbox-list" in whole
    quiet = inbox.advance()
    assert not [name for name in quiet if name == "inbox-list" or name.startswith("alert-")]
    handling.decide(store, {alerts[0].id: None}, AlertState.ACKNOWLEDGED, by="ann")
    (moved,) = [update for name, update in inbox.advance().items() if name == "inbox-list"]
    assert text_of(moved["children"]).index("step 1.") < text_of(moved["children"]).index("step 2.")
    only = Inbox(store, Sieve("acknowledged"))
    only.paint()
    handling.comment_on(store, alerts[0].id, "Hello.")
    assert not [name for name in only.advance() if name.startswith("alert-")]
    store.save_alerts([replace(alerts[0], last_step=77)])
    (row,) = [update for name, update in only.advance().items() if name.startswith("alert-")]
    assert "last seen step 77" in text_of(row["children"])
    second = Inbox(store, Sieve(page=2)).paint()
    assert text_of(second["inbox-list"]["children"]).count("It drifts") == 5
    assert text_of(Inbox(store, Sieve(page=99)).paint()["inbox-list"]["children"]) == text_of(second["inbox-list"]["children"])


def test_a_list_that_is_as_it_was_is_sent_again_after_its_rows_were(
    store: Store, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, Any] = {}
    monkeypatch.setattr(updates.dash, "set_props", lambda component, properties: shown.update({component: properties}))
    first, second = raised(store, run, 2)
    inbox, sender = Inbox(store, Sieve()), updates.Sender()
    sender.send(inbox.paint())
    for state in (AlertState.ACKNOWLEDGED, AlertState.FIRING, AlertState.ACKNOWLEDGED, AlertState.FIRING):
        handling.decide(store, {second.id: None}, state)
        shown.clear()
        sender.send(inbox.advance())
        assert [name for name in shown if name == row_id(second.id)], "the second stays where it is"
    for state in (AlertState.ACKNOWLEDGED, AlertState.FIRING, AlertState.ACKNOWLEDGED):
        handling.decide(store, {first.id: None}, state)
        shown.clear()
        sender.send(inbox.advance())
        assert "inbox-list" in shown, "the first changes places"


def test_an_empty_inbox_says_why(store: Store, run: Run) -> None:
    assert "No alerts yet" in text_of(Inbox(store, Sieve()).paint()["inbox-list"]["children"])
    (alert,) = raised(store, run, 1)
    handling.decide(store, {alert.id: None}, AlertState.RESOLVED)
    assert "No open alerts" in text_of(Inbox(store, Sieve()).paint()["inbox-list"]["children"])
    assert "No alert matches" in text_of(Inbox(store, Sieve(rule=HOSTILE)).paint()["inbox-list"]["children"])


def test_alerts_grouped_by_run_have_its_counts(store: Store, run: Run, simulated: ModuleType) -> None:
    other = simulated.begin_run(store, HOSTILE)
    raised(store, run, 3)
    raised(store, other, 2, severity=Severity.CRITICAL)
    said = text_of(Inbox(store, Sieve(by_run=True)).paint()["inbox-list"]["children"])
    assert said.index(HOSTILE.replace("\0", "\ufffd")) < said.index("gpt2")
    assert said.count("gpt2") == 1


def test_the_number_in_the_header_counts_what_is_loud_and_open(store: Store, run: Run) -> None:
    page = factory.inbox(store, {})
    assert page.paint()["alerts-count"] == {"children": ""}
    raised(store, run, 2)
    raised(store, run, 5, severity=Severity.INFO, rule="quiet")
    deadline = time.monotonic() + 20
    while "2 open alerts, 2 undecided" not in text_of(page.tick()["alerts-count"]["children"]):
        assert time.monotonic() < deadline, "counted anew a second later, without further news"


@pytest.mark.parametrize(
    ("request_of", "says"),
    [
        ({}, "No alert was chosen"),
        ({"action": "acknowledged", "alerts": ["a"]}, "No alert was chosen"),
        ({"action": "explode", "alerts": {"ID": None}}, "'explode' is nothing that can be done"),
        ({"action": "pending", "alerts": {"ID": None}}, "'pending' is nothing that can be done"),
        ({"action": "acknowledged", "alerts": {"nobody": None}}, "no longer in the store"),
        ({"action": "acknowledged", "alerts": {str(n): None for n in range(501)}}, "At most 500 alerts at a time; these are 501"),
        ({"action": "acknowledged", "alerts": {"ID": None}, "comment": ["x"]}, "A comment is text"),
        ({"action": "acknowledged", "alerts": {"ID": None}, "comment": "x" * 10_001}, "may have 10,000 letters"),
        ({"action": "silenced", "alerts": {"ID": None}, "scope": "world"}, "'world' is no scope"),
        ({"action": "silenced", "alerts": {"ID": None}, "scope": "alert", "until": "soon"}, "within ten years"),
        ({"action": "silenced", "alerts": {"ID": None}, "scope": "alert", "until": math.nan}, "within ten years"),
        ({"action": "silenced", "alerts": {"ID": None}, "scope": "alert", "until": 1e300}, "within ten years"),
        ({"action": "silenced", "alerts": {"ID": None}, "scope": "alert", "until": 5.0}, "in the future"),
        ({"action": "end", "silence": "none"}, "no longer in the store"),
        ({"action": "comment", "alerts": {"ID": None}, "comment": " "}, "needs words"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_changes(store: Store, run: Run, request_of: dict[str, Any], says: str) -> None:
    (alert,) = raised(store, run, 1)
    if request_of.get("alerts") == {"ID": None}:
        request_of = request_of | {"alerts": {alert.id: None}}
    answer = asked.answered(store, request_of | {"number": 7})
    assert (answer["number"], answer["ok"]) == (7, False)
    assert says in answer["text"]
    assert store.alert(alert.id).state is AlertState.FIRING
    assert store.alert_events(alert.id) == []


def test_who_clicks_on_what_is_no_longer_so_hears_what_happened(store: Store, run: Run) -> None:
    (alert,) = raised(store, run, 1)
    handling.decide(store, {alert.id: AlertState.FIRING}, AlertState.RESOLVED, by="ann", comment="A bad disk.")
    answer = asked.answered(store, {"action": "acknowledged", "alerts": {alert.id: "firing"}})
    assert answer["ok"]
    assert answer["text"].startswith("Meanwhile ann resolved it at")
    assert "A bad disk. Nothing was changed." in answer["text"]


def test_an_alerts_page_tells_its_whole_story(store: Store, run: Run, tmp_path: Path) -> None:
    (alert,) = raised(store, run, 1, created_at=100.0)
    told = [
        Notification("sent", alert.id, "slack://secret/b/c", "t", "b", NotificationState.SENT, 1, 110.0),
        Notification("dead", alert.id, "json://secret", "t", "b", NotificationState.FAILED, 8, 120.0, "410 <b>gone</b>"),
        Notification("wait", alert.id, "mailto://x", "t", "b", NotificationState.WAITING, 2, 9e9, "timed out"),
        Notification("quiet", alert.id, "ntfy://x?quiet=00:00-16:00+UTC", "t", "b", NotificationState.WAITING, 0, 9e9 - 1.0),
    ]
    store.save_alerts([], told[:2])
    handling.decide(store, {alert.id: None}, AlertState.ACKNOWLEDGED, by="ann", comment=HOSTILE, now=130.0)
    store.save_alerts([], told[2:])
    handling.silence(store, {alert.id: None}, handling.Scope.ALERT, until=9e9, by="bob", now=140.0)
    handling.comment_on(store, alert.id, "x" * 10_000, by="<b>eve</b>", now=150.0)
    entries = history_of(alert, store.alert_events(alert.id), store.notifications(alert_id=alert.id))
    assert [(entry.who, entry.what.split(" until")[0]) for entry in entries] == [
        ("", "fired at step 0"),
        ("", "told to slack://..."),
        ("", "could not be told to json://..., after 8 tries"),
        ("ann", "acknowledged"),
        ("bob", "silenced"),
        ("<b>eve</b>", "commented"),
        ("", "is to be told to mailto://...; the last of 2 tries failed"),
        ("", f"is to be told to ntfy://..., not before {moment(9e9 - 1.0)}: quiet hours"),
    ]
    page = factory.dossier(store, alert.id).paint()
    said = text_of(page["alert-history"]["children"])
    assert HOSTILE in said
    assert "x" * 10_000 in said
    assert "secret" not in text_of([update.get("children") for update in page.values()])
    assert "Silenced by bob at" in text_of(page["alert-head"]["children"])
    (silence,) = store.silences(active_at=time.time())
    ended = asked.answered(store, {"action": "end", "silence": silence.id})
    assert (ended["ok"], ended["text"]) == (True, "The silence has ended; 1 alert fires again.")
    assert store.alert(alert.id).state is AlertState.FIRING


def test_a_silence_is_shown_and_can_be_ended_though_the_alert_was_acknowledged(store: Store, run: Run) -> None:
    (alert,) = raised(store, run, 1)
    handling.decide(store, {alert.id: None}, AlertState.ACKNOWLEDGED, by="ann")
    handling.silence(store, {alert.id: None}, handling.Scope.RULE, until=9e9, by="bob")
    assert store.alert(alert.id).state is AlertState.ACKNOWLEDGED
    said = text_of(factory.dossier(store, alert.id).paint()["alert-decisions"]["children"])
    assert f"rule {alert.rule} in run" in said
    assert "by bob" in said
    assert "End …" in said


def test_what_to_do_names_the_first_warning_and_lesser_causes_are_folded(store: Store, run: Run) -> None:
    raised(store, run, 1, rule="hint", first_step=10, severity=Severity.INFO)
    (first,) = raised(store, run, 1, rule="loss_spike", first_step=40)
    causes = (Cause("one", "Learning rate", 0.2, ("r1",), "Halve it."), Cause("two", "Rounding", 0.9, ("r2",), "Use float32."))
    (alert,) = raised(store, run, 1, rule="late", first_step=90, remedy="Roll back.", diagnosis=causes)
    page = factory.dossier(store, alert.id).paint()
    remedy = text_of(page["alert-remedy"]["children"])
    assert remedy.index("Use float32.") < remedy.index("Roll back.") < remedy.index("first warning of this run came at")
    assert "step 40" in remedy
    assert "Loss spike" in remedy
    assert "first warning" not in text_of(factory.dossier(store, first.id).paint()["alert-remedy"]["children"])
    (folded,) = [part for part in page["alert-why"]["children"] if getattr(part, "className", "") == "lesser-causes"]
    assert "Learning rate 20 %" in text_of(folded.children[0])
    assert "Rounding" not in text_of(folded)
    around = text_of(page["alert-related"]["children"])
    assert around.index("80 steps earlier") < around.index("50 steps earlier")


def test_a_bundle_is_told_as_far_as_it_is_known_from_here(store: Store, run: Run, tmp_path: Path) -> None:
    alert, near, *_ = raised(store, run, 2)
    folder = tmp_path / "with blank" / f"{run.id[:8]}-step-000000004-drift"
    data = {"intervention": "capture", "at": 4, "path": str(folder), "host": socket.gethostname(), "alert": alert.id}
    captured = Event(new_id(), run.id, 0, 4, time.time(), "intervention", "Captured.", data)
    store.add_event(captured)

    def said(of: Alert) -> str:
        return text_of(factory.dossier(store, of.id).paint()["alert-bundles"]["children"])

    assert "It is no longer there" in said(alert)
    folder.mkdir(parents=True)
    (folder / "bundle.json").write_bytes(b"x" * 2**20)
    assert "1.0 MiB, written" in said(alert)
    assert f"foreshock inspect '{folder}'" in said(alert)
    assert "Another alert of this time asked for it" in said(near)
    store.add_event(
        Event(new_id(), run.id, 0, 4, time.time(), INSPECTED, "It says.", {"bundle": folder.name, "verdict": "confirmed"})
    )
    assert "Verdict on rounding:  confirmed" in said(alert)
    store.add_event(replace(captured, id=new_id(), data=data | {"path": "/elsewhere/x", "host": "gpu-7", "alert": near.id}))
    assert f"It lies on gpu-7, and this page runs on {socket.gethostname()}: run the command there." in said(near)
    assert "Nothing was captured" in said(raised(store, run, 1, first_step=9000, rule="late")[0])


def test_the_charts_around_an_alert_follow_the_run_as_long_as_it_is_there(store: Store, run: Run, simulated: ModuleType) -> None:
    simulation = simulated.Simulation(failing=True)
    simulated.write_steps(store, run.id, simulation, 0, 300)
    (alert,) = raised(store, run, 1, first_step=250)
    around = factory.around(store, alert.id)
    first = around.paint()
    assert window(alert) == (50, 651)
    drawn = first["around-loss"]["figure"]["data"][3]["x"]
    assert (drawn[0], drawn[-1]) == (50, 299)
    assert around.advance() == {}
    simulated.write_steps(store, run.id, simulation, 300, 800)
    later = around.advance()["around-loss"]["figure"]["data"][3]["x"]
    assert later[-1] == 650
    assert around.advance() == {}
    simulated.write_steps(store, run.id, simulation, 800, 900)
    assert around.advance() == {}, "what comes after is no concern of this page"


def test_evidence_is_drawn_with_threshold_usual_level_and_what_is_not_finite(store: Store, run: Run) -> None:
    key = SeriesKey("attention.max_logit", "blocks.1.attn", 3)
    odd = Evidence(key, (1, 2, 3, 4), (5.0, math.inf, math.nan, 80.0), threshold=50.0, baseline=4.0)
    only_odd = Evidence(SeriesKey("loss"), (4,), (math.nan,))
    (alert,) = raised(store, run, 1, first_step=4, evidence=(odd, only_odd, Evidence(key, (), ())))
    cards = factory.dossier(store, alert.id).paint()["alert-evidence"]["children"]
    figures = [card.children[-1].children.figure for card in cards]
    for figure in figures:
        graph_objects.Figure(figure)
    names = text_of(cards)
    assert "Max attention logit" in names
    levels = [trace["text"] for trace in figures[0]["data"] if trace["mode"] == "lines+text"]
    assert ["", "threshold"] in levels
    assert ["", "usual"] in levels
    assert len(figures[0]["data"][0]["x"]) == 2, "two values are not finite"
    assert figures[0]["layout"]["shapes"][0]["x0"] == 4
    assert len(figures[1]["data"][0]["x"]) == 1
