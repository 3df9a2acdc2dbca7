"""``checkpoint``: the run's state is saved now and then, and the last state known to be good is protected.

Good: no warning was open when it was saved, and none ``settle`` steps later, once these steps have been judged. Such a checkpoint
is kept until a later one proves good; candidates that a warning overtakes are never called good, so that trouble cannot push the
last good state out. Weights that are not finite are never saved.

A file holds what ``torch.save`` makes of ``{"step", "models", "optimizers", "extra"}``: ``torch.load`` gives it back.
It is written beside its place and moved there, so that a file of its name is whole; ``good.json`` names the good one. Space:
``keep`` files and the good one, and at most ``gigabytes`` if that is given. Cost: the training thread waits while the state is
written. Where weights are sharded give a ``save`` of your own.
"""

import json
import os
import shutil
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.nn import UninitializedParameter
from typing_extensions import override

from ..storage.records import Severity
from .base import Intervention, Training

Save = Callable[[Path], object]


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in path.rglob("*")) if path.is_dir() else path.stat().st_size


class Checkpoint(Intervention):
    """Saves the run's state and protects the last good one.

    Args:
        folder: where to; a folder of the run's id is made in it.
        every: steps from one checkpoint to the next.
        settle: steps without a warning after which a checkpoint counts as good; ``every`` by default.
        keep: candidates kept beside the good one; while so many are unsettled no other is saved.
        gigabytes: that the run's files may take together; one for which there is no room is not saved. None: as ``keep`` says.
        save: saves everything to a path; by default models and optimizers, by ``torch.save``.
        extra: what else is saved, by name, and goes back with a roll back: anything with ``state_dict`` and ``load_state_dict``,
            such as a learning-rate scheduler or a GradScaler.

    Raises:
        TypeError: something extra has no state.
        ValueError: a number is too small.
    """

    name: ClassVar[str] = "checkpoint"

    def __init__(
        self,
        folder: str | Path = "foreshock-checkpoints",
        every: int = 200,
        settle: int | None = None,
        keep: int = 2,
        save: Save | None = None,
        extra: Mapping[str, Any] | None = None,
        gigabytes: float | None = None,
    ) -> None:
        if gigabytes is not None and gigabytes <= 0:
            raise ValueError(f"Checkpoint(gigabytes={gigabytes}): more than 0, or None for as many as keep= says")
        if every < 1 or keep < 1 or (settle is not None and settle < 0):
            raise ValueError(
                f"Checkpoint(every={every}, settle={settle}, keep={keep}): every and keep at least 1, settle at least 0"
            )
        self._folder, self._every, self._keep = Path(folder), every, keep
        self._settle = every if settle is None else settle
        self._save = save
        self.extra = dict(extra or {})
        for name, thing in self.extra.items():
            if not (hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")):
                raise TypeError(
                    f"Checkpoint(extra=...) takes what has state_dict() and load_state_dict(); {name!r} is {type(thing).__name__}"
                )
        self._candidates: list[tuple[int, Path]] = []
        self.good: Path | None = None
        """The last checkpoint that proved good."""
        self.good_step = -1
        """The step it was saved at the end of."""
        self._full = False
        self._most_bytes = None if gigabytes is None else int(gigabytes * 2**30)
        self._size = 0  # of the last file

    @property
    def saves_otherwise(self) -> bool:
        """Whether the user's own function writes the files."""
        return self._save is not None

    @override
    def attach(self, training: Training) -> None:
        super().attach(training)
        if training.sharded() and self._save is None:
            raise ValueError(
                "checkpoint cannot save sharded weights or optimizers from one rank; save them as you do now, or pass "
                "Checkpoint(save=...) that saves this rank's part"
            )

    @override
    def after_step(self, step: int) -> None:
        known = min(step, self.training.judged())
        waiting = [number for number, _ in self._candidates if known >= number + self._settle]
        due = (step + 1) % self._every == 0
        if not waiting and not due:
            return
        in_trouble = bool(self.training.open_alerts(Severity.WARNING))
        if waiting:
            self._judge(waiting[-1], good=not in_trouble)
        # While as many wait for their verdict as may be kept, none is added: it would push out the one nearest to it.
        if due and not in_trouble and len(self._candidates) < self._keep and self._finite():
            self._write(step)
            self.training.pause()

    def _judge(self, number: int, *, good: bool) -> None:
        """Settle the fate of the candidates up to ``number``: without a warning the last of them is the good one now."""
        ripe = [path for step, path in self._candidates if step <= number]
        if not good:
            # They stay on disk until newer candidates push them out, but are never called good.
            self._candidates = [(step, path) for step, path in self._candidates if step > number]
            self._prune()
            return
        former, self.good, self.good_step = self.good, ripe[-1], number
        self._candidates = [(step, path) for step, path in self._candidates if step > number]
        self._replace(self._place / "good.json", lambda path: path.write_text(json.dumps({"file": ripe[-1].name, "step": number})))
        self._prune()
        if former is None:
            self.tell(
                f"The checkpoint of step {number:,} proved good and is protected: {self.good}",
                path=str(self.good.absolute()),
                at=number,
            )

    @override
    def on_rollback(self, step: int) -> None:
        # Those of the undone course: their numbers come again, and older ones must not be pushed out by them.
        for path in self._place.glob("step-*.pt"):
            if path != self.good and int(path.stem.removeprefix("step-")) > step:
                path.unlink(missing_ok=True)
        self._candidates = [(number, path) for number, path in self._candidates if number <= step]

    def _finite(self) -> bool:
        """Tell whether every weight is finite; the host waits, as it does for the saving."""
        weights: list[Any] = [p for model in self.training.models.values() for p in model.parameters()]
        # Of sharded weights this rank's part: it is alone here. All are looked at before the first is waited for.
        parts = [p.to_local() if hasattr(p, "to_local") else p for p in weights if not isinstance(p, UninitializedParameter)]
        broken = [(~torch.isfinite(part.detach())).any() for part in parts]
        return not any(map(bool, broken))

    def _write(self, step: int) -> None:
        path = self._place / f"step-{step:09d}.pt"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._check_room(self._size)
            self._replace(path, self._save or self._save_all)
            self._size = size_of(path)
            try:
                self._check_room()
            except OSError:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                raise
        except OSError as error:
            if not self._full:
                self.tell(f"No checkpoint of step {step:,} could be written, training goes on: {error}", at=step)
            self._full = True
            return
        self._full = False
        self._candidates.append((step, path))
        self._prune()
        self.tell(f"Saved a checkpoint of step {step:,}: {path}", path=str(path.absolute()), host=socket.gethostname(), at=step)

    def _check_room(self, more: int = 0) -> None:
        """Raise where the run's files, and so many bytes more, are beyond the bound."""
        if self._most_bytes is None:
            return
        used = sum(map(size_of, self._place.glob("step-*")))
        if used + more > self._most_bytes:
            raise OSError(f"gigabytes={self._most_bytes / 2**30:.3g} leaves no room beside {used:,} bytes")

    @property
    def _place(self) -> Path:
        return self._folder / self.training.run.id

    def _replace(self, path: Path, write: Save) -> None:
        """Write a file so that it is whole or not there."""
        beside = path.with_name(path.name + ".part")
        try:
            write(beside)
            os.replace(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise

    def _save_all(self, path: Path) -> None:
        state: dict[str, Any] = {
            "step": self.training.step(),
            "models": {name: model.state_dict() for name, model in self.training.models.items()},
            "optimizers": [optimizer.state_dict() for optimizer in self.training.optimizers],
            "extra": {name: thing.state_dict() for name, thing in self.extra.items()},
        }
        try:
            torch.save(state, path)
        except RuntimeError as error:  # torch's writer says so of a full disk
            raise OSError(str(error)) from error

    def _prune(self) -> None:
        """Remove what is neither good nor among the newest."""
        files = sorted(self._place.glob("step-*.pt"))
        spared = {self.good, *files[-self._keep :]}
        for path in files:
            if path not in spared:
                path.unlink(missing_ok=True)
        kept = {path for path in files if path in spared}
        self._candidates = [(step, path) for step, path in self._candidates if path in kept]
