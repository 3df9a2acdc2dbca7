"""What ``storage/base.py`` promises, held against every kind of store."""

import math
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from foreshock.storage import InvalidRecordError, Store, StoreUnavailableError, UnknownRunError
from foreshock.storage.records import (
    Alert,
    AlertState,
    Batch,
    Cause,
    Change,
    Event,
    Evidence,
    Histogram,
    Notification,
    NotificationState,
    Run,
    RunStatus,
    Segment,
    SeriesKey,
    Severity,
    StepRecord,
    derived_id,
    new_id,
)

MakeRun = Callable[..., Run]
MakeBatch = Callable[..., Batch]
LOSS = SeriesKey("loss")


@pytest.fixture
def run(store: Store, new_run: MakeRun) -> Run:
    made = new_run()
    store.create_run(made)
    store.open_segment(made.id, 0, 1000.0)
    return made


def alert_of(run: Run, *, rule: str = "loss_spike", module: str = "", **fields: object) -> Alert:
    plain: dict[str, object] = {
        "id": derived_id(run.id, rule, module, 0),
        "run_id": run.id,
        "rule": rule,
        "module": module,
        "episode": 0,
        "severity": Severity.WARNING,
        "state": AlertState.FIRING,
        "segment": 0,
        "first_step": 10,
        "last_step": 12,
        "created_at": 1010.0,
        "updated_at": 1012.0,
        "message": "The loss rises.",
    }
    return Alert(**plain | fields)  # type: ignore[arg-type]


# -- runs and segments -------------------------------------------------------------------------------------------


def test_a_run_comes_back_as_it_was_given(store: Store, new_run: MakeRun) -> None:
    given = new_run(
        "gpt2 – bf16 🌊", project="P", tags=("a", "b"), meta={"host": "h", "size": 3, "deep": {"x": [1, None]}}, last_step=-1
    )
    store.create_run(given)
    assert store.run(given.id) == given
    assert store.runs() == [given]


def test_creating_a_run_again_changes_nothing(store: Store, run: Run) -> None:
    store.create_run(replace(run, name="other", meta={"x": 1}))
    assert store.runs() == [run]


def test_runs_come_newest_first_and_by_project(store: Store, new_run: MakeRun) -> None:
    runs = [new_run(f"r{i}", created_at=1000.0 + i, project="odd" if i % 2 else "even") for i in range(5)]
    for item in runs:
        store.create_run(item)
    assert [item.name for item in store.runs()] == ["r4", "r3", "r2", "r1", "r0"]
    assert [item.name for item in store.runs(limit=2)] == ["r4", "r3"]
    assert [item.name for item in store.runs(project="odd")] == ["r3", "r1"]


