"""The list of runs, without a browser: what it finds, narrows, sorts and groups, and how little of the store it reads."""

import math
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
from foreshock.dashboard import factory, paths, who
from foreshock.dashboard.access.reader import as_seen
from foreshock.dashboard.desk import Backlog
from foreshock.dashboard.listing import page_of
from foreshock.dashboard.pages.frame import frame
from foreshock.dashboard.roster import roster_of
from foreshock.dashboard.router import page_at
from foreshock.dashboard.searching import LONGEST, Words, terms_of
from foreshock.dashboard.who import Visitor
from foreshock.storage.base import Store
from foreshock.storage.records import Batch, Run, RunStatus, SeriesKey, StepRecord, new_id
from foreshock.storage.results import News

NAMES = ["<script>alert(1)</script>", "a'b\"c", "100%_done", "مرحبا بالعالم", "x" * 10_000, "plain"]


def shown(store: Store, search: str) -> list[str]:
    """Names on the list, from the top; those of groups with their number of runs."""
    table = factory.overview(store, search).paint()["runs-table"]["data"]
    return [f"{line['name']}: {line['runs']}" if "runs" in line else line["name"] for line in (table or {"lines": []})["lines"]]


def query_of(view: paths.RunsView) -> str:
    """The query of a view's address."""
    return "?" + paths.runs_path(view).partition("?")[2]


def add(store: Store, name: str, at: float, **fields: Any) -> Run:
    run = Run(new_id(), name, created_at=at, heartbeat_at=at, **{"status": RunStatus.FINISHED, "ended_at": at + 60.0} | fields)
    store.create_run(run)
    store.open_segment(run.id, 0, at)
    return run


@pytest.fixture
def mixed(store: Store, simulated: ModuleType) -> Store:
    """Eight runs of three projects."""
    for number in range(8):
        project = ("alpha", "beta", "")[number % 3]
        status = RunStatus.CRASHED if number in (1, 4) else RunStatus.FINISHED
        meta = {"host": f"gpu-{number}", "optimizer": {"lr": 10.0**-number, "name": "AdamW"}, "steps": [1, 2]}
        tags = ("nightly",) if number % 2 else ("nightly", "sweep")
        run = add(store, f"r{number}", 1000.0 + number, project=project, status=status, tags=tags, meta=meta)
        if number in (1, 6):
            store.save_alerts(simulated.failing_alerts(run.id)[: 2 if number == 1 else 1])
    return store


@pytest.mark.parametrize("column", ["name", "step", "alerts", "risk", "loss", "rate", "cost", "started"])
def test_the_list_is_sorted_both_ways(column: str, store: Store, simulated: ModuleType) -> None:
    orders = {
        "name": "abc",
        "step": "cab",
        "alerts": "acb",
        "loss": "bac",
        "cost": "???",
        "risk": "cab",
        "rate": "cab",
        "started": "bca",
    }
    for name, steps, alerts, risk in (("b", 30, slice(0, 2), 80.0), ("c", 10, slice(0, 1), math.nan), ("a", 20, slice(0, 0), 9.5)):
        run = simulated.begin_run(store, name)
        records = simulated.Simulation(failing=False).steps(0, steps)
        timed = tuple(replace(record, time=1000.0 + record.step / steps) for record in records)
        store.write(Batch(new_id(), run.id, 0, timed))
        store.write(Batch(new_id(), run.id, 0, (StepRecord(steps - 1, 1000.0 + 1 - 1 / steps, (SeriesKey("risk"),), [risk]),)))
        store.save_alerts(simulated.failing_alerts(run.id)[alerts])
    for descending in (False, True):
        names = shown(store, f"?sort={column}&order={'desc' if descending else 'asc'}")
        assert sorted(names) == ["a", "b", "c"]
        expected = orders[column][::-1] if descending else orders[column]
        assert all(wanted in ("?", name) for wanted, name in zip(expected, names, strict=True)), names


