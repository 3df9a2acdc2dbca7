"""What ``storage/base.py`` promises of the versions of rules, held against every kind of store."""

import threading
from collections.abc import Callable

import pytest
from foreshock.storage import InvalidRecordError, RuleConflictError, Store, UnknownRunError, open_store
from foreshock.storage.records import RuleVersion, Run, RunStatus, new_id
from foreshock.storage.rule_versions import UNREADABLE
from foreshock.storage.sqlalchemy_store import SQLAlchemyStore
from sqlalchemy import text

MakeRun = Callable[..., Run]


def version(rule: str = "loss_spike", **fields: object) -> RuleVersion:
    plain: dict[str, object] = {"id": new_id(), "rule": rule, "changes": {"parameters": {"z": 9.0}}, "created_at": 1000.0}
    return RuleVersion(**plain | fields)  # type: ignore[arg-type]


def test_a_version_comes_back_as_it_was_given_with_its_number(store: Store) -> None:
    changes = {"enabled": False, "severity": "info", "parameters": {"z": 9.5, "window": 64}, "modules": ["*.attn", "<b>é🌊</b>"]}
    given = version(changes=changes, created_by="Ann <ann@x>", comment="it cries\n'wolf' <script>")
    stored = store.save_rule(given, seen=0)
    assert stored.version == 1
    assert stored == store.rule_history()[0]
    assert (stored.changes, stored.created_by, stored.comment) == (changes, given.created_by, given.comment)
    assert store.rule_overrides() == [stored]


def test_every_change_is_a_new_version_and_none_is_lost(store: Store) -> None:
    for seen, z in enumerate((9.0, 10.0, 11.0)):
        store.save_rule(version(changes={"parameters": {"z": z}}), seen=seen)
    store.save_rule(version(changes={}, comment="back to the default"), seen=3)
    store.save_rule(version(changes={"parameters": {"z": 9.0}}, comment="back to version 1"), seen=4)
    versions = store.rule_history("loss_spike")
    assert [each.version for each in versions] == [5, 4, 3, 2, 1]
    assert [dict(each.changes) for each in versions][:2] == [{"parameters": {"z": 9.0}}, {}]
    assert [each.version for each in store.rule_history(limit=2)] == [5, 4]
    (newest,) = store.rule_overrides()
    assert newest.version == 5


def test_scopes_are_apart_and_come_in_the_order_in_which_they_are_laid_over_each_other(store: Store, new_run: MakeRun) -> None:
    run, other = new_run(project="language"), new_run(project="vision")
    for each in (run, other):
        store.create_run(each)
    scopes = {"run": {"run_id": run.id}, "project": {"project": "language"}, "store": {}, "elsewhere": {"run_id": other.id}}
    for name, scope in scopes.items():
        for rule in ("b_rule", "a_rule"):
            assert store.save_rule(version(rule, comment=name, **scope), seen=0).version == 1
    mine = store.rule_overrides(project="language", run_id=run.id)
    laid = [(scope, rule) for scope in ("store", "project", "run") for rule in ("a_rule", "b_rule")]
    assert [(each.comment, each.rule) for each in mine] == laid
    assert {each.comment for each in store.rule_overrides(project="vision")} == {"store"}
    assert {each.comment for each in store.rule_overrides()} == {"store"}
    assert len(store.rule_history()) == 8
    assert {each.comment for each in store.rule_history(project="", run_id="")} == {"store"}
    assert [each.comment for each in store.rule_history("a_rule", project="language", run_id="")] == ["project"]


def test_saving_again_under_the_same_id_changes_nothing(store: Store) -> None:
    given = version()
    first = store.save_rule(given, seen=0)
    store.save_rule(version(changes={}), seen=1)
    assert store.save_rule(given, seen=0) == first
    assert len(store.rule_history()) == 2


