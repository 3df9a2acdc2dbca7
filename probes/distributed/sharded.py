"""Weights that are sharded by rows over the ranks (FSDP2's ``fully_shard``), measured without gathering them.

The leading singular pairs by the block Krylov iteration of subspace.py: with W_r the rows that rank r holds, ``W^T W q`` is the sum
over ranks of ``W_r^T (W_r q)``, vectors as wide as the layer's input, and the Gram matrix of the images is a sum too. One small
reduction a pass for all layers together; the space, and all that follows from it, is the same on every rank.

Ranks meet first (company.py), then run a fixed sequence of reductions: a rank that fails in between goes on with NaN, and all drop
the sample.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model import LinearLayer, WatchedModel
from ..statistics.subspace import LeadingPairs, orthonormal, pairs_in, stacked, times, times_transposed, units
from ..taps.optimizer import is_sharded


class Reduce(Protocol):
    """Makes a tensor the sum over all ranks, in place, or the maximum."""

    def __call__(self, tensor: Tensor, *, largest: bool) -> None:
        """Reduce."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a layer's weight that lie on this rank.

    Attributes:
        weight: (r, in), r perhaps 0.
        places: (first output, how many) of each stretch of them.
        outputs: how many rows the whole layer has.
    """

    weight: Tensor
    places: tuple[tuple[int, int], ...]
    outputs: int


def rows_of(layer: LinearLayer) -> Rows:
    """Return the rows of a sharded layer that lie here: views, but for the parts of a projection that lies head by head."""
    stored: Any = layer.stored()
    mesh, total = stored.device_mesh, stored.shape[0]
    local = stored.to_local().detach().flatten(1)
    each = -(-total // mesh.size())  # as torch.chunk cuts
    first = min(total, each * mesh.get_local_rank())
    if len(local) != min(each, total - first):
        raise ValueError(f"{layer.name}: {len(local)} of {total} rows lie here, where {min(each, total - first)} were expected")
    outputs = layer.size if layer.part else total
    if layer.heads:
        head = outputs // layer.heads
        stretches = [((3 * i + "qkv".index(layer.part)) * head, i * head, head) for i in range(layer.heads)]
    else:
        stretches = [(layer.first, 0, outputs)]
    pieces, places = [], []
    for start, output, length in stretches:
        begin, end = max(start, first), min(start + length, first + len(local))
        if begin < end:
            pieces.append(local[begin - first : end - first])
            places.append((output + begin - start, end - begin))
    weight = pieces[0] if len(pieces) == 1 else torch.cat(pieces) if pieces else local[:0]
    return Rows(weight, tuple(places), outputs)


def is_sharded_by_rows(layer: LinearLayer) -> bool:
    """Tell whether a layer's weight is sharded by its outputs; one stored (in, out) is sharded by its inputs."""
    return is_sharded(layer.stored()) and not layer.transposed


def ranks_of(weight: Any) -> int:
    """Return how many ranks a sharded weight lies on."""
    size: int = weight.device_mesh.size()
    return size


def reduction_over(weight: Any) -> Reduce:
    """Return the reduction over the ranks that a sharded weight lies on."""
    mesh = weight.device_mesh
    operation = torch.distributed.ReduceOp

    def reduce(tensor: Tensor, *, largest: bool) -> None:
        if mesh.size() > 1:
            torch.distributed.all_reduce(tensor, operation.MAX if largest else operation.SUM, group=mesh.get_group())

    return reduce


def sharded_pairs(layers: Sequence[Rows], bases: Sequence[Tensor], iterations: int, reduce: Reduce) -> LeadingPairs:
    """Return what ``leading_pairs`` would of the whole weights; every rank calls it with the same layers, bases and iterations.

    A rank that fails raises after the last reduction; on the others ``valid`` is false.
    """
    found: list[LeadingPairs] = []
    rounds = _rounds(layers, bases, iterations, found)
    failure: Exception | None = None
    for length, dtype, largest in _buffers(layers, bases, iterations):
        buffer = None
        if failure is None:
            try:
                buffer = next(rounds)
            except Exception as error:  # noqa: BLE001 - raised below: the others wait in the reductions to come
                failure = error
        if buffer is None:
            buffer = torch.full((length,), torch.nan, dtype=dtype, device=layers[0].weight.device)
        reduce(buffer, largest=largest)
    if failure is not None:
        raise failure
    next(rounds, None)
    return found[0]


