"""log Z of the output logits, and which output counts as logits."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from foreshock.probes import output_distribution
from foreshock.probes.output_distribution import TOKENS, OutputProbe
from foreshock.probes.statistics.tokens import scattered_rows
from foreshock.zoo.models import GPT
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

LOG_Z = "output.log_z"
CPU = torch.device("cpu")


def twin(logits: Tensor, limit: int = TOKENS) -> float:
    tokens = logits.detach().double().reshape(-1, logits.shape[-1])
    rows = scattered_rows(len(tokens), limit, CPU)
    return (tokens if rows is None else tokens[rows]).exp().sum(1).log().mean().item()


@dataclass
class Output:
    loss: Tensor
    logits: Tensor


class Classifier(nn.Module):
    """A model that ends as ``ending`` says: what its forward pass returns."""

    def __init__(self, classes: int = 40, ending: Callable[[Tensor, Tensor], Any] = lambda logits, h: logits) -> None:
        super().__init__()
        self.body, self.head, self.ending = nn.Linear(8, 8), nn.Linear(8, classes), ending
        self.logits = torch.zeros(())

    def forward(self, x: Tensor) -> Any:
        h = self.body(x).tanh()
        logits = self.head(h)
        self.logits = logits.detach().clone()
        return self.ending(logits, h)


def entropy(logits: Tensor) -> Tensor:
    return F.cross_entropy(logits.float().flatten(0, -2), torch.arange(logits[..., 0].numel()) % logits.shape[-1])


ENDINGS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "logits": lambda logits, h: logits,
    "logits and loss": lambda logits, h: (logits, entropy(logits)),
    "a dictionary": lambda logits, h: {"hidden": h, "logits": logits},
    "a data class": lambda logits, h: Output(entropy(logits), logits),
    "loss alone": lambda logits, h: entropy(logits),
    "logits in another dtype": lambda logits, h: logits.double(),
    "log probabilities": lambda logits, h: logits.log_softmax(-1),
}


def train(model: Classifier, x: Tensor) -> Callable[[], None]:
    def step() -> None:
        out = model(x)
        if isinstance(out, Tensor):
            loss = out if out.dim() == 0 else entropy(out)
        elif isinstance(out, tuple):
            loss = out[1]
        else:
            loss = entropy(out["logits"]) if isinstance(out, dict) else out.loss
        loss.backward()

    return step


@pytest.mark.parametrize("tokens", [(5,), (3, 7), (2, 700)], ids=str)
@pytest.mark.parametrize("ending", ENDINGS)
def test_log_z_equals_its_twin_whatever_the_model_returns(ending: str, tokens: tuple[int, ...], sampler) -> None:
    model = Classifier(ending=ENDINGS[ending])
    nn.init.constant_(model.head.bias, 7.0)
    found = sampler(OutputProbe(), model).sample(train(model, torch.randn(*tokens, 8) * 3))
    assert set(found) == {(LOG_Z, "head", -1)}
    assert found.of(LOG_Z, "head") == pytest.approx(twin(model.logits), rel=1e-5)


def test_a_gpt_in_training(sampler) -> None:
    model = GPT(32, 2, 2, 40, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True))
    tokens = torch.arange(320).reshape(8, 40) % 256
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    run = sampler(OutputProbe(), model)
    for _ in range(3):
        logits = model(tokens)
        found = run.sample(lambda: F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten(), label_smoothing=0.1).backward())
        assert found.of(LOG_Z, "head") == pytest.approx(twin(logits), rel=1e-5)
        optimizer.step()
        optimizer.zero_grad()


def losses() -> dict[str, Callable[[Tensor], Tensor]]:
    return {
        "regression": lambda y: (y - 1.0).square().mean(),
        "sum": lambda y: y.sum(),
        "independent classes": lambda y: F.binary_cross_entropy_with_logits(y, torch.ones_like(y)),
        "a strong z term": lambda y: entropy(y) + y.logsumexp(-1).square().mean(),
        "no gradient at all": lambda y: (y * 0.0).sum(),
        "every label ignored": lambda y: F.cross_entropy(y, torch.full((30,), -100), reduction="sum"),
    }


@pytest.mark.parametrize("loss", losses())
def test_what_is_no_logits_has_no_log_z(loss: str, sampler) -> None:
    model = Classifier()
    assert sampler(OutputProbe(), model).sample(lambda: losses()[loss](model(torch.randn(30, 8))).backward()) == {}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_logits_in_low_precision_count(dtype: torch.dtype, sampler) -> None:
    model = Classifier(300)
    x = torch.randn(500, 8)

    def step() -> None:
        with torch.autocast("cpu", dtype):
            logits = model(x)
        (entropy(logits) * 2.0**14).backward()

    found = sampler(OutputProbe(), model).sample(step)
    assert model.logits.dtype == dtype
    assert found.of(LOG_Z, "head") == pytest.approx(twin(model.logits), rel=1e-5)


def test_a_weak_z_term_does_no_harm(sampler) -> None:
    model = Classifier()

    def step() -> None:
        logits = model(torch.randn(30, 8))
        (entropy(logits) + 1e-4 * logits.logsumexp(-1).square().mean()).backward()

    assert sampler(OutputProbe(), model).sample(step).of(LOG_Z, "head") == pytest.approx(twin(model.logits), rel=1e-5)


def test_the_hidden_state_before_a_last_norm_is_no_head(sampler) -> None:
    """A norm does not feel a common shift either; a fused loss hides the head, and the last layer seen does not widen."""
    narrow = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8), nn.LayerNorm(8))
    vocabulary = torch.randn(50, 8)
    found = sampler(OutputProbe(), narrow).sample(lambda: entropy(narrow(torch.randn(30, 8)) @ vocabulary.t()).backward())
    assert found == {}


def test_of_several_outputs_the_widest_is_the_head(sampler) -> None:
    class WithValue(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.policy, self.value = nn.Linear(8, 20), nn.Linear(8, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.policy(x), self.value(x)

    model, x = WithValue(), torch.randn(30, 8)

    def step() -> None:
        logits, value = model(x)
        (entropy(logits) + value.square().mean()).backward()

    found = sampler(OutputProbe(), model).sample(step)
    assert found == {(LOG_Z, "policy", -1): pytest.approx(twin(model.policy(x)), rel=1e-5)}


def test_a_segmentation_has_logits_at_every_place(sampler) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 1))
    x, labels = torch.randn(2, 3, 6, 7), torch.randint(0, 5, (2, 6, 7))
    found = sampler(OutputProbe(), model).sample(lambda: F.cross_entropy(model(x), labels).backward())
    assert found.of(LOG_Z, "2") == pytest.approx(twin(model(x).permute(0, 2, 3, 1)), rel=1e-5)


def test_a_root_that_is_the_head_itself(sampler) -> None:
    head, x = nn.Linear(8, 5), torch.randn(30, 8)
    found = sampler(OutputProbe(), head).sample(lambda: entropy(head(x)).backward())
    assert found.of(LOG_Z, "") == pytest.approx(twin(head(x)), rel=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_show(bad: float, sampler) -> None:
    model = Classifier()
    nn.init.constant_(model.head.weight, bad)
    found = sampler(OutputProbe(), model).sample(lambda: entropy(model(torch.randn(30, 8))).backward())
    assert not math.isfinite(found.of(LOG_Z, "head"))


@pytest.mark.parametrize("scale", [1e-20, 1e4], ids=["constant", "huge"])
def test_odd_logits(scale: float, sampler) -> None:
    model = Classifier()
    with torch.no_grad():
        model.head.weight.mul_(scale)
        model.head.bias.fill_(3.0)
    x = torch.randn(30, 8)
    found = sampler(OutputProbe(), model).sample(lambda: entropy(model(x)).backward())
    expected = model.logits.double().logsumexp(-1).mean().item()
    assert found.of(LOG_Z, "head") == pytest.approx(expected, rel=1e-5)


def test_few_tokens_of_a_large_vocabulary(sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_distribution, "_MOST_LOGITS", 1000)
    model = Classifier(100)
    found = sampler(OutputProbe(), model).sample(lambda: entropy(model(torch.randn(500, 8))).backward())
    assert found.of(LOG_Z, "head") == pytest.approx(twin(model.logits, 10), rel=1e-5)


def test_the_first_micro_batch_counts_and_validation_does_not(sampler) -> None:
    model, x = Classifier(), torch.randn(30, 8)
    run = sampler(OutputProbe(), model)
    alone = run.sample(lambda: entropy(model(x)).backward())

    def several() -> None:
        model.eval()
        model(x * 5)
        model.train()
        with torch.no_grad():
            model(x * 3)
        for scale in (1, 2):
            entropy(model(x * scale)).backward()

    assert run.sample(several) == alone
    assert run.sample(lambda: None) == {}


@pytest.mark.parametrize("reentrant", [False, True], ids=["non-reentrant", "reentrant"])
def test_a_checkpointed_body(reentrant: bool, sampler) -> None:
    body, head = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True)), nn.Linear(8, 30)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = body, head

        def forward(self, x: Tensor) -> Tensor:
            return self.head(checkpoint(self.body, x, use_reentrant=reentrant))

    model, x = Model(), torch.randn(30, 8, requires_grad=True)
    found = sampler(OutputProbe(), model).sample(lambda: entropy(model(x)).backward())
    assert found == {(LOG_Z, "head", -1): pytest.approx(twin(head(body(x))), rel=1e-5)}


def test_two_models_have_a_head_each_and_the_unwatched_none(sampler) -> None:
    one, other, unwatched = Classifier(20), Classifier(30), Classifier(40)
    x = torch.randn(30, 8)

    def step() -> None:
        for model in (one, other, unwatched):
            entropy(model(x)).backward()
        assert not unwatched.head._forward_hooks

    found = sampler(OutputProbe(), {"a": one, "b": other}).sample(step)
    assert found.modules(LOG_Z) == {"a.head", "b.head"}


def test_nothing_is_kept_alive_after_the_step(sampler) -> None:
    model = Classifier()
    run = sampler(OutputProbe(), model)
    run.sample(lambda: entropy(model(torch.randn(30, 8))).backward())
    assert run.probe._last is None
    assert run.probe._called == run.probe._log_z == run.probe._shift == {}
    assert not any(module._forward_hooks for module in model.modules())
