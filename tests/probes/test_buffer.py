"""From device tensors to a record: one copy, in order, with what does not apply left out and NaN kept."""

import math

import numpy as np
import pytest
import torch
from foreshock.probes.base import Counts, Scalars
from foreshock.probes.statistics.not_applicable import is_not_applicable, not_applicable
from foreshock.probes.step.buffer import HostCopy, PendingStep, PlainStep, keys_of, pack
from foreshock.storage.records import Histogram, SeriesKey, StepRecord

CPU = torch.device("cpu")


def keys(signal: str, count: int) -> tuple[SeriesKey, ...]:
    return tuple(SeriesKey(signal, f"layer.{i}") for i in range(count))


def resolve(
    blocks: list[Scalars | Counts], host: dict[str, float] | None = None, away: HostCopy | None = None, away_names: str = ""
) -> StepRecord:
    host = host or {}
    pending = PendingStep(
        7, 1.5, keys_of(tuple(host)), tuple(host.values()), keys_of(tuple(away_names.split())), away, pack(blocks)
    )
    assert pending.ready()
    return pending.resolve()


def test_what_does_not_apply_is_left_out_and_every_other_nan_is_kept() -> None:
    nothing = not_applicable(CPU)
    values = torch.stack([torch.tensor(1.0), nothing, torch.tensor(math.nan), torch.tensor(-math.inf), nothing, torch.tensor(0.0)])
    odd_nan = torch.tensor([0x7F800001, 0x7FFFFFFF], dtype=torch.int32).view(torch.float32)
    record = resolve([Scalars(keys("a", 6), values), Scalars(keys("b", 2), odd_nan)])
    assert record.keys == (*(keys("a", 6)[i] for i in (0, 2, 3, 5)), *keys("b", 2))
    assert record.values == pytest.approx([1.0, math.nan, -math.inf, 0.0, math.nan, math.nan], nan_ok=True)


def test_the_mark_survives_the_ways_probes_use_it() -> None:
    """Selected, stacked, flattened, joined, copied: no arithmetic."""
    nothing = not_applicable(CPU)
    where = torch.where(torch.tensor([[True, False], [False, True]]), nothing, torch.ones(2, 2))
    flat = torch.cat([torch.stack([where, where]).flatten(), torch.zeros(3)]).clone().cpu()
    assert is_not_applicable(flat.numpy()).tolist() == [True, False, False, True] * 2 + [False] * 3
    assert not is_not_applicable((flat * 0).numpy().astype(np.float32))[-3:].any()
    assert not is_not_applicable(np.array([math.nan, math.inf, 0.0], dtype=np.float32)).any()
    assert math.isnan(nothing.item())


def test_scalars_and_histograms_come_out_in_the_order_they_went_in() -> None:
    first, second = torch.arange(12).reshape(3, 4), torch.tensor([[2**24, 1, 0]])
    blocks = [
        Scalars(keys("a", 2), torch.tensor([1.0, 2.0])),
        Counts(keys("h", 3), -1.0, 1.0, first),
        Scalars(keys("b", 3), torch.tensor([3.0, 4.0, 5.0], dtype=torch.float64)),
        Counts(keys("g", 1), 0.0, 6.0, second),
        Scalars(keys("c", 1), torch.tensor([6.0], dtype=torch.bfloat16)),
    ]
    record = resolve(blocks, {"loss": 0.25, "lr": 0.1})
    assert (record.step, record.time) == (7, 1.5)
    assert record.keys == (SeriesKey("loss"), SeriesKey("lr"), *keys("a", 2), *keys("b", 3), *keys("c", 1))
    assert list(record.values) == [0.25, 0.1, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert record.histograms == (
        *(Histogram(key, -1.0, 1.0, tuple(row)) for key, row in zip(keys("h", 3), first.tolist(), strict=True)),
        Histogram(keys("g", 1)[0], 0.0, 6.0, (2**24, 1, 0)),
    )
    assert all(isinstance(count, int) for histogram in record.histograms for count in histogram.counts)


def test_only_histograms_and_nothing_at_all() -> None:
    record = resolve([Counts(keys("h", 1), 0.0, 1.0, torch.ones(1, 5, dtype=torch.int64))])
    assert record.keys == ()
    assert record.histograms[0].counts == (1,) * 5
    assert pack([]) is None
    empty = resolve([], {"loss": math.nan})
    assert empty.keys == (SeriesKey("loss"),)
    assert empty.histograms == ()


def test_values_on_their_way_stand_between_host_and_probes() -> None:
    away = HostCopy([torch.tensor(2.5, requires_grad=True), torch.tensor([3], dtype=torch.int64)])
    record = resolve([Scalars(keys("a", 1), torch.tensor([4.0]))], {"loss": 1.0}, away, "norm count")
    assert [key.signal for key in record.keys] == ["loss", "norm", "count", "a"]
    assert list(record.values) == [1.0, 2.5, 3.0, 4.0]


@pytest.mark.parametrize("count", [1, 2])
def test_the_copy_is_ours_whatever_becomes_of_the_tensor(count: int) -> None:
    parts = [torch.ones(2) for _ in range(count)]
    copy = HostCopy(parts)
    for part in parts:
        part.fill_(9.0)
    assert copy.ready()
    assert copy.numpy().tolist() == [1.0] * 2 * count


def test_steps_alike_share_one_tuple_of_keys() -> None:
    """The store resolves a tuple to row numbers once."""

    def one(step: int) -> StepRecord:
        # Fresh keys each time, as a probe makes them.
        packed = pack([Scalars(tuple(SeriesKey("a", f"layer.{i}") for i in range(3)), torch.rand(3))])
        return PendingStep(step, 0.0, keys_of(("loss",)), (1.0,), (), None, packed).resolve()

    assert one(1).keys is one(2).keys
    plain = [PlainStep((step, 0.0, 1.0, [], 0.1)).resolve() for step in range(2)]
    assert plain[0].keys is plain[1].keys


def test_a_plain_step_names_what_there_is() -> None:
    full = PlainStep((3, 2.0, 0.5, [(3.0, 3.0, 1.0), (4.0, 4.0, math.inf)], 0.01)).resolve()
    assert {key.signal: value for key, value in zip(full.keys, full.values, strict=True)} == {
        "loss": 0.5,
        "gradient.norm": 5.0,
        "gradient.norm_clipped": pytest.approx(math.hypot(1.0, 4.0), rel=1e-5),
        "learning_rate": 0.01,
    }
    assert PlainStep((3, 2.0, None, [], None)).resolve().keys == ()
    assert PlainStep((3, 2.0, 0.0, [], 0.0)).resolve().values == (0.0, 0.0)
    broken = PlainStep((3, 2.0, math.nan, [(math.nan, math.nan, 1.0)], 0.1)).resolve()
    assert [math.isnan(value) for value in broken.values] == [True, True, True, False]


@pytest.mark.parametrize("values", [torch.ones(2), torch.ones(3, 1), torch.tensor(1.0)], ids=["few", "matrix", "0-d"])
def test_a_block_whose_values_do_not_fit_its_keys_is_refused(values: torch.Tensor) -> None:
    """Else the numbers of one series would land under the name of another."""
    with pytest.raises(ValueError, match=r"3 keys need values of shape \(3,\), got"):
        Scalars(keys("a", 3), values)
    with pytest.raises(ValueError, match=r"3 keys need counts of shape \(3, bins\), got"):
        Counts(keys("a", 3), 0.0, 1.0, values if values.dim() < 2 else torch.ones(2, 4))
