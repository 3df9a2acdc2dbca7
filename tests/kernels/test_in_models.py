"""Foreshock's attention at work: in a watched model, in Hugging Face's, and in training as good as torch's own."""

import sys
from pathlib import Path

import foreshock
import pytest
import torch
import torch.nn.functional as F
from foreshock.kernels import attention, register_with_transformers, stabilized_attention
from torch import Tensor, nn

WIDTH, HEADS, LENGTH = 32, 2, 24


class Block(nn.Module):
    def __init__(self, attend) -> None:
        super().__init__()
        self.attend = attend
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(self.attend(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


class GPT(nn.Module):
    def __init__(self, attend) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(64, WIDTH), nn.Parameter(torch.randn(LENGTH, WIDTH) * 0.02)
        self.blocks = nn.Sequential(Block(attend), Block(attend))
        self.head = nn.Linear(WIDTH, 64)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(tokens) + self.place))


def train(attend, steps: int, dtype: torch.dtype | None, switch_at: int | None = None) -> list[float]:
    """Learn 16 sequences by heart and return the losses."""
    torch.manual_seed(0)
    model = GPT(attend)
    data = torch.randint(64, (16, LENGTH + 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for step in range(steps):
        with (
            torch.autocast("cpu", dtype, enabled=dtype is not None),
            stabilized_attention() if switch_at is not None and step >= switch_at else torch.enable_grad(),
        ):
            loss = F.cross_entropy(model(data[:, :-1]).flatten(0, 1).float(), data[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bfloat16"])
def test_training_is_as_good_as_with_torchs_own(dtype) -> None:
    steps = 80
    theirs = train(F.scaled_dot_product_attention, steps, dtype)
    ours = train(attention, steps, dtype)
    switched = train(F.scaled_dot_product_attention, steps, dtype, switch_at=steps // 2)
    assert theirs[-1] < 0.5 * theirs[0], "the model must have learnt something"
    for found in (ours, switched):
        assert abs(found[-1] - theirs[-1]) < 0.15 * theirs[-1]
    if dtype is None:
        assert ours[:20] == pytest.approx(theirs[:20], rel=1e-3)


def test_the_monitor_sees_its_statistics(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/watched.db"
    found = {}
    for name, attend in (("torch", F.scaled_dot_product_attention), ("ours", attention)):
        torch.manual_seed(0)
        model = GPT(attend)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with foreshock.watch(model, optimizer, run=name, store=store, every=1) as monitor:
            for _ in range(2):
                loss = model(torch.arange(2 * LENGTH).view(2, LENGTH)).square().mean()
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                monitor.step(loss)
        opened = foreshock.open_store(store)
        run = next(run for run in opened.runs() if run.name == name)
        found[name] = opened.frame(run)
        opened.close()
    for signal in ("attention.max_logit", "attention.entropy_mean", "rounding.key_shift_residual"):
        values = {name: frame[frame.signal == signal] for name, frame in found.items()}
        assert set(values["ours"].module) == {"blocks.0", "blocks.1"}, signal
        assert len(values["ours"]) == len(values["torch"]) > 0
        if signal != "rounding.key_shift_residual":
            assert values["ours"].value.tolist() == pytest.approx(values["torch"].value.tolist(), rel=1e-4)


def test_hugging_face_models_take_it_by_name_and_live() -> None:
    transformers = pytest.importorskip("transformers")
    register_with_transformers()
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    tokens = torch.randint(64, (2, 10))
    padded = torch.ones(2, 10, dtype=torch.long)
    padded[0, :3] = 0
    reached = []

    def logits(mask: Tensor | None) -> Tensor:
        return model(tokens, attention_mask=mask).logits

    for mask in (None, padded):
        model.set_attn_implementation("sdpa")
        expected = logits(mask)
        with stabilized_attention():
            switched = logits(mask)
        model.set_attn_implementation("foreshock")

        class Watch(torch.overrides.TorchFunctionMode):
            def __torch_function__(self, func, types, args=(), kwargs=None):
                if func is attention:
                    reached.append(args[0].shape)
                return func(*args, **(kwargs or {}))

        with Watch():
            found = logits(mask)
        seen = slice(None) if mask is None else mask.bool()
        for other in (switched, found):
            assert torch.allclose(other[seen], expected[seen], atol=1e-5)
    assert len(reached) == 4
    assert reached[0] == (2, 4, 10, 8)
    model.eval()
    generated = model.generate(tokens[:, :4], max_new_tokens=4, do_sample=False, pad_token_id=0)
    model.set_attn_implementation("sdpa")
    assert torch.equal(generated, model.generate(tokens[:, :4], max_new_tokens=4, do_sample=False, pad_token_id=0))


def test_without_transformers_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "transformers.modeling_utils", raising=False)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'foreshock\[transformers\]'"):
        register_with_transformers()
