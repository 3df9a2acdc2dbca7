"""Which tokens of a layer's input and output are looked at: a bounded, evenly scattered, reproducible subsample.

A convolution's tokens are the places its kernel is put at: places are chosen first, and only the patches there are copied.
"""

import functools

import torch
from torch import Tensor, nn

from ..model import is_channels_last

_GOLDEN_RATIO = 0.6180339887498949


@functools.lru_cache(maxsize=256)
def scattered_rows(count: int, limit: int, device: torch.device) -> Tensor | None:
    """Return at most ``limit`` row numbers below ``count``, rising, scattered by the golden ratio, or None for "take all".

    Where ``count`` is little above ``limit`` some fall together, and fewer are left. Not a fixed stride: that may hit the same
    position of every sequence, and positions differ (attention sinks, the first token).
    """
    if count <= limit:
        return None
    rows = (torch.arange(limit, dtype=torch.float64, device="cpu") * _GOLDEN_RATIO % 1.0 * count).long()
    distinct: Tensor = torch.unique(rows)
    return distinct.to(device)


def sample_tokens(x: Tensor, limit: int) -> Tensor:
    """Return at most ``limit`` tokens of ``x`` (..., d) as float32 (n, d), detached, copied: in-place changes do no harm."""
    tokens = x.detach().reshape(-1, x.shape[-1])
    rows = scattered_rows(tokens.shape[0], limit, tokens.device)
    picked = tokens if rows is None else tokens.index_select(0, rows)
    return picked.float() if picked.dtype != torch.float32 else picked.clone() if rows is None else picked


def sample_inputs(module: nn.Module, x: Tensor, limit: int) -> Tensor:
    """Return at most ``limit`` tokens of a linear layer's input as ``sample_tokens`` does; of a convolution's, patches (n, in)."""
    return _sample_patches(module, x, limit) if isinstance(module, nn.Conv2d) else sample_tokens(x, limit)


def sample_outputs(module: nn.Module, y: Tensor, limit: int) -> Tensor:
    """Return the same tokens of a linear layer's output, or of the gradient there, (n, out)."""
    return sample_pixels(y, limit) if isinstance(module, nn.Conv2d) else sample_tokens(y, limit)


def sample_pixels(y: Tensor, limit: int) -> Tensor:
    """Return at most ``limit`` places of ``y`` (N, C, H, W) or (C, H, W) as float32 (n, C), detached, copied."""
    y = y.detach() if y.dim() == 4 else y.detach()[None]
    rows = scattered_rows(y.shape[0] * y.shape[2] * y.shape[3], limit, y.device)
    if rows is None:
        return y.permute(0, 2, 3, 1).flatten(0, 2).to(torch.float32, copy=True)
    image, row, column = _places(rows, y.shape[2], y.shape[3])
    return y[image, :, row, column].float()


def _sample_patches(conv: nn.Conv2d, x: Tensor, limit: int) -> Tensor:
    """Return at most ``limit`` patches, (n, in channels * kernel places), in the order of the weight's memory."""
    x = x.detach() if x.dim() == 4 else x.detach()[None]
    befores, sizes = [], []
    for axis in (0, 1):
        reach = conv.dilation[axis] * (conv.kernel_size[axis] - 1)
        padding = conv.padding if isinstance(conv.padding, str) else conv.padding[axis]
        # "same" puts the odd place at the end.
        before, both = (0, 0) if padding == "valid" else (reach // 2, reach) if isinstance(padding, str) else (padding, 2 * padding)
        befores.append(before)
        sizes.append((x.shape[2 + axis] + both - reach - 1) // conv.stride[axis] + 1)
    count = x.shape[0] * sizes[0] * sizes[1]
    rows = scattered_rows(count, limit, x.device)
    image, *starts = _places(torch.arange(count, device=x.device) if rows is None else rows, *sizes)
    places, inside = [], []
    for axis in (0, 1):
        steps = torch.arange(conv.kernel_size[axis], device=x.device) * conv.dilation[axis] - befores[axis]
        place, length = starts[axis][:, None] * conv.stride[axis] + steps, x.shape[2 + axis]
        inside.append((place >= 0) & (place < length))
        if conv.padding_mode == "circular":
            place = place % length
        elif conv.padding_mode == "reflect":
            place = length - 1 - (length - 1 - place.abs()).abs()
        places.append(place.clamp(0, length - 1))
    patches = x[image[:, None, None], :, places[0][:, :, None], places[1][:, None, :]].float()  # (n, height, width, in)
    if conv.padding_mode == "zeros":
        patches = torch.where((inside[0][:, :, None] & inside[1][:, None, :])[..., None], patches, 0.0)
    return (patches if is_channels_last(conv.weight) else patches.permute(0, 3, 1, 2)).flatten(1)


def _places(rows: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return image, row and column of places counted through."""
    return rows // (height * width), rows // width % height, rows % width
