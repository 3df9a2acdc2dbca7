"""q, k and v are found in the families of models that people train, and attention is seen, however it is computed."""

import math
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from foreshock.probes.attention import AttentionProbe
from foreshock.probes.model import WatchedModel
from torch import Tensor, nn

os.environ["HF_HUB_OFFLINE"] = "1"
import transformers

VOCABULARY, TOKENS = 50, 12
TEXT = {"vocab_size": VOCABULARY, "max_position_embeddings": 32, "use_cache": False, "pad_token_id": 0}
WIDE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**TEXT, **WIDE, "num_key_value_heads": 2, "head_dim": 8}
ENDS = {"bos_token_id": 1, "eos_token_id": 1}
Names = list[tuple[str, str, str]]


def layers(pattern: str, q: str, k: str, v: str, count: int = 2) -> Names:
    return [(f"{pattern.format(i)}.{q}", f"{pattern.format(i)}.{k}", f"{pattern.format(i)}.{v}") for i in range(count)]


def hugging_face(model: str, config: str, **options: Any) -> Callable[[str], nn.Module]:
    made = getattr(transformers, config)
    return lambda implementation: getattr(transformers, model)(made(attn_implementation=implementation, **options))


class NanoAttention(nn.Module):
    """As nanoGPT writes it, names and all."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.n_head, self.n_embd = heads, width

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.size()
        q, k, v = (
            part.view(B, T, self.n_head, C // self.n_head).transpose(1, 2) for part in self.c_attn(x).split(self.n_embd, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=None, dropout_p=0, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))


class NanoGPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        blocks = [nn.ModuleDict({"ln_1": nn.LayerNorm(32), "attn": NanoAttention()}) for _ in range(2)]
        self.transformer = nn.ModuleDict({"wte": nn.Embedding(VOCABULARY, 32), "h": nn.ModuleList(blocks)})
        self.lm_head = nn.Linear(32, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.transformer["wte"](tokens)
        for block in self.transformer["h"]:
            x = x + block["attn"](block["ln_1"](x))
        return self.lm_head(x)


class Nameless(nn.Module):
    """Attention that nothing in the names tells of."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mixing, self.out = nn.Embedding(VOCABULARY, 32), nn.Linear(32, 96), nn.Linear(32, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (4, 8)).transpose(1, 2) for part in self.mixing(self.embed(tokens)).chunk(3, -1))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


SLIDING = {"sliding_window": 5}
SEPARATE = ("q_proj", "k_proj", "v_proj")
FAMILIES: dict[str, tuple[Callable[[str], nn.Module], Names]] = {
    "gpt2": (
        hugging_face(
            "GPT2LMHeadModel", "GPT2Config", vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=32, **ENDS
        ),
        layers("transformer.h.{}.attn.c_attn", "q", "k", "v"),
    ),
    "llama": (hugging_face("LlamaForCausalLM", "LlamaConfig", **GROUPED), layers("model.layers.{}.self_attn", *SEPARATE)),
    "mistral": (
        hugging_face("MistralForCausalLM", "MistralConfig", **GROUPED, **SLIDING),
        layers("model.layers.{}.self_attn", *SEPARATE),
    ),
    "qwen2": (
        hugging_face("Qwen2ForCausalLM", "Qwen2Config", **GROUPED, **SLIDING, use_sliding_window=True, max_window_layers=1),
        layers("model.layers.{}.self_attn", *SEPARATE),
    ),
    "qwen3": (hugging_face("Qwen3ForCausalLM", "Qwen3Config", **GROUPED), layers("model.layers.{}.self_attn", *SEPARATE)),
    "gemma": (hugging_face("GemmaForCausalLM", "GemmaConfig", **GROUPED), layers("model.layers.{}.self_attn", *SEPARATE)),
    "gemma3": (
        hugging_face("Gemma3ForCausalLM", "Gemma3TextConfig", **GROUPED, **SLIDING, query_pre_attn_scalar=8),
        layers("model.layers.{}.self_attn", *SEPARATE),
    ),
    "phi3": (
        hugging_face("Phi3ForCausalLM", "Phi3Config", **{**GROUPED, **ENDS}),
        layers("model.layers.{}.self_attn.qkv_proj", "q", "k", "v"),
    ),
    "bert": (
        hugging_face("BertForMaskedLM", "BertConfig", **TEXT, **WIDE),
        layers("bert.encoder.layer.{}.attention.self", "query", "key", "value"),
    ),
    "vit": (
        hugging_face("ViTForImageClassification", "ViTConfig", **WIDE, image_size=8, patch_size=4, num_labels=3),
        layers("vit.layers.{}.attention", *SEPARATE),
    ),
    "nanogpt": (lambda implementation: NanoGPT(), layers("transformer.h.{}.attn.c_attn", "q", "k", "v")),
}


