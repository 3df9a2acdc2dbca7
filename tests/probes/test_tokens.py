"""The subsample of tokens: bounded, reproducible, and no stranger to any position of a sequence."""

import pytest
import torch
from foreshock.probes.statistics.tokens import sample_tokens, scattered_rows
from hypothesis import given
from hypothesis import strategies as st

CPU = torch.device("cpu")


@given(st.integers(0, 1 << 22), st.integers(1, 512))
def test_rows_are_bounded_rising_and_within(count: int, limit: int) -> None:
    rows = scattered_rows(count, limit, CPU)
    if count <= limit:
        assert rows is None, "take all"
        return
    assert rows is not None
    assert limit * 0.6 <= len(rows) <= limit
    assert rows.min() >= 0
    assert rows.max() < count
    assert (rows.diff() > 0).all()
    assert torch.equal(rows, scattered_rows(count, limit, CPU))


@pytest.mark.parametrize("count", [1000, 8192, 65_536, 1 << 20])
def test_no_part_is_left_out(count: int) -> None:
    """The largest stretch without a row is a few times the mean one."""
    rows = scattered_rows(count, 256, CPU)
    gaps = torch.cat([rows, torch.tensor([count])]).diff()
    assert gaps.max() <= 3 * count / 256 + 1


@pytest.mark.parametrize("batch", [4, 8, 32, 256])
@pytest.mark.parametrize("context", [64, 128, 233, 256, 377, 1024, 2048, 4096])
def test_all_positions_of_a_sequence_have_their_chance(batch: int, context: int) -> None:
    """A fixed stride over (batch, context) tokens would look at few positions, and at the first token of every sequence."""
    rows = scattered_rows(batch * context, 256, CPU)
    if rows is None:
        return
    position = rows % context
    # As many different positions as drawing at random would give, nearly: n (1 - (1 - 1/n)^m).
    expected = context * (1 - (1 - 1 / context) ** len(rows))
    assert len(position.unique()) > 0.6 * expected, f"{len(position.unique())} positions, {expected:.0f} at random"
    assert position.bincount().max() <= max(6, 4 * len(rows) / context), "a favourite position"
    eighths = (position * 8 // context).bincount(minlength=8)
    assert eighths.min() > 0.4 * len(rows) / 8, f"positions by eighths: {eighths.tolist()}"
    assert len((rows // context).unique()) >= min(batch, 256) * 0.6, "sequences"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(7,), (5, 7), (3, 4, 7), (2, 300, 7), (0, 7)], ids=str)
def test_sampled_tokens_are_float32_copies_of_rows(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randn(shape).to(dtype).requires_grad_()
    tokens = sample_tokens(x, 256)
    assert tokens.dtype == torch.float32
    assert tokens.shape[1] == 7
    assert not tokens.requires_grad
    rows = scattered_rows(x.numel() // 7, 256, CPU)
    flat = x.detach().reshape(-1, 7).float()
    expected = flat.clone() if rows is None else flat[rows]
    with torch.no_grad():
        x.zero_()
    assert torch.equal(tokens, expected)


def test_a_view_of_any_stride_is_sampled_by_its_own_order() -> None:
    x = torch.randn(7, 40, 30).permute(2, 1, 0)
    rows = scattered_rows(1200, 256, CPU)
    assert torch.equal(sample_tokens(x, 256), x.reshape(-1, 7)[rows])
