"""The life of an alert in every kind of store: states, silences, leases, claims."""

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from foreshock.analyzer.engine import Engine
from foreshock.analyzer.live import LiveAnalysis
from foreshock.storage import IllegalTransitionError, LeaseHeldError, Store, UnknownRunError
from foreshock.storage.records import (
    Alert,
    AlertState,
    Batch,
    Lease,
    Notification,
    NotificationState,
    Run,
    SeriesKey,
    Severity,
    Silence,
    StepRecord,
    analyzer_lease,
    derived_id,
    new_id,
)
from foreshock.storage.tables import leases
from sqlalchemy import update

NOW = time.time()
FIRING, ACKNOWLEDGED, SILENCED, RESOLVED = (
    AlertState.FIRING,
    AlertState.ACKNOWLEDGED,
    AlertState.SILENCED,
    AlertState.RESOLVED,
)


@pytest.fixture
def run(store: Store, new_run: Callable[..., Run]) -> Run:
    made = new_run(project="language")
    store.create_run(made)
    return made


def alert_of(run: Run, rule: str = "loss_spike", module: str = "", episode: int = 0, **fields: object) -> Alert:
    plain: dict[str, object] = {
        "id": derived_id(run.id, rule, module, episode),
        "run_id": run.id,
        "rule": rule,
        "module": module,
        "episode": episode,
        "severity": Severity.WARNING,
        "state": FIRING,
        "segment": 0,
        "first_step": 10,
        "last_step": 12,
        "created_at": 1010.0,
        "updated_at": 1012.0,
        "message": "The loss rises.",
    }
    return Alert(**plain | fields)  # type: ignore[arg-type]


def told(alert: Alert, channel: str = "json://x") -> Notification:
    return Notification(derived_id(alert.id, channel), alert.id, channel, "Title", "Body")


def state_of(store: Store, alert: Alert) -> AlertState:
    return next(each.state for each in store.alerts() if each.id == alert.id)


# -- states ------------------------------------------------------------------------------------------------------


def test_only_legal_steps_are_taken_and_refusals_name_the_way_out(store: Store, run: Run) -> None:
    for number, before in enumerate(AlertState):
        for after in AlertState:
            alert = alert_of(run, f"{before}-{after}", episode=number)
            store.save_alerts([replace(alert, state=before)])
            if after in (before, *before.successors):
                store.set_alert_state(alert.id, after, at=NOW)
                assert state_of(store, alert) is after
            else:
                with pytest.raises(IllegalTransitionError, match=f"is {before} and cannot become {after}"):
                    store.set_alert_state(alert.id, after, at=NOW)
                assert state_of(store, alert) is before
    assert AlertState.RESOLVED.successors == ()


def test_every_decision_keeps_who_when_and_why(store: Store, run: Run) -> None:
    alert = alert_of(run)
    store.save_alerts([alert])
    store.set_alert_state(alert.id, ACKNOWLEDGED, at=2000.0, by="ann", comment="known, watching")
    store.set_alert_state(alert.id, ACKNOWLEDGED, at=2001.0, by="bob")  # it is already
    store.set_alert_state(alert.id, SILENCED, at=2002.0, by="bob", until=3000.0)
    first, second = store.events(run.id, kind="alert_state")
    assert (first.time, first.data["from"], first.data["to"]) == (2000.0, "firing", "acknowledged")
    assert (first.data["by"], first.data["comment"]) == ("ann", "known, watching")
    assert "known, watching" in first.message
    assert (second.data["by"], second.data["until"]) == ("bob", 3000.0)


def test_a_resolved_alert_stays_resolved_but_for_a_later_segment(store: Store, run: Run) -> None:
    alert = alert_of(run)
    store.save_alerts([alert])
    store.set_alert_state(alert.id, RESOLVED, at=NOW, by="ann")
    store.save_alerts([replace(alert, last_step=90)])
    assert state_of(store, alert) is RESOLVED
    again = replace(alert, segment=1, first_step=5)
    store.save_alerts([again])
    store.save_alerts([replace(again, state=RESOLVED)])
    assert [(each.state, each.segment) for each in store.alerts(run)] == [(RESOLVED, 1)]
    store.save_alerts([replace(alert, segment=2)])
    assert state_of(store, alert) is FIRING


def test_a_firing_alert_does_not_become_pending_again(store: Store, run: Run) -> None:
    store.save_alerts([alert_of(run, state=AlertState.PENDING)])
    store.save_alerts([alert_of(run)])
    store.save_alerts([alert_of(run, state=AlertState.PENDING)])
    assert state_of(store, alert_of(run)) is FIRING


