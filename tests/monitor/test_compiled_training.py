"""Watching a model that is compiled: no graph break, no recompilation, the same bits, the right values."""

import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import foreshock
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint

# What torch says of itself while it compiles.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script_method"),
    pytest.mark.filterwarnings("ignore:Profiler record function"),
]
STEPS, EVERY = 40, 7
ALIGNMENT = ("spectral_alignment.mean", "spectral_alignment.std", "spectral_alignment.positive_fraction")


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = (part.view(b, t, 2, c // 2).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1))
        return x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, c))


class Checkpointed(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)


class Model(nn.Sequential):
    """A class of the user's: torch's own containers are not compiled where they are called from outside a compiled frame."""

    def forward(self, x: Tensor) -> Tensor:
        for part in self:
            x = part(x)
        return x


def small_model() -> Model:
    torch.manual_seed(0)
    return Model(nn.Embedding(40, 16), Block(16), Block(16), nn.ReLU(inplace=True), nn.Linear(16, 40))


@dataclass
class Training:
    """A training run of the small model, compiled in one way or another."""

    backend: str | None = None
    how: str = "wrapped"
    model: nn.Module = field(default_factory=small_model)
    compiled: str | None = None
    url: str | None = None
    steps: int = STEPS
    autocast: bool = False
    micro_batches: int = 1
    compiled_optimizer: bool = False
    length: Callable[[int], int] = lambda step: 12
    between: Callable[["Training", int], None] = lambda training, step: None

    def run(self) -> "Training":
        torch._dynamo.reset()
        counters.clear()
        called = self.model
        if self.how == "wrapped" and self.backend:
            called = torch.compile(self.model, backend=self.backend, fullgraph=True)
        elif self.how == "in place":
            self.model.compile(backend=self.backend)
        elif self.how == "block by block":
            for block in (self.model[1], self.model[2]):
                block.compile(backend=self.backend)
        kind = torch.optim.SGD if self.compiled_optimizer else torch.optim.AdamW
        optimizer = kind(self.model.parameters(), lr=0.01)
        update = torch.compile(optimizer.step, backend=self.backend) if self.compiled_optimizer else optimizer.step

        def loss_and_gradients(tokens: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
                logits = called(tokens[:, :-1])
            loss = F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
            loss.backward()
            return loss

        def step(tokens: Tensor) -> Tensor:
            losses = [loss_and_gradients(part) for part in tokens.chunk(self.micro_batches)]
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            update()
            optimizer.zero_grad()
            return torch.stack(losses).mean()

        if self.how == "inside a function":
            step = torch.compile(step, backend=self.backend)
        self.called = called
        self.monitor = foreshock.watch(called, optimizer, store=self.url, every=EVERY, compiled=self.compiled) if self.url else None
        order = torch.Generator().manual_seed(1)
        self.graphs = []
        for number in range(self.steps):
            loss = step(torch.randint(40, (4, self.length(number) + 1), generator=order))
            if self.monitor:
                self.monitor.step(loss)
            self.between(self, number)
            self.graphs.append(counters["stats"]["unique_graphs"])
        self.breaks = sum(counters["graph_break"].values())
        if self.monitor:
            self.monitor.close()
            assert self.monitor.faults.total == 0
            with closing(foreshock.open_store(self.url)) as store:
                self.frame = store.frame(store.runs()[0])
        moments = [value for state in optimizer.state.values() for value in state.values()]
        self.state = [*self.model.state_dict().values(), *moments]
        return self

    def values(self, signal: str) -> pd.Series:
        found = self.frame[self.frame["signal"] == signal]
        return found.set_index(["step", "module", "head"])["value"].sort_index()


def same_bits(one: Training, other: Training) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state, other.state, strict=True))


@pytest.fixture(autouse=True)
def _compile_afresh() -> Iterator[None]:
    yield
    assert torch._dynamo.eval_frame._stance.stance == "default"
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def eager(tmp_path_factory: pytest.TempPathFactory) -> Training:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    training = Training(url=f"sqlite:///{tmp_path_factory.mktemp('eager') / 'runs.db'}").run()
    torch.set_num_threads(before)
    return training


# A compiled function of the user's is broken where torch cannot see through: at backward() and at the optimizer.
WAYS = ["wrapped", "in place", "block by block", "inside a function"]


