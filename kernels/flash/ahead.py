"""Compile the kernels for a GPU that is not here, and read off what they take: registers, spills, shared memory.

Compiling needs no driver. The arguments come from ``plan`` on "meta" tensors, so what is compiled is what a launch would compile.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ..options import Options, Variant
from . import plan
from .configurations import Configuration

_POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int32: "*i32",
    torch.uint8: "*u8",
}


@dataclass(frozen=True, slots=True)
class Resources:
    """What a compiled kernel takes.

    Attributes:
        registers: a thread's (NVIDIA), or vector registers a lane with accumulation registers (AMD).
        spills: bytes a thread keeps in memory for want of registers.
        shared: bytes of shared memory a program.
    """

    registers: int
    spills: int
    shared: int


def compiled(launch: plan.Launch, architecture: str) -> Resources:
    """Compile a planned launch for "sm_80", "sm_90", "gfx942", ...

    Raises:
        RuntimeError: Triton interprets (TRITON_INTERPRET is set), so there is nothing to compile.
    """
    if triton.knobs.runtime.interpret:
        raise RuntimeError("TRITON_INTERPRET is set: kernels are interpreted in this process, compile them in another")
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int], Any] = {}
    parameters = {parameter.name: parameter for parameter in launch.kernel.params}
    for place, (name, parameter) in enumerate(parameters.items()):
        value = launch.arguments[name]
        if parameter.is_constexpr or value is None or (isinstance(value, int) and value == 1):
            signature[name], constants[name] = "constexpr", value
            continue
        signature[name] = _POINTERS[value.dtype] if isinstance(value, Tensor) else "i32" if isinstance(value, int) else "fp32"
        if isinstance(value, Tensor) or (isinstance(value, int) and value % 16 == 0):
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, signature, constants, attributes)
    result = triton.compile(source, target=_target(architecture), options=launch.options())
    if architecture.startswith("gfx"):
        return _amd(result)
    return _nvidia(result)


def launches(
    architecture: str,
    dtype: torch.dtype,
    head_dim: int,
    variant: Variant,
    *,
    is_causal: bool = True,
    everything: bool = False,
    packed: bool = False,
    cut: Configuration | None = None,
) -> Iterator[plan.Launch]:
    """Yield the four launches of one attention call, forward and backward, on "meta" tensors.

    Args:
        architecture: whose configurations are taken.
        dtype: of q, k and v.
        head_dim: of q, k and v.
        variant: as of ``launch.forward``.
        is_causal: whether keys after the query are hidden.
        everything: with a window, a soft cap, an additive mask, statistics and row residuals too.
        packed: with ``cu_seqlens``.
        cut: a configuration to try in place of the shipped ones.
    """
    options = Options(head_dim**-0.5, is_causal, window=1000 if everything else None, softcap=30.0 if everything else None)
    q = torch.empty(2, 16, 4096, head_dim, dtype=dtype, device="meta")
    mask = torch.empty(1, 1, 4096, 4096, device="meta").expand(2, 16, 4096, 4096) if everything else None
    ends = torch.empty(33, dtype=torch.int32, device="meta") if packed else None
    call = plan.Call(q, q, q, options, mask, ends, ends, architecture, cut)
    rows = torch.empty(2, 16, 4096, device="meta")
    residual = q if variant.float32_delta and dtype != torch.float32 else None
    seen = rows if everything else None
    ties = rows.int() if everything else None
    outputs = {"out": q, "residual": residual, "log_sum_exp": rows, "maximum": seen, "tie_count": ties, "entropy": seen}
    yield plan.forward(call, variant, outputs)
    yield plan.delta(call, q, q, residual, rows)
    yield plan.keys(call, q, rows, rows, q, q)
    yield plan.queries(call, q, rows, rows, q, seen)


def _target(architecture: str) -> GPUTarget:
    if architecture.startswith("gfx"):
        return GPUTarget("hip", architecture, 64)
    return GPUTarget("cuda", int(architecture.removeprefix("sm_")), 32)


def _nvidia(result: Any) -> Resources:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(result.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return Resources(_number(r"REG:(\d+)", report), _number(r"STACK:(\d+)", report), int(result.metadata.shared))


def _amd(result: Any) -> Resources:
    report = result.asm["amdgcn"]
    vector = _number(r"\.vgpr_count:\s*(\d+)", report)
    # Scratch memory: spilled vector registers. Scalar ones are spilled into lanes of vector registers, which are counted already.
    spilled = _number(r"\.private_segment_fixed_size:\s*(\d+)", report)
    return Resources(vector, spilled, int(result.metadata.shared))


def _number(pattern: str, report: str) -> int:
    found = re.search(pattern, report)
    if found is None:
        raise RuntimeError(f"the compiler's report has no {pattern!r}; its format has changed:\n{report[:500]}")
    return int(found[1])
