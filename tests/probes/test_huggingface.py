"""Attention of the real transformers package is seen as it is, in every way it attends. Tiny random weights, no downloads."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import foreshock
import pytest
import torch
from foreshock.probes.attention import AttentionProbe
from foreshock.probes.attention_rank import AttentionRankProbe
from foreshock.probes.model import WatchedModel
from foreshock.probes.rounding_bias import RoundingBiasProbe
from torch import Tensor, nn

os.environ["HF_HUB_OFFLINE"] = "1"
import transformers
from transformers.models.llama import modeling_llama

VOCABULARY, TOKENS = 50, 12
SMALL = {"vocab_size": VOCABULARY, "max_position_embeddings": 32, "use_cache": False}
WIDE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def gpt2(implementation: str, **options: Any) -> nn.Module:
    config = transformers.GPT2Config(
        **SMALL, n_embd=32, n_layer=2, n_head=4, n_positions=32, attn_implementation=implementation, **options
    )
    return transformers.GPT2LMHeadModel(config)


def llama(implementation: str, **options: Any) -> nn.Module:
    config = transformers.LlamaConfig(**SMALL, **WIDE, num_key_value_heads=2, attn_implementation=implementation, **options)
    return transformers.LlamaForCausalLM(config)


def bert(implementation: str, **options: Any) -> nn.Module:
    config = transformers.BertConfig(**SMALL, **WIDE, attn_implementation=implementation, **options)
    return transformers.BertForMaskedLM(config)


MODELS: dict[str, Callable[..., nn.Module]] = {"gpt2": gpt2, "llama": llama, "bert": bert}
QUIET = {"gpt2": {"attn_pdrop": 0.0}, "llama": {}, "bert": {"attention_probs_dropout_prob": 0.0}}
"""Options without dropout of probabilities."""
ATTENTION = {
    "gpt2": ["transformer.h.0.attn", "transformer.h.1.attn"],
    "llama": ["model.layers.0.self_attn", "model.layers.1.self_attn"],
    "bert": ["bert.encoder.layer.0.attention.self", "bert.encoder.layer.1.attention.self"],
}
OUTPUT = {"gpt2": "c_proj", "llama": "o_proj", "bert": None}
PADDED = torch.ones(2, TOKENS, dtype=torch.long)
PADDED[1, 8:] = 0

implementations = pytest.mark.parametrize("implementation", ["sdpa", "eager"])
architectures = pytest.mark.parametrize("name", MODELS)


def tokens() -> Tensor:
    return torch.randint(VOCABULARY, (2, TOKENS), generator=torch.Generator().manual_seed(3))


def train_once(model: nn.Module, mask: Tensor | None = None) -> Tensor:
    loss: Tensor = model(tokens(), attention_mask=mask, labels=tokens()).loss
    loss.backward()
    return loss


class Spy:
    """What the layers around attention took and gave, and the gradients there: an independent way to q, k, v, out and dO."""

    def __init__(self, name: str, model: nn.Module) -> None:
        self.name = name
        self.given: dict[tuple[str, str], Tensor] = {}
        modules = dict(model.named_modules())
        for path in ATTENTION[name]:
            for own in {"gpt2": ["c_attn"], "llama": ["q_proj", "k_proj", "v_proj"], "bert": ["query", "key", "value"]}[name]:
                modules[f"{path}.{own}"].register_forward_hook(self._keep_output(path, own))
            after = modules[path] if name == "bert" else modules[f"{path}.{OUTPUT[name]}"]
            if name == "bert":
                after.register_forward_hook(self._keep_output(path, "out"))
            else:
                after.register_forward_pre_hook(self._keep_input(path))
            if name == "llama":
                modules[path].register_forward_pre_hook(self._keep_rotation(path), with_kwargs=True)

    def _keep(self, path: str, what: str, x: Tensor) -> None:
        x.retain_grad()
        self.given[path, what] = x

    def _keep_output(self, path: str, what: str) -> Callable[..., None]:
        return lambda module, args, out: self._keep(path, what, out[0] if isinstance(out, tuple) else out)

    def _keep_input(self, path: str) -> Callable[..., None]:
        return lambda module, args: self._keep(path, "out", args[0])

    def _keep_rotation(self, path: str) -> Callable[..., None]:
        def keep(module: nn.Module, args: Any, kwargs: Any) -> None:
            self.given[path, "cos"], self.given[path, "sin"] = kwargs["position_embeddings"]

        return keep

    def __call__(self, path: str) -> dict[str, Tensor]:
        """q, k, v, out, their gradients under ``d...``; (B, H, T, D) each, keys and values with as many heads as there are."""
        found = {}
        for grad in ("", "d"):

            def get(what: str, grad: str = grad) -> Tensor:
                x = self.given[path, what]
                whole = x.grad if grad else x.detach()
                assert whole is not None
                return whole

            if self.name == "gpt2":
                q, k, v = get("c_attn").split(32, -1)
            else:
                q, k, v = (
                    get(what) for what in (("q_proj", "k_proj", "v_proj") if self.name == "llama" else ("query", "key", "value"))
                )
            q, k, v, out = (x.unflatten(-1, (-1, 8)).transpose(1, 2) for x in (q, k, v, get("out")))
            if self.name == "llama":  # a gradient is turned as what it belongs to: rotations are orthogonal
                q, k = modeling_llama.apply_rotary_pos_emb(q, k, self.given[path, "cos"], self.given[path, "sin"])
            found |= {f"{grad}q": q, f"{grad}k": k, f"{grad}v": v, f"{grad}out": out}
        return found


@pytest.mark.parametrize("mask", [None, PADDED], ids=["no mask", "padding"])
@implementations
@architectures
def test_what_is_seen_is_what_was_computed(name: str, implementation: str, mask: Tensor | None) -> None:
    model = MODELS[name](implementation, **QUIET[name]).train()
    spy, probe = Spy(name, model), AttentionProbe()
    probe.attach(WatchedModel(model))
    probe.arm(0)
    train_once(model, mask)
    assert probe._tap is not None
    calls = {call.name: call for call in probe._tap.calls}
    assert list(calls) == ATTENTION[name]
    for path, call in calls.items():
        expected = spy(path)
        groups = call.sample.k.shape[1]
        assert groups in {expected["k"].shape[1], 4}
        repeated = groups // expected["k"].shape[1]
        for what in ("q", "k", "v", "out"):
            true = expected[what].repeat_interleave(repeated if what in "kv" else 1, 1)
            assert torch.allclose(getattr(call.sample, what), true, atol=1e-6), what
        assert len(call.grad_out) == len(call.key_gradients) == 1
        assert torch.allclose(call.grad_out[0], expected["dout"], atol=1e-9, rtol=1e-5)
        shift = call.key_gradients[0].shift.unflatten(1, (-1, repeated)).sum(2)
        scale = expected["dk"].norm()
        assert torch.allclose(shift, expected["dk"].sum(2), atol=1e-6 * scale.item())
        if repeated == 1:
            assert torch.allclose(call.key_gradients[0].norm, expected["dk"].norm(dim=(2, 3)), rtol=1e-4)
    # Softmax and mask too: the probabilities recomputed from the sample give the output.
    (group,) = probe._tap.groups()
    v = group.sample.v.repeat_interleave(group.sample.q.shape[1] // group.sample.v.shape[1], 1)
    assert group.sample.out is not None
    assert torch.allclose(group.rows.p @ v, group.sample.out, atol=1e-5)
    probe.disarm()


@implementations
@architectures
def test_the_residual_is_noise_in_float32(name: str, implementation: str, sampler) -> None:
    model = MODELS[name](implementation, **QUIET[name]).train()
    found = sampler(AttentionProbe(), model).sample(lambda: train_once(model))
    for signal in ("attention.max_logit", "attention.entropy_mean", "rounding.key_shift_residual"):
        assert found.modules(signal) == set(ATTENTION[name])
    for path in ATTENTION[name]:
        assert found.heads("rounding.key_shift_residual", path).max() < 1e-5


@architectures
def test_both_ways_of_attending_show_the_same(name: str, sampler) -> None:
    found = []
    for implementation in ("sdpa", "eager"):
        torch.manual_seed(5)
        model = MODELS[name](implementation, **QUIET[name]).train()
        found.append(sampler(AttentionProbe(), model).sample(lambda model=model: train_once(model, PADDED)))
    for signal in ("attention.max_logit", "attention.entropy_mean", "attention.entropy_min", "attention.common_logit_shift"):
        for path in ATTENTION[name]:
            one, other = (each.heads(signal, path) for each in found)
            assert len(one) == 4
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-6), signal


@implementations
@architectures
def test_rank_and_rounding_are_seen_in_bfloat16(name: str, implementation: str, sampler) -> None:
    model = MODELS[name](implementation, **QUIET[name]).bfloat16().train()
    rank = sampler(AttentionRankProbe(), model).sample(lambda: train_once(model))
    assert rank.modules("attention.output_effective_rank") == rank.modules("attention.token_similarity_in") == set(ATTENTION[name])
    assert rank.modules("attention.qk_spectral_norm") == set(ATTENTION[name])
    bias = sampler(RoundingBiasProbe(), model).sample(lambda: train_once(model))
    assert bias.modules("rounding.output_bias") == bias.modules("rounding.rank_one_share") == set(ATTENTION[name])
    # Written out, attention takes delta from P and dP: there is no error of delta to speak of.
    delta = set(ATTENTION[name]) if implementation == "sdpa" else set()
    assert bias.modules("rounding.delta_bias") == bias.modules("rounding.query_gradient_error") == delta


@pytest.mark.parametrize("checkpoints", [False, True], ids=["plain", "checkpoints"])
@implementations
@architectures
def test_training_is_bit_identical(name: str, implementation: str, checkpoints: bool, tmp_path: Path) -> None:
    kept = []
    for watched in (False, True):
        torch.manual_seed(1)
        model = MODELS[name](implementation).train()
        if checkpoints:
            model.activation_checkpointing_enable()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        url = f"sqlite:///{tmp_path / 'runs.db'}"
        monitor = foreshock.watch(model, optimizer, store=url, probes="full", every=2) if watched else None
        for _ in range(4):
            loss = train_once(model)
            optimizer.step()
            optimizer.zero_grad()
            if monitor is not None:
                monitor.step(loss)
        if monitor is not None:
            monitor.close()
            assert monitor.faults.total == 0
            store = foreshock.open_store(url)
            frame = store.frame(store.runs()[0])
            store.close()
            assert set(frame[frame["signal"] == "rounding.key_shift_residual"]["module"]) == set(ATTENTION[name])
            assert set(frame[frame["signal"] == "attention.max_logit"]["step"]) == {0, 2}
        kept.append([torch.get_rng_state(), *(p.detach().clone() for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*kept, strict=True))


@implementations
def test_the_fused_projection_is_split(implementation: str, sampler) -> None:
    model = gpt2(implementation).train()
    layers = {layer.name: layer for layer in WatchedModel(model).linear_layers()}
    x = torch.randn(5, 32)
    module = model.transformer.h[0].attn.c_attn
    with torch.no_grad():
        whole = module(x) - module.bias
    for place, part in enumerate("qkv"):
        weight = layers[f"transformer.h.0.attn.c_attn.{part}"].weight()
        assert torch.allclose(x @ weight.t(), whole[:, 32 * place : 32 * place + 32], atol=1e-6)
    assert "transformer.h.0.attn.c_attn" not in layers


@pytest.mark.parametrize("part", [0.25, 0.5])
@implementations
def test_rotary_embeddings_of_a_part_of_each_head(implementation: str, part: float, sampler) -> None:
    """The residual is of the keys as attention takes them, whatever was turned. A quarter of the heads here is two entries, a pair
    of neighbours: that is turned back. A half is two pairs that lie across: how W_q's gradient errs is then not told."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": part}
    config = transformers.GPTNeoXConfig(**SMALL, **WIDE, attn_implementation=implementation, rope_parameters=rope)
    model = transformers.GPTNeoXForCausalLM(config).train()
    assert model.gpt_neox.rotary_emb.inv_freq.numel() == 8 * part / 2
    names = {f"gpt_neox.layers.{i}.attention" for i in range(2)}
    found = sampler(AttentionProbe(), model).sample(lambda: train_once(model))
    assert found.modules("rounding.key_shift_residual") == names
    for name in names:
        assert found.heads("rounding.key_shift_residual", name).max() < 1e-5
    model = model.bfloat16()
    bias = sampler(RoundingBiasProbe(), model).sample(lambda: train_once(model))
    assert bias.modules("rounding.output_bias") == names
    assert bias.modules("rounding.rank_one_share") == (names if part == 0.25 else set())
    assert bias.modules("rounding.query_gradient_error") == (names if part == 0.25 and implementation == "sdpa" else set())