# -- silences and what is told -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["alert_id", "rule", "module", "run_id", "project"])
def test_a_silence_covers_what_is_open_and_what_is_to_come_in_its_scope(
    store: Store, run: Run, new_run: Callable[..., Run], scope: str
) -> None:
    other = new_run("other", project="vision")
    store.create_run(other)
    open_one, elsewhere = alert_of(run, "stuck", "blocks.1"), alert_of(other, "spike", "blocks.2")
    store.save_alerts([open_one, elsewhere], [told(open_one), told(elsewhere)])
    wanted = {
        "alert_id": open_one.id,
        "rule": "stuck",
        "module": "blocks.1",
        "run_id": run.id,
        "project": "language",
    }[scope]
    silence = Silence("s" * 32, until=NOW + 3600.0, created_at=NOW, created_by="ann", **{scope: wanted})
    assert store.add_silence(silence) == 1
    assert store.add_silence(silence) == 0
    assert (state_of(store, open_one), state_of(store, elsewhere)) == (SILENCED, FIRING)
    assert [entry.alert_id for entry in store.due_notifications(NOW)] == [elsewhere.id]
    later = alert_of(run, "stuck", "blocks.1", episode=1)
    store.save_alerts([later], [told(later)])
    assert state_of(store, later) is (FIRING if scope == "alert_id" else SILENCED)
    assert store.lift_silences(NOW + 3599.0) == 0
    assert store.lift_silences(NOW + 3601.0) == (1 if scope == "alert_id" else 2)
    assert {entry.alert_id for entry in store.due_notifications(NOW)} == {open_one.id, elsewhere.id, later.id}
    assert store.silences(active_at=NOW) == [silence]
    assert store.silences(active_at=NOW + 3601.0) == []


def test_scopes_narrow_each_other_and_none_at_all_is_refused(store: Store, run: Run) -> None:
    one, two = alert_of(run, "a", "m"), alert_of(run, "a", "n")
    store.save_alerts([one, two])
    assert store.add_silence(Silence(new_id(), rule="a", module="n", created_at=NOW)) == 1
    assert (state_of(store, one), state_of(store, two)) == (FIRING, SILENCED)
    with pytest.raises(ValueError, match="needs a scope"):
        Silence(new_id())
    with pytest.raises(UnknownRunError):
        store.add_silence(Silence(new_id(), run_id="nobody"))


def test_a_silence_may_be_ended_early_and_what_was_resolved_meanwhile_is_not_told(store: Store, run: Run) -> None:
    still, over = alert_of(run, "a"), alert_of(run, "b")
    store.save_alerts([still, over], [told(still), told(over)])
    silence = Silence(new_id(), project="language", created_at=NOW)
    assert store.add_silence(silence) == 2
    store.save_alerts([replace(over, state=RESOLVED)])
    assert store.end_silence(silence.id, at=NOW, by="ann") == 1
    assert store.end_silence(silence.id, at=NOW) == 0
    assert (state_of(store, still), state_of(store, over)) == (FIRING, RESOLVED)
    assert [entry.alert_id for entry in store.due_notifications(NOW)] == [still.id]
    with pytest.raises(KeyError, match="No silence 'x'"):
        store.end_silence("x", at=NOW)


def test_an_acknowledged_alert_is_told_no_more(store: Store, run: Run) -> None:
    alert = alert_of(run)
    store.save_alerts([alert], [told(alert)])
    store.set_alert_state(alert.id, ACKNOWLEDGED, at=NOW)
    store.save_alerts([replace(alert, last_step=50)], [told(alert)])
    assert store.due_notifications(NOW) == []
    store.set_alert_state(alert.id, FIRING, at=NOW)  # taken back: who knows of it knows of it
    assert store.due_notifications(NOW) == []
    assert [entry.state for entry in store.notifications()] == [NotificationState.CANCELLED]


def test_one_alert_silenced_by_hand_fires_when_a_person_says_so(store: Store, run: Run) -> None:
    alert = alert_of(run)
    store.save_alerts([alert])
    store.set_alert_state(alert.id, SILENCED, at=NOW)
    assert store.lift_silences(NOW + 1e9) == 0
    store.set_alert_state(alert.id, FIRING, at=NOW)
    assert store.silences(active_at=NOW) == []


# -- the outbox --------------------------------------------------------------------------------------------------


def test_critical_alerts_are_due_first(store: Store, run: Run) -> None:
    calm, urgent = alert_of(run, "a"), alert_of(run, "b", severity=Severity.CRITICAL)
    store.save_alerts([calm, urgent], [told(calm), replace(told(urgent), next_attempt_at=5.0)])
    assert [entry.alert_id for entry in store.due_notifications(10.0)] == [urgent.id, calm.id]


def test_a_notification_belongs_to_who_claimed_it(store: Store, run: Run) -> None:
    alert = alert_of(run)
    entries = [told(alert, f"json://{number}") for number in range(3)]
    store.save_alerts([alert], entries)
    seen = store.due_notifications(NOW)
    mine = store.claim_notifications(seen, until=NOW + 60.0)
    assert [(entry.id, entry.attempts) for entry in mine] == [(entry.id, 1) for entry in seen]
    assert store.claim_notifications(seen, until=NOW + 60.0) == []
    assert store.due_notifications(NOW + 59.0) == []
    store.settle_notification(replace(mine[0], state=NotificationState.SENT))
    (second,) = store.claim_notifications(store.due_notifications(NOW + 61.0)[:1], until=NOW + 120.0)
    first = next(entry for entry in mine if entry.id == second.id)
    store.settle_notification(replace(first, state=NotificationState.FAILED))  # too late: it is no longer theirs
    assert [entry.state for entry in store.notifications() if entry.id == first.id] == [NotificationState.WAITING]
    store.settle_notification(replace(second, state=NotificationState.FAILED, error="gone"))
    (dead,) = store.notifications(states=[NotificationState.FAILED])
    assert dead.error == "gone"
    store.settle_notification(replace(dead, state=NotificationState.SENT))  # a dead letter is nobody's to settle
    assert store.retry_notification(dead.id, at=NOW)
    assert not store.retry_notification(dead.id, at=NOW)
    assert (dead.id, 0) in [(entry.id, entry.attempts) for entry in store.due_notifications(NOW)]


