"""Finding alerts among many, their events, and decisions by several people at once, in every kind of store."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from foreshock.storage import AlertChangedError, Store
from foreshock.storage.records import (
    Alert,
    AlertQuery,
    AlertState,
    Cause,
    Event,
    Evidence,
    Notification,
    Run,
    SeriesKey,
    Severity,
    derived_id,
)

FIRING, ACKNOWLEDGED, SILENCED, RESOLVED = AlertState.FIRING, AlertState.ACKNOWLEDGED, AlertState.SILENCED, AlertState.RESOLVED
INFO, WARNING, CRITICAL = Severity
HOSTILE = "100 %_ \\ '\" <b> \0 \u202eabc"


def cause(name: str, confidence: float = 0.5) -> Cause:
    return Cause(name, name.capitalize(), confidence, ("It was seen.",), "Do something.", name)


def alert_of(run: Run, rule: str, severity: Severity = WARNING, state: AlertState = FIRING, **fields: object) -> Alert:
    plain: dict[str, object] = {"module": "", "episode": 0, "segment": 0, "first_step": 10, "last_step": 12} | fields
    times = {"created_at": 1010.0, "updated_at": 1012.0, "message": f"{rule} was seen."} | plain
    identity = derived_id(run.id, rule, times["module"], times["episode"])
    evidence = (Evidence(SeriesKey("loss"), (1, 2), (0.5, float("nan")), 0.4),)
    return Alert(identity, run.id, rule, severity=severity, state=state, evidence=evidence, **times)  # type: ignore[arg-type]


@pytest.fixture
def two_runs(store: Store, new_run: Callable[..., Run]) -> tuple[Run, Run]:
    first, second = new_run("first", project="language"), new_run("Second", project="vision")
    store.create_run(first)
    store.create_run(second)
    return first, second


@pytest.fixture
def kept(store: Store, two_runs: tuple[Run, Run]) -> dict[str, Alert]:
    """One alert a letter, over two runs."""
    first, second = two_runs
    made = {
        "a": alert_of(first, "a", INFO, created_at=1020.0, diagnosis=(cause("rates"), cause("bugs", 0.4))),
        "b": alert_of(first, "b", CRITICAL, ACKNOWLEDGED, created_at=1001.0, diagnosis=(cause("bugs"),)),
        "c": alert_of(second, "c", CRITICAL, created_at=1000.0, module="blocks.1"),
        "d": alert_of(second, "d", WARNING, SILENCED, message=HOSTILE),
        "e": alert_of(second, "e", CRITICAL, RESOLVED, updated_at=1050.0),
        "f": alert_of(first, "f", WARNING, RESOLVED, updated_at=1060.0),
        "g": alert_of(first, "g", WARNING, created_at=1030.0),
        "h": alert_of(first, "h", WARNING, created_at=1040.0),
    }
    store.save_alerts(list(made.values()))
    return made


def rules(store: Store, by_run: bool = False, limit: int = 50, offset: int = 0, **query: object) -> str:
    found = store.find_alerts(AlertQuery(**query), by_run=by_run, limit=limit, offset=offset)  # type: ignore[arg-type]
    return "".join(line.alert.rule for line in found)


def test_what_needs_a_person_comes_first_page_by_page(store: Store, kept: dict[str, Alert], two_runs: tuple[Run, Run]) -> None:
    assert rules(store) == "cbhgdafe"
    assert "".join(rules(store, limit=3, offset=offset) for offset in (0, 3, 6, 9)) == "cbhgdafe"
    assert rules(store, by_run=True) == "cdebhgaf", "the newer run goes first where the worst alerts are alike"
    line = store.find_alerts(AlertQuery(rule="b"))[0]
    assert (line.run_name, line.project) == ("first", "language")
    assert line.alert == replace(kept["b"], evidence=())
    assert rules(store, limit=0) == ""


def test_every_part_of_a_query_narrows(store: Store, kept: dict[str, Alert], two_runs: tuple[Run, Run]) -> None:
    assert rules(store, states=(FIRING,)) == "chga"
    assert rules(store, states=(FIRING, RESOLVED), severities=(CRITICAL,)) == "ce"
    assert rules(store, run_id=two_runs[1].id) == "cde"
    assert rules(store, project="language") == "bhgaf"
    assert rules(store, rule="a") == "a"
    assert rules(store, module="blocks.1") == "c"
    assert rules(store, cause="bugs") == "b", "the likeliest one counts"
    assert rules(store, cause="rat") == ""
    assert (rules(store, steps=(10, 10), rule="a"), rules(store, steps=(11, 12))) == ("a", "")
    assert rules(store, text="SECOND") == "cde"
    assert rules(store, text="B WAS") == "b"
    assert rules(store, text="ocks.1") == "c"
    for part in ("%_", "\\", "'\"", "<b>", "\0", "\u202eabc", HOSTILE):
        assert rules(store, text=part) == "d"
    assert rules(store, text="_") == "d", "no letter means another"
    assert rules(store, text="x" * 100_000) == ""
    assert rules(store, rule="\0", project="\ud800", cause="'", run_id="\0") == ""


def test_alerts_are_counted_by_what_one_asks_for(store: Store, kept: dict[str, Alert], two_runs: tuple[Run, Run]) -> None:
    first, second = two_runs
    assert store.tally_alerts(AlertQuery(), ["severity"]) == {("warning",): 4, ("critical",): 3, ("info",): 1}
    assert list(store.tally_alerts(AlertQuery(), ["severity"])) == [("warning",), ("critical",), ("info",)], "most first"
    assert store.tally_alerts(AlertQuery(severities=(CRITICAL,)), ["state", "severity"]) == {
        ("acknowledged", "critical"): 1,
        ("firing", "critical"): 1,
        ("resolved", "critical"): 1,
    }
    named = {(first.id, "first", "language"): 5, (second.id, "Second", "vision"): 3}
    assert store.tally_alerts(AlertQuery(), ["run", "run_name", "project"]) == named
    assert store.tally_alerts(AlertQuery(), ["cause"]) == {("",): 6, ("bugs",): 1, ("rates",): 1}
    assert store.tally_alerts(AlertQuery(), ["rule"], limit=2) == {("a",): 1, ("b",): 1}
    assert store.tally_alerts(AlertQuery(text="nothing"), ["rule"]) == {}


def test_an_alert_is_found_by_its_id_or_the_beginning_of_it(store: Store, kept: dict[str, Alert]) -> None:
    wanted = kept["b"]
    assert store.alert(wanted.id) == store.alert(wanted.id[:12])
    assert repr(store.alert(wanted.id)) == repr(wanted), "whole, with the evidence"
    twin = replace(wanted, id=wanted.id[:20] + "0" * 12, rule="twin")
    store.save_alerts([twin])
    for reference, says in (
        ("zzzz", "no alert"),
        (wanted.id[:3], "no alert"),
        ("", "no alert"),
        (wanted.id[:20], "several"),
        ("\0", "no"),
    ):
        with pytest.raises(KeyError, match=says):
            store.alert(reference)
    assert store.alert(wanted.id).rule == "b", "the whole id of one is not the beginning of another"


def test_the_events_of_an_alert(store: Store, kept: dict[str, Alert], two_runs: tuple[Run, Run]) -> None:
    run, alert = two_runs[0], kept["a"]
    note = Event("n" * 32, run.id, 0, 12, 30.0, "alert_comment", "Said.", {"alert": alert.id, "comment": HOSTILE, "by": "ann"})
    store.add_event(note)
    store.add_event(replace(note, message="The same again."))
    store.add_event(replace(note, id="m" * 32, data={"alert": kept["b"].id, "comment": f'"{alert.id}"'}))
    store.set_alert_state(alert.id, ACKNOWLEDGED, at=20.0, by="bob")
    found = store.alert_events(alert.id)
    assert [(event.kind, event.message) for event in found] == [
        ("alert_state", "a: acknowledged by bob"),
        ("alert_comment", "Said."),
    ]
    assert found[1].data["comment"] == HOSTILE
    assert store.alert_events("no such alert") == store.alert_events("%\0") == []


def test_the_notifications_of_an_alert(store: Store, kept: dict[str, Alert]) -> None:
    mine = Notification("one", kept["a"].id, "json://x", "Title", "Body")
    store.save_alerts([], [mine, replace(mine, id="two", alert_id=kept["b"].id)])
    assert [entry.id for entry in store.notifications(alert_id=kept["a"].id)] == ["one"]
    assert len(store.notifications()) == 2


def test_who_decides_by_what_is_no_longer_so_is_told(store: Store, kept: dict[str, Alert]) -> None:
    alert = kept["g"]
    store.set_alert_state(alert.id, ACKNOWLEDGED, at=20.0, by="ann", seen=FIRING)
    for wanted in (ACKNOWLEDGED, RESOLVED):
        with pytest.raises(AlertChangedError, match="was firing when you looked and is acknowledged now"):
            store.set_alert_state(alert.id, wanted, at=21.0, by="bob", seen=FIRING)
    store.set_alert_state(alert.id, RESOLVED, at=22.0, by="bob", seen=ACKNOWLEDGED)
    assert [event.data["by"] for event in store.alert_events(alert.id)] == ["ann", "bob"]


def test_of_several_who_decide_at_once_one_does(store: Store, kept: dict[str, Alert]) -> None:
    def acknowledge(name: str) -> bool:
        try:
            store.set_alert_state(kept["h"].id, ACKNOWLEDGED, at=20.0, by=name, seen=FIRING)
        except AlertChangedError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        won = list(pool.map(acknowledge, "abcdef"))
    assert won.count(True) == 1
    assert [event.data["by"] for event in store.alert_events(kept["h"].id)] == ["abcdef"[won.index(True)]]