def _rounds(layers: Sequence[Rows], bases: Sequence[Tensor], iterations: int, found: list[LeadingPairs]) -> Iterator[Tensor]:
    """Yield what is to be reduced, in place, before the next is asked for; leave the result in ``found``."""
    weights = [layer.weight for layer in layers]
    spaces = list(bases)
    images = [[times_transposed(*each)] for each in zip(bases, weights, strict=True)]
    # Scaled: sigma squared would leave float32's range from 2e19 upwards and 1e-19 downwards. By the same on every rank.
    scales = torch.stack([F.pad(image[0].abs().flatten(), (0, 1)).amax() for image in images])
    yield scales
    scales = torch.where(scales == 0, 1.0, scales)
    for _ in range(iterations):
        growing = [i for i, space in enumerate(spaces) if len(space) < space.shape[1]]
        if not growing:
            break
        again = [times(images[i][-1] / scales[i], weights[i]) for i in growing]
        joined = torch.cat([each.flatten() for each in again])
        yield joined
        for i, part in zip(growing, joined.split([each.numel() for each in again]), strict=True):
            added = orthonormal(torch.cat([spaces[i], part.reshape(-1, spaces[i].shape[1])]))[len(spaces[i]) :]
            spaces[i] = torch.cat([spaces[i], added])
            images[i].append(times_transposed(added, weights[i]))
    whole = [torch.cat(image) for image in images]
    grams = stacked([(image.double() @ image.double().t())[None] for image in whole])
    shape = grams.shape
    yield (grams := grams.flatten())
    pairs = pairs_in([x[None] for x in spaces], [x[None] for x in whole], grams.reshape(shape), [x[None] for x in bases])
    # W v_1 of this rank's rows, each in its place; and a zero, that becomes NaN where a rank has failed.
    left = torch.zeros(sum(layer.outputs for layer in layers) + 1, device=weights[0].device, dtype=torch.float32)
    begin = 0
    for layer, image in zip(layers, pairs.left, strict=True):
        for (output, length), stretch in zip(layer.places, image.split([length for _, length in layer.places]), strict=True):
            left[begin + output : begin + output + length] = stretch
        begin += layer.outputs
    yield left
    parts = left[:-1].split([layer.outputs for layer in layers])
    found.append(replace(pairs, left=[units(part) for part in parts], valid=left[-1] == 0))


def _buffers(layers: Sequence[Rows], bases: Sequence[Tensor], iterations: int) -> Iterator[tuple[int, torch.dtype, bool]]:
    """Yield length and type of all that ``_rounds`` yields, and whether the largest counts; from shapes alone."""
    yield len(layers), torch.float32, True
    widths, known = [basis.shape[1] for basis in bases], [len(basis) for basis in bases]
    last = known
    for _ in range(iterations):
        if known == widths:
            break
        yield sum(rows * width for rows, n, width in zip(last, known, widths, strict=True) if n < width), torch.float32, False
        last = [min(rows, width - n) for rows, n, width in zip(last, known, widths, strict=True)]
        known = [n + rows for n, rows in zip(known, last, strict=True)]
    size = max(2, *known)
    yield len(layers) * size * size, torch.float64, False
    yield sum(layer.outputs for layer in layers) + 1, torch.float32, False


def refuse_unknown_sharding(model: WatchedModel, world: int) -> None:
    """Refuse a model whose weights are sharded otherwise than by rows, over all ranks.

    Raises:
        ValueError: it says how they are sharded and what can be watched.
    """
    can = "DDP, and FSDP2's fully_shard() over all ranks, can be watched"
    for name, module in model.named_modules():
        if type(module).__name__ == "FullyShardedDataParallel":
            raise ValueError(f"{name or 'the model'} is wrapped in FSDP1, which hides the weights: use fully_shard(); {can}")
        for own, parameter in module.named_parameters(recurse=False):
            if is_sharded(parameter):
                _refuse(f"{name}.{own}".lstrip("."), parameter, world, can)


def _refuse(name: str, parameter: Any, world: int, can: str) -> None:
    from torch.distributed.tensor import Shard

    mesh, placements = parameter.device_mesh, tuple(parameter.placements)
    if placements != (Shard(0),) or mesh.size() != world:
        how = f"{', '.join(map(str, placements))} over a mesh of {'x'.join(map(str, mesh.shape))} of {world} ranks"
        raise ValueError(
            f"{name} is sharded as {how} (tensor parallelism, or hybrid sharding), which this version cannot watch: {can}"
        )