def test_a_long_list_comes_page_by_page(store: Store, simulated: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(8):
        run = simulated.begin_run(store, f"r{number}", at=1000.0 + number)
        simulated.write_steps(store, run.id, simulated.Simulation(failing=False), 0, 10)
    monkeypatch.setattr("foreshock.dashboard.sections.overview.PAGE", 3)
    pictured: list[int] = []
    sparklines = store.sparklines
    monkeypatch.setattr(store, "sparklines", lambda ids, *key: pictured.append(len(ids)) or sparklines(ids, *key))

    def page(number: int) -> tuple[list[str], str, list[str]]:
        table = factory.overview(store, f"?sort=name&order=desc&page={number}").paint()["runs-table"]["data"]
        pager = table["pager"]
        ways = [way["label"] for way in [*pager["before"], *pager["after"]] if way["href"]]
        return [line["name"] for line in table["lines"]], pager["words"], ways

    assert page(1) == (["r7", "r6", "r5"], "1–3 of 8 runs", ["Next →", "Last »"])
    assert page(3) == (["r1", "r0"], "7–8 of 8 runs", ["« First", "← Previous"])
    assert page(99)[0] == ["r1", "r0"]
    assert pictured == [3, 2], "a course is read of what is shown, and once"


@pytest.mark.parametrize(
    ("search", "names"),
    [
        ("?q=R3", "r3"),
        ("?q=gpu-2", "r2"),
        ("?q=beta+nightly", "r7 r4 r1"),
        ("?q=lr%3D1e-3", "r3"),
        ("?q=optimizer.lr%3D0.001", "r3"),
        ("?q=name%3Dadamw+gpu-5", "r5"),
        ("?q=lr%3D7", ""),
        ("?q=steps%3D[1", "r7 r6 r5 r4 r3 r2 r1 r0"),
        ("?state=crashed", "r4 r1"),
        ("?state=crashed&state=finished&project=alpha", "r6 r3 r0"),
        ("?project=%E2%80%93", "r5 r2"),
        ("?tag=sweep&project=beta", "r4"),
        ("?alerts=critical", "r1"),
        ("?alerts=warning", "r6 r1"),
        ("?alerts=none&state=crashed", "r4"),
        ("?q=nothing", ""),
        ("?q=%00", ""),
        ("?sort=nonsense&group=nonsense&page=-3&alerts=nonsense", "r6 r1"),
    ],
)
def test_what_narrows_the_list(search: str, names: str, mixed: Store) -> None:
    assert shown(mixed, search) == names.split()


def test_no_match_says_what_each_filter_leaves_out(mixed: Store) -> None:
    updates = factory.overview(mixed, "?q=zebra&state=crashed&tag=nightly").paint()
    said = str(updates["runs-empty"]["children"])
    assert updates["runs-table"]["data"] is None
    assert "No run matches" in said
    assert "zebra" in said
    assert "there are 2" in said, "the two crashed ones"
    assert said.count("there is still none") == 2, "without the state, and without the tag"
    assert "0 of " in str(updates["runs-count"])
    labels = [choice["label"] for choice in updates["filter-project"]["options"]]
    assert labels == ["alpha (3)", "beta (3)", "– (2)"]
    chosen = factory.overview(mixed, "?project=gone").paint()["filter-project"]["options"]
    assert chosen[-1] == {"label": "gone (0)", "value": "gone"}, "a choice that is not there could not be taken back"


def test_runs_stand_in_groups(mixed: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(mixed, "?group=open")[:4] == ["beta: 3 runs", "r7", "r4", "r1"]
    assert shown(mixed, "?group=closed") == ["beta: 3 runs", "alpha: 3 runs", "–: 2 runs"]
    assert shown(mixed, "?group=closed&flip=alpha&q=r3") == ["alpha: 1 run", "r3"]
    assert shown(mixed, "?group=open&flip=beta&sort=name") == [
        "alpha: 3 runs",
        "r0",
        "r3",
        "r6",
        "beta: 3 runs",
        "–: 2 runs",
        "r2",
        "r5",
    ]
    data = factory.overview(mixed, "?group=open&sort=alerts&order=desc").paint()["runs-table"]["data"]
    head = data["lines"][0]
    assert [one["words"] for one in head["states"]] == ["2 crashed", "1 finished"]
    assert [(one["severity"], one["count"]) for one in head["alerts"]] == [("critical", 1), ("warning", 1)]
    assert "project" not in [column["name"] for column in data["columns"]]
    assert paths.runs_view_of(head["href"].partition("?")[2]).flipped == ("beta",)
    monkeypatch.setattr("foreshock.dashboard.sections.overview.PAGE", 2)
    second = factory.overview(mixed, "?group=open&page=2").paint()["runs-table"]["data"]["lines"]
    assert [line["name"] for line in second] == ["beta", "r4", "r1"]
    assert second[0]["continued"]
    assert page_of([], 1, 2) == []


def test_hostile_names_are_found_and_stay_text(store: Store) -> None:
    for number, name in enumerate(NAMES):
        add(store, name, 1000.0 + number, project=name[:50], tags=(name[:20],))
    for name in NAMES:
        assert shown(store, query_of(paths.RunsView(text=name))) == [name]
    assert shown(store, "?q=%25") == ["100%_done"]
    assert shown(store, "?q=_") == ["100%_done"]
    said = str(factory.overview(store, query_of(paths.RunsView(text="y" * 10_000))).paint())
    assert f"first {LONGEST} letters" in said
    assert terms_of("Straße\u0000 X") == ["strasse\x00", "x"]
    assert Words(replace(store.runs()[0], meta={"deep": {"a": {"b": {"c": {"d": 1}}}}, "nan": math.nan})).match(["nan=nan"])


@pytest.mark.parametrize(
    "view",
    [
        paths.RunsView(),
        paths.RunsView("a&b=c #%", ("live", "lost"), ("p/1", "é"), ("t",), "warning", "loss", True, 7, "closed", ("p/1", "")),
        paths.RunsView(sort="name", group="open"),
    ],
)
def test_an_address_holds_the_whole_view(view: paths.RunsView) -> None:
    assert paths.runs_view_of(query_of(view)) == view
    assert paths.runs_view_of("?page=x&page=2&" + "page=9" * 900).page == 1


def test_lines_are_sent_until_runs_come_or_go(store: Store, simulated: ModuleType) -> None:
    table = factory.overview(store, "")
    assert "no-runs" in str(table.paint()["runs-empty"])
    first = simulated.begin_run(store, "first")
    assert "runs-table" in table.advance()
    store.update_run(first.id, status=RunStatus.FINISHED, ended_at=1.0)
    updates = table.advance()
    assert "runs-table" not in updates
    (line,) = updates["runs-changed"]["data"]["lines"]
    assert line["cells"]["state"]["life"] == "finished"
    assert "runs-changed" not in table.advance()
    simulated.begin_run(store, "second")
    assert "runs-table" in table.advance()
    live = factory.overview(store, "?state=live")
    assert [line["name"] for line in live.paint()["runs-table"]["data"]["lines"]] == ["second"]
    store.update_run(store.run("second").id, status=RunStatus.CRASHED)
    assert live.advance()["runs-table"]["data"] is None


def test_everybody_who_may_only_read_hears_of_every_run(
    store: Store, simulated: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(who, "visitor", lambda: Visitor("on-call", may_write=False))
    backlog = Backlog()
    backlog.hear(True)
    tables = [factory.overview(as_seen(store), None, backlog) for _ in range(3)]
    for table in tables:
        table.paint()
    run = simulated.begin_run(store, "new")
    backlog.add(News(frozenset({run.id})))
    for table in tables:  # what was heard is told once, to the list that they share
        assert [line["name"] for line in table.advance()["runs-table"]["data"]["lines"]] == ["new"]


def test_only_what_changed_is_read(store: Store, simulated: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [simulated.begin_run(store, f"r{number}", at=1000.0 + number) for number in range(6)]
    asked: list[Any] = []
    for name in ("runs", "run_marks", "alert_counts"):
        real = getattr(store, name)

        def watched(*args: Any, _name: str = name, _real: Any = real, **more: Any) -> Any:
            asked.append(
                (_name, sorted(more["ids"]) if more.get("ids") is not None else None) if _name == "runs" else (_name, None)
            )
            return _real(*args, **more)

        monkeypatch.setattr(store, name, watched)
    news = [News(everything=True)]
    roster = roster_of(store)
    assert roster_of(store) is roster
    roster.follow(lambda: news.pop() if news else News())

    def look() -> list[Any]:
        asked.clear()
        roster.look()
        return [one for one in asked if one[0] != "alert_counts"]

    assert look() == [("run_marks", None), ("runs", None)]
    assert look() == []
    assert asked == [], "without news nothing is read at all"
    store.update_run(runs[2].id, heartbeat_at=2000.0)
    news.append(News(everything=True))
    assert look() == [("run_marks", None), ("runs", [runs[2].id])]
    store.update_run(runs[3].id, heartbeat_at=2000.0, meta={"lr": 0.5})
    store.save_alerts(simulated.failing_alerts(runs[3].id)[:1])
    news.append(News(frozenset({runs[3].id})))
    assert look() == [("runs", [runs[3].id])]
    (changed,) = [one for one in roster.last() if one.run.id == runs[3].id]
    assert changed.run.heartbeat_at == 2000.0
    assert changed.words.match(["lr=0.50"])
    assert sum(changed.alerts.values()) == 1
    store.update_run(runs[0].id, status=RunStatus.FINISHED)
    store.delete_run(runs[0].id)
    extra = simulated.begin_run(store, "newest")
    news.append(News(frozenset({runs[0].id, extra.id})))
    look()
    assert [one.run.name for one in roster.last()] == ["newest", "r5", "r4", "r3", "r2", "r1"]
    news.append(News(frozenset({runs[1].id})))
    monkeypatch.setattr(store, "runs", lambda **_: (_ for _ in ()).throw(ConnectionError("away")))
    with pytest.raises(ConnectionError):
        roster.look()
    monkeypatch.undo()
    store.update_run(runs[1].id, status=RunStatus.CRASHED)
    roster.look()
    assert roster.last()[-1].run.status is RunStatus.CRASHED, "news that was lost with an error is made up for"


def test_what_is_sent_stands_on_the_page(mixed: Store) -> None:
    for search in ("", "?q=nothing", "?group=open"):
        page = page_at(mixed, "/", search)
        there = {part.id for whole in (frame(), page) for part in whole._traverse() if getattr(part, "id", None)}
        section = factory.overview(mixed, search)
        sent = section.paint().keys() | section.tick().keys()
        mixed.update_run(mixed.runs()[0].id, status=RunStatus.TERMINATED)
        assert sent | section.advance().keys() <= there
