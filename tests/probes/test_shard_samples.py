"""The parts of a subsample that lie on several ranks are together the subsample of the whole."""

import pytest
import torch
from foreshock.probes.distributed.shard_samples import Shard, sampled_places, shard_of
from foreshock.probes.model import WatchedModel
from foreshock.probes.statistics.samples import entries_and_block, sample_entries
from torch import Tensor, nn


class Conv1D(nn.Module):
    """As GPT-2's, whose weight lies (in, out)."""

    def __init__(self, out: int, into: int) -> None:
        super().__init__()
        self.nf = out
        self.weight = nn.Parameter(torch.randn(into, out))


class Interleaved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 4
        self.query_key_value = nn.Linear(64, 192)


MODELS = {
    "linear": lambda: nn.Linear(90, 130),
    "small": lambda: nn.Linear(7, 5),
    "transposed": lambda: nn.ModuleDict({"mlp": Conv1D(130, 90)}),
    "fused": lambda: nn.ModuleDict({"qkv": nn.Linear(64, 192)}),
    "fused and transposed": lambda: nn.ModuleDict({"c_attn": Conv1D(192, 64)}),
    "head by head": Interleaved,
    "convolution": lambda: nn.Conv2d(30, 20, 3),
}


def cut(whole: Tensor, ranks: int) -> list[Shard]:
    """As FSDP2 cuts: rows in equal chunks, the last ones short or empty."""
    each = -(-len(whole) // ranks)
    per_row = whole[0].numel()
    starts = [min(len(whole), each * rank) for rank in range(ranks)]
    return [Shard(whole[start : start + each].contiguous(), start * per_row, whole.numel()) for start in starts]


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("kind", MODELS)
def test_parts_of_a_layers_sample_are_its_sample(kind: str, ranks: int) -> None:
    for layer in WatchedModel(MODELS[kind]()).linear_layers():
        weight = layer.view()
        places, entries, _ = entries_and_block(weight.shape[:-1].numel(), weight.shape[-1], weight.device)
        found = []
        for shard in cut(layer.stored().detach(), ranks):
            here = sampled_places(layer, shard)
            assert here is not None
            assert here[1] == entries
            found.append(shard.local.take(here[0]))
        assert torch.equal(torch.cat(found).sort()[0], weight.take(places[:entries]).sort()[0])


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("shape", [(5, 3), (70, 90), (1000,), (9001,)], ids=str)
def test_parts_of_a_parameters_sample_are_its_sample(shape: tuple[int, ...], ranks: int) -> None:
    whole = torch.randn(shape)
    shards = cut(whole, ranks)
    assert torch.equal(torch.cat([shard.entries() for shard in shards]), sample_entries(whole))
    assert {shard.sampled for shard in shards} == {len(sample_entries(whole))}


def test_a_whole_tensor_is_its_own_part() -> None:
    x = torch.randn(70, 90)
    assert torch.equal(shard_of(x).entries(), sample_entries(x))


def test_channels_last_is_not_told() -> None:
    layers = WatchedModel(nn.Conv2d(30, 20, 3).to(memory_format=torch.channels_last)).linear_layers()
    assert sampled_places(layers[0], shard_of(layers[0].stored())) is None
