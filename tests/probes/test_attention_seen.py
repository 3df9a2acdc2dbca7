"""Attention is seen wherever it runs: nn.MultiheadAttention, Hugging Face's call pattern, activation checkpoints, long contexts."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from foreshock.kernels import Precision, reference_attention
from foreshock.probes.attention import WINDOW, AttentionProbe
from foreshock.probes.attention_rank import AttentionRankProbe
from foreshock.probes.model import WatchedModel
from foreshock.probes.rounding_bias import RoundingBiasProbe
from foreshock.probes.statistics.attention import coherence
from foreshock.zoo.models import GPT
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

FORWARD = {"attention.max_logit", "attention.entropy_mean", "attention.entropy_min", "attention.common_logit_shift"}
OBSERVERS = (AttentionProbe, RoundingBiasProbe, AttentionRankProbe)


# -- nn.MultiheadAttention ---------------------------------------------------------------------------------------------


class Multihead(nn.Module):
    """A root around one nn.MultiheadAttention."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options: dict[str, Any] = {}
        self.inner = nn.MultiheadAttention(8, 2, **options)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = self.inner(q, k, v, **self.options)[0]
        return out


def inputs(options: dict[str, Any], b: int = 3, t: int = 9, s: int = 9) -> list[Tensor]:
    given = [torch.randn(b, n, width) for n, width in ((t, 8), (s, options.get("kdim", 8)), (s, options.get("vdim", 8)))]
    return given if options.get("batch_first") else [x.transpose(0, 1) for x in given]


def additive(blocked: Tensor) -> Tensor:
    return torch.where(blocked, -math.inf, 0.0)


BLOCKED = torch.ones(9, 9, dtype=torch.bool).triu(1)
PADDED = torch.zeros(3, 9, dtype=torch.bool)
PADDED[1, 6:] = True
BUILT: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch first": {"batch_first": True},
    "no bias": {"bias": False, "batch_first": True},
    "bias_k": {"add_bias_kv": True},
    "zero_attn": {"add_zero_attn": True, "add_bias_kv": True, "batch_first": True},
    "own widths": {"kdim": 6, "vdim": 5, "batch_first": True},
}
CALLED: dict[str, dict[str, Any]] = {
    "plain": {},
    "no weights": {"need_weights": False},
    "causal": {"attn_mask": BLOCKED, "is_causal": True, "need_weights": False},
    "causal, weights": {"attn_mask": BLOCKED, "is_causal": True},
    "mask": {"attn_mask": BLOCKED},
    "mask and padding": {"attn_mask": BLOCKED, "key_padding_mask": PADDED},
    "added mask": {"attn_mask": additive(BLOCKED), "key_padding_mask": additive(PADDED), "need_weights": False},
    "mask by head": {"attn_mask": BLOCKED.expand(6, 9, 9).clone()},
}


@pytest.mark.parametrize("called", CALLED)
@pytest.mark.parametrize("built", BUILT)
def test_multihead_attention_is_recomputed_as_it_was(built: str, called: str, sampler) -> None:
    """Probabilities from the probe's q, k and bias, and its v, give the module's own output and weights."""
    model = Multihead(**BUILT[built])
    for name in ("bias_k", "bias_v", "in_proj_bias"):
        if getattr(model.inner, name) is not None:
            nn.init.normal_(getattr(model.inner, name))
    model.options = CALLED[called]
    given = inputs(BUILT[built])
    probe = AttentionProbe()
    run = sampler(probe, model)
    probe.arm(0)
    out = model(*given)
    out.sum().backward()
    assert probe._tap is not None
    (group,) = probe._tap.groups()
    attended = group.rows.p @ group.sample.v
    expected = model.inner.out_proj(attended.transpose(1, 2).flatten(2))
    out = out if BUILT[built].get("batch_first") else out.transpose(0, 1)
    assert torch.allclose(expected, out[:2], atol=1e-5)
    found = run.collect()
    assert {signal for signal, _, _ in found} <= FORWARD
    assert found.modules("attention.max_logit") == {"inner"}