def test_saving_over_what_one_has_not_seen_is_refused_and_says_who_changed_what(store: Store) -> None:
    store.save_rule(version(created_by="ann", comment="fewer notes", changes={"parameters": {"z": 12.0}}), seen=0)
    for seen in (0, 7):
        with pytest.raises(RuleConflictError) as refused:
            store.save_rule(version(created_by="bob"), seen=seen)
        for words in (
            "ann changed rule 'loss_spike'",
            "fewer notes",
            '{"parameters": {"z": 12.0}}',
            "version 1",
            "Nothing was saved",
        ):
            assert words in str(refused.value)
    assert [each.created_by for each in store.rule_history()] == ["ann"]
    with pytest.raises(RuleConflictError, match="has no version 3 here"):
        store.save_rule(version("other"), seen=3)
    assert store.save_rule(version(created_by="bob"), seen=1).version == 2


def test_of_many_who_save_at_once_one_wins_each_round(store: Store) -> None:
    def race(seen: int) -> list[str]:
        said: list[str] = []
        ready = threading.Barrier(6)

        def save(name: str) -> None:
            ready.wait()
            try:
                store.save_rule(version(created_by=name), seen=seen)
                said.append("saved")
            except RuleConflictError:
                said.append("refused")

        threads = [threading.Thread(target=save, args=(f"user {number}",)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted(said)

    for seen in range(3):
        assert race(seen) == ["refused"] * 5 + ["saved"]
    assert [each.version for each in store.rule_history()] == [3, 2, 1]


def test_the_revision_differs_after_every_change(store: Store, new_run: MakeRun) -> None:
    seen = [store.rules_revision()]
    store.save_rule(version(), seen=0)
    seen.append(store.rules_revision())
    assert store.rules_revision() == seen[-1]
    run = new_run(status=RunStatus.FINISHED)
    store.create_run(run)
    store.save_rule(version(run_id=run.id), seen=0)
    seen.append(store.rules_revision())
    store.delete_run(run.id)
    assert [each.run_id for each in store.rule_history()] == [""], "a run's own versions go with it"
    store.save_rule(version("other"), seen=0)
    seen.append(store.rules_revision())
    assert len(set(seen)) == 4


def test_what_cannot_be_kept_is_refused(store: Store) -> None:
    with pytest.raises(UnknownRunError):
        store.save_rule(version(run_id="nobody"), seen=0)
    for bad in (float("nan"), {1, 2}, object()):
        with pytest.raises(InvalidRecordError, match="'loss_spike' cannot be stored"):
            store.save_rule(version(changes={"parameters": {"z": bad}}), seen=0)
    with pytest.raises(ValueError, match="name of its rule"):
        version("")
    with pytest.raises(ValueError, match="not for both"):
        version(project="p", run_id="r")
    assert store.rule_history() == []
    hostile = store.save_rule(version("'; DROP TABLE runs; --\0" + "x" * 10_000, comment="\0"), seen=0)
    assert store.rule_history(hostile.rule) == [hostile]


def test_a_row_that_is_no_table_is_returned_as_such(store: Store) -> None:
    good, bad = store.save_rule(version(), seen=0), store.save_rule(version("other"), seen=0)
    assert isinstance(store, SQLAlchemyStore)
    for garbage in ("{nonsense", "[1, 2]", ""):
        with store.database.write() as connection:
            connection.execute(text("UPDATE rule_versions SET changes = :new WHERE id = :id"), {"new": garbage, "id": bad.id})
        assert [dict(each.changes) for each in store.rule_overrides()] == [good.changes, {UNREADABLE: garbage}]


def test_versions_are_heard_of(postgres_store: Store) -> None:
    listener = postgres_store.listen()
    try:
        postgres_store.save_rule(version(), seen=0)
        assert listener.wait(10.0).everything
    finally:
        listener.close()


def test_versions_are_heard_of_in_a_file_and_on_mariadb(file_store: Store, mariadb_url: str) -> None:
    other = open_store(mariadb_url)
    try:
        for store in (file_store, other):
            listener = store.listen()
            store.save_rule(version(new_id()), seen=0)
            assert listener.wait(10.0)
            listener.close()
    finally:
        other.close()