def test_runs_are_narrowed_to_ids(store: Store, new_run: MakeRun) -> None:
    runs = [new_run(f"r{i}", id=f"id-{i:04}", created_at=1000.0 + i // 2, project="odd" if i % 2 else "even") for i in range(1100)]
    for item in runs[:4]:
        store.create_run(item)
    wanted = [item.id for item in runs]
    assert [item.name for item in store.runs(ids=wanted)] == ["r3", "r2", "r1", "r0"], "in parts, and yet in one order"
    assert [item.name for item in store.runs(ids=[runs[0].id, runs[3].id, "no such run"])] == ["r3", "r0"]
    assert [item.name for item in store.runs(ids=wanted, project="odd", limit=1)] == ["r3"]
    assert store.runs(ids=[]) == []


def test_a_runs_mark_differs_once_the_run_was_changed(store: Store, new_run: MakeRun, batch_of: MakeBatch) -> None:
    old, new = new_run("old", created_at=1.0, meta={"pid": 1234}), new_run("new", created_at=2.0)
    for item in (old, new):
        store.create_run(item)
        store.open_segment(item.id, 0, 1000.0)
    before = store.run_marks()
    assert list(before) == [new.id, old.id]
    assert store.run_marks() == before
    changes: list[Callable[[], None]] = [
        lambda: store.update_run(old.id, meta={"pid": 4321}),
        lambda: store.update_run(old.id, heartbeat_at=5000.0),
        lambda: store.write(batch_of(old, range(3))),
        lambda: store.update_run(old.id, status=RunStatus.FINISHED),
        lambda: store.update_run(old.id, ended_at=6000.0),
    ]
    for number, change in enumerate(changes):
        change()
        after = store.run_marks()
        assert after[old.id] != before[old.id], number
        assert after[new.id] == before[new.id]
        before = after
    store.delete_run(old.id)
    assert list(store.run_marks()) == [new.id]


def test_step_rates_are_those_of_the_newest_steps(store: Store, new_run: MakeRun) -> None:
    quick, slow, short, timeless, untouched = (new_run(name) for name in ("quick", "slow", "short", "timeless", "untouched"))

    def write(run: Run, segment: int, places: list[tuple[int, float]]) -> None:
        store.write(Batch(new_id(), run.id, segment, tuple(StepRecord(step, time, (LOSS,), [1.0]) for step, time in places)))

    for item in (quick, slow, short, timeless, untouched):
        store.create_run(item)
        store.open_segment(item.id, 0, 1000.0)
    write(quick, 0, [(step, 1000.0 + step) for step in range(100)])
    write(quick, 0, [(step, 1090.0 + step / 10) for step in range(100, 200)])
    write(slow, 0, [(step, 5.0 + step / 100) for step in range(50)])
    store.open_segment(slow.id, 40, 2000.0)
    write(slow, 1, [(40, 2000.0), (60, 2040.0)])
    write(short, 0, [(0, 1000.0)])
    write(timeless, 0, [(step, 0.0) for step in range(9)])
    every = [item.id for item in (quick, slow, short, timeless, untouched)]
    assert store.step_rates([*every, "no such run"]) == pytest.approx({quick.id: 10.0, slow.id: 0.5})
    assert store.step_rates([quick.id], window=199) == pytest.approx({quick.id: 199 / 109.9})
    assert store.step_rates([]) == {}


def test_a_run_is_found_by_id_by_newest_name_and_by_prefix(store: Store, new_run: MakeRun) -> None:
    old, new = new_run("same", id="aaaaaaaa1", created_at=1.0), new_run("same", id="aaaaaaaa2", created_at=2.0)
    other = new_run("other", id="bbbbbbbb%_1", created_at=3.0)
    for item in (old, new, other):
        store.create_run(item)
    assert store.run("aaaaaaaa1") == old
    assert store.run("same") == new
    assert store.run("bbbbbbbb") == other
    with pytest.raises(UnknownRunError, match=r"Several runs.*aaaaaaaa2, aaaaaaaa1"):
        store.run("aaaaaaaa")
    with pytest.raises(UnknownRunError, match=r"No run 'bbb'.*other \(bbbbbbbb\), same"):
        store.run("bbb")
    with pytest.raises(UnknownRunError):
        store.run("bbbbbbbb_")  # letters that mean something to LIKE mean themselves


def test_an_empty_store_says_that_it_is_empty(store: Store) -> None:
    assert store.runs() == []
    assert store.alerts() == []
    with pytest.raises(UnknownRunError, match="holds no runs yet"):
        store.run("x")


def test_updating_a_run_changes_what_is_given_and_merges_meta(store: Store, new_run: MakeRun) -> None:
    given = new_run(meta={"a": 1, "b": 2})
    store.create_run(given)
    store.update_run(given.id, status=RunStatus.CRASHED, ended_at=5.0, meta={"b": 3, "c": 4})
    assert store.run(given.id) == replace(given, status=RunStatus.CRASHED, ended_at=5.0, meta={"a": 1, "b": 3, "c": 4})
    store.update_run(given.id, heartbeat_at=2000.0)
    assert store.run(given.id).heartbeat_at == 2000.0
    assert store.run(given.id).ended_at == 5.0
    store.update_run(given.id, status=RunStatus.RUNNING)
    assert store.run(given.id).ended_at is None


def test_segments_are_numbered_from_zero(store: Store, run: Run) -> None:
    assert store.open_segment(run.id, 100, 1100.0) == 1
    assert store.open_segment(run.id, 50, 1200.0) == 2
    assert store.segments(run.id) == [
        Segment(run.id, 0, 0, 1000.0),
        Segment(run.id, 1, 100, 1100.0),
        Segment(run.id, 2, 50, 1200.0),
    ]


def test_a_segment_can_be_added_under_its_own_number(store: Store, run: Run) -> None:
    third = Segment(run.id, 3, 70, 1300.0)
    store.add_segment(third)
    store.add_segment(replace(third, start_step=9))
    assert store.segments(run.id) == [Segment(run.id, 0, 0, 1000.0), third]
    assert store.open_segment(run.id, 80, 1400.0) == 4


def test_every_method_names_a_run_that_is_not_there(store: Store, batch_of: MakeBatch) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.update_run("nobody", heartbeat_at=1.0),
        lambda: store.open_segment("nobody", 0, 0.0),
        lambda: store.add_segment(Segment("nobody", 0, 0, 0.0)),
        lambda: store.segments("nobody"),
        lambda: store.write(batch_of("nobody", range(3))),
        lambda: store.write(batch_of("nobody", range(0))),
        lambda: store.series("nobody"),
        lambda: store.changes("nobody"),
        lambda: store.step_times("nobody"),
        lambda: store.histograms("nobody", "a", "b"),
        lambda: list(store.batches("nobody")),
        lambda: store.frame("nobody"),
        lambda: store.alerts("nobody"),
        lambda: store.events("nobody"),
        lambda: store.add_event(Event(new_id(), "nobody", 0, 0, 0.0, "k", "m")),
        lambda: store.save_alerts([alert_of(Run("nobody", "n"))]),
    ]
    for call in calls:
        with pytest.raises(UnknownRunError, match="nobody"):
            call()


# -- samples -----------------------------------------------------------------------------------------------------


def test_samples_come_back_as_they_were_written(store: Store, run: Run) -> None:
    keys = (LOSS, SeriesKey("attention.entropy", "blocks.0.attn", 3, 1))
    odd = [math.nan, math.inf, -math.inf, 0.1, -1e308, 5e-324, 1 / 3, 0.0]
    store.write(Batch(new_id(), run.id, 0, tuple(StepRecord(i, 1000.0 + i, keys, [v, -v]) for i, v in enumerate(odd))))
    series = store.series(run.id)
    assert [item.key for item in series] == list(keys)
    first, second = store.read(series)
    assert list(first.values) == pytest.approx(odd, abs=0, rel=0, nan_ok=True)
    assert list(second.values) == pytest.approx([-v for v in odd], abs=0, rel=0, nan_ok=True)
    assert list(first.steps) == list(range(8))
    assert not first.decimated
    assert store.run(run.id).last_step == 7
    assert store.run(run.id).heartbeat_at == 1007.0


def test_series_are_listed_in_order_of_appearance_and_narrowed(store: Store, run: Run) -> None:
    keys = (SeriesKey("z", "m1"), SeriesKey("a", "m2"), SeriesKey("a", "m1"))
    store.write(Batch(new_id(), run.id, 0, (StepRecord(0, 0.0, keys[:2], [1.0, 2.0]), StepRecord(1, 0.0, keys, [1.0, 2.0, 3.0]))))
    assert [item.key for item in store.series(run.id)] == list(keys)
    assert [item.key for item in store.series(run.id, signal="a")] == [keys[1], keys[2]]
    assert [item.key for item in store.series(run.id, signal="a", module="m1")] == [keys[2]]
    assert [item.key for item in store.series(run.id, module="")] == []
    series = {item.key: item for item in store.series(run.id)}
    assert [list(data.steps) for data in store.read([series[keys[2]], series[keys[0]]])] == [[1], [0, 1]]


def test_names_of_any_length_and_letters_are_kept_apart(store: Store, run: Run) -> None:
    names = ["x" * 10_000, "x" * 9_999, "<script>'\"--;%", "Fall", "fall", "fäll", "übel\u202e", "a ", "a"]
    keys = tuple(SeriesKey("s", name) for name in names)
    store.write(Batch(new_id(), run.id, 0, (StepRecord(0, 0.0, keys, [float(i) for i in range(len(keys))]),)))
    assert [
        (item.key, list(data.values)) for item, data in zip(store.series(run.id), store.read(store.series(run.id)), strict=True)
    ] == [(key, [float(i)]) for i, key in enumerate(keys)]


def test_letters_that_no_engine_stores_are_replaced(store: Store, new_run: MakeRun) -> None:
    run = new_run("a\0b", meta={"k": "\0\udc80"})
    store.create_run(run)
    key = SeriesKey("s\0", "\udc80")
    for step in range(2):
        store.write(Batch(new_id(), run.id, 0, (StepRecord(step, 0.0, (key, LOSS), [1.0, 2.0]),)))
    store.add_event(Event(new_id(), run.id, 0, 0, 0.0, "k", "nul \0"))
    assert store.run(run.id).name == "a\ufffdb"
    assert [item.key for item in store.series(run.id)] == [SeriesKey("s\ufffd", "?"), LOSS]
    assert [list(data.steps) for data in store.read(store.series(run.id))] == [[0, 1], [0, 1]]


def test_a_batch_written_twice_counts_once(store: Store, run: Run, batch_of: MakeBatch) -> None:
    batch = batch_of(run, range(5))
    store.write(batch)
    cursor = store.changes(run.id).cursor
    store.write(replace(batch, steps=(StepRecord(99, 0.0, (LOSS,), [7.0]),)))
    assert store.changes(run.id, cursor).ranges == ()
    assert list(store.read(store.series(run.id))[0].steps) == [0, 1, 2, 3, 4]


def test_a_newer_value_of_a_sample_replaces_the_older(store: Store, run: Run) -> None:
    def record(step: int, value: float) -> StepRecord:
        return StepRecord(step, float(step), (LOSS, LOSS), [-1.0, value])

    store.write(Batch(new_id(), run.id, 0, (record(1, 1.0), record(2, 2.0))))
    store.write(Batch(new_id(), run.id, 0, (record(2, 20.0), record(3, 3.0), record(3, math.nan))))
    data = store.read(store.series(run.id))[0]
    assert list(data.steps) == [1, 2, 3]
    assert list(data.values) == pytest.approx([1.0, 20.0, math.nan], nan_ok=True)


def test_steps_seen_twice_in_two_segments_are_both_kept(store: Store, run: Run, batch_of: MakeBatch) -> None:
    store.write(batch_of(run, range(10)))
    store.open_segment(run.id, 5, 1.0)
    store.write(batch_of(run, range(5, 12), segment=1))
    series = store.series(run.id)
    data = store.read(series)[0]
    assert list(data.segments) == [0] * 10 + [1] * 7
    assert list(data.steps) == [*range(10), *range(5, 12)]
    assert list(store.read(series, segment=1)[0].steps) == list(range(5, 12))
    assert list(store.read(series, start=6, stop=8)[0].steps) == [6, 7, 6, 7]
    assert store.read(series, start=100)[0].values == []


def test_reading_may_be_decimated(store: Store, run: Run) -> None:
    values = [math.sin(i / 50) for i in range(5000)]
    values[1234], values[4321], values[77] = 9.0, -9.0, math.nan
    store.write(Batch(new_id(), run.id, 0, tuple(StepRecord(i, 0.0, (LOSS,), [v]) for i, v in enumerate(values))))
    (data,) = store.read(store.series(run.id), max_points=200)
    assert data.decimated
    assert 100 <= len(data.values) <= 210
    assert {0, 77, 1234, 4321, 4999} <= set(data.steps)
    assert all(values[step] == value or math.isnan(value) for step, value in zip(data.steps, data.values, strict=True))
    (all_of_it,) = store.read(store.series(run.id), max_points=5000)
    assert not all_of_it.decimated
    assert len(all_of_it.values) == 5000


def test_the_newest_values_of_many_runs(store: Store, new_run: MakeRun, batch_of: MakeBatch) -> None:
    runs = [new_run(f"r{i}") for i in range(3)]
    norm, of_layer = SeriesKey("gradient.norm"), SeriesKey("loss", "layer", 2, 1)
    for number, run in enumerate(runs):
        store.create_run(run)
        store.write(batch_of(run, range(10 + number), signals=("loss", "gradient.norm")[: 1 + number]))
    store.write(Batch(new_id(), runs[1].id, 1, (StepRecord(3, 0.0, (LOSS, of_layer), [math.inf, 7.0]),)))
    store.write(Batch(new_id(), runs[2].id, 0, (StepRecord(12, 0.0, (LOSS,), [math.nan]),)))
    ids = [run.id for run in runs]
    found = store.newest([*ids, "nobody"], [LOSS, norm, of_layer, SeriesKey("never")])
    assert found.keys() == set(ids)
    assert found[ids[0]] == {LOSS: 9.0}
    assert found[ids[1]] == {LOSS: math.inf, norm: 11.0, of_layer: 7.0}, "a later segment is newer, whatever its steps"
    assert math.isnan(found[ids[2]][LOSS])
    assert found[ids[2]][norm] == 12.0
    assert store.newest([], [LOSS]) == store.newest(ids, []) == {}


@pytest.mark.parametrize("steps", [1, 2, 59, 60, 61, 700, 2345])
def test_a_sparkline_is_the_course_in_few_values(steps: int, store: Store, run: Run) -> None:
    values = [math.cos(i / steps * 6) for i in range(steps)]
    for first in range(0, steps, 500):
        part = values[first : first + 500]
        store.write(Batch(new_id(), run.id, 0, tuple(StepRecord(first + i, 0.0, (LOSS,), [v]) for i, v in enumerate(part))))
    (line,) = store.sparklines([run.id, "nobody"], LOSS).values()
    assert min(steps, 20) <= len(line) <= 60
    assert line[-1] == values[-1]
    places = [round(i * (steps - 1) / max(1, len(line) - 1)) for i in range(len(line))]
    assert all(abs(shown - values[place]) < 0.25 for shown, place in zip(line, places, strict=True))
    assert store.sparklines([run.id], SeriesKey("never")) == store.sparklines([], LOSS) == {}


def test_a_sparkline_of_a_series_measured_now_and_then_and_not_finite(store: Store, run: Run) -> None:
    rare = SeriesKey("risk")
    records = tuple(
        StepRecord(step, 0.0, (LOSS, rare) if step % 100 == 0 else (LOSS,), [math.nan, float(step)][: 2 if step % 100 == 0 else 1])
        for step in range(2000)
    )
    for first in range(0, 2000, 500):
        store.write(Batch(new_id(), run.id, 0, records[first : first + 500]))
    assert store.sparklines([run.id], rare)[run.id] == [float(step) for step in range(0, 2000, 100)]
    assert all(math.isnan(value) for value in store.sparklines([run.id], LOSS)[run.id])


def test_alerts_are_counted_by_run_and_severity(store: Store, new_run: MakeRun, run: Run) -> None:
    other = new_run("other")
    store.create_run(other)
    critical = Severity.CRITICAL
    store.save_alerts([alert_of(run), alert_of(run, rule="b"), alert_of(run, rule="c", severity=critical), alert_of(other)])
    store.save_alerts([alert_of(other, rule="over", state=AlertState.RESOLVED)])
    assert store.alert_counts([AlertState.FIRING]) == {
        run.id: {Severity.WARNING: 2, Severity.CRITICAL: 1},
        other.id: {Severity.WARNING: 1},
    }
    assert store.alert_counts([AlertState.RESOLVED, AlertState.SILENCED]) == {other.id: {Severity.WARNING: 1}}
    assert store.alert_counts([]) == {}
    assert store.alert_counts([AlertState.RESOLVED, AlertState.FIRING], run_ids=[other.id, "no such run"]).keys() == {other.id}
    assert store.alert_counts([AlertState.FIRING], run_ids=[]) == {}


def test_changes_report_what_was_written_since(store: Store, new_run: MakeRun, run: Run, batch_of: MakeBatch) -> None:
    other = new_run("other")
    store.create_run(other)
    start = store.changes(run.id)
    assert start.ranges == ()
    store.write(batch_of(run, range(3)))
    store.write(batch_of(other, range(50)))
    store.write(batch_of(run, range(3, 6)))
    store.write(batch_of(run, range(2, 4), segment=1))
    seen = store.changes(run.id, start.cursor)
    assert seen.ranges == (Change(0, 0, 5), Change(1, 2, 3))
    assert store.changes(run.id, seen.cursor) == replace(seen, ranges=())
    store.write(batch_of(run, range(6, 7)))
    assert store.changes(run.id, seen.cursor).ranges == (Change(0, 6, 6),)


def test_step_times_of_a_long_run_are_looked_up(store: Store, run: Run, batch_of: MakeBatch) -> None:
    store.write(batch_of(run, range(400)))
    store.open_segment(run.id, 300, 2000.0)
    store.write(batch_of(run, range(300, 500), segment=1))
    times = store.step_times(run.id, max_points=15)
    assert times == [(segment, step, 1000.0 + step) for segment, step, _ in times]
    assert [place[:2] for place in times[:2]] == [(0, 0), (0, 44)]
    assert [place[:2] for place in times[9:11]] == [(0, 399), (1, 300)]
    assert times[-1][:2] == (1, 499)
    assert len(times) == 15
    sparse = replace(run, id=new_id())
    store.create_run(sparse)
    store.open_segment(sparse.id, 0, 1000.0)
    store.write(batch_of(sparse, range(0, 3000, 7)))
    assert len(store.step_times(sparse.id, max_points=15)) == 15, "where most steps are not there, all are read"


def test_step_times_are_thinned_evenly(store: Store, run: Run, batch_of: MakeBatch) -> None:
    store.write(batch_of(run, range(100)))
    store.write(batch_of(run, range(90, 101), segment=1))
    times = store.step_times(run.id)
    assert times[:2] == [(0, 0, 1000.0), (0, 1, 1001.0)]
    assert times[-1] == (1, 100, 1100.0)
    assert len(times) == 111
    few = store.step_times(run.id, max_points=10)
    assert len(few) == 10
    assert (few[0], few[-1]) == (times[0], times[-1])


def test_a_step_without_samples_still_has_its_time(store: Store, run: Run) -> None:
    store.write(Batch(new_id(), run.id, 0, (StepRecord(4, 44.0, (), []),)))
    assert store.step_times(run.id) == [(0, 4, 44.0)]
    assert store.run(run.id).last_step == 4


def test_histograms_come_back_whole_and_thinned(store: Store, run: Run) -> None:
    key = SeriesKey("spectral.alignment", "blocks.0.q")

    def histogram(step: int) -> Histogram:
        return Histogram(key, -1.0, 1.0, (0, step, 70_000, 2**40 if step == 3 else 1))

    store.write(Batch(new_id(), run.id, 0, tuple(StepRecord(s, 0.0, (), [], (histogram(s),)) for s in range(20))))
    store.write(Batch(new_id(), run.id, 0, (StepRecord(5, 0.0, (), [], (Histogram(key, 0.0, math.inf, ()),)),)))
    found = store.histograms(run.id, key.signal, key.module)
    assert [item.step for item in found] == list(range(20))
    assert found[3].histogram == histogram(3)
    assert found[5].histogram == Histogram(key, 0.0, math.inf, ())
    assert [item.step for item in store.histograms(run.id, key.signal, key.module, start=2, stop=10, limit=3)] == [2, 6, 9]
    assert store.histograms(run.id, key.signal, "elsewhere") == []


def test_history_replays_in_order_and_whole(store: Store, run: Run) -> None:
    full, short = (LOSS, SeriesKey("gradient.norm")), (LOSS,)
    shape = Histogram(SeriesKey("h", "m"), 0.0, 1.0, (1, 2))
    written = [
        StepRecord(i, float(i), full if i % 3 else short, (float(i), math.nan)[: 2 if i % 3 else 1], (shape,) if i % 5 == 0 else ())
        for i in range(25)
    ]
    store.write(Batch(new_id(), run.id, 0, tuple(written[10:])))
    store.write(Batch(new_id(), run.id, 0, tuple(written[:10])))
    store.write(Batch(new_id(), run.id, 1, (StepRecord(7, 70.0, short, (5.0,)),)))
    batches = list(store.batches(run.id, steps_per_batch=10))
    assert [(batch.segment, [record.step for record in batch.steps]) for batch in batches] == [
        (0, [*range(10)]),
        (0, [*range(10, 20)]),
        (0, [*range(20, 25)]),
        (1, [7]),
    ]
    replayed = [record for batch in batches[:3] for record in batch.steps]
    assert [repr(record) for record in replayed] == [repr(record) for record in written]
    assert len({id(record.keys) for record in replayed}) == 2  # steps share their keys
    assert [batch.id for batch in store.batches(run.id, steps_per_batch=10)] == [batch.id for batch in batches]


def test_a_frame_holds_every_sample_with_its_kind(store: Store, run: Run) -> None:
    keys = (SeriesKey("b", "m", 1, 2), LOSS)
    store.write(
        Batch(
            new_id(), run.id, 0, tuple(StepRecord(i, 0.0, keys, v) for i, v in enumerate([[1.0, math.nan], [math.inf, -math.inf]]))
        )
    )
    frame = store.frame("run")
    assert list(frame.columns) == ["step", "segment", "signal", "module", "head", "rank", "value", "kind"]
    assert frame.drop(columns="value").values.tolist() == [
        [0, 0, "b", "m", 1, 2, "finite"],
        [0, 0, "loss", "", -1, -1, "nan"],
        [1, 0, "b", "m", 1, 2, "positive_infinity"],
        [1, 0, "loss", "", -1, -1, "negative_infinity"],
    ]
    assert frame["value"].tolist() == pytest.approx([1.0, math.nan, math.inf, -math.inf], nan_ok=True)
    assert store.frame(run, "loss")["step"].tolist() == [0, 1]
    assert list(store.frame(run, "none", "such").columns) == list(frame.columns)
    assert store.frame(run, "none").empty


def test_a_record_that_can_never_be_stored_is_refused_whole(store: Store, run: Run, batch_of: MakeBatch) -> None:
    store.write(batch_of(run, range(2)))
    too_far = Batch(new_id(), run.id, 0, (StepRecord(2, 0.0, (SeriesKey("new"),), [1.0]), StepRecord(2**70, 0.0, (LOSS,), [1.0])))
    negative = Batch(new_id(), run.id, 0, (StepRecord(2, 0.0, (LOSS,), [1.0], (Histogram(LOSS, 0.0, 1.0, (-1,)),)),))
    for bad in (too_far, negative):
        with pytest.raises(InvalidRecordError):
            store.write(bad)
    assert [item.key for item in store.series(run.id)] == [LOSS]
    assert list(store.read(store.series(run.id))[0].steps) == [0, 1]
    store.write(
        Batch(new_id(), run.id, 0, (StepRecord(2, 0.0, (SeriesKey("new"), LOSS), [1.0, 2.0]),))
    )  # numbers made in vain are forgotten
    assert [list(data.steps) for data in store.read(store.series(run.id))] == [[0, 1, 2], [2]]


# -- alerts, events, outbox --------------------------------------------------------------------------------------


def test_an_alert_comes_back_as_it_was_given(store: Store, run: Run) -> None:
    given = alert_of(
        run,
        module="blocks.1",
        value=math.nan,
        threshold=math.inf,
        evidence=(
            Evidence(SeriesKey("loss", "m", 1), (1, 2, 3), (1.0, math.nan, -math.inf), threshold=2.5, baseline=None),
            Evidence(LOSS, (), ()),
        ),
        diagnosis=(Cause("lr", "Learning rate too high", 0.75, ("because", "of this"), "lower it", "lr-too-high"),),
        remedy="Lower the learning rate.",
    )
    store.save_alerts([given])
    assert repr(store.alerts(run)) == repr([given])
    plain = alert_of(run)
    store.save_alerts([plain])
    assert plain in store.alerts(run.id)


def test_alerts_come_in_order_and_by_state(store: Store, new_run: MakeRun, run: Run) -> None:
    other = new_run("other")
    store.create_run(other)
    late, early = (
        alert_of(run, rule="late", first_step=50, created_at=10.0),
        alert_of(run, rule="early", first_step=5, created_at=20.0),
    )
    elsewhere = alert_of(other, created_at=15.0, state=AlertState.RESOLVED)
    store.save_alerts([late, early, elsewhere])
    assert store.alerts(run.name) == [early, late]
    assert store.alerts() == [early, elsewhere, late]
    assert store.alerts(limit=1) == [early]
    assert store.alerts(states=[AlertState.RESOLVED, AlertState.PENDING]) == [elsewhere]


def test_saving_an_alert_again_updates_it(store: Store, run: Run) -> None:
    first = alert_of(run, severity=Severity.INFO, state=AlertState.PENDING)
    later = replace(first, severity=Severity.CRITICAL, state=AlertState.FIRING, last_step=40, message="Worse.", created_at=9999.0)
    store.save_alerts([first])
    store.save_alerts([later])
    assert store.alerts(run) == [replace(later, created_at=first.created_at)]


def test_an_alert_under_another_id_is_not_doubled(store: Store, run: Run) -> None:
    first = alert_of(run)
    twin = replace(first, id=new_id(), message="seen by a second analyzer")
    store.save_alerts([first])
    store.save_alerts([twin], [Notification("n1", twin.id, "json://x", "t", "b")])
    assert store.alerts(run) == [replace(first, message=twin.message)]
    assert store.due_notifications(1.0)[0].alert_id == first.id


def test_what_a_person_decided_stays_until_the_alert_is_resolved(store: Store, run: Run) -> None:
    alert = alert_of(run)
    store.save_alerts([alert])
    for decision in (AlertState.ACKNOWLEDGED, AlertState.SILENCED):
        store.set_alert_state(alert.id, decision, at=2000.0, by="ann")
        store.save_alerts([replace(alert, last_step=99)])
        assert (store.alerts(run)[0].state, store.alerts(run)[0].last_step) == (decision, 99)
    store.save_alerts([replace(alert, state=AlertState.RESOLVED)])
    assert store.alerts(run)[0].state is AlertState.RESOLVED
    said = store.events(run.id, kind="alert_state")
    assert [event.data["to"] for event in sorted(said, key=lambda event: event.message)] == ["acknowledged", "silenced"]
    assert "by ann" in said[0].message
    with pytest.raises(KeyError, match="No alert 'nothing'"):
        store.set_alert_state("nothing", AlertState.SILENCED, at=1.0)


def test_events_are_kept_once_and_in_order_of_time(store: Store, run: Run) -> None:
    late = Event(new_id(), run.id, 1, 9, 30.0, "resume", "Resumed at step 9", {"from": 5, "ok": True})
    early = Event(new_id(), run.id, 0, -1, 20.0, "probe_failed", "…")
    for event in (late, early, replace(late, message="again")):
        store.add_event(event)
    assert store.events(run.id) == [early, late]
    assert store.events(run.id, kind="resume") == [late]


def test_notifications_wait_are_tried_and_settle(store: Store, run: Run) -> None:
    alert = alert_of(run)
    waiting = [Notification(f"n{i}", alert.id, "slack://x", "Title", "Body", next_attempt_at=10.0 * i) for i in range(4)]
    store.save_alerts([alert], waiting)
    store.save_alerts([], waiting)
    assert store.due_notifications(20.0) == waiting[:3]
    assert store.due_notifications(20.0, limit=1) == waiting[:1]
    store.settle_notification(replace(waiting[0], state=NotificationState.SENT, attempts=1))
    again = replace(waiting[1], attempts=1, next_attempt_at=100.0, error="timed out")
    store.settle_notification(again)
    store.save_alerts([alert], waiting)  # a repeated save does not send a second time
    assert store.due_notifications(50.0) == waiting[2:]
    assert store.due_notifications(100.0)[-1] == again


# -- the store itself --------------------------------------------------------------------------------------------


def test_check_leaves_nothing_behind(store: Store) -> None:
    store.check()
    assert store.runs() == []


def test_after_close_every_call_says_so(store: Store, run: Run, batch_of: MakeBatch) -> None:
    store.close()
    store.close()
    for call in (store.runs, store.check, lambda: store.write(batch_of(run, range(2))), lambda: list(store.batches(run.id))):
        with pytest.raises(StoreUnavailableError, match="was closed"):
            call()


def test_threads_may_write_and_read_one_store_at_once(store: Store, new_run: MakeRun, batch_of: MakeBatch) -> None:
    runs = [new_run(f"r{i}") for i in range(4)]
    for item in runs:
        store.create_run(item)
    problems: list[BaseException] = []

    def work(mine: Run) -> None:
        try:
            for start in range(0, 200, 20):
                store.write(batch_of(mine, range(start, start + 20), ("loss", "lr", mine.name)))
                assert len(store.read(store.series(mine.id))[0].steps) == start + 20
                assert store.changes(mine.id, 0).ranges == (Change(0, 0, start + 19),)
        except BaseException as error:  # noqa: BLE001 - shown in the test's own thread
            problems.append(error)

    threads = [threading.Thread(target=work, args=(item,)) for item in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert [sum(batch.points for batch in store.batches(item.id)) for item in runs] == [600] * 4


def test_writers_of_one_run_never_slip_behind_a_cursor(store: Store, run: Run, batch_of: MakeBatch) -> None:
    done = threading.Event()
    seen: set[int] = set()

    def follow() -> None:
        cursor = 0
        while True:
            last_look = done.is_set()
            found = store.changes(run.id, cursor)
            cursor = found.cursor
            for part in found.ranges:
                seen.update(range(part.first_step, part.last_step + 1))
            if last_look:
                return

    def write(first: int) -> None:
        for step in range(first, 120, 3):
            store.write(batch_of(run, range(step, step + 1)))

    follower = threading.Thread(target=follow)
    writers = [threading.Thread(target=write, args=(first,)) for first in range(3)]
    for thread in (follower, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    follower.join()
    assert seen == set(store.read(store.series(run.id))[0].steps) == set(range(120))
