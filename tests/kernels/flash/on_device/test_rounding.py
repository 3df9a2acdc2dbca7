"""Rounding inside the kernels: ours, and the interpreter's, whose bfloat16 is patched for these tests."""

import warnings

import pytest
import torch
import triton
import triton.language as tl
from foreshock.kernels.flash.tiles import rounded, tanh


@triton.jit
def _round(x, y, z, w, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    given = tl.load(x + at)
    tl.store(y + at, rounded(given, tl.bfloat16))
    tl.store(z + at, given.to(tl.bfloat16))
    tl.store(w + at, rounded(given, tl.float16))


@triton.jit
def _products(a, b, c, total, N: tl.constexpr):
    i = tl.arange(0, N)
    at = i[:, None] * N + i[None, :]
    x, y = tl.load(a + at), tl.load(b + at)
    tl.store(c + at, tl.dot(x, y))
    tl.store(total + at, x * y + x)


@triton.jit
def _tanh(x, y, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(y + at, tanh(tl.load(x + at)))


def patterns(device: torch.device) -> torch.Tensor:
    """float32 of every exponent, both signs, with the low half on, just beside and off a tie; NaN and infinities."""
    high = torch.arange(0, 2**16, 7, dtype=torch.int32)[:, None] << 16
    low = torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x1234, 0xABCD], dtype=torch.int32)
    return (high | low).flatten().view(torch.float32).to(device)


def test_rounding_and_casts_agree_with_torch_bit_for_bit(device) -> None:
    x = patterns(device)
    block = 8192
    x = x[: len(x) // block * block].contiguous()
    ours, cast, half = torch.empty_like(x), torch.empty_like(x, dtype=torch.bfloat16), torch.empty_like(x)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "overflow encountered in cast", RuntimeWarning)  # numpy's, of float16
        _round[(len(x) // block,)](x, ours, cast, half, BLOCK=block)
    torch.testing.assert_close(ours, x.bfloat16().float(), atol=0, rtol=0, equal_nan=True)
    torch.testing.assert_close(cast, x.bfloat16(), atol=0, rtol=0, equal_nan=True)
    torch.testing.assert_close(half, x.half().float(), atol=0, rtol=0, equal_nan=True)


def test_bfloat16_products_and_sums_are_rounded_as_hardware_does(device) -> None:
    a, b = (torch.randn(32, 32, device=device).bfloat16() for _ in range(2))
    c, total = torch.empty(32, 32, device=device), torch.empty_like(a)
    _products[(1,)](a, b, c, total, N=32, enable_fp_fusion=False)
    torch.testing.assert_close(c, a.float() @ b.float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(total, a * b + a, atol=0, rtol=2**-6)


def test_tanh_is_accurate_near_zero_and_far_from_it(device) -> None:
    sizes = torch.logspace(-6, 2, 2048, device=device)
    x = torch.cat([sizes, -sizes])
    y = torch.empty_like(x)
    _tanh[(1,)](x, y, BLOCK=4096)
    torch.testing.assert_close(y.double(), x.double().tanh(), atol=0, rtol=5e-7)


@pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="nothing is interpreted on a GPU")
def test_the_interpreter_is_the_one_that_was_patched() -> None:
    import importlib.util
    from pathlib import Path

    spec = importlib.util.spec_from_file_location("patch", Path(__file__).parents[1] / "interpreter_bf16.py")
    patch = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(patch)
    assert triton.__version__.startswith(f"{patch.VERSION}."), (
        f"Triton {triton.__version__}: see whether its interpreter still needs interpreter_bf16.py (written for {patch.VERSION}), "
        "mend or drop it, and set VERSION"
    )
