"""What a person does about alerts: decisions of several at once, scopes of silences, comments, and what is told of them."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from foreshock.analyzer import handling
from foreshock.analyzer.handling import HandlingError, Scope
from foreshock.storage import open_store
from foreshock.storage.base import Store
from foreshock.storage.records import Alert, AlertState, Run, Severity, Silence, derived_id

FIRING, ACKNOWLEDGED, SILENCED, RESOLVED = AlertState.FIRING, AlertState.ACKNOWLEDGED, AlertState.SILENCED, AlertState.RESOLVED
HOSTILE = "<script>alert(1)</script> '\" \u202eabc \0"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(f"sqlite:///{tmp_path / 'runs.db'}")
    for run in (Run("one", "gpt2", "language", created_at=1.0), Run("two", "vit", created_at=2.0)):
        opened.create_run(run)
    opened.save_alerts([alert("one", "spike", "blocks.1"), alert("one", "spike", "blocks.2"), alert("two", "drift")])
    yield opened
    opened.close()


def alert(run: str, rule: str, module: str = "", episode: int = 0) -> Alert:
    identity = derived_id(run, rule, module, episode)
    return Alert(identity, run, rule, module, episode, Severity.WARNING, FIRING, 0, 7, 9, 1.0, 1.0, "It was seen.")


FIRST, SECOND, OTHER = alert("one", "spike", "blocks.1"), alert("one", "spike", "blocks.2"), alert("two", "drift")
ALL = {each.id: FIRING for each in (FIRST, SECOND, OTHER)}


def states(store: Store) -> list[AlertState]:
    return [store.alert(each.id).state for each in (FIRST, SECOND, OTHER)]


def test_several_are_decided_together_and_what_was_done_meanwhile_is_told(store: Store) -> None:
    handling.decide(store, {SECOND.id: FIRING}, RESOLVED, by="ann", comment="A bad batch.", now=time.time())
    outcome = handling.decide(store, ALL, ACKNOWLEDGED, by="bob", comment="Mine.")
    assert states(store) == [ACKNOWLEDGED, RESOLVED, ACKNOWLEDGED]
    said = handling.told(outcome, "acknowledged")
    assert said.startswith("2 alerts acknowledged. 1 not: Meanwhile ann resolved it at ")
    assert said.endswith(": A bad batch. Nothing was changed.")
    refused = handling.decide(store, {SECOND.id: RESOLVED}, FIRING, by="bob")
    assert handling.told(refused, "opened") == (
        "This alert is resolved and cannot become firing. It can become: nothing; a new episode makes a new alert."
    )
    handling.decide(store, {FIRST.id: ACKNOWLEDGED}, FIRING, by="bob")
    assert states(store)[0] is FIRING, "what was acknowledged can be taken back"
    with pytest.raises(KeyError):
        handling.decide(store, {"nobody": None}, RESOLVED)


@pytest.mark.parametrize(
    ("scope", "covers"),
    [
        (Scope.ALERT, [SILENCED, FIRING, FIRING]),
        (Scope.LAYER, [SILENCED, FIRING, FIRING]),
        (Scope.RULE, [SILENCED, SILENCED, FIRING]),
        (Scope.RUN, [SILENCED, SILENCED, FIRING]),
        (Scope.PROJECT, [SILENCED, SILENCED, FIRING]),
    ],
)
def test_a_silence_reaches_as_far_as_was_asked(store: Store, scope: Scope, covers: list[AlertState]) -> None:
    until = time.time() + 3600.0
    handling.silence(store, {FIRST.id: FIRING}, scope, until=until, by="ann", comment=HOSTILE)
    assert states(store) == covers
    (made,) = store.silences(active_at=time.time())
    assert (made.until, made.created_by, made.comment) == (until, "ann", HOSTILE.replace("\0", "\ufffd"))
    store.save_alerts([alert("one", "spike", "blocks.1", episode=1)])
    later = store.alert(derived_id("one", "spike", "blocks.1", 1)).state
    assert later is (FIRING if scope is Scope.ALERT else SILENCED)
    wider = handling.unsilence(store, FIRST.id, by="ann")
    assert bool(wider) == (scope in (Scope.RULE, Scope.RUN, Scope.PROJECT))
    assert states(store)[0] is (SILENCED if wider else FIRING)
    for each in wider:
        assert handling.scope_words(each, lambda run_id: store.run(run_id).name) in (
            "rule spike in run gpt2",
            "run gpt2",
            "project language",
        )


def test_one_silence_for_several_alerts_of_a_run(store: Store) -> None:
    outcome = handling.silence(store, ALL, Scope.RUN, by="ann")
    assert len(store.silences(active_at=time.time())) == 2
    assert handling.told(outcome, "covered by a silence") == "3 alerts covered by a silence. 3 open alerts are silent now."
    again = handling.silence(store, ALL, Scope.RUN, by="bob")
    assert next(why for _, why in again.refused).startswith("Meanwhile ann silenced it at ")


def test_what_makes_no_sense_is_refused_with_the_reason(store: Store) -> None:
    with pytest.raises(HandlingError, match="future"):
        handling.silence(store, ALL, Scope.ALERT, until=time.time() - 1.0)
    with pytest.raises(HandlingError, match="'vit' belongs to no project"):
        handling.silence(store, {OTHER.id: FIRING}, Scope.PROJECT)
    with pytest.raises(HandlingError, match="10,000 letters; this one has 10,001"):
        handling.decide(store, ALL, ACKNOWLEDGED, comment="x" * 10_001)
    with pytest.raises(HandlingError, match="needs words"):
        handling.comment_on(store, FIRST.id, " \n ")
    with pytest.raises(KeyError):
        handling.comment_on(store, "nobody", "Hello")
    for wrong in ("", "soon", "-1h", "1w", "1e3s"):
        with pytest.raises(HandlingError, match="no time such as"):
            handling.seconds(wrong)
    assert [handling.seconds(text) for text in ("90s", "1.5h", " 2d ")] == [90.0, 5400.0, 172800.0]
    assert states(store) == [FIRING] * 3


def test_comments_are_kept_once_and_change_nothing_else(store: Store) -> None:
    for text in (HOSTILE, "x" * 10_000):
        for _ in range(2):
            handling.comment_on(store, FIRST.id, text, by="ann", identity=derived_id(text))
    kept = [event for event in store.alert_events(FIRST.id) if event.kind == handling.COMMENT]
    assert {event.data["comment"] for event in kept} == {HOSTILE, "x" * 10_000}
    assert len(kept) == 2
    assert all(len(event.message) < 200 for event in kept), "the list of events stays readable"
    assert store.alert(FIRST.id) == replace(FIRST)


def test_a_silence_covers_in_the_order_of_its_scope(store: Store) -> None:
    now = time.time()
    for silence in (
        Silence("a", project="language"),
        Silence("b", rule="spike"),
        Silence("c", alert_id=FIRST.id),
        Silence("d", run_id="two"),
    ):
        store.add_silence(replace(silence, created_at=now))
    assert [silence.id for silence in handling.covering(store, store.alert(FIRST.id), now)] == ["c", "b", "a"]
