"""Hugging Face Transformers: ``Trainer(..., callbacks=[ForeshockCallback()])``; also in TRL's trainers, which are Trainers.

Model, optimizer, accumulation, precision and rank are the Trainer's. A step is one of its optimizer steps, so that step 0 of the
run is its global step 1; the loss is what it propagates back, over the step's micro-batches as it averages them, at every step
whatever ``logging_steps`` says. What it logs besides (evaluations, a TRL trainer's rewards) is kept under the same names. The run's
state goes into ``trainer_state.json``, so that ``resume_from_checkpoint`` goes on with the run in a new segment.
"""

import base64
import dataclasses
import json
import logging
import zlib
from collections.abc import Mapping
from typing import Any

from typing_extensions import Unpack, override

from ..storage.records import RunStatus
from .loop import AnyMonitor, Loop
from .options import WatchOptions, checked

try:
    from transformers.trainer_callback import ExportableState, TrainerCallback, TrainerControl, TrainerState
    from transformers.training_args import TrainingArguments
except ImportError as missing:
    raise ImportError('foreshock.integrations.transformers needs transformers: pip install "foreshock[transformers]"') from missing

log = logging.getLogger("foreshock")

_DEFAULT_PROJECT = "huggingface"
_NOT_METRICS = frozenset({"loss", "grad_norm", "learning_rate", "epoch", "step", "train_loss", "total_flos"})
"""What the Trainer logs that is measured at every step anyway, or is no course over the steps."""


class ForeshockCallback(TrainerCallback, ExportableState):  # type: ignore[misc, unused-ignore]
    """Watches what a Trainer trains.

    Args:
        options: keywords of ``foreshock.watch()``. ``run`` is ``TrainingArguments.run_name`` by default, ``project`` its
            ``project`` where that is set.

    Raises:
        TypeError: there is no such option.
    """

    def __init__(self, **options: Unpack[WatchOptions]) -> None:
        self._loop = Loop(checked(options, "ForeshockCallback"))
        # Of a checkpoint, put here by a Trainer that restores its callbacks.
        self.checkpointed = ""

    @property
    def monitor(self) -> AnyMonitor | None:
        """The monitor of the training under way, or of the last one."""
        return self._loop.monitor

    @override
    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # The Trainer takes for granted, when it saves, that a checkpoint it went on from had every callback that it has now.
        saved: Any = state.stateful_callbacks or {}
        state.stateful_callbacks = saved
        saved.setdefault(type(self).__name__, {})
        optimizer = kwargs.get("optimizer")
        self._loop.begin(
            kwargs["model"],
            None if optimizer is None or not hasattr(optimizer, "param_groups") else [optimizer],
            found=_found(args, kwargs["model"]),
            state=self._checkpointed_in(state) if state.global_step else None,
            step=state.global_step,
        )

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not self._loop.end_step():
            control.should_training_stop = True

    @override
    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._loop.log({name: value for name, value in (logs or {}).items() if _is_metric(name)})

    @override
    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._loop.end(RunStatus.FINISHED)

    def state(self) -> dict[str, Any]:
        """Return what the Trainer writes into ``trainer_state.json``; it must be fit for JSON, or the Trainer cannot save."""
        kept = self._loop.state_dict()
        # Detectors learn some thousand numbers of a large model: compressed, a tenth to a third of that.
        packed = base64.b64encode(zlib.compress(json.dumps(kept).encode())).decode() if kept else ""
        options = {name: value for name, value in self._loop.options.items() if _is_plain(value)}
        return {"args": options, "attributes": {"checkpointed": packed}}

    def _checkpointed_in(self, state: TrainerState) -> dict[str, Any] | None:
        saved: Any = state.stateful_callbacks or {}
        kept = saved.get(type(self).__name__)
        first = kept[0] if isinstance(kept, list) and kept else kept
        packed = (first or {}).get("attributes", {}).get("checkpointed") or self.checkpointed
        try:
            found: dict[str, Any] | None = json.loads(zlib.decompress(base64.b64decode(packed))) if packed else None
        except (ValueError, zlib.error) as error:
            log.warning("the checkpoint's state of foreshock cannot be read, a new run begins: %s", error)
            return None
        return found


def _found(args: TrainingArguments, model: Any) -> WatchOptions:
    """Return what the training arguments say of the run."""
    config = getattr(model, "config", None)
    kind, differing = getattr(config, "model_type", None), getattr(config, "to_diff_dict", dict)
    found: WatchOptions = {
        "tags": ["transformers", *([str(kind)] if kind else [])],
        "meta": {"config": _not_default(args), "model_config": differing()},
    }
    if args.run_name:
        found["run"] = args.run_name
    project = getattr(args, "project", None)
    if project and project != _DEFAULT_PROJECT:
        found["project"] = project
    return found


def _not_default(args: TrainingArguments) -> dict[str, Any]:
    """Return the training arguments that are not as they come; the Trainer's own words for them, in which tokens are masked."""
    defaults = {field.name: field.default for field in dataclasses.fields(args)}
    return {name: value for name, value in args.to_sanitized_dict().items() if getattr(args, name, None) != defaults.get(name)}


def _is_metric(name: str) -> bool:
    return name not in _NOT_METRICS and not name.endswith(("_runtime", "_per_second"))


def _is_plain(value: object) -> bool:
    """Tell what JSON gives back as it was: a Trainer that restores its callbacks makes them anew from that."""
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False
