"""``foreshock bench kernels``: foreshock's attention against SDPA's back ends and FlexAttention, forward and backward.

On a GPU the Triton kernels, stabilised and standard, against SDPA's flash, efficient, cuDNN and math back ends and FlexAttention.
Without one only the torch body can be measured, against SDPA on the CPU, on small sizes; the output says so. All take turns, so
that what slows the machine down falls on each. A forward pass keeps what its backward pass needs.
TFLOP/s count 4 B H T T D for a forward pass, half of it where causal, and 2.5 times that for a backward pass, whatever is
recomputed.
"""

import csv as csv_module
import json as json_module
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..kernels.drop_in import Backend, attention
from .kernels_shown import plotted, told

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
LENGTHS = {"cuda": (512, 1024, 2048, 4096, 8192, 16384), "cpu": (128, 256, 512)}
HEAD_DIMS = {"cuda": (64, 128), "cpu": (64,)}
_TOKENS = {"cuda": 16384, "cpu": 512}
_WIDTH = {"cuda": 2048, "cpu": 256}
NOT_HERE = (
    "No GPU on this machine. Not measured: the Triton kernels; SDPA's flash, efficient and cuDNN back ends; FlexAttention; "
    "device memory. What follows is foreshock's torch body against SDPA on the CPU, and says nothing about GPUs."
)

