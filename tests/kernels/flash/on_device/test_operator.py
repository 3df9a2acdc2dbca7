"""The Triton kernels behind ``foreshock.kernels.attention``: the same answers as its torch body, and a well-behaved operator."""

import pytest
import torch
from foreshock.kernels import attention
from foreshock.kernels.operator import attention_forward


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_triton_and_torch_bodies_agree(dtype, device) -> None:
    found = {}
    q, do = (torch.randn(1, 4, 35, 32, device=device).to(dtype) for _ in range(2))
    k, v = (torch.randn(1, 2, 35, 32, device=device).to(dtype) for _ in range(2))
    for backend in ("triton", "torch"):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        out = attention(*leaves, is_causal=True, enable_gqa=True, window=20, softcap=5.0, backend=backend)
        found[backend] = [out.detach(), *torch.autograd.grad(out, leaves, do)]
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
    for mine, other in zip(found["triton"], found["torch"], strict=True):
        torch.testing.assert_close(mine, other, atol=tolerance, rtol=tolerance)


def test_what_is_told_of_the_outputs_beforehand_is_what_comes(device) -> None:
    """opcheck compares shapes, types and strides with those of the fake."""
    q, k, v = (torch.randn(1, 20, 2, 32, device=device).bfloat16().transpose(1, 2) for _ in range(3))
    options = (0.2, True, None, None, 0.0, True, True, False, "triton")
    torch.library.opcheck(
        attention_forward, (q, k, v, None, None, None, None, *options), test_utils=["test_schema", "test_faketensor"]
    )
