"""Lightning under foreshock: one line. Trains a small classifier on a CPU, in seconds.

    python examples/lightning_module.py --store sqlite:///foreshock.db
    foreshock dashboard

Needs: pip install "foreshock[lightning]"
"""

import argparse
import sys

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from foreshock.integrations.lightning import ForeshockCallback
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Classifier(pl.LightningModule):
    """A transformer encoder over eight tokens that names the largest of four sums."""

    def __init__(self, learning_rate: float) -> None:
        super().__init__()
        self.save_hyperparameters()
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.embed, self.encode, self.name_it = nn.Linear(4, 32), nn.TransformerEncoder(layer, 2), nn.Linear(32, 4)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Map (B, T, 4) to the logits (B, 4)."""
        logits: Tensor = self.name_it(self.encode(self.embed(x_BTC)).mean(1))
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the loss."""
        x, y = batch
        return F.cross_entropy(self(x), y)

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Log the accuracy, which foreshock keeps beside its own signals."""
        x, y = batch
        self.log("accuracy", (self(x).argmax(-1) == y).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=self.hparams["learning_rate"])


def batches(count: int, seed: int) -> DataLoader[tuple[Tensor, ...]]:
    """Make batches of 16."""
    x = torch.randn(16 * count, 8, 4, generator=torch.Generator().manual_seed(seed))
    return DataLoader(TensorDataset(x, x.sum(1).argmax(-1)), batch_size=16)


def main(arguments: list[str] | None = None) -> int:
    """Train; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", help="where foreshock keeps the run; foreshock.db by default")
    parser.add_argument("--out", default="out", help="where Lightning keeps its logs and checkpoints")
    parser.add_argument("--batches", type=int, default=80)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    given = parser.parse_args(arguments)
    pl.seed_everything(0, verbose=False)
    trainer = pl.Trainer(
        accelerator="cpu",
        precision="bf16-mixed",
        max_epochs=1,
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
        default_root_dir=given.out,
        logger=False,
        callbacks=[ForeshockCallback(store=given.store, run="classifier")],  # the line
    )
    trainer.fit(Classifier(given.learning_rate), batches(given.batches, 1), batches(4, 2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
