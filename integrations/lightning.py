"""Lightning: ``Trainer(..., callbacks=[ForeshockCallback()])``, with the package ``lightning`` or ``pytorch_lightning``.

Model, optimizers, accumulation, precision, clipping and rank are the Trainer's, under automatic and manual optimization alike. A
step is a batch in which an optimizer stepped; the loss is what was propagated back in it, over its micro-batches as Lightning
averages them: of several losses, under manual optimization, their sum. What the module logs is kept under the same names. The run's
state goes into Lightning's checkpoints, so that ``fit(ckpt_path=...)`` goes on with the run in a new segment.
"""

import importlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer
from typing_extensions import Unpack, override

from ..storage.records import RunStatus
from .loop import AnyMonitor, Loop
from .options import WatchOptions, checked

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    try:
        # They are one code under two names, whose classes do not know each other: what the script uses is meant.
        _older = "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules
        Callback = importlib.import_module("pytorch_lightning" if _older else "lightning.pytorch").Callback
    except ImportError:
        try:
            Callback = importlib.import_module("pytorch_lightning").Callback
        except ImportError as missing:
            raise ImportError('foreshock.integrations.lightning needs lightning: pip install "foreshock[lightning]"') from missing


class ForeshockCallback(Callback):
    """Watches what a Lightning Trainer fits.

    Args:
        options: keywords of ``foreshock.watch()``.

    Raises:
        TypeError: there is no such option.
    """

    def __init__(self, **options: Unpack[WatchOptions]) -> None:
        self._loop = Loop(checked(options, "ForeshockCallback"))
        self._checkpointed: dict[str, Any] = {}
        self._global_step = 0
        self._seen: dict[str, Any] = {}

    @property
    def monitor(self) -> AnyMonitor | None:
        """The monitor of the training under way, or of the last one."""
        return self._loop.monitor

    @override
    def on_train_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        state, self._checkpointed = self._checkpointed, {}
        self._global_step, self._seen = trainer.global_step, {}
        optimizers = [one for one in trainer.optimizers if isinstance(one, Optimizer)]
        self._loop.begin(pl_module, optimizers or None, found=_found(trainer, pl_module), state=state, step=trainer.global_step)

    @override
    def on_train_batch_end(self, trainer: "Trainer", pl_module: "LightningModule", *_: Any) -> None:
        if trainer.global_step == self._global_step:
            return  # a micro-batch, whose gradients accumulate
        self._global_step = trainer.global_step
        self._loop.allow_losses(None)
        every = getattr(trainer, "log_every_n_steps", 0)
        if every and trainer.global_step % every == 0:
            self._log(trainer.callback_metrics)
        if not self._loop.end_step():
            trainer.should_stop = True

    @override
    def on_before_optimizer_step(self, trainer: "Trainer", pl_module: "LightningModule", optimizer: Optimizer) -> None:
        if pl_module.automatic_optimization:
            self._loop.allow_losses(
                0
            )  # LBFGS computes the loss several times in a step, and comes here each time: the first counts

    @override
    def on_validation_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        if not trainer.sanity_checking:
            self._log(trainer.callback_metrics)

    @override
    def on_train_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        self._log(trainer.callback_metrics)

    @override
    def on_train_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        self._loop.end(RunStatus.FINISHED)

    @override
    def on_exception(self, trainer: "Trainer", pl_module: "LightningModule", exception: BaseException) -> None:
        self._loop.end(RunStatus.TERMINATED if isinstance(exception, KeyboardInterrupt) else RunStatus.CRASHED)

    @override
    def state_dict(self) -> dict[str, Any]:
        return self._loop.state_dict()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._checkpointed = state_dict

    def _log(self, metrics: Mapping[str, Any]) -> None:
        """Keep the metrics that are new: Lightning goes on giving the last ones of an epoch."""
        fresh = {name: value for name, value in metrics.items() if self._seen.get(name) is not value}
        self._seen.update(fresh)
        self._loop.log(fresh)


def _found(trainer: "Trainer", module: "LightningModule") -> WatchOptions:
    """Return what the trainer says of the run."""
    names = ("precision", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "max_epochs", "max_steps")
    config = {name: value for name in names if (value := getattr(trainer, name, None)) is not None}
    return {"tags": ["lightning"], "meta": {"config": config, "hparams": dict(module.hparams)}}