def test_channels_and_deliveries_are_kept(store: Store, run: Run) -> None:
    store.set_channels(run.id, ["json://a", "json://b"])
    store.set_channels(run.id, ["json://b", "json://c"])
    assert store.channels(run.id) == ["json://b", "json://c"]
    with pytest.raises(UnknownRunError):
        store.set_channels("nobody", [])
    for moment, digest in ((10.0, False), (20.0, True)):
        store.note_delivery("json://a", moment, digest=digest)
    store.note_delivery("json://b", 15.0, digest=False)
    assert store.deliveries("json://a", since=10.0) == [(10.0, False), (20.0, True)]
    assert store.deliveries("json://a", since=11.0) == [(20.0, True)]


# -- leases ------------------------------------------------------------------------------------------------------


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_a_lease_has_one_owner_until_it_runs_out_or_is_given_back(store: Store) -> None:
    mine, theirs = Lease("watchdog", "a"), Lease("watchdog", "b", seconds=0.2)
    assert store.take_lease(mine)
    assert store.take_lease(mine)
    assert not store.take_lease(theirs)
    assert store.take_lease(Lease("other", "b"))
    store.release_lease(theirs)
    assert not store.take_lease(theirs)
    store.release_lease(mine)
    assert store.take_lease(theirs)
    until(lambda: store.take_lease(mine))
    assert not store.take_lease(theirs)


def test_a_later_segment_takes_the_analyzers_lease_and_a_re_analysis_never_does(store: Store, run: Run) -> None:
    replay, first, second = (analyzer_lease(run.id, name, segment) for name, segment in (("r", -1), ("0", 0), ("1", 1)))
    assert store.take_lease(replay)
    assert store.take_lease(first)
    assert not store.take_lease(replay)
    assert store.take_lease(second)
    alert = alert_of(run)
    for late in (replay, first):
        with pytest.raises(LeaseHeldError, match="judges this run"):
            store.save_alerts([alert], [told(alert)], lease=late)
    assert store.alerts() == []
    assert store.due_notifications(NOW) == []
    store.save_alerts([alert], [told(alert)], lease=second)
    assert store.alerts() == [alert]


def test_a_lease_taken_before_the_clock_was_set_back_binds_nobody(store: Store) -> None:
    assert store.take_lease(Lease("watchdog", "a"))
    with store._database.write() as connection:  # type: ignore[attr-defined]
        connection.execute(update(leases).values(expires_at=leases.c.expires_at + 7200.0))
    assert store.take_lease(Lease("watchdog", "b"))


def test_the_last_word_of_an_analyzer_that_was_replaced_is_not_saved(store: Store, run: Run) -> None:
    """A run that was resumed elsewhere is judged there; the process that ends here must not write over it."""
    live, keys = LiveAnalysis(Engine(run.id), [], run.name), (SeriesKey("loss"),)
    first, second = analyzer_lease(run.id, "first", 0), analyzer_lease(run.id, "second", 1)
    records = [StepRecord(step, 1000.0 + step, keys, [float("nan")]) for step in range(60)]
    raised = live.feed(Batch("b0", run.id, 0, tuple(records[:30])))
    store.save_alerts(raised, lease=first)
    live.feed(Batch("b1", run.id, 0, tuple(records[30:])))
    store.save_alerts([replace(raised[0], segment=1, first_step=5, last_step=5)], lease=second)
    there = store.alerts(run)
    with pytest.raises(LeaseHeldError):
        store.save_alerts(live.settled(), lease=first)
    assert repr(store.alerts(run)) == repr(there)  # its value is NaN, which equals nothing
    live.close()


def test_the_last_word_of_an_analyzer_is_saved_while_the_run_is_its_own(store: Store, run: Run) -> None:
    live, keys, lease = LiveAnalysis(Engine(run.id), [], run.name), (SeriesKey("loss"),), analyzer_lease(run.id, "first", 0)
    records = [StepRecord(step, 1000.0 + step, keys, [float("nan")]) for step in range(60)]
    store.save_alerts(live.feed(Batch("b0", run.id, 0, tuple(records[:30]))), lease=lease)
    live.feed(Batch("b1", run.id, 0, tuple(records[30:])))
    store.save_alerts(live.settled(), lease=lease)
    assert max(alert.last_step for alert in store.alerts(run)) == 59
    live.close()