def test_a_soft_cap_or_a_sink_is_not_taken_for_plain_attention(sampler) -> None:
    small = {**SMALL, **WIDE, "num_key_value_heads": 2, "head_dim": 8, "attn_implementation": "eager"}
    capped = transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**small)).train()
    sinks = transformers.GptOssForCausalLM(transformers.GptOssConfig(**small, num_local_experts=2, num_experts_per_tok=1)).train()
    found = sampler(AttentionProbe(), capped).sample(lambda: train_once(capped))
    assert {signal for signal, _, _ in found} == {"attention.max_logit", "attention.entropy_mean", "attention.entropy_min"}, (
        "of its softmax"
    )
    assert max(value for (signal, _, _), value in found.items() if signal == "attention.max_logit") <= 50.0, "its cap"
    assert not sampler(AttentionProbe(), sinks).sample(lambda: train_once(sinks))


def eager_functions() -> Iterator[Any]:
    for name, module in list(sys.modules.items()):
        if name.startswith("transformers.models.") and "eager_attention_forward" in vars(module):
            yield name, vars(module)["eager_attention_forward"]


def test_transformers_is_left_as_it_was(sampler) -> None:
    before = dict(eager_functions())
    assert before
    model = llama("eager").train()

    def failing() -> None:
        train_once(model)
        handle = model.lm_head.register_forward_pre_hook(lambda module, args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train_once(model)
        handle.remove()

    assert sampler(AttentionProbe(), model).sample(failing)
    assert dict(eager_functions()) == before


def test_two_watched_models_one_inside_the_other(sampler) -> None:
    """Each sees its own calls, and both what runs in both."""
    inner = llama("eager").train()
    outer = nn.ModuleDict({"inner": inner, "own": llama("eager").train()})

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = outer

        def forward(self) -> Tensor:
            return sum((part(tokens()).logits.square().mean() for part in self.parts.values()), torch.zeros(()))

    model = Both().train()
    one, other = AttentionProbe(), AttentionProbe()
    for probe, watched in ((one, model), (other, inner)):
        probe.attach(WatchedModel(watched))
        probe.arm(0)
    model().backward()
    assert one._tap is not None
    assert other._tap is not None
    names = [f"parts.{part}.{path}" for part in ("inner", "own") for path in ATTENTION["llama"]]
    assert [call.name for call in one._tap.calls] == names
    assert [call.name for call in other._tap.calls] == ATTENTION["llama"]
    one.disarm()
    other.disarm()
