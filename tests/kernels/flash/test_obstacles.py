"""What Triton cannot run is refused in one sentence, which says what was given and what mends it."""

import pytest
import torch
from foreshock.kernels.flash.launch import backward, forward, obstacle
from foreshock.kernels.options import STABILISED, STANDARD, Options

PLAIN = Options(1.0)


def tensors(q=(1, 4, 8, 32), k=(1, 2, 8, 32), v=None, dtype=torch.bfloat16):
    return [torch.zeros(shape, dtype=dtype, device="meta") for shape in (q, k, v or k)]


ENDS = torch.tensor([0, 8], dtype=torch.int32)


@pytest.mark.parametrize(
    ("given", "extras", "words"),
    [
        (tensors(dtype=torch.float64), {}, ["torch.float64", "bfloat16, float16, float32", ".to()"]),
        (tensors(q=(4, 8, 32)), {}, ["(4, 8, 32)", "(B, H, T, D)", "backend='torch'"]),
        (tensors(v=(1, 2, 8, 16)), {}, ["(1, 2, 8, 16)", "backend='torch'"]),
        (tensors(q=(2, 4, 8, 32)), {}, ["(2, 4, 8, 32)"]),
        (tensors(q=(1, 4, 8, 512), k=(1, 4, 8, 512)), {}, ["512", "256"]),
        (tensors(q=(1, 3, 8, 32)), {}, ["3 query heads", "2 key heads"]),
        (tensors(), {"dropout_p": 0.1}, ["0.1", "backend='torch'"]),
        (tensors(), {"mask": torch.zeros(7)}, ["(7,)", "(1, 4, 8, 8)"]),
        (tensors(), {"mask": torch.zeros(2, 4, 8, 8)}, ["(2, 4, 8, 8)"]),
        (tensors(), {"mask": torch.zeros(8, dtype=torch.int32)}, ["torch.int32", ".bool()"]),
        (tensors(), {"mask": torch.zeros(8, requires_grad=True)}, ["gradient", "detach"]),
        (tensors(), {"cu_seqlens_q": ENDS}, ["both or neither"]),
        (tensors(), {"cu_seqlens_q": ENDS, "cu_seqlens_k": ENDS.long()}, ["int64", "int32"]),
        (tensors(), {"cu_seqlens_q": ENDS, "cu_seqlens_k": ENDS[:1]}, ["(sequences + 1,)"]),
        (tensors(q=(2, 4, 8, 32), k=(2, 2, 8, 32)), {"cu_seqlens_q": ENDS, "cu_seqlens_k": ENDS}, ["batch 1", "got 2"]),
        (tensors(), {"cu_seqlens_q": ENDS, "cu_seqlens_k": ENDS, "mask": torch.zeros(8)}, ["mask", "packed"]),
        (tensors(), {}, ["meta", ".cuda()", "backend='torch'"]),
    ],
)
def test_obstacles_are_told(given, extras, words) -> None:
    reason = obstacle(*given, PLAIN, **extras)
    assert reason is not None
    assert [word for word in words if word not in reason] == []
    assert reason == reason.strip()
    assert "\n" not in reason


def test_a_cpu_tensor_is_refused_not_silently_computed_elsewhere() -> None:
    q = torch.zeros(1, 1, 4, 32)
    with pytest.raises(ValueError, match=r"on cpu: move them with \.cuda\(\)"):
        forward(q, q, q, PLAIN, STANDARD)
    with pytest.raises(ValueError, match=r"on cpu"):
        backward(q, q, q, q, q, None, q[..., 0], PLAIN, STABILISED)


def test_tensors_on_two_devices_are_refused() -> None:
    q, k, v = tensors()
    reason = obstacle(q, k, torch.zeros(v.shape, dtype=v.dtype), PLAIN)
    assert reason is not None
    assert "one device" in reason


def test_the_way_in_imports_no_triton() -> None:
    """So that a machine without it can ask for the obstacle."""
    import subprocess
    import sys

    code = "import sys; import foreshock.kernels.flash.launch; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0
