"""What holds for every format: segments by steps, names, and that nothing is lost, doubled or dependent on how it was cut."""

import contextlib
import itertools
import math
import random
from collections import Counter

import pytest
from foreshock.storage import open_store
from foreshock.storage.transfer.imports import intake
from foreshock.storage.transfer.imports.intake import import_run
from foreshock.storage.transfer.imports.names import USUAL, parse_maps, resolve
from foreshock.storage.transfer.imports.segmenting import Steps
from foreshock.storage.transfer.imports.source import HistogramPoint, Part, Source, Survey, equal_bins
from foreshock.storage.transfer.packages import TransferError
from hypothesis import given, settings
from hypothesis import strategies as st


class Listed(Source):
    """A run that is a list of items."""

    name = "listed"
    origin = "a list"

    def __init__(self, items, number=0):
        self.items = items
        self.number = number

    @property
    def identity(self):
        return "listed", self.number

    def survey(self, progress):
        points = [item for item in self.items if isinstance(item, tuple)]
        shapes = [item.label for item in self.items if isinstance(item, HistogramPoint)]
        return Survey(Counter(label for label, *_ in points), Counter(shapes))

    def stream(self):
        return iter(self.items)


def contents(store, run):
    return {(row.segment, row.signal, row.step): spelt(row.value) for row in store.frame(run).itertuples()}


def spelt(value):
    return repr(value + 0.0)  # SQLite knows no negative zero


@pytest.fixture(scope="module")
def memory():
    with contextlib.closing(open_store("sqlite://")) as opened:
        yield opened


def slowly(items):
    """The same by the book: every step of every series remembered."""
    found, had, part, segment = {}, {}, 0, 0
    for item in items:
        if isinstance(item, Part):
            part += 1
            continue
        label, step, _, value = item
        steps, last_part = had.get(label, ([], part))
        back = bool(steps) and step <= max(steps)
        if back and (last_part != part or (step in steps and step != max(steps))):
            segment, had, steps = segment + 1, {}, []
        # A step that comes late, or twice, is no news of where the series stands.
        had[label] = ([*steps, step], part if not steps or step > max(steps) else last_part)
        found[segment, label, step] = spelt(value)
    return found


NUMBERS = itertools.count(1)
values = st.sampled_from([0.0, 1.0, math.nan, math.inf])
streams = st.lists(
    st.one_of(st.tuples(st.sampled_from("ab"), st.integers(0, 6), st.just(1.0), values), st.builds(Part)), max_size=40
)


