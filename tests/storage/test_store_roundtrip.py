"""Whatever a batch holds, it comes back; whatever a line looks like, its thinned form keeps what matters."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from foreshock.storage import Store, open_store
from foreshock.storage.codec import clean, join, pack, split, unpack
from foreshock.storage.decimation import evenly, kept
from foreshock.storage.records import Batch, Histogram, Run, SeriesKey, StepRecord, new_id
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

floats = st.floats(allow_nan=True, allow_infinity=True, width=64)
names = st.text(max_size=20).filter(lambda text: clean(text) == text)
keys = st.builds(SeriesKey, names, names, st.integers(-1, 2**31 - 1), st.integers(-1, 2**31 - 1))
histograms = st.builds(Histogram, keys, floats, floats, st.lists(st.integers(0, 2**64 - 1), max_size=20).map(tuple))


@st.composite
def step_records(draw: st.DrawFn, shared: list[tuple[SeriesKey, ...]]) -> StepRecord:
    names = draw(st.sampled_from(shared))
    values = draw(st.lists(floats, min_size=len(names), max_size=len(names)))
    shapes = draw(st.lists(histograms, max_size=2, unique_by=lambda shape: shape.key))
    return StepRecord(draw(st.integers(-(2**63), 2**63 - 1)), draw(st.floats(0, 1e11)), names, values, tuple(shapes))


batches = st.lists(st.lists(keys, max_size=5, unique=True).map(tuple), min_size=1, max_size=3).flatmap(
    lambda shared: st.lists(step_records(shared), min_size=1, max_size=8)
)


@pytest.fixture(scope="module")
def memory() -> Iterator[Store]:
    store = open_store("sqlite://")
    yield store
    store.close()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(records=batches, segment=st.integers(0, 1000))
def test_any_batch_comes_back(memory: Store, records: list[StepRecord], segment: int) -> None:
    run = Run(new_id(), "run")
    memory.create_run(run)
    memory.write(Batch(new_id(), run.id, segment, tuple(records)))
    values: dict[tuple[SeriesKey, int], float] = {}
    shapes: dict[tuple[SeriesKey, int], Histogram] = {}
    times: dict[int, float] = {}
    for record in records:  # the last one counts
        times[record.step] = record.time
        values.update({(key, record.step): value for key, value in zip(record.keys, record.values, strict=True)})
        shapes.update({(shape.key, record.step): shape for shape in record.histograms})
    back = [(record, batch.segment) for batch in memory.batches(run.id, steps_per_batch=3) for record in batch.steps]
    assert {record.step: record.time for record, _ in back} == times
    assert [record.step for record, _ in back] == sorted(times)
    assert {number for _, number in back} == {segment}
    assert _same(
        {(key, record.step): value for record, _ in back for key, value in zip(record.keys, record.values, strict=True)}, values
    )
    found_shapes = {(shape.key, record.step): shape for record, _ in back for shape in record.histograms}
    assert found_shapes.keys() == shapes.keys()
    assert all(repr(shape) == repr(shapes[place]) for place, shape in found_shapes.items())
    read = memory.read(memory.series(run.id))
    assert _same({(data.key, step): value for data in read for step, value in zip(data.steps, data.values, strict=True)}, values)


def _same(found: dict[tuple[SeriesKey, int], float], expected: dict[tuple[SeriesKey, int], float]) -> bool:
    """Equal to the last bit; nan equals nan, and the two zeros, which SQLite does not tell apart, each other."""
    return found.keys() == expected.keys() and all(
        value == expected[place] or (math.isnan(value) and math.isnan(expected[place])) for place, value in found.items()
    )


@given(floats)
def test_split_and_join_undo_each_other(value: float) -> None:
    stored, kind = split(value)
    assert stored is None or math.isfinite(stored)
    assert repr(join(stored, kind)) == repr(value)
    assert join(*split(None)) is None


@given(histograms)
def test_a_packed_histogram_is_small_and_whole(histogram: Histogram) -> None:
    packed = pack(histogram)
    assert repr(unpack(histogram.key, packed)) == repr(histogram)
    if max(histogram.counts, default=0) < 256:
        assert len(packed) == 17 + len(histogram.counts)


# -- decimation --------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    values=st.lists(floats | st.floats(-1, 1), min_size=1, max_size=400),
    cuts=st.lists(st.integers(0, 399), max_size=3),
    max_points=st.integers(1, 500),
)
def test_thinning_keeps_ends_extremes_and_what_is_not_finite(values: list[float], cuts: list[int], max_points: int) -> None:
    points = np.array(values)
    segments = np.searchsorted(np.sort(np.array(cuts, dtype=int)), np.arange(len(points)), side="right")
    steps = np.arange(len(points))
    keep = kept(segments, steps, points, max_points)
    assert np.all(np.diff(keep) > 0)
    finite = np.isfinite(points)
    assert set(np.flatnonzero(~finite)) <= set(keep)
    for segment in np.unique(segments):
        mine = np.flatnonzero((segments == segment) & finite)
        if len(mine):
            assert {mine[0], mine[-1]} <= set(keep)
            assert points[mine].max() in points[keep]
            assert points[mine].min() in points[keep]
    assert finite[keep].sum() <= max_points + 10 * len(np.unique(segments))


def test_a_thinned_line_keeps_the_spikes_that_taking_every_nth_point_loses() -> None:
    generator = np.random.default_rng(0)
    steps = np.arange(20_000)
    values = np.cumsum(generator.normal(size=len(steps)))
    spikes = generator.choice(steps, 20, replace=False)
    values[spikes] += 200.0
    keep = kept(np.zeros(len(steps), dtype=int), steps, values, 500)
    assert len(keep) < 510
    assert set(spikes) <= set(keep)
    assert len(set(spikes) & set(steps[:: len(steps) // 500])) < 3


def test_thinning_asks_for_a_sensible_number() -> None:
    with pytest.raises(ValueError, match="max_points is 0; it must be at least 1"):
        kept(np.zeros(3), np.arange(3), np.zeros(3), 0)


@given(count=st.integers(0, 300), limit=st.none() | st.integers(1, 400))
def test_even_thinning_keeps_first_and_last(count: int, limit: int | None) -> None:
    chosen = evenly(count, limit)
    assert len(chosen) == (count if limit is None else min(count, limit))
    if count and (limit is None or limit > 1):
        assert (chosen[0], chosen[-1]) == (0, count - 1)
