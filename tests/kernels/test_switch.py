"""The switch: every way to call attention, live, and back to exactly what was before."""

import contextlib
import copy
import logging
import threading
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from foreshock.kernels import Precision, attention, install, installed, reference_attention, stabilized_attention, switch, uninstall
from foreshock.kernels import operator as ours
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention as imported_early


@pytest.fixture(autouse=True)
def off_before_and_after():
    assert not installed()
    yield
    uninstall()
    assert not installed()
    switch._told.clear()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """Dtypes of the calls that reach foreshock's attention."""
    seen: list[torch.dtype] = []

    def noted(query, *args, **kwargs):
        seen.append(query.dtype)
        return attention(query, *args, **kwargs)

    monkeypatch.setattr(switch, "attention", noted)
    return seen


def heads(dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.randn(2, 2, 12, 8, dtype=dtype).requires_grad_() for _ in range(3))


def node(out: Tensor) -> str:
    """What autograd will run for an output: tells foreshock's attention from torch's without running it."""
    return type(out.grad_fn).__name__


def is_ours(out: Tensor) -> bool:
    return "attention_forward" in node(out)


def test_meets_every_way_of_calling(calls) -> None:
    q, k, v = heads()
    module = nn.MultiheadAttention(16, 2, batch_first=True)
    layer = nn.TransformerEncoderLayer(16, 2, 8, batch_first=True, dropout=0.0)
    x = torch.randn(2, 5, 16)
    ways = {
        "F": lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        "imported before": lambda: imported_early(q, k, v, torch.ones(12, 12, dtype=torch.bool)),
        "operator": lambda: torch.ops.aten.scaled_dot_product_attention(q, k, v, scale=0.3),
        "keywords": lambda: F.scaled_dot_product_attention(value=v[:, :1], query=q, key=k[:, :1], enable_gqa=True),
        "nn.MultiheadAttention": lambda: module(x, x, x, need_weights=False)[0],
        "nn.TransformerEncoderLayer": lambda: layer(x),
    }
    for name, call in ways.items():
        before = call()
        install()
        during = call()
        uninstall()
        assert len(calls) == 1, name
        calls.clear()
        assert torch.allclose(before, during, atol=0.02), name
        after = call()
        assert not calls, name
        assert torch.equal(before, after), name
        assert node(after) == node(before), name


def test_without_gradients_and_under_autocast(calls) -> None:
    q, k, v = heads(torch.float32)
    install()
    with torch.no_grad():
        imported_early(q, k, v)
    with torch.inference_mode():
        imported_early(*(x.detach().clone() for x in (q, k, v)))
    with torch.autocast("cpu", torch.bfloat16):
        out = imported_early(q, k, v)
    assert calls == [torch.float32, torch.float32, torch.bfloat16]
    assert out.dtype == torch.bfloat16


def test_results_and_gradients_are_those_of_attention(with_gradients) -> None:
    given = [x.detach() for x in heads()]
    do = torch.randn(2, 2, 12, 8)
    expected = with_gradients(attention, *given, do, is_causal=True)
    with stabilized_attention():
        found = with_gradients(imported_early, *given, do, is_causal=True)
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


def test_installing_twice_nesting_and_exceptions() -> None:
    q, k, v = heads()

    def on() -> bool:
        assert is_ours(imported_early(q, k, v)) == installed()
        return installed()

    uninstall()  # without install: nothing
    install()
    install()
    assert on()
    uninstall()
    assert not on()
    with stabilized_attention():
        with stabilized_attention():
            assert on()
        assert on()
        uninstall()
        assert on(), "an open block keeps it on"
        install()
    assert on(), "install() within a block outlasts it"
    uninstall()
    with contextlib.suppress(KeyError), stabilized_attention():
        assert on()
        raise KeyError
    assert not on()

    @stabilized_attention()
    def decorated() -> bool:
        return on()

    assert decorated()
    assert decorated()
    assert not on()


def test_a_forward_pass_decides_for_its_backward_pass() -> None:
    q, k, v = heads()
    plain = imported_early(q, k, v)
    install()
    mended = imported_early(q, k, v)
    during = torch.autograd.grad(plain.sum(), k, retain_graph=True)[0]
    uninstall()
    assert torch.equal(torch.autograd.grad(plain.sum(), k)[0], during)
    assert torch.equal(torch.autograd.grad(mended.sum(), k)[0], torch.autograd.grad(attention(q, k, v).sum(), k)[0])