Attend = Callable[[Tensor, Tensor, Tensor, bool], Tensor]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one pass of one contestant costs at one size.

    Attributes:
        contestant: who.
        direction: "forward" or "backward".
        length: T, equal to S.
        head_dim: D.
        dtype: of q, k and v.
        batch: B; chosen so that B T stays about the same.
        heads: H; chosen so that H D does.
        p20_ms: a fifth of the rounds were faster; None, like all figures, where it did not run.
        p50_ms: the median.
        p80_ms: a fifth were slower.
        tflops: at p50.
        memory_mib: most device memory beyond the inputs; None on a CPU, where it is not measured.
        failure: why it did not run; empty if it did.
    """

    contestant: str
    direction: str
    batch: int
    heads: int
    length: int
    head_dim: int
    dtype: str
    p20_ms: float | None
    p50_ms: float | None
    p80_ms: float | None
    tflops: float | None
    memory_mib: float | None
    failure: str


def contestants(device: str) -> dict[str, Attend]:
    """Return who is compared on a device."""
    if device == "cpu":
        return {
            "foreshock, torch body": _ours("torch", True),
            "foreshock, torch body, standard": _ours("torch", False),
            "SDPA": lambda q, k, v, causal: F.scaled_dot_product_attention(q, k, v, is_causal=causal),
            "SDPA math": _sdpa(SDPBackend.MATH),
        }
    return {
        "foreshock": _ours("triton", True),
        "foreshock, standard": _ours("triton", False),
        "SDPA flash": _sdpa(SDPBackend.FLASH_ATTENTION),
        "SDPA efficient": _sdpa(SDPBackend.EFFICIENT_ATTENTION),
        "SDPA cuDNN": _sdpa(SDPBackend.CUDNN_ATTENTION),
        "SDPA math": _sdpa(SDPBackend.MATH),
        "FlexAttention": _flex(),
    }


def measure(
    device: str,
    lengths: Sequence[int] = (),
    head_dims: Sequence[int] = (),
    *,
    dtype: str = "bfloat16",
    causal: bool = True,
    rounds: int = 20,
    say: Callable[[str], None] = lambda line: None,
) -> list[Cost]:
    """Run the sweep.

    Raises:
        ValueError: a device, type, length, head dimension or number of rounds that cannot be measured.
    """
    if device not in LENGTHS:
        raise ValueError(f"device {device!r} is none of {', '.join(LENGTHS)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("this machine has no GPU that torch can use: run it on one that has, or pass --backend cpu")
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is none of {', '.join(DTYPES)}")
    if rounds < 1 or any(size < 1 for size in (*lengths, *head_dims)):
        raise ValueError(f"rounds={rounds}, lengths={[*lengths]}, head_dims={[*head_dims]}: all must be at least 1")
    found: list[Cost] = []
    for head_dim in head_dims or HEAD_DIMS[device]:
        for length in lengths or LENGTHS[device]:
            found += _size(device, length, head_dim, dtype, causal, rounds)
            say(f"head dimension {head_dim}, length {length}: done")
    return found


def _size(device: str, length: int, head_dim: int, dtype: str, causal: bool, rounds: int) -> list[Cost]:
    batch, heads = max(1, _TOKENS[device] // length), max(1, _WIDTH[device] // head_dim)
    generator = torch.Generator(device).manual_seed(0)
    shape = (batch, heads, length, head_dim)
    q, k, v, do = (torch.randn(shape, device=device, generator=generator).to(DTYPES[dtype]) for _ in range(4))
    leaves = [x.requires_grad_() for x in (q, k, v)]
    runs = {name: _Run(attend, leaves, do, causal) for name, attend in contestants(device).items()}
    for _ in range(rounds + 1):  # the first round warms up and is dropped
        for run in runs.values():
            run.once()
    work = 4 * batch * heads * length * length * head_dim * (0.5 if causal else 1.0)
    costs = []
    for name, run in runs.items():
        for direction, amount in (("forward", work), ("backward", 2.5 * work)):
            times = run.milliseconds[direction][1:]
            if not run.failure:
                p20, p80 = (sorted(times)[round(share * (len(times) - 1))] for share in (0.2, 0.8))
                p50 = statistics.median(times)
                speed, memory = amount / p50 / 1e9, run.memory.get(direction)
                cost = Cost(name, direction, batch, heads, length, head_dim, dtype, p20, p50, p80, speed, memory, "")
            else:
                nothing = (None, None, None, None, None)
                cost = Cost(name, direction, batch, heads, length, head_dim, dtype, *nothing, run.failure)
            costs.append(cost)
    return costs


class _Run:
    """One contestant at one size. What it raises the first time is kept as the reason why it is not measured."""

    def __init__(self, attend: Attend, leaves: list[Tensor], do: Tensor, causal: bool) -> None:
        self.attend, self.leaves, self.do, self.causal = attend, leaves, do, causal
        self.milliseconds: dict[str, list[float]] = {"forward": [], "backward": []}
        self.memory: dict[str, float] = {}
        self.failure = ""

    def once(self) -> None:
        """Run forward and backward, and note what they took."""
        if self.failure:
            return
        try:
            q, k, v = self.leaves
            out = self._timed("forward", lambda: self.attend(q, k, v, self.causal))
            self._timed("backward", lambda: torch.autograd.grad(out, self.leaves, self.do))
        except Exception as error:  # noqa: BLE001 - whatever a back end cannot do is a result of this benchmark
            self.failure = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"

    def _timed(self, direction: str, work: Callable[[], Any]) -> Any:
        if self.do.device.type != "cuda":
            started = time.perf_counter()
            result = work()
            self.milliseconds[direction].append((time.perf_counter() - started) * 1e3)
            return result
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        result = work()
        end.record()
        end.synchronize()
        self.milliseconds[direction].append(start.elapsed_time(end))
        self.memory[direction] = (torch.cuda.max_memory_allocated() - before) / 2**20
        return result


def _ours(backend: Backend, stabilize: bool) -> Attend:
    return lambda q, k, v, causal: attention(q, k, v, is_causal=causal, stabilize=stabilize, backend=backend)


def _sdpa(backend: SDPBackend) -> Attend:
    def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    return attend


def _flex() -> Attend:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    compiled = torch.compile(flex_attention)
    masks: dict[int, Any] = {}

    def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        length = q.shape[2]
        if causal and length not in masks:
            masks[length] = create_block_mask(lambda b, h, i, j: i >= j, None, None, length, length, device=q.device.type)
        out: Tensor = compiled(q, k, v, block_mask=masks[length] if causal else None)
        return out

    return attend


def main(
    *,
    backend: str = "auto",
    lengths: Sequence[int] = (),
    head_dims: Sequence[int] = (),
    dtype: str = "bfloat16",
    causal: bool = True,
    rounds: int = 20,
    json: bool = False,
    csv: Path | None = None,
    plot: Path | None = None,
) -> int:
    """Run the benchmark, print and write the figures; return the exit status."""
    device = backend if backend != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        print(NOT_HERE if not torch.cuda.is_available() else "On the CPU, as asked for; the GPU is not measured.", file=sys.stderr)
    costs = measure(
        device,
        lengths,
        head_dims,
        dtype=dtype,
        causal=causal,
        rounds=rounds,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    if csv is not None:
        with csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv_module.DictWriter(file, [field.name for field in fields(Cost)])
            writer.writeheader()
            writer.writerows(asdict(cost) for cost in costs)
    if plot is not None:
        plotted(costs, device).write_html(plot, include_plotlyjs=True)
    if json:
        where = torch.cuda.get_device_name() if device == "cuda" else "cpu"
        about = {"device": where, "threads": torch.get_num_threads(), "torch": str(torch.__version__), "causal": causal}
        missing = NOT_HERE if device == "cpu" and not torch.cuda.is_available() else ""
        print(json_module.dumps({**about, "not_measured": missing, "costs": [asdict(cost) for cost in costs]}, indent=2))
    else:
        print(told(costs))
    return 0
