"""The callback in the real Trainer of Lightning."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from foreshock.integrations.lightning import ForeshockCallback
from foreshock.interventions.stop import Stop
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

EVERYTHING = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part[:, None] for part in self.qkv(x).chunk(3, -1))
        return F.scaled_dot_product_attention(q, k, v)[:, 0].flatten(1)


class Small(pl.LightningModule):
    """Calls its parts and not itself, as many do; attention is among them."""

    def __init__(self, lr: float = 1e-2, automatic: bool = True, lbfgs: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = automatic
        torch.manual_seed(0)
        self.attend, self.body = Attending(), nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 3))
        self.losses: list[float] = []

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.body(self.attend(x.unflatten(-1, (2, 4)))), y)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.losses.append(loss.item())
        self.log("train_loss", loss)
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            self.manual_backward(loss)
            if batch_idx % 2:
                self.clip_gradients(optimizer, 0.5, "norm")
                optimizer.step()
                optimizer.zero_grad()
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.hparams["lbfgs"]:
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=4)
        return torch.optim.AdamW(self.parameters(), lr=self.hparams["lr"])


def batches(count: int = 48) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count * 4, 8, generator=generator)
    return DataLoader(TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 1).long()), batch_size=4)


def fitted(
    callback: pl.Callback | None,
    module: pl.LightningModule,
    folder: Path,
    *,
    checkpoint: str | None = None,
    more: Sequence[pl.Callback] = (),
    **options: Any,
) -> pl.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "enable_checkpointing": False}
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[*([] if callback is None else [callback]), *more],
        default_root_dir=folder,
        **{**quiet, "max_epochs": 1, "log_every_n_steps": 1, "num_sanity_val_steps": 1, **options},
    )
    torch.manual_seed(5)
    trainer.fit(module, batches(), batches(4), ckpt_path=checkpoint)
    return trainer


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("automatic", "options"),
    [
        (True, EVERYTHING),
        (True, {**EVERYTHING, "precision": "bf16-mixed"}),
        (True, {**EVERYTHING, "precision": "16-mixed"}),
        (True, {}),
        (False, {}),
    ],
    ids=["automatic", "bf16-mixed", "16-mixed", "nothing clipped", "manual"],
)
def test_every_step_and_bit_identical_training(
    automatic: bool, options: dict[str, Any], url: str, stored: Callable[[], Any], tmp_path: Path
) -> None:
    plain, watched = Small(automatic=automatic), Small(automatic=automatic)
    fitted(None, plain, tmp_path, **options)
    callback = ForeshockCallback(store=url, every=5, run="small")
    fitted(callback, watched, tmp_path, **options)
    assert same(plain, watched)
    assert plain.losses == watched.losses
    assert callback.monitor.faults.total == 0

    run, frame = stored()
    each = 2 if options or not automatic else 1
    steps = 48 // each
    assert (run.name, run.status, run.last_step, run.tags) == ("small", "finished", steps - 1, ("lightning",))
    assert run.meta["hparams"]["lr"] == 1e-2
    signal = {str(name): part for name, part in frame.groupby("signal")}
    losses = torch.tensor(watched.losses).view(steps, each)
    means = losses.sum(1) if not automatic else losses.mean(1)  # manual: nobody divides, and so it is not divided
    assert signal["loss"]["value"].tolist() == pytest.approx(means.tolist(), rel=1e-4)
    assert signal["learning_rate"]["value"].tolist() == [1e-2] * steps
    norms = signal["gradient.norm"]["value"].tolist(), signal["gradient.norm_clipped"]["value"].tolist()
    assert len(norms[0]) == steps
    if each == 2:
        assert max(norms[1]) <= 0.5001 < max(norms[0])
    else:
        assert norms[0] == norms[1]
    assert signal["train_loss"]["value"].tolist()[-1] == pytest.approx(watched.losses[-1], rel=1e-3)
    assert len(signal["val_loss"]) == 1  # the sanity check is none
    assert sorted(set(signal["spectral_alignment.mean"]["step"])) == list(range(0, steps, 5))
    assert set(signal["spectral_alignment.mean"]["module"]) >= {"attend.qkv.q", "attend.qkv.k", "attend.qkv.v", "body.0", "body.3"}
    assert sorted(set(signal["gradient.module_norm"]["step"])) == list(range(0, steps, 5))
    assert set(signal["attention.max_logit"]["step"]) == set(range(0, steps, 5))
    assert set(signal["attention.max_logit"]["module"]) == {"attend"}


def test_gradients_that_a_closure_computes_are_those_of_the_step(url: str, stored: Callable[[], Any], tmp_path: Path) -> None:
    """Lightning computes them inside ``optimizer.step()``: the norms and the samples are of this step, not of the last."""
    module, seen = Small(), []

    class Norms(pl.Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            seen.append([p.grad.norm().item() for p in (module.attend.qkv.weight, module.attend.qkv.bias)])

    fitted(ForeshockCallback(store=url, every=1), module, tmp_path, max_steps=6, limit_val_batches=0)
    plain = Small()
    module = plain
    fitted(Norms(), plain, tmp_path, max_steps=6, limit_val_batches=0)
    _, frame = stored()
    norms = frame[(frame["signal"] == "gradient.module_norm") & (frame["module"] == "attend.qkv")]
    assert norms["value"].tolist() == pytest.approx([(w**2 + b**2) ** 0.5 for w, b in seen], rel=1e-5)


def test_lbfgs_counts_its_first_loss(url: str, stored: Callable[[], Any], tmp_path: Path) -> None:
    module = Small(lbfgs=True)
    fitted(ForeshockCallback(store=url), module, tmp_path, max_steps=3, limit_val_batches=0)
    _, frame = stored()
    losses = frame[frame["signal"] == "loss"]["value"].tolist()
    assert len(losses) == 3 < len(module.losses)
    assert losses[0] == pytest.approx(module.losses[0], rel=1e-6)


def test_a_checkpoint_goes_on_with_the_run(url: str, stored: Callable[[], Any], tmp_path: Path) -> None:
    path = str(tmp_path / "it.ckpt")

    class Saving(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.save_checkpoint(path)

    first = ForeshockCallback(store=url)
    fitted(first, Small(), tmp_path, more=[Saving()])
    fitted(ForeshockCallback(store=url), Small(), tmp_path, checkpoint=path, max_epochs=2)
    run, frame = stored()
    losses = frame[frame["signal"] == "loss"]
    assert (run.id, run.status) == (first.monitor.run.id, "finished")
    assert losses["step"].tolist() == list(range(96))
    assert losses["segment"].tolist() == [0] * 48 + [1] * 48


def test_an_exception_is_a_crash_and_too_high_a_rate_raises_the_alert(
    url: str, stored: Callable[[], Any], alerts: Callable[[], Any], tmp_path: Path
) -> None:
    class Failing(Small):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if batch_idx == 40:
                raise RuntimeError("planted")
            return super().training_step(batch, batch_idx)

    with pytest.raises(RuntimeError, match="planted"):
        fitted(ForeshockCallback(store=url, every=1), Failing(lr=50.0), tmp_path, limit_val_batches=0)
    run, _ = stored()
    assert (run.status, run.last_step) == ("crashed", 39)
    assert alerts()


def test_stop_ends_the_fit(url: str, stored: Callable[[], Any], tmp_path: Path) -> None:
    callback = ForeshockCallback(store=url, every=1, interventions=[Stop(severity="warning")])
    trainer = fitted(callback, Small(lr=50.0), tmp_path, max_epochs=30, limit_val_batches=0)
    assert trainer.global_step < 30 * 48
    assert stored()[0].status == "terminated"
