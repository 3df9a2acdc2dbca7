"""Weights that are sharded over the ranks (FSDP2's ``fully_shard``), measured without gathering them."""

from torch import Tensor

from .model import WatchedModel
from .update_tap import is_sharded


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


def _refuse(name: str, parameter: Tensor, world: int, can: str) -> None:
    from torch.distributed.tensor import DTensor, Shard

    assert isinstance(parameter, DTensor)
    mesh, placements = parameter.device_mesh, tuple(parameter.placements)
    if mesh.ndim != 1 or placements != (Shard(0),) or mesh.size() != world:
        how = ", ".join(map(str, placements))
        raise ValueError(
            f"{name} is sharded as {how} over a mesh of {'x'.join(map(str, mesh.shape))} of {world} ranks "
            f"(tensor parallelism, or hybrid sharding), which this version cannot watch: {can}"
        )