def test_holds_in_every_thread() -> None:
    q, k, v = heads()
    found: list[bool] = []

    def work() -> None:
        out = imported_early(q, k, v)
        out.sum().backward()
        found.append(is_ours(out))

    def enter_and_leave() -> None:
        with stabilized_attention():
            work()

    with stabilized_attention():
        threads = [threading.Thread(target=target) for target in (work, enter_and_leave, work)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert installed()
    work()
    assert found == [True, True, True, False]


def test_reference_attention_goes_on_with_float32_delta(with_gradients) -> None:
    q, k, v = (x.detach().float() for x in heads())
    do = torch.randn_like(q)
    low = Precision.flash(output=3)
    stored, cured = (
        with_gradients(reference_attention, q, k, v, do, precision=x) for x in (low, replace(low, delta_from="float32"))
    )
    with stabilized_attention():
        found = with_gradients(reference_attention, q, k, v, do, precision=low)
    assert all(torch.equal(x, y) for x, y in zip(found, cured, strict=True))
    assert not torch.equal(found[1], stored[1])
    assert torch.equal(with_gradients(reference_attention, q, k, v, do, precision=low)[1], stored[1])


def test_training_goes_on_with_its_optimizer_untouched() -> None:
    """Three steps, one of them switched, of a model in float64: as good as the same bits."""

    def train(switched: bool) -> nn.Module:
        torch.manual_seed(0)
        model = nn.TransformerEncoderLayer(16, 2, 8, batch_first=True, dropout=0.0).double()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for step in range(3):
            with stabilized_attention() if switched and step == 1 else contextlib.nullcontext():
                before = copy.deepcopy(optimizer.state_dict())
                model(torch.randn(2, 5, 16, dtype=torch.float64)).square().mean().backward()
                assert str(optimizer.state_dict()) == str(before)
                optimizer.step()
                optimizer.zero_grad()
        return model

    for x, y in zip(train(False).parameters(), train(True).parameters(), strict=True):
        assert torch.allclose(x, y, atol=1e-9)


def test_what_cannot_be_switched_is_left_to_torch_and_said_once(calls, caplog) -> None:
    q, k, v = heads(torch.float32)
    bias = torch.zeros(12, 12, requires_grad=True)
    install()
    with caplog.at_level(logging.WARNING, "foreshock"):
        for _ in range(2):
            imported_early(q, k, v, bias).sum().backward()
        gradient = torch.func.grad(lambda x: imported_early(x, x, x).sum())(q.detach())
    assert not calls
    assert bias.grad is not None
    assert torch.allclose(gradient, torch.autograd.grad(imported_early(q, q, q).sum(), q)[0], atol=1e-5)
    assert [message.rpartition(": ")[2] for message in caplog.messages] == [
        "their mask requires a gradient",
        "they are under a torch.func transform",
    ]
    with pytest.raises(RuntimeError):  # torch's own words for it
        imported_early(q, k[..., :4], v)


@pytest.fixture
def compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def test_compiled_models_are_compiled_once_more_and_take_the_new_attention(compiler, monkeypatch) -> None:
    ran = []
    body = ours.torch_body.forward
    monkeypatch.setattr(ours.torch_body, "forward", lambda *args, **kwargs: ran.append(1) or body(*args, **kwargs))
    compilations = []

    def backend(graph, inputs):
        compilations.append(1)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    q, k, v = heads(torch.float32)
    model = torch.compile(lambda q, k, v: imported_early(q, k, v) * 2, backend=backend, fullgraph=True)
    before = model(q, k, v)
    with pytest.raises(RuntimeError, match="this process holds compiled code"):
        install(compiled="refuse")
    assert not installed()
    install()
    for _ in range(3):
        during = model(q, k, v)
        during.sum().backward()
    assert (len(compilations), len(ran)) == (2, 3)
    uninstall()
    after = model(q, k, v)
    assert (len(compilations), len(ran)) == (3, 3)
    assert torch.equal(before, after)
    assert torch.allclose(before, during, atol=1e-5)


def test_torchs_caches_keep_the_two_apart(compiler) -> None:
    tag = torch.compiler.config.cache_key_tag
    with stabilized_attention():
        assert torch.compiler.config.cache_key_tag != tag
    assert torch.compiler.config.cache_key_tag == tag


@pytest.mark.parametrize("fullgraph", [False, True])
def test_inside_a_compiled_model_the_switch_is_no_part_of_the_graph(fullgraph: bool, compiler) -> None:
    """It breaks the graph and is switched there; where nothing may break it, nothing is switched."""

    @torch.compile(backend="eager", fullgraph=fullgraph)
    def model(x: Tensor) -> Tensor:
        install()
        return x * 2

    try:
        if fullgraph:
            with pytest.raises(torch._dynamo.exc.Unsupported):
                model(torch.ones(2))
        else:
            assert model(torch.ones(2)).tolist() == [2.0, 2.0]
        assert installed() is not fullgraph
    finally:
        uninstall()
    assert not installed()


def test_says_what_exists() -> None:
    with pytest.raises(ValueError, match="compiled is 'drop'; it is 'recompile' or 'refuse'"):
        install(compiled="drop")
    assert not installed()
