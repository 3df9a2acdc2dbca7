"""Replay, which reads many samples at once, against a twin that looks up every one: in every kind of store, whatever it holds."""

import math
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from foreshock.storage import Store, columns, history
from foreshock.storage.records import Batch, Histogram, Run, SeriesKey, StepRecord, new_id
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

KEYS = tuple(SeriesKey(signal, module, head) for signal in ("loss", "b") for module in ("", "m.0") for head in (-1, 3))
ODD = [math.nan, math.inf, -math.inf, 0.1, -1 / 3, 5e-324, -2.2250738585072014e-308, 1.7976931348623157e308, 2.0**53 + 1, 1e22]
EDGES = [-(2**63), -1, 2**31, 2**53 + 1, 2**63 - 1]

some_keys = st.lists(st.sampled_from(KEYS), max_size=5, unique=True).map(tuple)
shapes = st.builds(Histogram, st.sampled_from(KEYS), st.just(-1.0), st.just(1.0), st.tuples(st.integers(0, 2**40)))


@st.composite
def step_records(draw: st.DrawFn) -> StepRecord:
    keys = draw(some_keys)
    value = st.sampled_from(ODD) | st.floats()
    step = draw(st.integers(0, 12) | st.sampled_from(EDGES))
    packed = draw(st.lists(shapes, max_size=2, unique_by=lambda shape: shape.key))
    return StepRecord(step, draw(st.floats(0, 1e10)), keys, [draw(value) for _ in keys], tuple(packed))


histories = st.lists(st.tuples(st.integers(0, 2), st.lists(step_records(), min_size=1, max_size=10)), min_size=1, max_size=4)


def one_by_one(store: Store, run: Run) -> Iterator[tuple[int, StepRecord]]:
    """Yield (segment, record), every sample and histogram looked up by itself."""
    listed = store.series(run.id)
    read = store.read(listed)
    values = {
        (number, segment, step): value
        for number, data in enumerate(read)
        for segment, step, value in zip(data.segments, data.steps, data.values, strict=True)
    }
    packed = {
        (number, found.segment, found.step): found.histogram
        for number, item in enumerate(listed)
        for found in store.histograms(run.id, item.key.signal, item.key.module)
        if found.histogram.key == item.key
    }
    for segment, step, time in store.step_times(run.id):
        there = [number for number in range(len(listed)) if (number, segment, step) in values]
        keys = tuple(listed[number].key for number in there)
        found = tuple(packed[number, segment, step] for number in range(len(listed)) if (number, segment, step) in packed)
        yield segment, StepRecord(step, time, keys, tuple(values[number, segment, step] for number in there), found)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(written=histories, steps_per_batch=st.integers(1, 15), at_once=st.integers(1, 15))
def test_replay_equals_looking_up_every_sample(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    written: list[tuple[int, list[StepRecord]]],
    steps_per_batch: int,
    at_once: int,
) -> None:
    run = Run(new_id(), "run")
    store.create_run(run)
    for segment, records in written:
        store.write(Batch(new_id(), run.id, segment, tuple(records)))
    monkeypatch.setattr(history, "MOST_STEPS", at_once)
    batches = list(store.batches(run.id, steps_per_batch=steps_per_batch))
    replayed = [(batch.segment, record) for batch in batches for record in batch.steps]
    assert repr(replayed) == repr(list(one_by_one(store, run)))
    assert all(len(batch.steps) <= steps_per_batch for batch in batches)
    tuples = [record.keys for _, record in replayed]
    assert len({id(keys) for keys in tuples}) == len(set(tuples)), "equal tuples of keys are one and the same"


def test_a_server_sends_long_ranges_whole(store: Store, new_run: Callable[..., Run]) -> None:
    """Ten thousand steps of one series, as long as numbers are written: what a server cuts off, it cuts off here."""
    run, keys = new_run(), (SeriesKey("loss"),)
    store.create_run(run)
    first = 2**62
    steps = range(first, first + columns.MOST_STEPS + 5)
    records = tuple(StepRecord(step, 0.0, keys, [-1.2345678901234567e-300 * (step - first + 1)]) for step in steps)
    store.write(Batch(new_id(), run.id, 0, records))
    (batch,) = store.batches(run.id, steps_per_batch=10**6)
    assert [(record.step, *record.values) for record in batch.steps] == [(record.step, *record.values) for record in records]


def test_a_run_that_grows_while_it_is_replayed_is_read_to_its_end(
    store: Store, new_run: Callable[..., Run], batch_of: Callable[..., Batch]
) -> None:
    run = new_run()
    store.create_run(run)
    store.write(batch_of(run, range(10)))
    replayed = store.batches(run.id, steps_per_batch=5)
    seen = [next(replayed)]
    store.write(batch_of(run, range(10, 15), ("loss", "later")))
    seen += replayed
    assert [record.step for batch in seen for record in batch.steps] == list(range(15))
    assert seen[-1].steps[-1].keys == (SeriesKey("loss"), SeriesKey("later"))


def test_memory_does_not_grow_with_the_run(file_store: Store, new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where no two steps have the same series."""
    keys = [SeriesKey("s", str(number)) for number in range(60)]
    monkeypatch.setattr(history, "_MOST_TUPLES", 50)
    peaks = []
    for count in (400, 1_600):
        run = new_run()
        file_store.create_run(run)
        records = tuple(
            StepRecord(step, 0.0, tuple(keys[place] for place in range(60) if step >> place % 12 & 1), [1.0] * bin_ones(step))
            for step in range(count)
        )
        file_store.write(Batch(new_id(), run.id, 0, records))
        tracemalloc.start()
        assert sum(len(batch.steps) for batch in file_store.batches(run.id, steps_per_batch=20)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.6 * peaks[0]


def bin_ones(step: int) -> int:
    """How many of the sixty series a step has, each bit of the lowest twelve standing for five."""
    return 5 * (step & 0xFFF).bit_count()


def test_a_replay_of_some_series_has_every_step_and_nothing_else(store: Store, new_run: Callable[..., Run]) -> None:
    run = new_run()
    store.create_run(run)
    loss, norm = SeriesKey("loss"), SeriesKey("norm", "h.0")
    shape = Histogram(norm, 0.0, 1.0, (1, 2))
    records = [
        StepRecord(step, 1.0 + step, (loss, norm) if step % 2 else (loss,), [1.0, 2.0][: 1 + step % 2]) for step in range(10)
    ]
    records[4] = replace(records[4], histograms=(shape,))
    store.write(Batch(new_id(), run.id, 0, tuple(records)))
    for keys, width, shapes in (({norm}, 1, 1), ({loss}, 1, 0), (set[SeriesKey](), 0, 0)):
        found = [record for batch in store.batches(run.id, steps_per_batch=3, keys=keys) for record in batch.steps]
        assert [record.step for record in found] == list(range(10))
        assert {key for record in found for key in record.keys} == keys
        assert max(len(record.values) for record in found) == width
        assert sum(len(record.histograms) for record in found) == shapes