@pytest.mark.parametrize(("backend", "how"), [*(("eager", how) for how in WAYS), ("inductor", "wrapped")])
def test_no_break_no_recompilation_the_same_bits_and_the_right_values(backend: str, how: str, eager: Training, url: str) -> None:
    plain = Training(backend, how).run()
    with torch._dynamo.config.patch(error_on_recompile=True):
        watched = Training(backend, how, url=url).run()
    assert watched.graphs == plain.graphs
    assert watched.breaks <= plain.breaks
    assert same_bits(watched, plain)
    assert len(watched.values("loss")) == STEPS
    for signal in ALIGNMENT:
        found, expected = watched.values(signal), eager.values(signal)
        assert list(found.index) == list(expected.index)
        assert len(found) == len(range(0, STEPS, EVERY)) * 9
        assert (found - expected).abs().max() < 2e-3
        assert (found - expected)[0].abs().max() < 1e-5
    assert not watched.model.state_dict().keys() - plain.model.state_dict().keys()
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in watched.model.modules())


TRAININGS: dict[str, Callable[[], dict[str, Any]]] = {
    "activation checkpointing": lambda: {"model": Model(*(Checkpointed(m) if isinstance(m, Block) else m for m in small_model()))},
    "gradient accumulation": lambda: {"micro_batches": 2},
    "autocast": lambda: {"autocast": True},
    "compiled optimizer": lambda: {"compiled_optimizer": True},
    "lengths that vary": lambda: {"length": lambda step: 8 + step % 5},
    "evaluation": lambda: {"between": evaluate},
    "evaluation with gradients": lambda: {"between": evaluate_with_gradients},
}


@torch.no_grad()
def evaluate(training: Training, step: int) -> None:
    training.called.eval()
    training.called(torch.zeros(2, 12, dtype=torch.long))
    training.called.train()


def evaluate_with_gradients(training: Training, step: int) -> None:
    training.called.eval()
    training.called(torch.zeros(4, 12, dtype=torch.long))
    training.called.train()


# By inductor where its own passes matter.
@pytest.mark.parametrize(
    ("training", "backend"),
    [*((name, "aot_eager") for name in TRAININGS), ("autocast", "inductor")],
)
def test_however_it_is_trained(training: str, backend: str, url: str) -> None:
    plain = Training(backend, steps=16, **TRAININGS[training]()).run()
    watched = Training(backend, steps=16, url=url, **TRAININGS[training]()).run()
    assert watched.graphs == plain.graphs
    assert watched.breaks <= plain.breaks
    assert same_bits(watched, plain)
    assert len(watched.values("spectral_alignment.mean")) == 3 * 9


def test_of_several_passes_the_first_that_trains_is_seen(url: str, tmp_path: Path) -> None:
    """A pass in evaluation mode comes first, with gradients on; then two micro-batches."""

    def options(name: str) -> dict[str, Any]:
        return {
            "between": evaluate_with_gradients,
            "micro_batches": 2,
            "steps": 8,
            "url": f"sqlite:///{tmp_path / name}",
        }

    found, expected = Training("eager", **options("compiled.db")).run(), Training(**options("eager.db")).run()
    for signal in ALIGNMENT:
        assert found.values(signal).equals(expected.values(signal))


def test_weights_only(eager: Training, url: str) -> None:
    plain = Training("eager").run()
    watched = Training("eager", compiled="weights", url=url).run()
    assert watched.graphs == plain.graphs
    assert same_bits(watched, plain)
    assert len(watched.values("weight.spectral_norm")) == 6 * 9
    assert watched.values("spectral_alignment.mean").empty


def test_sampled_steps_without_compiling_see_everything(eager: Training, url: str) -> None:
    """The backend is the eager arithmetic: with another one, sampled steps may round differently from the compiled steps."""
    plain = Training("eager").run()
    stances: list[str] = []

    def note(training: Training, step: int) -> None:
        assert training.monitor is not None
        stances.append(torch._dynamo.eval_frame._stance.stance)
        assert (stances[-1] == "force_eager") == training.monitor.collector.sampling

    with torch._dynamo.config.patch(error_on_recompile=True):
        watched = Training("eager", compiled="eager", url=url, between=note).run()
    assert stances.count("force_eager") == len(range(0, STEPS, EVERY)) - 1
    assert watched.graphs[-1] == plain.graphs[-1] == 1
    assert watched.breaks == 0
    assert same_bits(watched, plain)
    signals = {"spectral_alignment.mean", "spectral_alignment.output_mean", "attention.entropy_mean", "rounding.key_shift_residual"}
    assert signals <= set(eager.frame["signal"])
    for signal in signals:
        assert watched.values(signal).equals(eager.values(signal))