def test_multihead_attention_without_a_batch(sampler) -> None:
    model = Multihead()
    x = torch.randn(12, 8)
    alone = sampler(AttentionProbe(), model).sample(lambda: model(x, x, x).sum().backward())
    batched = sampler(AttentionProbe(), model).sample(lambda: model(*[x[:, None]] * 3).sum().backward())
    assert dict(alone) == dict(batched)


def test_multihead_attention_under_autocast(sampler) -> None:
    model, given = Multihead(batch_first=True), inputs({"batch_first": True})

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            model(*given).float().sum().backward()

    found = sampler(AttentionProbe(), model).sample(step)
    exact = sampler(AttentionProbe(), model).sample(lambda: model(*given).sum().backward())
    assert dict(found) == pytest.approx(dict(exact), rel=1e-5)


def test_rank_of_multihead_attention(sampler) -> None:
    model, x = Multihead(batch_first=True), torch.randn(2, 12, 8)
    found = sampler(AttentionRankProbe(), model).sample(lambda: model(x, x, x).sum().backward())
    q, k, _ = model.inner.in_proj_weight.detach().double().chunk(3)
    product = q.unflatten(0, (2, 4)).mT @ k.unflatten(0, (2, 4))
    norms = found.heads("attention.qk_spectral_norm", "inner")
    assert norms.tolist() == pytest.approx(torch.linalg.svdvals(product)[:, 0].tolist(), rel=1e-5)
    assert found.modules("attention.token_similarity_in") == {"inner"}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("observer", OBSERVERS)
def test_training_a_torch_transformer_is_bit_identical(observer: type, dropout: float) -> None:
    kept = []
    for armed in (False, True):
        torch.manual_seed(3)
        model = nn.Transformer(8, 2, 2, 2, 16, dropout, batch_first=True)
        probe = observer()
        probe.attach(WatchedModel(model))
        if armed:
            probe.arm(0)
        out = model(torch.randn(2, 7, 8), torch.randn(2, 5, 8))
        out.square().mean().backward()
        found = list(probe.collect(0))
        assert bool(found) == (armed and observer is not RoundingBiasProbe)
        probe.disarm()
        kept.append([out.detach(), torch.get_rng_state(), *(p.grad for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*kept, strict=True))


# -- Hugging Face ------------------------------------------------------------------------------------------------------


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def sdpa_attention_forward(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **given: Any):
    """As transformers' integrations/sdpa_attention.py calls it: keys repeated, everything by keyword, output transposed."""
    repeats = module.num_key_value_groups
    key, value = (x[:, :, None].expand(-1, -1, repeats, -1, -1).flatten(1, 2) for x in (key, value))
    out = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=0.0, scale=given["scaling"], is_causal=mask is None
    )
    return out.transpose(1, 2).contiguous(), None


