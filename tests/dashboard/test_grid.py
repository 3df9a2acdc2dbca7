"""The grid under the heatmaps: bounded, holding the last value, newest segment first."""

import math

import numpy as np
from foreshock.dashboard.figures.style import plain, plain_rows
from foreshock.dashboard.grid import MAX_COLUMNS, Points, fill, spacing
from foreshock.dashboard.reading import in_model_order
from foreshock.dashboard.signals import Trouble
from foreshock.storage.holding import current
from hypothesis import given
from hypothesis import strategies as st


def test_columns_follow_the_usual_distance_between_samples() -> None:
    assert spacing([0, 50, 100, 150, 160]) == (0, 50)
    assert spacing([7]) == (7, 1)
    assert spacing([]) == (0, 1)


def test_a_cell_without_a_measurement_keeps_the_last_one() -> None:
    grid = fill([Points([0, 30], [1.0, 4.0]), Points([10, 30], [2.0, 3.0])], 0, 10, trouble=Trouble.HIGH)
    np.testing.assert_array_equal(grid.cells, [[1, 1, 1, 4], [math.nan, 2, 2, 3]])


def test_a_cell_keeps_its_worst_value() -> None:
    points = [Points([0, 1, 2, 3], [1.0, 9.0, 4.0, 5.0])]
    assert fill(points, 0, 2, trouble=Trouble.HIGH).cells.tolist() == [[9.0, 5.0]]
    assert fill(points, 0, 2, trouble=Trouble.LOW).cells.tolist() == [[1.0, 4.0]]


def test_values_that_are_not_finite_are_told_apart() -> None:
    grid = fill([Points([0, 1], [math.nan, 2.0])], 0, 1, trouble=Trouble.HIGH)
    assert [(cell.row, cell.column) for cell in grid.odd] == [(0, 0)]
    assert math.isnan(grid.odd[0].value)


@given(
    st.lists(st.integers(0, 100_000), min_size=1, max_size=300, unique=True).map(sorted),
    st.data(),
)
def test_extending_a_grid_gives_the_grid_of_everything(steps: list[int], data: st.DataObject) -> None:
    values = data.draw(st.lists(st.floats(-1e3, 1e3), min_size=len(steps), max_size=len(steps)))
    start, width = spacing(steps)
    whole = fill([Points(steps, values)], start, width, trouble=Trouble.HIGH)
    assert whole.columns <= MAX_COLUMNS + 1
    cut = data.draw(st.integers(0, whole.columns - 1))
    kept = [index for index, step in enumerate(steps) if step >= whole.step_of(cut)]
    before = whole.cells[:, cut - 1] if cut else None
    tail = fill(
        [Points([steps[i] for i in kept], [values[i] for i in kept])],
        whole.step_of(cut),
        width,
        trouble=Trouble.HIGH,
        before=before,
    )
    np.testing.assert_array_equal(tail.cells, whole.cells[:, cut:])


def test_steps_seen_twice_take_the_newer_segment() -> None:
    segments, steps = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 10, 20, 10, 20, 15])
    assert current(segments, steps).tolist() == [True, False, False, True, False, True]
    assert current(segments[:3], steps[:3]).all()
    assert current(segments[:0], steps[:0]).tolist() == []


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), unique=True, max_size=60).map(sorted))
def test_a_point_holds_unless_a_newer_segment_began_before_it(points: list[tuple[int, int]]) -> None:
    holds = [all(step < begun for newer, begun in points if newer > segment) for segment, step in points]
    segments, steps = (np.array([point[i] for point in points], np.int64) for i in (0, 1))
    assert current(segments, steps).tolist() == holds


@given(st.lists(st.one_of(st.floats(), st.floats(1e-4, 1e4)), min_size=1, max_size=20), st.integers(2, 6))
def test_values_of_a_matrix_are_rounded_as_single_ones_are(values: list[float], digits: int) -> None:
    (row,) = plain_rows(np.array([values]), digits)
    for value, shown in zip(values, row, strict=True):
        alone = plain(value, digits)
        if shown is None or alone is None:
            assert shown is alone
        else:
            assert math.isclose(shown, alone, rel_tol=10.0 ** -(digits - 1))
            assert float(f"{shown:.{digits}g}") == shown, "digits that nobody asked for"


def test_layers_stand_in_the_models_order_whatever_was_measured_first() -> None:
    reference = ["embed", "blocks.0.norm", "blocks.0.attn.qkv", "blocks.0.up", "blocks.10.up", "head"]
    found = ["head", "odd", "blocks.0.up", "blocks.0.attn.qkv.v", "blocks.0.attn.qkv.q", "blocks.0.attn", "blocks.0.norm", "other"]
    assert in_model_order(found, reference) == [
        "blocks.0.norm",
        "blocks.0.attn",
        "blocks.0.attn.qkv.v",
        "blocks.0.attn.qkv.q",
        "blocks.0.up",
        "head",
        "odd",
        "other",
    ]
    assert in_model_order(found, []) == found
