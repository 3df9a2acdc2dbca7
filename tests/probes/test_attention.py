"""The attention probe against its slow twin: the whole score matrix in float64, gradients by autograd."""

import contextlib
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from foreshock.kernels import Precision, reference_attention
from foreshock.probes.attention import AttentionProbe
from foreshock.probes.statistics.tokens import scattered_rows
from foreshock.probes.step.faults import Faults
from foreshock.probes.taps.attention_sampling import ROWS, SEQUENCES
from foreshock.zoo.models import GPT
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

INF = float("inf")
FORWARD = ("max_logit", "entropy_mean", "entropy_min", "common_logit_shift")
Attention = Callable[..., Tensor]


class Attend(nn.Module):
    """A root whose forward pass is one attention call."""

    def __init__(self, attention: Attention = F.scaled_dot_product_attention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        return self.attention(q, k, v, **options)


def heads(b: int, h: int, t: int, s: int, d: int, g: int | None = None, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """q, k, v as leaves that want gradients."""
    shapes = [(b, h, t, d), (b, g or h, s, d), (b, g or h, s, d)]
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]


def probed(sampler, q: Tensor, k: Tensor, v: Tensor, attention: Attention = F.scaled_dot_product_attention, **options: Any):
    """One sampled step of one call; q, k and v have gradients afterwards."""
    model = Attend(attention)

    def step() -> None:
        out = model(q, k, v, **options)
        generator = torch.Generator().manual_seed(1)
        out.backward(torch.randn(out.shape, generator=generator).to(out.dtype))

    return sampler(AttentionProbe(), model).sample(step)


def twin(q: Tensor, k: Tensor, bias: Tensor | None = None, scale: float | None = None) -> dict[str, Tensor]:
    """The forward statistics per head, over the rows and sequences looked at."""
    q, k = q.detach().double()[:SEQUENCES], k.detach().double()[:SEQUENCES]
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    s = scale * q @ k.mT
    seen = torch.ones_like(s, dtype=torch.bool)
    if bias is not None:
        bias = bias.expand(-1, *s.shape[1:])[:SEQUENCES] if bias.dim() == 4 else bias.expand(s.shape)
        s = s + bias
        seen = bias > -1e4
    rows = scattered_rows(q.shape[2], ROWS, q.device)
    if rows is not None:
        q, s, seen = q[:, :, rows], s[:, :, rows], seen[:, :, rows]
    p = s.masked_fill(~seen, -INF).softmax(-1).nan_to_num(0.0)
    entropy = -torch.xlogy(p, p).sum(-1)
    per_head: dict[str, list[Tensor]] = {name: [] for name in FORWARD}
    for h in range(q.shape[1]):
        keys_seen = seen[:, h].sum(-1)
        per_head["max_logit"].append(s[:, h][seen[:, h]].abs().max())
        per_head["entropy_mean"].append(entropy[:, h][keys_seen > 0].mean())
        enough = entropy[:, h][keys_seen >= 8]
        per_head["entropy_min"].append(enough.min() if len(enough) else torch.tensor(math.nan))
        per_head["common_logit_shift"].append(scale * (q[:, h] * k[:, h].mean(1, keepdim=True)).sum(-1).abs().mean())
    return {name: torch.stack(values) for name, values in per_head.items()}


def assert_forward(found, expected: dict[str, Tensor], name: str = "attention", rtol: float = 1e-5) -> None:
    for statistic, values in expected.items():
        if values.isnan().all():
            assert name not in found.modules(f"attention.{statistic}"), f"{statistic} does not apply"
            continue
        measured = found.heads(f"attention.{statistic}", name)
        assert measured.shape == values.shape, statistic
        off = (measured - values).abs() / values.abs().clamp_min(1e-2)
        assert off.max() < rtol, f"{statistic}: {measured.tolist()} instead of {values.tolist()}"


def shift_residual(k: Tensor) -> Tensor:
    """|sum_j dK_j| / |dK| per key head, mean over the sequences looked at, from autograd's own gradient."""
    dk = k.grad.double()[:SEQUENCES]
    return (dk.sum(2).norm(dim=-1) / dk.norm(dim=(2, 3))).mean(0)


def assert_residual(found, k: Tensor, name: str = "attention") -> None:
    """Sums over keys are taken in float32 by the probe and in float64 here."""
    measured = found.heads("rounding.key_shift_residual", name)
    expected = shift_residual(k)
    # The gradient of a single key is nothing but rounding error, as is that of several where each query sees but one: 0, or not.
    if k.shape[2] == 1 or expected.isnan().all():
        assert len(measured) == len(found.heads("rounding.key_shift_excess", name)) == 0
        return
    assert measured.tolist() == pytest.approx(expected.tolist(), rel=1e-3, abs=3e-7)


def causal(t: int, s: int) -> Tensor:
    return torch.full((t, s), -INF).triu(1)


# (B, H, T, S, D)
SHAPES = [
    (1, 1, 1, 1, 4),
    (3, 2, 9, 9, 8),
    (1, 2, 64, 64, 16),
    (2, 3, 150, 150, 8),
    (2, 1, 5, 12, 3),
    (1, 2, 40, 7, 4),
    (1, 1, 1, 20, 4),
    (2, 2, 9, 1, 4),
]


@pytest.mark.parametrize("is_causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_statistics_equal_their_twins(shape: tuple[int, ...], is_causal: bool, sampler) -> None:
    q, k, v = heads(*shape)
    found = probed(sampler, q, k, v, is_causal=is_causal)
    assert_forward(found, twin(q, k, causal(*shape[2:4]) if is_causal else None))
    assert_residual(found, k)


@pytest.mark.parametrize("options", [{"scale": 0.3}, {"scale": 0.0}, {"dropout_p": 0.0, "attn_mask": None}], ids=str)
def test_arguments_however_they_are_given(options: dict, sampler) -> None:
    q, k, v = heads(2, 2, 10, 10, 8)
    expected = twin(q, k, scale=options.get("scale"))
    assert_forward(probed(sampler, q, k, v, **options), expected)

    def by_keyword(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        return F.scaled_dot_product_attention(value=v, query=q, key=k, **options)

    def by_position(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, **options: Any) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, None, 0.0, False, scale=scale)

    assert_forward(probed(sampler, q, k, v, by_keyword, **options), expected)
    assert_forward(probed(sampler, q, k, v, by_position, **options), expected)


def masks(b: int, h: int, t: int, s: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    random = torch.rand(b, h, t, s, generator=generator)
    visible = random > 0.4
    visible[..., 0] = True
    bias = 3 * torch.randn(b, h, t, s, generator=generator)
    return {
        "bool": visible,
        "bool (T, S)": visible[0, 0],
        "bool per sequence": visible[:, :1, :1],
        "-inf": torch.where(visible, 0.0, -INF),
        "-1e9": torch.where(visible, 0.0, -1e9),
        "bias": bias,
        "bias of one sign": -bias.abs() * 5,
        "bias, large": bias.abs() * 5 + 20,
        "bias (1, H, T, S)": bias[:1],
        "bias and -inf": torch.where(visible, bias, -INF),
        "float16 minimum": torch.where(visible, 0.0, torch.finfo(torch.float16).min),
    }


@pytest.mark.parametrize("name", masks(1, 1, 1, 1))
@pytest.mark.parametrize("t", [11, 100])
def test_masks_and_biases(name: str, t: int, sampler) -> None:
    q, k, v = heads(3, 2, t, 13, 8)
    mask = masks(3, 2, t, 13)[name]
    found = probed(sampler, q, k, v, attn_mask=mask)
    bias = torch.where(mask, 0.0, -INF) if mask.dtype == torch.bool else mask
    assert_forward(found, twin(q, k, bias.double().expand(*(3, 2, t, 13)[4 - bias.dim() :]) if bias.dim() == 4 else bias.double()))
    assert found.heads("rounding.key_shift_residual", "attention").max() < 1e-5


@pytest.mark.parametrize("masked", [-INF, -1e9, False], ids=str)
def test_rows_that_see_no_key_count_for_nothing(masked: float | bool, sampler) -> None:
    q, k, v = heads(2, 1, 12, 12, 8)
    mask = torch.zeros(12, 12) if masked is not False else torch.ones(12, 12, dtype=torch.bool)
    mask[:5] = masked
    found = probed(sampler, q, k, v, attn_mask=mask)
    bias = torch.where(mask, 0.0, -INF) if mask.dtype == torch.bool else mask
    expected = twin(q, k, bias.double())
    assert expected["entropy_mean"].min() > 1.0
    assert_forward(found, expected)


def test_where_no_row_sees_a_key_nothing_is_guessed(sampler) -> None:
    q, k, v = heads(1, 2, 6, 9, 4)
    mask = torch.ones(1, 2, 6, 9, dtype=torch.bool)
    mask[:, 1] = False
    found = probed(sampler, q, k, v, attn_mask=mask)
    for name in FORWARD[:3]:
        assert {head for signal, _, head in found if signal == f"attention.{name}"} == {0}, name


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("is_causal", [False, True], ids=["full", "causal"])
def test_grouped_queries(groups: int, is_causal: bool, sampler) -> None:
    q, k, v = heads(2, 4, 17, 17, 8, g=groups)
    found = probed(sampler, q, k, v, is_causal=is_causal, enable_gqa=True)
    assert_forward(found, twin(q, k, causal(17, 17) if is_causal else None))
    assert_residual(found, k)
    excess = found.heads("rounding.key_shift_excess", "attention")
    assert excess.shape == (groups,)
    assert ((excess > 0.1) & (excess < 5)).all(), excess


@pytest.mark.parametrize(
    ("dtype", "rtol"), [pytest.param(torch.bfloat16, 2e-5, id="bfloat16"), pytest.param(torch.float64, 2e-5, id="float64")]
)
def test_other_dtypes(dtype: torch.dtype, rtol: float, sampler) -> None:
    """The inputs are taken as they are stored; what is recomputed from them is float32."""
    q, k, v = heads(2, 2, 30, 30, 8, dtype=dtype)
    found = probed(sampler, q, k, v, is_causal=True)
    assert_forward(found, twin(q, k, causal(30, 30)), rtol=rtol)
    assert_residual(found, k)
    assert found.heads("rounding.key_shift_excess", "attention").max() < 5


def test_values_that_are_not_finite_show(sampler) -> None:
    q, k, v = heads(2, 2, 9, 9, 4)
    with torch.no_grad():
        k[0, 1, 3, 2] = math.nan
    found = probed(sampler, q, k, v)
    for name in FORWARD:
        values = found.heads(f"attention.{name}", "attention")
        assert values.isnan().tolist() == [False, True], name


HEALTHY = {
    "small": ((2, 2, 16, 16, 8), {}),
    "causal": ((2, 2, 64, 64, 16), {"is_causal": True}),
    "more rows than are looked at": ((2, 2, 256, 256, 32), {"is_causal": True}),
    "wide": ((1, 4, 33, 33, 64), {}),
    "cross": ((2, 2, 20, 70, 16), {}),
    "sharp": ((2, 2, 48, 48, 16), {"scale": 3.0}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("case", HEALTHY)
def test_the_excess_is_about_one_when_rounding_is_random(case: str, dtype: torch.dtype, sampler) -> None:
    shape, options = HEALTHY[case]
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        q, k, v = heads(*shape, dtype=dtype)
        measured = probed(sampler, q, k, v, **options)
        found.append(measured.heads("rounding.key_shift_excess", "attention"))
        if dtype == torch.float32:
            assert measured.heads("rounding.key_shift_residual", "attention").max() < 1e-5
    excess = torch.cat(found)
    assert (excess > 0.1).all(), excess
    assert (excess < 5).all(), excess


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_the_rows_looked_at_stand_for_all(dtype: torch.dtype, sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    excess = []
    for rows in (ROWS, 1000):
        monkeypatch.setattr("foreshock.probes.taps.attention_sampling.ROWS", rows)
        torch.manual_seed(0)
        q, k, v = heads(2, 4, 512, 512, 16, dtype=dtype)
        excess.append(probed(sampler, q, k, v).heads("rounding.key_shift_excess", "attention"))
    assert torch.allclose(excess[0], excess[1], rtol=0.25), excess


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e4, 1e12])
def test_residual_and_excess_do_not_depend_on_the_size_of_gradients(scale: float, sampler) -> None:
    q, k, v = heads(2, 2, 32, 32, 8)
    usual = probed(sampler, q, k, v)
    scaled = probed(sampler, q, k, v, lambda *a, **o: F.scaled_dot_product_attention(*a, **o) * scale)
    for name in ("rounding.key_shift_residual", "rounding.key_shift_excess"):
        # Rounding differs with the scale, unless it is a power of two.
        assert scaled.heads(name, "attention").tolist() == pytest.approx(usual.heads(name, "attention").tolist(), rel=0.7), name


@pytest.mark.parametrize("precise_delta", [False, True], ids=["stored", "float32"])
def test_a_delta_from_coarse_outputs_shows_as_excess(precise_delta: bool, sampler) -> None:
    """The failure of arXiv 2510.04212, made large: three bits of O, values of one sign."""
    precision = Precision.flash(output=3, delta_from="float32" if precise_delta else "stored")
    for seed in range(3):
        torch.manual_seed(seed)
        q, k, v = heads(2, 2, 64, 64, 16)
        with torch.no_grad():
            v.sub_(2.0)
        excess = probed(sampler, q, k, v, reference_attention, is_causal=True, precision=precision).heads(
            "rounding.key_shift_excess", "attention"
        )
        assert (excess < 5).all() if precise_delta else (excess > 20).all(), excess


def test_under_autocast_the_roundoff_is_that_of_the_arithmetic(sampler) -> None:
    """Keys in float32, as rotary embeddings leave them, and attention in bfloat16."""
    q, k, v = heads(2, 2, 48, 48, 16)
    with torch.autocast("cpu", torch.bfloat16):
        found = probed(sampler, q, k, v, is_causal=True)
    excess = found.heads("rounding.key_shift_excess", "attention")
    assert (excess > 0.1).all(), excess
    assert (excess < 5).all(), excess
    assert_forward(found, twin(q.bfloat16(), k.bfloat16(), causal(48, 48)))  # what autocast hands on


def test_without_gradients_nothing_is_said_about_rounding(sampler) -> None:
    q, k, v = heads(2, 2, 12, 12, 4)
    model = Attend()
    run = sampler(AttentionProbe(), model)
    forward_only = run.sample(lambda: model(q, k, v))
    assert forward_only.modules("attention.max_logit") == {"attention"}
    assert forward_only.modules("rounding.key_shift_residual") == set()
    nothing_comes_back = run.sample(lambda: model(q, k, v).mul(0.0).sum().backward())
    assert nothing_comes_back.modules("rounding.key_shift_residual") == set()
    assert nothing_comes_back.modules("rounding.key_shift_excess") == set()


def test_a_loss_on_few_rows(sampler) -> None:
    """Rows that are looked at may all be without a gradient, and whole sequences too."""
    q, k, v = heads(2, 1, 200, 200, 8)
    looked_at = set(scattered_rows(200, ROWS, q.device).tolist())
    other = next(row for row in range(200) if row not in looked_at)
    model = Attend()
    found = sampler(AttentionProbe(), model).sample(lambda: model(q, k, v)[1, :, other].sum().backward())
    assert 0 < found.heads("rounding.key_shift_residual", "attention").item() < 1e-5
    assert 0 < found.heads("rounding.key_shift_excess", "attention").item() < 50


def test_the_gradient_of_keys_used_twice_is_this_calls_alone(sampler) -> None:
    q, k, v = heads(1, 2, 12, 12, 8)
    model = Attend()

    def step() -> None:
        (model(q, k, v).square().sum() + 1e3 * k.square().sum()).backward()

    residual = sampler(AttentionProbe(), model).sample(step).heads("rounding.key_shift_residual", "attention")
    assert residual.max() < 1e-5
    assert shift_residual(k).min() > 1e-2


# -- names, passes, and what is left alone --------------------------------------------------------------------------


def gpt(attention: Attention = F.scaled_dot_product_attention, dropout: float = 0.0) -> GPT:
    return GPT(16, 2, 2, 12, lambda q, k, v: attention(q, k, v, is_causal=True, **({"dropout_p": dropout} if dropout else {})))


def train(model: nn.Module, tokens: Tensor | None = None) -> None:
    tokens = torch.arange(24).reshape(2, 12) if tokens is None else tokens
    model(tokens).square().mean().backward()


@pytest.mark.parametrize("attention", [F.scaled_dot_product_attention, reference_attention], ids=["sdpa", "reference"])
def test_calls_are_named_after_the_module_that_makes_them(attention: Attention, sampler) -> None:
    model = gpt(attention)
    found = sampler(AttentionProbe(), model).sample(lambda: train(model))
    for signal in ("attention.max_logit", "rounding.key_shift_residual"):
        assert found.modules(signal) == {"blocks.0.attention", "blocks.1.attention"}
    assert {head for _, _, head in found} == {0, 1}


def test_several_calls_in_one_module_are_numbered(sampler) -> None:
    def twice(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v) + F.scaled_dot_product_attention(q * 3, k, v)

    model = gpt()
    model.blocks[1].attention.attend = twice
    found = sampler(AttentionProbe(), model).sample(lambda: train(model))
    names = {"blocks.0.attention", "blocks.1.attention", "blocks.1.attention#2"}
    assert found.modules("attention.max_logit") == found.modules("rounding.key_shift_excess") == names
    first, second = (found.heads("attention.max_logit", f"blocks.1.attention{n}") for n in ("", "#2"))
    assert torch.allclose(second, 3 * first, rtol=1e-5)


def test_several_models(sampler) -> None:
    models = {"generator": gpt(), "critic": gpt()}

    def step() -> None:
        for model in models.values():
            train(model)

    found = sampler(AttentionProbe(), models).sample(step)
    assert found.modules("attention.max_logit") == {f"{name}.blocks.{i}.attention" for name in models for i in (0, 1)}


def test_the_first_training_forward_of_the_step_is_the_one_seen(sampler) -> None:
    model = gpt()
    tokens, other = torch.randint(256, (2, 12)), torch.randint(256, (2, 12))
    run = sampler(AttentionProbe(), model)
    alone = run.sample(lambda: train(model, tokens))

    def validation_then_micro_batches() -> None:
        model.eval()
        model(other)
        model.train()
        with torch.no_grad():
            model(other)
        for batch in (tokens, other, other):
            train(model, batch)

    assert run.sample(validation_then_micro_batches) == alone


class HandWritten(nn.Module):
    """Attention by hand, told to the probe."""

    def __init__(self) -> None:
        super().__init__()
        self.tell: Callable[..., None] = lambda *a, **o: None

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()
        out = (0.4 * q @ k.mT).masked_fill(~mask, -INF).softmax(-1) @ v
        self.tell(q, k, v, out, name="mine", scale=0.4, is_causal=True)
        return out


def test_hand_written_attention_is_told(sampler) -> None:
    q, k, v = heads(2, 2, 14, 14, 8)
    model, probe = HandWritten(), AttentionProbe()
    run = sampler(probe, model)
    model.tell = probe.tell
    model(q, k, v).sum().backward()  # not a sampled step: nothing happens
    k.grad = None

    def micro_batches() -> None:
        with torch.no_grad():
            model(q * 9, k, v)
        model(q, k, v).square().sum().backward()
        kept = k.grad.clone()
        model(q * 5, k, v).square().sum().backward()
        k.grad = kept

    found = run.sample(micro_batches)
    assert found.modules("attention.max_logit") == {"mine"}
    assert_forward(found, twin(q, k, causal(14, 14), scale=0.4), "mine")
    assert_residual(found, k, "mine")


def test_attention_told_outside_of_a_watched_forward_pass(sampler) -> None:
    """A model that is called some other way than by its root, compiled say: there is no pass to go by."""
    q, k, v = heads(1, 1, 9, 9, 4)
    model, probe = HandWritten(), AttentionProbe()
    model.tell = probe.tell
    found = sampler(probe, model).sample(lambda: model.forward(q, k, v).sum().backward())
    assert_forward(found, twin(q, k, causal(9, 9), scale=0.4), "mine")


def test_wrong_shapes_told_are_explained(sampler) -> None:
    q, k, v = (x[0] for x in heads(1, 2, 5, 5, 4))
    probe = AttentionProbe()
    sampler(probe, HandWritten())
    probe.arm(0)
    with pytest.raises(
        ValueError, match=r"attention 'mine': q, k, v and out must be \(batch, heads, tokens, head_dim\); got \(2, 5, 4\)"
    ):
        probe.tell(q, k, v, v, name="mine")
    probe.disarm()


def test_calls_of_other_ranks_and_frozen_keys_are_passed_over(sampler) -> None:
    q, k, v = heads(1, 2, 5, 5, 4)
    assert probed(sampler, *(x.detach()[0].requires_grad_() for x in (q, k, v))) == {}
    frozen = probed(sampler, q, k.detach(), v)
    assert frozen == {}


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


class Checkpointed(nn.Module):
    def __init__(self, model: GPT, reentrant: bool) -> None:
        super().__init__()
        self.model, self.reentrant = model, reentrant

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.model.tokens(tokens)
        for block in self.model.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return self.model.head(x)


def several_uses(q: Tensor, k: Tensor, v: Tensor, is_causal: bool, **options: Any) -> Tensor:
    """Keys with many gradients to add up: their order must stay."""
    total = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal, **options)
    for i in range(3):
        total = total + F.scaled_dot_product_attention(q * (i + 0.3), k, v, is_causal=is_causal) * k.exp().mean(2, keepdim=True)
    return total


BUILDS: dict[str, Callable[[], nn.Module]] = {
    "sdpa": gpt,
    "dropout": lambda: gpt(dropout=0.3),
    "reference": lambda: gpt(reference_attention),
    "keys used often": lambda: gpt(several_uses),
    "checkpoint": lambda: Checkpointed(gpt(dropout=0.3), reentrant=False),
    "reentrant checkpoint": lambda: Checkpointed(gpt(dropout=0.3), reentrant=True),
    "bfloat16": lambda: gpt().bfloat16(),
}


@pytest.mark.parametrize("build", BUILDS)
def test_output_gradients_and_random_stream_are_bit_identical(build: str) -> None:
    from foreshock.probes.model import WatchedModel

    results = []
    for armed in (False, True):
        torch.manual_seed(3)
        model = BUILDS[build]()
        probe = AttentionProbe()
        probe.attach(WatchedModel(model))
        if armed:
            probe.arm(0)
        outputs = []
        model.register_forward_hook(lambda module, args, out, outputs=outputs: outputs.append(out.detach().clone()))
        train(model)
        if armed:
            assert list(probe.collect(0))
        probe.disarm()
        results.append((outputs[0], *gradients(model), torch.get_rng_state()))
    for i, (without, with_probe) in enumerate(zip(*results, strict=True)):
        assert torch.equal(without, with_probe), f"tensor {i} differs"


class Raising(nn.Module):
    """Raises inside, with a child that has children, so that both are followed."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.block = nn.Sequential(nn.Sequential(nn.Linear(4, 4)))
        if where == "pre-hook":
            self.block.register_forward_pre_hook(self.fail)
        if where == "hook":
            self.block.register_forward_hook(self.fail)

    def fail(self, *args: Any) -> None:
        raise RuntimeError("out of memory, say")

    def forward(self, x: Tensor) -> Tensor:
        out = self.block(x)
        if self.where == "attention":
            F.scaled_dot_product_attention(x, x[..., 1:], x)
        if self.where == "root":
            self.fail()
        return out


@pytest.mark.parametrize("where", ["root", "pre-hook", "hook", "attention"])
def test_a_forward_that_raises_leaves_nothing_behind(where: str, sampler) -> None:
    model, probe = Raising(where), AttentionProbe()
    run = sampler(probe, model)
    for _ in range(2):
        probe.arm(0)
        with pytest.raises(RuntimeError):
            model(torch.randn(1, 1, 3, 4, requires_grad=True))
        assert torch.overrides._get_current_function_mode_stack() == []
        assert run.collect() == {}
    assert not any(module._forward_pre_hooks for module in model.modules() if module is not model.block or where != "pre-hook")


def test_attention_after_an_exception_that_the_model_catches_is_still_seen(sampler) -> None:
    class Catching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.broken, self.whole = Raising("pre-hook"), gpt()

        def forward(self, tokens: Tensor) -> Tensor:
            with contextlib.suppress(RuntimeError):
                self.broken(torch.randn(3, 4))
            return self.whole(tokens)

    model = Catching()
    found = sampler(AttentionProbe(), model).sample(lambda: train(model))
    assert found.modules("attention.max_logit") == {"whole.blocks.0.attention", "whole.blocks.1.attention"}


def test_hooks_and_mode_are_there_during_a_sampled_forward_only(sampler) -> None:
    model, probe = gpt(), AttentionProbe()
    seen: list[int] = []

    def look(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen.append(len(torch.overrides._get_current_function_mode_stack()))
        return F.scaled_dot_product_attention(q, k, v)

    model.blocks[0].attention.attend = look
    run = sampler(probe, model)
    train(model)
    run.sample(lambda: (train(model), seen.append(len(torch.overrides._get_current_function_mode_stack()))))
    train(model)
    assert seen == [0, 1, 0, 0]
    probe.disarm()
    assert not any(m._forward_pre_hooks or m._forward_hooks or m._forward_hooks_always_called for m in model.modules())


def test_contexts_of_the_users_own_stay_in_place(sampler) -> None:
    model = gpt()
    run = sampler(AttentionProbe(), model)
    with torch.device("cpu"):
        stack = torch.overrides._get_current_function_mode_stack()
        run.sample(lambda: train(model))
        assert torch.overrides._get_current_function_mode_stack() == stack
    with torch.device("cpu"):
        run.probe.arm(0)
        train(model)
    run.collect()


def test_a_fault_in_reporting_does_not_reach_the_model(monkeypatch: pytest.MonkeyPatch, sampler) -> None:
    model, probe, faults = gpt(), AttentionProbe(), Faults()
    run = sampler(probe, model)
    probe.guard = faults.guard("probe attention")
    monkeypatch.setattr("foreshock.probes.taps.attention_mode.looked_at", lambda *a: 1 / 0)
    assert run.sample(lambda: train(model)) == {}
    assert faults.count("probe attention") == 2
    assert all(p.grad is not None for p in model.parameters())


def test_samples_are_copies_of_bounded_size(sampler) -> None:
    q, k, v = heads(5, 2, 300, 300, 4)
    model, probe = Attend(), AttentionProbe()
    sampler(probe, model)
    probe.arm(0)
    out = model(q, k, v, is_causal=True)
    sample = probe._tap.calls[0].sample
    assert sample.q.shape[:2] == sample.k.shape[:2] == (SEQUENCES, 2)
    assert sample.q.shape[2] <= ROWS
    given = {x.untyped_storage().data_ptr() for x in (q, k, v, out)}
    assert given.isdisjoint(x.untyped_storage().data_ptr() for x in (sample.q, sample.k, sample.v, sample.out))
    probe.disarm()
    assert probe._tap.calls == []