def loss_of(model: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    if isinstance(model, transformers.ViTForImageClassification):
        return model(pixel_values=torch.randn(2, 3, 8, 8, generator=generator)).logits.square().mean()
    found = model(torch.randint(1, VOCABULARY, (2, TOKENS), generator=generator))
    return (found if isinstance(found, Tensor) else found.logits).square().mean()


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_queries_keys_and_values_are_found_and_attention_is_seen(family: str, implementation: str, sampler: Any) -> None:
    torch.manual_seed(0)
    make, names = FAMILIES[family]
    model = make(implementation).train()
    watched = WatchedModel(model)
    found = {layer.name: layer for layer in watched.linear_layers() if layer.role}
    assert [found[name].role for triple in names for name in triple] == ["q", "k", "v"] * len(names)
    assert len(found) == 3 * len(names)
    grouped = family not in {"gpt2", "bert", "vit", "nanogpt"}
    for triple in names:
        q, k, v = (found[name] for name in triple)
        assert (tuple(q.weight().shape), k.weight().shape) == ((32, 32), v.weight().shape)
        assert k.weight().shape[0] == (16 if grouped else 32)
        stored = q.stored()
        assert q.weight().untyped_storage().data_ptr() == stored.untyped_storage().data_ptr(), "a view, not a copy"
    if family == "nanogpt" and implementation == "eager":
        return  # it writes the softmax out itself: seen where it tells monitor.attention()
    seen = sampler(AttentionProbe(), model).sample(lambda: loss_of(model).backward())
    assert seen.modules("rounding.key_shift_residual") == {found[triple[0]].parent for triple in names}
    for name in seen.modules("attention.max_logit"):
        assert len(seen.heads("attention.max_logit", name)) == 4
        assert seen.heads("rounding.key_shift_residual", name).max() < 1e-4
        assert (seen.heads("attention.entropy_mean", name) <= math.log(TOKENS) + 1e-5).all()


def test_a_sliding_window_is_what_the_statistics_are_of(sampler: Any) -> None:
    """No row of a window of 5 tokens can have the entropy of 12."""
    model = FAMILIES["mistral"][0]("sdpa").train()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "q_proj" in name:
                p.zero_()  # all keys alike: the entropy is the logarithm of how many there are
    seen = sampler(AttentionProbe(), model).sample(lambda: loss_of(model).backward())
    rows = torch.tensor([math.log(min(row + 1, 5)) for row in range(TOKENS)])
    for name in seen.modules("attention.entropy_mean"):
        assert torch.allclose(seen.heads("attention.entropy_mean", name), rows.mean().expand(4).double(), atol=1e-4)


def test_a_model_whose_names_say_nothing_is_measured_all_the_same(sampler: Any) -> None:
    model = Nameless().train()
    assert [(layer.name, layer.role) for layer in WatchedModel(model).linear_layers()] == [("mixing", ""), ("out", "")]
    seen = sampler(AttentionProbe(), model).sample(lambda: loss_of(model).backward())
    assert seen.modules("attention.max_logit") == {""} or seen.modules("attention.max_logit") == {"attention"}