def test_sampled_steps_without_compiling_under_inductor(eager: Training, url: str) -> None:
    watched = Training("inductor", compiled="eager", url=url).run()
    assert (watched.graphs[0], watched.graphs[-1], watched.breaks) == (0, 1, 0)
    found, expected = watched.values("attention.entropy_mean"), eager.values("attention.entropy_mean")
    assert found[0].equals(expected[0])
    assert (found - expected).abs().max() < 1e-3


class TestTheStance:
    """It is of the whole process: it must be given back whatever happens."""

    @staticmethod
    def stance() -> str:
        return torch._dynamo.eval_frame._stance.stance

    @pytest.fixture
    def watch(self, fresh_small: Any, url: str) -> Callable[[], tuple[Any, Any]]:
        def begin() -> tuple[Any, Any]:
            small = fresh_small()
            return foreshock.watch(small.model, small.optimizer, store=url, compiled="eager", every=1000), small

        return begin

    def test_after_an_exception(self, watch: Any) -> None:
        monitor, _ = watch()
        assert self.stance() == "force_eager"

        def fail() -> None:
            with monitor:
                raise RuntimeError("out of memory")

        with pytest.raises(RuntimeError, match="out of memory"):
            fail()
        assert self.stance() == "default"

    def test_after_the_sampled_step_of_each_of_two_monitors(self, watch: Any) -> None:
        (one, first), (two, second) = watch(), watch()
        one.step(first.step())
        assert self.stance() == "force_eager"
        two.step(second.step())
        assert self.stance() == "default"
        one.close()
        two.close()

    def test_of_the_users_own(self, watch: Any) -> None:
        torch.compiler.set_stance("eager_on_recompile")
        monitor, small = watch()
        monitor.step(small.step())
        assert self.stance() == "eager_on_recompile"
        monitor.close()
        monitor, small = watch()
        torch.compiler.set_stance("default")
        monitor.step(small.step())
        assert self.stance() == "default"
        monitor.close()

    def test_a_probe_that_fails(self, watch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monitor, small = watch()
        for probe in monitor.collector.probes:
            monkeypatch.setattr(probe, "collect", lambda step: 1 / 0)
        monitor.step(small.step())
        assert self.stance() == "default"
        monitor.close()


def test_a_model_trained_before_watch_is_not_compiled_anew_and_it_is_said(url: str, caplog: pytest.LogCaptureFixture) -> None:
    torch._dynamo.reset()
    counters.clear()
    plain = small_model()
    model = torch.compile(plain, backend="eager")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

    def step() -> Tensor:
        loss = model(torch.zeros(2, 6, dtype=torch.long)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    step()
    with (
        torch._dynamo.config.patch(error_on_recompile=True),
        caplog.at_level(logging.WARNING, "foreshock"),
        foreshock.watch(model, optimizer, store=url, every=2) as monitor,
    ):
        for _ in range(5):
            monitor.step(step())
    assert counters["stats"]["unique_graphs"] == 1
    assert 'Call watch() before the first compiled call, or use watch(compiled="eager")' in caplog.text
    with closing(foreshock.open_store(url)) as store:
        signals = set(store.frame(store.runs()[0])["signal"])
    assert "weight.spectral_norm" in signals
    assert not any(signal.startswith("spectral_alignment.mean") for signal in signals)


@pytest.mark.parametrize("compiled", ["taps", "eager"])
def test_attention_that_is_told_breaks_no_graph(compiled: str, url: str) -> None:
    told: list[Any] = []

    class Telling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(8, 24)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (part[:, None] for part in self.qkv(x).chunk(3, -1))
            out = torch.softmax(q @ k.mT / 8**0.5, -1) @ v
            told[0].attention(q, k, v, out, name="hand-written")
            return out

    torch._dynamo.reset()
    counters.clear()
    model = torch.compile(Telling(), backend="eager", fullgraph=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        torch._dynamo.config.patch(error_on_recompile=True),
        foreshock.watch(model, optimizer, store=url, every=2, compiled=compiled) as monitor,
    ):
        told.append(monitor)
        for _ in range(4):
            loss = model(torch.randn(2, 6, 8)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            monitor.step(loss)
        assert monitor.faults.total == 0
    with closing(foreshock.open_store(url)) as store:
        frame = store.frame(store.runs()[0])
    assert (frame["signal"] == "attention.entropy_mean").sum() == (2 if compiled == "eager" else 0)
