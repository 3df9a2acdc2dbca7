"""Other ways to watch a model, as their users use them: what our costs are compared with."""

import importlib.util
import logging
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Tool(Protocol):
    """Something else that watches a run."""

    name: str
    statistics: int
    """Numbers it gives a sample; a histogram counts as one, as ours do."""
    phase: int
    """The first step that it samples, counted from 0."""

    def before_step(self, sampled: bool) -> None:
        """Called before a training step."""

    def after_step(self, sampled: bool, loss: Tensor) -> None:
        """Called after it."""

    def close(self) -> None:
        """Called at the end of the run."""


class ItemHooks:
    """The monitor found in many training scripts: hooks that call ``.item()`` on one statistic after the other.

    Of every layer with a weight: mean, spread, largest and norm of its input and output, spread and norm of weight and gradient.

    Args:
        model: what is watched.
        wanted: it stops at so many statistics a sample.
    """

    name = ".item() hooks"
    phase = 0

    def __init__(self, model: nn.Module, wanted: int) -> None:
        self.statistics, self._wanted = 0, wanted
        self._layers = [module for module in model.modules() if isinstance(getattr(module, "weight", None), Tensor)]
        self._handles: list[Any] = []
        self._found: list[float] = []

    def before_step(self, sampled: bool) -> None:
        """Place the hooks if the step is sampled."""
        if sampled:
            self._handles = [layer.register_forward_hook(self._look) for layer in self._layers]

    def after_step(self, sampled: bool, loss: Tensor) -> None:
        """Take the loss, and at a sampled step what weights and gradients show."""
        loss.item()
        if sampled:
            while self._handles:
                self._handles.pop().remove()
            for layer in self._layers:
                for tensor in (layer.weight, layer.weight.grad):
                    assert isinstance(tensor, Tensor)
                    self._take([tensor.std, tensor.norm])
            self.statistics = len(self._found)
        self._found.clear()

    def close(self) -> None:
        """Nothing is left to do."""

    @torch.no_grad()
    def _look(self, module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        for x in (args[0].float(), out):
            self._take([x.mean, x.std, x.abs().max, x.norm])

    def _take(self, statistics: list[Any]) -> None:
        for statistic in statistics:
            if len(self._found) < self._wanted:
                self._found.append(statistic().item())


class WandbWatch:
    """Weights & Biases' ``watch(log="all")``, offline: histograms of every parameter and gradient.

    Args:
        model: what is watched.
        every: its ``log_freq``.
        folder: where it may write.
    """

    name = "wandb.watch"

    def __init__(self, model: nn.Module, every: int, folder: Path) -> None:
        import wandb

        logging.getLogger("wandb").setLevel(logging.ERROR)
        self._run = wandb.init(mode="offline", dir=str(folder), project="bench", settings=wandb.Settings(silent=True))
        self._run.watch(model, log="all", log_freq=every)
        self.statistics = 2 * sum(1 for p in model.parameters() if p.requires_grad)
        self.phase = every - 1  # it counts forward passes and looks at the last of each round

    @staticmethod
    def installed() -> bool:
        """Tell whether it can be compared with."""
        return importlib.util.find_spec("wandb") is not None

    def before_step(self, sampled: bool) -> None:
        """Its hooks stay in the model."""

    def after_step(self, sampled: bool, loss: Tensor) -> None:
        """Log the loss."""
        self._run.log({"loss": loss.item()})

    def close(self) -> None:
        """End the offline run."""
        self._run.finish()
