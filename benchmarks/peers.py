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


class SameStatistics:
    """What the default preset tells of layers with a weight, written down plainly: whole tensors, an SVD, ``.item()`` for each.

    Of every linear layer: the alignment of its inputs and of the gradient at its outputs, sigma_1, gap, stable rank, the size and
    shape of its outputs, the norm of its gradient, Adam's second-moment lag and moment norms, and the update's size.

    Args:
        model: what is watched.
        optimizer: an AdamW.
    """

    name = "the same, plainly"
    phase = 0

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.statistics = 0
        self._layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
        self._optimizer = optimizer
        self._handles: list[Any] = []
        self._found: list[float] = []
        self._pairs: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self._weights: dict[nn.Module, Tensor] = {}

    @torch.no_grad()
    def before_step(self, sampled: bool) -> None:
        """Look at the weights and place the hooks if the step is sampled."""
        if not sampled:
            return
        for layer in self._layers:
            u, sigma, v = torch.linalg.svd(layer.weight, full_matrices=False)
            self._pairs[layer], self._weights[layer] = (u[:, 0], v[0]), layer.weight.detach().clone()
            self._take(sigma[0], sigma[0] / sigma[1], layer.weight.norm(), (sigma**2).sum() / sigma[0] ** 2)
            self._handles += [layer.register_forward_hook(self._forward), layer.register_full_backward_hook(self._backward)]

    @torch.no_grad()
    def after_step(self, sampled: bool, loss: Tensor) -> None:
        """Take the loss, and at a sampled step what gradients, moments and updates show."""
        loss.item()
        if sampled:
            while self._handles:
                self._handles.pop().remove()
            for layer in self._layers:
                gradient, state = layer.weight.grad, self._optimizer.state[layer.weight]
                assert gradient is not None
                seconds = state["exp_avg_sq"] / (1 - self._optimizer.param_groups[0]["betas"][1] ** state["step"])
                update = layer.weight - self._weights[layer]
                self._take(gradient.norm(), (gradient**2 / seconds.clamp_min(1e-16)).mean().sqrt())
                self._take(state["exp_avg"].norm(), state["exp_avg_sq"].norm())
                self._take(
                    update.square().mean().sqrt(),
                    update.norm() / layer.weight.norm(),
                    ((update == 0) & (gradient != 0)).float().mean(),
                )
            self.statistics = len(self._found)
            self._pairs.clear()
            self._weights.clear()
        self._found.clear()

    def close(self) -> None:
        """Nothing is left to do."""

    @torch.no_grad()
    def _forward(self, module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        cosine = torch.nn.functional.normalize(args[0].flatten(0, -2), dim=1) @ self._pairs[module][1]
        positive = (cosine > 0).float().mean()
        self._take(cosine.mean(), cosine.std(), cosine.abs().mean(), positive, 1 - (2 * positive - 1).abs())
        flat = out.flatten(0, -2)
        centred, energies = flat - flat.mean(), flat.square().mean(0)
        self._take(flat.square().mean().sqrt(), flat.abs().max(), (centred**4).mean() / (centred**2).mean() ** 2)
        self._take((energies > 36 * energies.median()).sum())

    @torch.no_grad()
    def _backward(self, module: nn.Module, given: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> None:
        cosine = torch.nn.functional.normalize(gradients[0].flatten(0, -2), dim=1) @ self._pairs[module][0]
        self._take(cosine.mean(), 1 - (2 * (cosine > 0).float().mean() - 1).abs())

    def _take(self, *statistics: Tensor) -> None:
        self._found.extend(statistic.item() for statistic in statistics)


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
