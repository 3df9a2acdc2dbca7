"""Work out launches: from tensors and options to a kernel, its grid and every argument.

Nothing here touches a device, so that tensors on "meta" do as well: the ahead-of-time compile (``ahead``) and a launch take their
arguments from the same place.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..options import Options, Variant
from .backward import delta_kernel, keys_kernel, queries_kernel
from .configurations import Configuration, Kernel, configuration, padded
from .forward import forward_kernel

_FAR = 2**30  # a window no sequence is longer than, and far enough from int32's end to add positions to


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch of a kernel: everything but the device."""

    kernel: Any
    programs: int
    arguments: dict[str, Any]
    warps: int
    stages: int
    name: str = field(default="")

    def options(self) -> dict[str, Any]:
        """Return the options the kernel is compiled with.

        No fused multiply-add outside matrix products: with it a tied score less its maximum is not exactly 0, and two variants of
        a kernel could differ in bits for no reason of ours. Triton's own default has changed between releases.
        """
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": False}

    def run(self) -> None:
        """Launch it on the current device."""
        if self.programs > 0:
            self.kernel[(self.programs,)](**self.arguments, **self.options())


@dataclass(frozen=True, slots=True)
class Call:
    """What forward and backward of one attention call share. Tensors as the kernels take them (see ``launch``)."""

    q: Tensor
    k: Tensor
    v: Tensor
    options: Options
    mask: Tensor | None
    cu_seqlens_q: Tensor | None
    cu_seqlens_k: Tensor | None
    architecture: str
    forced: Configuration | None = None
    """In place of the shipped configurations, to try another."""

    def cut(self, kernel: Kernel) -> Configuration:
        """Return the configuration of a kernel for this call."""
        if self.forced is not None:
            return self.forced
        return configuration(kernel, self.architecture, self.q.element_size(), self.q.shape[-1])

    def common(self, cut: Configuration) -> dict[str, Any]:
        """Return the arguments that the forward, the keys and the queries kernel all have."""
        options, mask = self.options, self.mask
        cap = options.softcap
        # Scores leave the kernel's arithmetic in bits: log2 e is folded into the last factor.
        scale = options.scale * math.log2(math.e) if cap is None else options.scale / cap
        return {
            "q": self.q,
            "k": self.k,
            "v": self.v,
            "mask": mask,
            "cu_seqlens_q": self.cu_seqlens_q,
            "cu_seqlens_k": self.cu_seqlens_k,
            **strides("q", self.q) | strides("k", self.k) | strides("v", self.v),
            **dict(zip((f"mask_stride_{axis}" for axis in "bhts"), mask.stride() if mask is not None else (0,) * 4, strict=True)),
            "heads": self.q.shape[1],
            "group": self.q.shape[1] // max(1, self.k.shape[1]),
            "length_q": self.q.shape[2],
            "length_k": self.k.shape[2],
            "sequences": 0 if self.cu_seqlens_q is None else len(self.cu_seqlens_q) - 1,
            "window": min(options.window or _FAR, _FAR),
            "scale": float(scale),
            "cap": float((cap or 1.0) * math.log2(math.e)),
            "D": self.q.shape[-1],
            "BLOCK_D": padded(self.q.shape[-1]),
            "BLOCK_M": cut.block_m,
            "BLOCK_N": cut.block_n,
            "CAUSAL": options.is_causal,
            "WINDOWED": options.window is not None,
            "CAPPED": cap is not None,
            "MASK": 0 if mask is None else 1 if mask.dtype == torch.uint8 else 2,
            "PACKED": self.cu_seqlens_q is not None,
        }

    def tiles(self, length: int, block: int) -> int:
        """Return how many tiles of ``block`` rows one head has; packed sequences own one more each than may be needed."""
        if self.cu_seqlens_q is None:
            return -(-length // block)
        return length // block + len(self.cu_seqlens_q) - 1


def strides(name: str, x: Tensor) -> dict[str, int]:
    """Name the strides of a (B, H, T, D) tensor; the last one is 1."""
    return {f"{name}_stride_b": x.stride(0), f"{name}_stride_h": x.stride(1), f"{name}_stride_t": x.stride(2)}


def forward(call: Call, variant: Variant, outputs: dict[str, Tensor | None]) -> Launch:
    """Plan the forward kernel; ``outputs`` holds out, residual, log_sum_exp, maximum, tie_count and entropy."""
    cut = call.cut("forward")
    out = outputs["out"]
    assert out is not None
    tiles = call.tiles(call.q.shape[2], cut.block_m)
    flags = {"DYNAMIC": variant.dynamic_maximum, "LOW": variant.low_precision_accumulator}
    arguments = {**call.common(cut), **outputs, **strides("out", out), "tiles": tiles, **flags}
    return Launch(forward_kernel, tiles * call.q.shape[1] * call.q.shape[0], arguments, cut.warps, cut.stages, "forward")


def delta(call: Call, do: Tensor, out: Tensor, residual: Tensor | None, result: Tensor) -> Launch:
    """Plan the kernel that takes delta from dO and the forward's outputs."""
    batch, heads, length, width = out.shape
    rows = 64 if padded(width) <= 128 else 32
    tiles = -(-length // rows)
    arguments = {
        "do": do,
        "out": out,
        "residual": residual,
        "delta": result,
        **strides("do", do) | strides("out", out),
        "heads": heads,
        "length": length,
        "tiles": tiles,
        "D": width,
        "BLOCK_D": padded(width),
        "BLOCK_M": rows,
    }
    return Launch(delta_kernel, tiles * heads * batch, arguments, 4, 1, "delta")


def keys(call: Call, do: Tensor, log_sum_exp: Tensor, delta_BHT: Tensor, dk: Tensor, dv: Tensor) -> Launch:
    """Plan the kernel of dK and dV."""
    cut = call.cut("keys")
    tiles = call.tiles(call.k.shape[2], cut.block_n)
    arguments = {
        **call.common(cut),
        "do": do,
        "log_sum_exp": log_sum_exp,
        "delta": delta_BHT,
        "dk": dk,
        "dv": dv,
        **strides("do", do) | strides("dk", dk) | strides("dv", dv),
        "tiles": tiles,
        "slope": float(call.options.scale),
    }
    return Launch(keys_kernel, tiles * call.k.shape[1] * call.k.shape[0], arguments, cut.warps, cut.stages, "keys")


def queries(
    call: Call, do: Tensor, log_sum_exp: Tensor, delta_BHT: Tensor, dq: Tensor, row_residual: Tensor | None = None
) -> Launch:
    """Plan the kernel of dQ."""
    cut = call.cut("queries")
    tiles = call.tiles(call.q.shape[2], cut.block_m)
    arguments = {
        **call.common(cut),
        "do": do,
        "log_sum_exp": log_sum_exp,
        "delta": delta_BHT,
        "dq": dq,
        "row_residual": row_residual,
        **strides("do", do) | strides("dq", dq),
        "tiles": tiles,
        "slope": float(call.options.scale),
    }
    return Launch(queries_kernel, tiles * call.q.shape[1] * call.q.shape[0], arguments, cut.warps, cut.stages, "queries")