class LlamaLike(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_key_value_groups, self.head_dim = 2, 8
        self.q_proj, self.o_proj = nn.Linear(32, 32, bias=False), nn.Linear(32, 32, bias=False)
        self.k_proj, self.v_proj = nn.Linear(32, 16, bias=False), nn.Linear(32, 16, bias=False)

    def forward(self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], attention_mask: Tensor | None) -> Tensor:
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        q, k, v = (p(hidden_states).view(shape).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = (turned(x, *position_embeddings) for x in (q, k))
        out, _ = sdpa_attention_forward(self, q, k, v, attention_mask, scaling=self.head_dim**-0.5)
        found: Tensor = self.o_proj(out.reshape(*hidden_states.shape[:-1], -1))
        return found


class LlamaModel(nn.Module):
    def __init__(self, masked: bool) -> None:
        super().__init__()
        self.masked = masked
        self.layers = nn.ModuleList(nn.ModuleDict({"self_attn": LlamaLike()}) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        angle = (torch.arange(x.shape[1])[:, None] * 0.5 ** torch.arange(4)).repeat(1, 2)
        blocked = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        low = torch.finfo(x.dtype).min
        mask = torch.where(blocked, low, 0.0).to(x.dtype).expand(len(x), 1, -1, -1) if self.masked else None
        for layer in self.layers:
            attend = layer["self_attn"]
            x = x + attend(hidden_states=x, position_embeddings=(angle.cos().to(x), angle.sin().to(x)), attention_mask=mask)
        return x


@pytest.mark.parametrize("masked", [False, True], ids=["causal", "mask"])
def test_the_call_pattern_of_hugging_face(masked: bool, sampler) -> None:
    """Rotary keys are taken after the rotation: the residual is float32 noise, and the query's rotation is undone."""
    model, x = LlamaModel(masked), torch.randn(2, 20, 32)
    names = {"layers.0.self_attn", "layers.1.self_attn"}
    found = sampler(AttentionProbe(), model).sample(lambda: model(x).square().mean().backward())
    assert found.modules("attention.max_logit") == found.modules("rounding.key_shift_residual") == names
    for name in names:
        assert found.heads("rounding.key_shift_residual", name).max() < 3e-6
        assert found.heads("rounding.key_shift_excess", name).max() < 5
    low = model.bfloat16()
    bias = sampler(RoundingBiasProbe(), low).sample(lambda: low(x.bfloat16()).square().mean().backward())
    assert bias.modules("rounding.query_gradient_error") == names
    rank = sampler(AttentionRankProbe(), low).sample(lambda: low(x.bfloat16()).square().mean().backward())
    assert rank.modules("attention.qk_spectral_norm") == rank.modules("attention.token_similarity_in") == names


# -- activation checkpoints --------------------------------------------------------------------------------------------


class Checkpointed(nn.Module):
    def __init__(self, model: GPT, reentrant: bool) -> None:
        super().__init__()
        self.model, self.reentrant = model, reentrant

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.model.tokens(tokens).requires_grad_()
        for block in self.model.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return self.model.head(x)


def checkpointed(reentrant: bool, attend: Callable[..., Tensor] | None = None) -> Checkpointed:
    torch.manual_seed(1)
    return Checkpointed(
        GPT(16, 2, 3, 12, attend or (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True))), reentrant
    )


@pytest.mark.parametrize("observer", OBSERVERS)
def test_checkpoints_of_either_kind_show_the_same(observer: type, sampler) -> None:
    found = []
    for reentrant in (False, True):
        model = checkpointed(reentrant)
        tokens, other = torch.arange(24).reshape(2, 12), torch.arange(24).flip(0).reshape(2, 12)

        def micro_batches(model: nn.Module = model, tokens: Tensor = tokens, other: Tensor = other) -> None:
            for batch in (tokens, other):
                model(batch).square().mean().backward()

        found.append(sampler(observer(), model).sample(micro_batches))
    assert {module.rpartition(".")[2] for _, module, _ in found[0]} == {"attention"}
    assert len({module for _, module, _ in found[0]}) == 3
    assert dict(found[0]) == pytest.approx(dict(found[1]), rel=1e-5)


def test_hand_written_attention_within_checkpoints_is_told_once(sampler) -> None:
    for reentrant in (False, True):
        probe = AttentionProbe()

        def attend(q: Tensor, k: Tensor, v: Tensor, probe: AttentionProbe = probe) -> Tensor:
            k = k.view_as(k)
            out = (q @ k.mT / 8**0.5).softmax(-1) @ v
            probe.tell(q, k, v, out, name="mine")
            return out

        model = checkpointed(reentrant, attend)
        tokens = torch.arange(24).reshape(2, 12)
        found = sampler(probe, model).sample(lambda model=model, tokens=tokens: model(tokens).square().mean().backward())
        # Three layers tell under one name. A recomputation cannot be told from a further call, so in it a name counts once.
        assert found.modules("attention.max_logit") >= {"mine"}
        assert found.modules("rounding.key_shift_residual") == found.modules("attention.max_logit")


# -- what is held ------------------------------------------------------------------------------------------------------


class Attend(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, **self.options)


def leaves(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(shape).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("most", [100_000, 20_000, 6_000, 100])
def test_long_contexts_are_looked_at_in_fewer_sequences_and_heads(most: int, sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = leaves((3, 8, 20, 4), (3, 4, 90, 4), (3, 4, 90, 4))
    options = {"attn_mask": torch.randn(3, 8, 20, 90), "enable_gqa": True}
    model = Attend(**options)

    def step() -> None:
        k.grad = None
        model(q, k, v).square().sum().backward()

    full = sampler(AttentionProbe(), model).sample(step)
    monkeypatch.setattr("foreshock.probes.taps.attention_sampling._MOST_FLOATS", most)
    probe = AttentionProbe()
    run = sampler(probe, model)
    probe.arm(0)
    step()
    held = sum(x.numel() for call in probe._tap.calls for x in (call.sample.q, call.sample.k, call.sample.v, call.sample.out))
    scores = sum(group.rows.p.numel() for group in probe._tap.groups())
    assert held + scores <= most
    found = run.collect()
    count = {100_000: 8, 20_000: 8, 6_000: 2, 100: 0}[most]
    assert len(found.heads("attention.max_logit", "attention")) == count
    if most == 6_000:  # one sequence, one key head and its two query heads, under their own numbers
        rows = model.options["attn_mask"][:1, :2] + (q[:1, :2] @ k[:1, :1].mT) / 2
        assert found.heads("attention.max_logit", "attention").tolist() == pytest.approx(rows.abs().amax((0, 2, 3)).tolist())
        assert (k.grad[0, 0].sum(0).norm() / k.grad[0, 0].norm()).item() == pytest.approx(
            found.heads("rounding.key_shift_residual", "attention").item(), rel=1e-2
        )
    if most == 100_000:
        assert dict(found) == dict(full)


def test_all_observers_share_one_tap(sampler) -> None:
    """Each finds what it finds alone; hooks go with the last; one that fails to arm leaves the others in place."""
    model = GPT(16, 2, 2, 12, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True))
    tokens = torch.arange(24).reshape(2, 12)

    def step() -> None:
        model(tokens).square().mean().backward()

    alone = [sampler(observer(), model).sample(step) for observer in OBSERVERS]
    watched = WatchedModel(model)
    probes = [observer() for observer in OBSERVERS]
    for probe in probes:
        probe.attach(watched)
    for probe in probes:
        probe.arm(0)
    assert len({probe._tap for probe in probes}) == 1
    step()
    for probe, expected in zip(probes, alone, strict=True):
        run = sampler.__new__(sampler)
        run.probe, run.step = probe, 0
        assert dict(run.collect()) == dict(expected)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


# -- the shift-invariance residual -------------------------------------------------------------------------------------


def test_the_residual_follows_the_error_of_delta(sampler) -> None:
    """sum_j dK_j = -scale * sum_i e_i q_i: over many calls, size against size and direction against direction."""
    expected, measured, cosines = [], [], []
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        q, k, v = (torch.randn(1, 2, 48, 16, generator=generator) for _ in range(3))
        v = (v - seed / 4).requires_grad_()
        q, k = q.requires_grad_(), k.requires_grad_()
        model = Coarse()
        outs: list[Tensor] = []
        grad = torch.randn(1, 2, 48, 16, generator=generator) - seed / 6

        def step(q: Tensor = q, k: Tensor = k, v: Tensor = v, outs: list[Tensor] = outs, grad: Tensor = grad, model=model) -> None:
            outs.append(model(q, k, v).detach())
            model(q, k, v).backward(grad)

        found = sampler(AttentionProbe(), model).sample(lambda step=step: step())
        residual = k.grad.double().sum(2)[0]
        qd, kd, vd = (x.detach().double() for x in (q, k, v))
        exact = (qd @ kd.mT / 4).masked_fill(torch.ones(48, 48, dtype=torch.bool).triu(1), -math.inf).softmax(-1) @ vd
        e = (grad.double() * (outs[0].double() - exact)).sum(-1, keepdim=True)
        predicted = -(e * qd).sum(2)[0] / 4
        cosines.append(F.cosine_similarity(residual, predicted, -1))
        expected.append(predicted.norm(dim=-1) / k.grad[0].double().norm(dim=(1, 2)))
        measured.append(residual.norm(dim=-1) / k.grad[0].double().norm(dim=(1, 2)))
        assert found == {} or len(found.heads("rounding.key_shift_residual", "attention")) in (0, 2)
    both = torch.stack([torch.cat(expected), torch.cat(measured)])
    assert torch.corrcoef(both)[0, 1] > 0.99
    assert torch.cat(cosines).min() > 0.99


class Coarse(nn.Module):
    """Attention with a coarse output and exact gradients otherwise."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return reference_attention(q, k, v, is_causal=True, precision=Precision(output=3))


@pytest.mark.parametrize("random_sign", [False, True], ids=["one way", "random"])
def test_coherence_over_the_window(random_sign: bool, sampler) -> None:
    precision = Precision.flash(output=3, delta_from="random_sign" if random_sign else "stored")
    k, v = torch.randn(1, 2, 32, 16), torch.randn(1, 2, 32, 16) - 4.0
    q = torch.randn(1, 2, 32, 16) + 1.0

    class Layer(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return reference_attention(q, k, v, precision=precision)

    model = Layer()
    run = sampler(AttentionProbe(), model)
    residuals = []
    for sample in range(WINDOW + 2):
        leaves = [(x + 0.1 * torch.randn(x.shape)).requires_grad_() for x in (q, k, v)]

        def step(leaves: list[Tensor] = leaves) -> None:
            out = model(*leaves)
            out.backward(0.3 * torch.randn(out.shape) - 1.0)

        found = run.sample(step)
        residuals.append(leaves[1].grad.sum((0, 2)))
        there = found.heads("rounding.key_shift_coherence", "attention")
        if sample < WINDOW - 1:
            assert len(there) == 0
        else:
            last = torch.stack(residuals[-WINDOW:]).double()
            expected = last.sum(0).norm(dim=-1) / last.norm(dim=-1).sum(0)
            assert there.tolist() == pytest.approx(expected.tolist(), rel=1e-3)
    assert (there.mean() < 0.65) if random_sign else (there > 0.9).all(), there
    run.probe.rebind()
    assert len(run.sample(step).heads("rounding.key_shift_coherence", "attention")) == 0


def test_coherence_of_residuals_of_any_size() -> None:
    shifts = torch.randn(8, 3, 5)
    usual = coherence(shifts)
    assert torch.allclose(coherence(shifts * torch.tensor([1e-30, 1.0, 1e30])[:, None]), usual)
    assert torch.allclose(coherence(shifts[:1].expand(8, -1, -1)), torch.ones(3))
    broken = shifts.clone()
    broken[2, 1] = math.nan
    assert coherence(broken).isnan().tolist() == [False, True, False]


def test_a_loop_that_calls_parts_and_never_the_whole(sampler) -> None:
    """As a LightningModule's training_step may; further micro-batches add nothing, whether parts are called or the whole."""

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (nn.TransformerEncoderLayer(16, 2, 16, 0.0, batch_first=True) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    model = Whole().train()
    x = torch.randn(2, 5, 16)
    for calls in ([model, model], [model, model.first], [model.first, model.second, model.first, model]):
        probe = AttentionProbe()
        probe.attach(WatchedModel(model))
        probe.arm(0)
        for part in calls:
            part(x).sum().backward()
        assert probe._tap is not None
        assert [call.name for call in probe._tap.calls] == ["first.self_attn", "second.self_attn"]
        probe.disarm()
        assert not torch.overrides._get_current_function_mode_stack()
