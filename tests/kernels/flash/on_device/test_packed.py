"""Packed sequences: each as if it had been given alone."""

import pytest
import torch
from foreshock.kernels.flash import launch
from foreshock.kernels.options import STABILISED, STANDARD, Options

LENGTHS = [(0, 3), (40, 33), (1, 7), (32, 0), (2, 2)]


@pytest.mark.parametrize(
    ("dtype", "options", "variant", "group"),
    [
        (torch.float32, Options(0.2), STANDARD, 1),
        (torch.float32, Options(0.2, is_causal=True, softcap=4.0), STABILISED, 2),
        (torch.bfloat16, Options(0.2, is_causal=True, window=11), STABILISED, 2),
        (torch.float16, Options(0.2, window=20), STANDARD, 1),
    ],
)
def test_packed_sequences_are_attended_one_by_one(dtype, options, variant, group, device) -> None:
    ends = [torch.tensor([0, *(pair[side] for pair in LENGTHS)]).cumsum(0).int().to(device) for side in (0, 1)]
    total_q, total_k = (int(each[-1]) for each in ends)
    q, do = (torch.randn(1, 2, total_q + 4, 32, device=device).to(dtype) for _ in range(2))
    k, v = (torch.randn(1, 2 // group, total_k + 2, 32, device=device).to(dtype) for _ in range(2))
    packed = {"cu_seqlens_q": ends[0], "cu_seqlens_k": ends[1]}
    got = launch.forward(q, k, v, options, variant, **packed)
    gradients = launch.backward(do, q, k, v, got.out, got.residual, got.log_sum_exp, options, variant, **packed)
    for n in range(len(LENGTHS)):
        rows, columns = (slice(int(each[n]), int(each[n + 1])) for each in ends)
        one = [q[:, :, rows], k[:, :, columns], v[:, :, columns]]
        alone = launch.forward(*one, options, variant)
        assert torch.equal(got.out[:, :, rows], alone.out)
        assert torch.equal(got.log_sum_exp[:, :, rows], alone.log_sum_exp)
        rest = (alone.out, alone.residual, alone.log_sum_exp, options, variant)
        for whole, part, where in zip(
            gradients, launch.backward(do[:, :, rows], *one, *rest), (rows, columns, columns), strict=True
        ):
            torch.testing.assert_close(whole[:, :, where], part, atol=0, rtol=0)
    # What no sequence owns comes back 0.
    assert not got.out[:, :, total_q:].any()
    assert not gradients[0][:, :, total_q:].any()
    assert not gradients[1][:, :, total_k:].any()