@settings(max_examples=80)
@given(streams, st.integers(1, 9), st.integers(0, 60))
def test_any_stream_is_kept_whole_once_however_it_is_cut(memory, items, size, cut):
    """As a slow twin keeps it; the same after a part of it came first, and the same when it comes again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intake, "VALUES_PER_BATCH", size)
        expected = slowly(items)
        for prefix in (len(items), min(cut, len(items))):
            number = next(NUMBERS)
            for some in (items[:prefix], items):
                source = Listed(some, number)
                imported = import_run(memory, source, source.survey(lambda size: None))
            assert contents(memory, imported.run) == expected
            assert imported.counts.segments == len({segment for segment, _, _ in expected})
            if prefix == len(items):
                counts = imported.counts
                assert (counts.values, counts.steps, counts.changed) == (0, 0, 0)


@given(st.lists(st.integers(0, 200), min_size=1, unique=True), st.lists(st.integers(0, 200)))
def test_steps_are_remembered_as_stretches(given_steps, asked):
    ordered = sorted(given_steps)
    steps = Steps(ordered[0], 0)
    for step in ordered[1:]:
        steps.append(step)
    for step in asked:
        assert (step in steps) == (step in ordered)
    steps.slip_in(201)
    assert 201 in steps


def test_a_regular_series_costs_three_numbers_however_long():
    steps = Steps(0, 0)
    for step in range(5, 500_000, 5):
        steps.append(step)
    assert len(steps._starts) == len(steps._stops) == 1
    assert 499_995 in steps
    assert 499_996 not in steps


def test_usual_names_become_signals_and_others_stay():
    naming = resolve(["Train/Loss", "train/grad_norm", "lr", "val/loss", "throughput"], {})
    assert naming.mapped == {"Train/Loss": "loss", "train/grad_norm": "gradient.norm", "lr": "learning_rate"}
    assert naming.signals["val/loss"] == "val/loss"
    assert naming.clashes == []


@pytest.mark.parametrize("seed", range(5))
def test_clashes_go_the_same_way_in_any_order_and_are_told(seed):
    there = ["train_loss", "loss", "train/loss", "lr", "train/lr", "train/learning_rate"]
    random.Random(seed).shuffle(there)
    naming = resolve(there, {})
    assert naming.mapped == {"train/learning_rate": "learning_rate"}
    assert naming.signals["loss"] == "loss"
    assert {clash.split("'")[1] for clash in naming.clashes} == {"train_loss", "train/loss", "lr", "train/lr"}
    asked = resolve(there, {"train_loss": "loss"})
    assert asked.signals["train_loss"] == "loss"
    assert asked.signals["loss"] == "imported.loss"
    assert any("'loss' could be 'loss' too" in clash for clash in asked.clashes)


@given(
    st.lists(
        st.sampled_from([*USUAL, *(name for names in USUAL.values() for name in names), "x", "X", "imported.loss"]), unique=True
    ),
    st.data(),
)
def test_no_two_names_become_one(there, data):
    maps = {data.draw(st.sampled_from(there)): "loss"} if there and data.draw(st.booleans()) else {}
    signals = resolve(there, maps).signals
    assert list(signals) == there
    assert len(set(signals.values())) == len(there)


def test_a_name_keeps_its_signal_when_a_better_one_appears_later(file_store):
    """The first import of a growing run decided; what comes later must not tear a series in two."""
    first = Listed([("train_loss", 0, 1.0, 5.0)])
    import_run(file_store, first, first.survey(lambda size: None))
    later = Listed([*first.items, ("train/loss", 1, 2.0, 6.0), ("train_loss", 1, 2.0, 4.0)])
    imported = import_run(file_store, later, later.survey(lambda size: None))
    assert file_store.frame(imported.run, signal="loss")["value"].tolist() == [5.0, 4.0]
    assert file_store.frame(imported.run, signal="train/loss")["value"].tolist() == [6.0]


def test_a_step_written_twice_counts_once_when_it_is_imported_again(file_store, monkeypatch):
    """The first of two values differs from the one stored, which is the second: nothing has changed, wherever a batch ends."""
    monkeypatch.setattr(intake, "VALUES_PER_BATCH", 1)
    source = Listed([("a", 5, 1.0, 1.0), ("a", 5, 1.0, 2.0), ("b", 5, 1.0, math.nan)])
    for _ in range(2):
        imported = import_run(file_store, source, source.survey(lambda size: None))
    assert (imported.counts.values, imported.counts.changed, imported.counts.repeated) == (0, 0, 1)
    assert file_store.frame(imported.run)["value"].tolist()[0] == 2.0


def test_maps_are_checked():
    assert parse_maps(["loss=my/loss", "a=b=c"]) == {"my/loss": "loss", "b=c": "a"}
    for wrong in (["loss"], ["=x"], ["loss="], ["loss=a", "loss=b"], ["loss=a", "lr=a"]):
        with pytest.raises(TransferError):
            parse_maps(wrong)


def test_what_comes_after_the_look_is_left_for_the_next_time(file_store):
    source = Listed([("a", 0, 1.0, 1.0)])
    survey = source.survey(lambda size: None)
    source.items.append(("b", 0, 1.0, 2.0))
    assert import_run(file_store, source, survey).counts.values == 1
    assert import_run(file_store, source, source.survey(lambda size: None)).counts.values == 1


@pytest.mark.parametrize(
    ("edges", "counts", "kept"),
    [
        ([0, 1, 2], [3, 4], (0.0, 2.0, (3, 4))),
        ([-0.1, 0.0, 0.1, 0.2], [0, 0, 9], (-0.1, 0.2, (0, 0, 9))),
        ([0, 1, 3], [3, 4], None),
        ([0, 1, 2], [3, 4.5], None),
        ([0, 1], [3, 4], None),
        ([0, float("inf")], [3], None),
        ([], [], None),
    ],
)
def test_only_histograms_of_equal_bins_and_whole_counts_are_ours(edges, counts, kept):
    assert equal_bins(edges, counts) == kept


def test_it_writes_to_every_kind_of_store(store):
    items = [(tag, step, 100.0 + step, float(step)) for step in range(300) for tag in ("loss", "lr")]
    items += [HistogramPoint("h", 5, 105.0, 0.0, 1.0, (1, 2)), Part(), ("loss", 250, 500.0, float("nan"))]
    source = Listed(items)
    for expected in (602, 0):
        imported = import_run(store, source, source.survey(lambda size: None))
        assert imported.counts.values + imported.counts.histograms == expected
    assert imported.counts.segments == 2
    assert len(store.frame(imported.run)) == 601
