"""Rollups: the same, however points came in, as a slow look at all points gives; and charts drawn from them."""

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreshock.storage import Store, open_store
from foreshock.storage.database import Database
from foreshock.storage.records import Batch, Run, SeriesKey, StepRecord, new_id
from foreshock.storage.sqlalchemy_store import SQLAlchemyStore
from foreshock.storage.tables import rollups, samples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select

NAMES = (
    "start_step",
    "end_step",
    "count",
    "nonfinite",
    "minimum",
    "maximum",
    "minimum_step",
    "maximum_step",
    "mean",
    "first",
    "last",
)


Rows = dict[tuple[int, int, int, int], tuple[Any, ...]]
"""By (series, segment, level, bucket), the columns called NAMES."""


def database_of(store: Store) -> Database:
    assert isinstance(store, SQLAlchemyStore)
    return store._database


def kept_rows(store: Store) -> Rows:
    with database_of(store).read() as connection:
        found = connection.execute(select(rollups)).all()
    return {(row.series_id, row.segment, row.level, row.bucket): tuple(getattr(row, name) for name in NAMES) for row in found}


def slow_rows(store: Store, run: Run) -> Rows:
    """Every full bucket of every level, each straight from its points."""
    expected = {}
    for series in store.series(run.id):
        (data,) = store.read([series])
        for segment in sorted(set(data.segments)):
            points = [(s, v) for g, s, v in zip(data.segments, data.steps, data.values, strict=True) if g == segment]
            level = 1
            while len(points) >= 10**level:
                size = 10**level
                for bucket in range(len(points) // size):
                    expected[series.id, segment, level, bucket] = slow_row(points[bucket * size : (bucket + 1) * size])
                level += 1
    return expected


def slow_row(points: list[tuple[int, float]]) -> tuple[Any, ...]:
    finite = [(step, value) for step, value in points if math.isfinite(value)]
    low = min(finite, key=lambda point: point[1], default=(None, None))
    high = max(finite, key=lambda point: point[1], default=(None, None))
    mean = math.fsum(value / len(finite) for _, value in finite) if finite else None
    first, last = (points[end][1] if math.isfinite(points[end][1]) else None for end in (0, -1))
    ends = (points[0][0], points[-1][0])
    return (*ends, len(points), len(points) - len(finite), low[1], high[1], low[0], high[0], mean, first, last)


def assert_rolled_up(store: Store, run: Run) -> None:
    assert_same(kept_rows(store), slow_rows(store, run))


def assert_same(kept: Rows, wanted: Rows) -> None:
    assert kept.keys() == wanted.keys()
    for place, row in kept.items():
        for name, cell, expected in zip(NAMES, row, wanted[place], strict=True):
            close = name == "mean" and cell is not None and expected is not None
            same = math.isclose(cell, expected, rel_tol=1e-9, abs_tol=1e-300) if close else cell == expected
            assert same, (place, name, cell, expected)


def batch(run: Run, points: dict[int, dict[str, float]], segment: int = 0) -> Batch:
    records = [
        StepRecord(step, 1000.0 + step, tuple(SeriesKey(name) for name in values), list(values.values()))
        for step, values in points.items()
    ]
    return Batch(new_id(), run.id, segment, tuple(records))


def course(steps: range | list[int], names: str = "ab", seed: int = 0) -> dict[int, dict[str, float]]:
    rng = np.random.default_rng(seed)
    return {step: {name: float(rng.normal()) for name in names} for step in steps}


@pytest.fixture
def run(store: Store, new_run: Callable[..., Run]) -> Run:
    made = new_run()
    store.create_run(made)
    return made


def test_rows_come_with_the_points(store: Store, run: Run) -> None:
    """Batches of every size; a series measured at every fifth step only; a segment that begins anew."""
    first = 0
    for size in (1, 9, 10, 11, 95, 3, 7, 250):
        points = course(range(first, first + size), seed=size)
        for step in points:
            if step % 5 == 0:
                points[step]["sparse"] = float(step)
        store.write(batch(run, points))
        assert_rolled_up(store, run)
        first += size
    store.write(batch(run, course(range(100, 240)), segment=1))
    assert_rolled_up(store, run)


def test_values_of_any_size_and_none_at_all(store: Store, run: Run) -> None:
    largest = float(np.finfo(np.float64).max)
    values = [math.nan, largest, largest, -largest, 1.0, math.inf, 5e-324, -0.0, -math.inf, largest] + [math.nan] * 10 + [2.0] * 80
    store.write(batch(run, {step: {"a": value} for step, value in enumerate(values)}))
    assert_rolled_up(store, run)
    assert len(kept_rows(store)) == 11


@pytest.mark.parametrize("late", [range(3, 4), range(40, 60), range(95, 130), range(-20, -5), range(100, 101)])
def test_points_that_come_late_or_twice(store: Store, run: Run, late: range) -> None:
    store.write(batch(run, course(range(105), "abc")))
    store.write(batch(run, course(late, "bc", seed=1)))
    assert_rolled_up(store, run)
    store.write(batch(run, course(range(200, 320), "abc", seed=2)))
    assert_rolled_up(store, run)


def test_a_process_that_goes_on_where_another_stopped(store: Store, run: Run) -> None:
    """It knows nothing of what is in no bucket yet, nor that a series it sees late was there before."""
    store.write(batch(run, course(range(137), "abc")))
    other = SQLAlchemyStore(database_of(store))
    other.write(batch(run, course(range(137, 145), "a", seed=1)))
    other.write(batch(run, course(range(145, 290), "abd", seed=2)))
    assert_rolled_up(store, run)
    store.write(batch(run, course(range(290, 300), "abc", seed=3)))  # what the first one knew is old by now
    assert_rolled_up(store, run)


def test_a_batch_that_was_rolled_back_leaves_no_trace(store: Store, run: Run) -> None:
    store.write(batch(run, course(range(25))))
    with pytest.raises(Exception, match=r"too large|out of range|refused"):
        store.write(batch(run, course([25, 26, 2**70])))
    store.write(batch(run, course(range(25, 64), seed=1)))
    assert_rolled_up(store, run)


def test_rows_of_a_lost_ledger_are_written_over(store: Store, run: Run) -> None:
    """Should a row be there that must not be, the batch comes in all the same, and the row is made right."""
    store.write(batch(run, course(range(8), "a")))
    (number,) = (series.id for series in store.series(run.id))
    cells = dict.fromkeys(("start_step", "end_step", "count", "nonfinite"), 0)
    with database_of(store).write() as connection:
        connection.execute(rollups.insert(), {"series_id": number, "segment": 0, "level": 1, "bucket": 0, **cells, "end_step": 9})
    store.write(batch(run, course(range(8, 15), "a", seed=1)))
    assert_rolled_up(store, run)


steps_of_a_batch = st.one_of(
    st.builds(lambda first, size: list(range(first, first + size)), st.integers(0, 60), st.integers(1, 40)),
    st.lists(st.integers(0, 120), min_size=1, max_size=15),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    writes=st.lists(
        st.tuples(steps_of_a_batch, st.sampled_from(["a", "ab", "bc", "c"]), st.integers(0, 1), st.booleans()),
        min_size=1,
        max_size=7,
    ),
    seed=st.integers(0, 2**16),
)
def test_whatever_comes_in_whatever_order(writes: list[tuple[list[int], str, int, bool]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    with contextlib.closing(open_store("sqlite://")) as store:
        run = Run(new_id(), "any")
        store.create_run(run)
        other = SQLAlchemyStore(database_of(store))
        for steps, names, segment, by_other in writes:
            keys = tuple(SeriesKey(name) for name in names)
            records = tuple(
                StepRecord(
                    step, 0.0, keys, [float(rng.choice([rng.normal(), math.nan, math.inf], p=[0.8, 0.1, 0.1])) for _ in keys]
                )
                for step in steps
            )
            (other if by_other else store).write(Batch(new_id(), run.id, segment, records))
        assert_rolled_up(store, run)


# -- charts ------------------------------------------------------------------------------------------------------


def long_run(store: Store, run: Run, total: int = 6000) -> np.ndarray[Any, Any]:
    """A series of ``total`` points two steps apart, with a spike in one, a stretch of nan, and one infinity."""
    values = np.cumsum(np.random.default_rng(7).normal(size=max(total, 6000)))
    values[1234], values[2000:2300], values[4321] = 1e6, math.nan, math.inf
    values = values[:total]
    keys = (SeriesKey("a", "layer.0"), SeriesKey("a", "layer.1"))
    for first in range(0, total, 1000):
        records = tuple(StepRecord(2 * i, 0.0, keys, [values[i], -values[i]]) for i in range(first, min(first + 1000, total)))
        store.write(Batch(new_id(), run.id, 0, records))
    return values


@pytest.mark.parametrize(
    ("start", "stop"), [(None, None), (2000, 9001), (11_900, None), (None, 100), (12_000, None), (1_777, 8_883), (5_101, 5_502)]
)
@pytest.mark.parametrize("max_points", [2, 40, 300, 1500])
def test_a_long_series_is_drawn_by_points_of_its_own(
    file_store: Store, new_run: Callable[..., Run], start: int | None, stop: int | None, max_points: int
) -> None:
    run = new_run()
    file_store.create_run(run)
    values = long_run(file_store, run)
    (data, mirrored) = file_store.read(file_store.series(run.id), start=start, stop=stop, max_points=max_points)
    true = {2 * i: value for i, value in enumerate(values.tolist()) if (start or 0) <= 2 * i < (stop or 2**40)}
    assert list(data.steps) == sorted(set(data.steps))
    for step, value in zip(data.steps, data.values, strict=True):
        assert value == true[step] or (math.isnan(value) and math.isnan(true[step]))
    assert np.allclose(np.negative(data.values)[np.isfinite(data.values)], np.array(mirrored.values)[np.isfinite(mirrored.values)])
    if not true:
        return
    finite = [value for value in true.values() if math.isfinite(value)]
    shown = [value for value in data.values if math.isfinite(value)]
    assert len(shown) <= max_points + 8
    assert data.decimated == (len(data.steps) < len(true))
    # A bucket at the edge of what is asked for may have its extremes outside; the spike and the ends are never lost.
    assert not finite or max(shown) == max(finite) or start is not None
    assert (min(true), max(true)) == (data.steps[0], data.steps[-1])
    if 8642 in true:
        assert 8642 in data.steps
    if {4000, 4598} <= true.keys():
        odd = [step for step, value in zip(data.steps, data.values, strict=True) if math.isnan(value)]
        assert odd[0] == 4000
        assert odd[-1] == 4598


def test_few_rows_are_read_however_long_the_series(file_store: Store, new_run: Callable[..., Run]) -> None:
    run = new_run()
    file_store.create_run(run)
    keys = (SeriesKey("a"),)
    total = 120_000
    for first in range(0, total, 20_000):
        records = tuple(StepRecord(i, 0.0, keys, [math.sin(i / 900)]) for i in range(first, first + 20_000))
        file_store.write(Batch(new_id(), run.id, 0, records))
    with fetched(file_store) as rows:
        file_store.read(file_store.series(run.id), max_points=400)
    assert sum(rows) < 4000
    with fetched(file_store) as rows:
        file_store.read(file_store.series(run.id), start=60_000, stop=61_000, max_points=400)
    assert sum(rows) < 4000


@contextlib.contextmanager
def fetched(store: Store) -> Iterator[list[int]]:
    """Collect how many rows each fetch brought."""
    import foreshock.storage.columns as columns
    import foreshock.storage.rollups.rows as rows_of

    counts: list[int] = []

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(np, name)

        @staticmethod
        def fromiter(rows: Any, dtype: Any, count: int = -1) -> Any:
            counts.append(count)
            return np.fromiter(rows, dtype, count)

    with pytest.MonkeyPatch.context() as patch:
        for module in (columns, rows_of):
            patch.setattr(module, "np", Counting())
        yield counts


def test_envelopes_hold_every_extreme(store: Store, run: Run) -> None:
    values = long_run(store, run)
    up, down = store.envelopes(store.series(run.id), max_points=100)
    assert (up.key.module, down.key.module) == ("layer.0", "layer.1")
    for one, sign in ((up, 1.0), (down, -1.0)):
        assert 100 <= len(one.start_step) <= 1010
        assert (np.diff(one.start_step) > 0).all()
        assert (one.start_step[1:] > one.end_step[:-1]).all()
        assert int(one.nonfinite.sum()) == 301
        for start, end, low, high in zip(one.start_step, one.end_step, one.minimum, one.maximum, strict=True):
            there = sign * values[start // 2 : end // 2 + 1]
            there = there[np.isfinite(there)]
            assert (np.isnan(low) and np.isnan(high)) if not len(there) else (low, high) == (there.min(), there.max())
    assert one.end_step[-1] == 2 * (len(values) - 1)


def test_envelopes_tell_means_and_how_many_points_they_are_of(store: Store, run: Run) -> None:
    values = long_run(store, run)
    (one, _) = store.envelopes(store.series(run.id), max_points=100, means=True)
    assert int(one.count.sum()) == len(values)
    for start, end, mean, count in zip(one.start_step, one.end_step, one.mean, one.count, strict=True):
        there = values[start // 2 : end // 2 + 1]
        finite = there[np.isfinite(there)]
        assert count == len(there)
        assert mean == pytest.approx(finite.mean(), rel=1e-9) if len(finite) else np.isnan(mean)


@pytest.mark.parametrize("place", [0.0, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("width", [7, 90, 1_500])
def test_a_small_part_of_a_long_series_is_read_by_a_few_rows(store: Store, run: Run, place: float, width: int) -> None:
    """Wherever it lies, and in full."""
    values = long_run(store, run)
    first = int(place * (len(values) - width))
    (series, _) = store.series(run.id)
    with fetched(store) as counts:
        (found,) = store.envelopes([series], start=2 * first, stop=2 * (first + width), max_points=50)
        (points,) = store.read([series], start=2 * first, stop=2 * (first + width), max_points=4 * width)
    assert sum(counts) < 200 + 14 * max(50, width)
    there = values[first : first + width]
    finite = there[np.isfinite(there)]
    assert np.nanmin(found.minimum) <= finite.min()
    assert np.nanmax(found.maximum) >= finite.max()
    np.testing.assert_array_equal(points.steps, np.arange(2 * first, 2 * (first + width), 2))
    np.testing.assert_array_equal(points.values, there)


def test_envelopes_of_little_and_nothing(store: Store, run: Run) -> None:
    assert store.envelopes([]) == []
    store.write(batch(run, {0: {"a": 1.0, "b": math.nan}, 5: {"a": 2.0}}))
    a, b = store.envelopes(store.series(run.id))
    assert (a.start_step.tolist(), a.end_step.tolist(), a.minimum.tolist(), a.nonfinite.tolist()) == (
        [0, 5],
        [0, 5],
        [1.0, 2.0],
        [0, 0],
    )
    assert b.nonfinite.tolist() == [1]
    assert [len(one.minimum) for one in store.envelopes(store.series(run.id), start=9)] == [0, 0]
    with pytest.raises(ValueError, match="max_points is 0; it must be at least 1"):
        store.envelopes(store.series(run.id), max_points=0)


def test_segments_are_drawn_one_after_the_other(store: Store, run: Run) -> None:
    store.write(batch(run, course(range(300), "a")))
    store.write(batch(run, course(range(200, 500), "a", seed=1), segment=1))
    (data,) = store.read(store.series(run.id), max_points=60)
    assert [*data.segments] == sorted(data.segments)
    assert (data.steps[0], data.steps[-1]) == (0, 499)
    assert {200, 299} <= {step for segment, step in zip(data.segments, data.steps, strict=True)}
    (newer,) = store.read(store.series(run.id), segment=1, max_points=60)
    assert set(newer.segments) == {1}


def test_points_thinned_out_are_drawn_by_their_rollups(store: Store, run: Run) -> None:
    """Retention may drop old points and keep rollups; charts go on, and points that come late do not undo what is left."""
    values = long_run(store, run, total=2000)
    series = store.series(run.id)
    with database_of(store).write() as connection:
        connection.execute(delete(samples).where(samples.c.step < 3000))
    before = len(kept_rows(store))
    (data, _) = store.read(series, max_points=2000)
    assert data.steps[0] == 0
    assert max(data.values) == 1e6
    assert set(range(3000, 4000, 2)) <= set(data.steps)
    assert all(values[step // 2] == value for step, value in zip(data.steps, data.values, strict=True))
    store.write(batch(run, {41: {"a": 5.0}}))
    assert len(kept_rows(store)) == before


def test_every_partition_is_made_when_its_first_series_comes(
    emptied_postgres_url: str, new_run: Callable[..., Run], batch_of: Callable[..., Batch]
) -> None:
    with contextlib.closing(open_store(emptied_postgres_url)) as store:
        run = new_run()
        store.create_run(run)
        store.write(batch_of(run, range(3)))
        with database_of(store).write() as connection:
            connection.exec_driver_sql("SELECT setval(pg_get_serial_sequence('series', 'id'), 12345)")
        store.write(batch_of(run, range(3), signals=("far",)))
        assert store.frame(run, "far")["value"].tolist() == [0.0, 1.0, 2.0]
        with database_of(store).read() as connection:
            names = connection.exec_driver_sql(
                "SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = 'samples'::regclass"
            )
            bounds = [[int(part) for part in name.split("_")[1:]] for (name,) in names]
            assert any(first <= 12_346 < past and past % 5000 == 0 for first, past in bounds)


def test_the_saved_file_of_the_schema_before_gets_its_rollups(tmp_path: Path, new_run: Callable[..., Run]) -> None:
    """The migration makes the rows that writing would have made."""
    from alembic import command
    from foreshock.storage import schema

    with contextlib.closing(open_store(tmp_path / "runs.db")) as store:
        run = new_run()
        store.create_run(run)
        store.write(batch(run, course(range(1234), "ab")))
        store.write(batch(run, {2000 + i: {"a": math.nan, "c": math.inf if i % 7 else 1.0} for i in range(25)}))
        store.write(batch(run, course(range(57), "a", seed=1), segment=1))
        wanted = kept_rows(store)
        with database_of(store).write() as connection:
            command.downgrade(schema.migrations(connection), "0002")
            command.upgrade(schema.migrations(connection), schema.HEAD)
        assert_same(kept_rows(store), wanted)
