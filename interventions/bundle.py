"""The bundle that the flight recorder writes: a folder with ``bundle.json`` and ``attention.pt``.

``bundle.json`` holds the format's number, the run, the alert, versions, and for each captured step: its number, the statistics (by
signal, module, head, rank), the state of Python's and torch's random generators before the step (base64), and the attention calls
by number. ``attention.pt`` holds their tensors, keyed ``"STEP/CALL/NAME"``; it is read with ``weights_only``, so that a bundle from
elsewhere cannot run code.

What it holds of the user's data: some rows of q, k, v, O and dO of at most two sequences and two heads a call (numbers from which
a determined reader may learn something of those sequences); whatever the user passed to ``monitor.log`` or ``monitor.step`` as
metrics, such as the hash of a batch; no inputs, labels, weights or names of files.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FORMAT = 1
TENSORS = ("q", "k", "v", "out", "bias", "grad_out")


@dataclass(frozen=True, slots=True)
class AttentionSlice:
    """A part of one attention call, float32.

    Attributes:
        module: its name.
        heads: the numbers of the H heads.
        q, out, grad_out: (B, H, R, D), B sequences, R sampled query rows; ``out`` as stored, ``grad_out`` its gradient.
        k, v: (B, G, S, D), G dividing H.
        bias: added to the scores, broadcastable to (B, H, R, S), -inf where masked; None for none.
        scale: of the scores.
        spacing: distance of 1 to the next number of the format that O is stored in.
        delta_from_output: whether the layer takes delta from O as stored.
    """

    module: str
    heads: tuple[int, ...]
    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor
    grad_out: Tensor
    bias: Tensor | None
    scale: float
    spacing: float
    delta_from_output: bool

    @property
    def bytes(self) -> int:
        """Its size."""
        return sum(x.numel() * x.element_size() for x in (getattr(self, name) for name in TENSORS) if x is not None)


@dataclass(slots=True)
class CapturedStep:
    """A sampled step as recorded: statistics as ``[signal, module, head, rank, value]``, random state, attention."""

    step: int
    statistics: list[list[Any]] = field(default_factory=list)
    random_state: dict[str, str] = field(default_factory=dict)
    attention: list[AttentionSlice] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a capture holds."""

    about: Mapping[str, Any]
    steps: Sequence[CapturedStep]


class BundleError(ValueError):
    """A folder is no bundle, or one that this version cannot read."""


def write_bundle(folder: Path, about: Mapping[str, Any], steps: Sequence[CapturedStep]) -> None:
    """Write a bundle; it appears whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    beside = folder.with_name(folder.name + ".part")
    beside.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    plain = []
    for step in steps:
        calls = []
        for number, each in enumerate(step.attention):
            for name in TENSORS:
                if (x := getattr(each, name)) is not None:
                    tensors[f"{step.step}/{number}/{name}"] = x.detach().to("cpu", torch.float32, copy=True).contiguous()
            calls.append(
                {
                    "module": each.module,
                    "heads": list(each.heads),
                    "scale": each.scale,
                    "spacing": each.spacing,
                    "delta_from_output": each.delta_from_output,
                }
            )
        statistics = [[*key, value if math.isfinite(value) else str(value)] for *key, value in step.statistics]
        plain.append({"step": step.step, "statistics": statistics, "random_state": step.random_state, "attention": calls})
    try:
        torch.save(tensors, beside / "attention.pt")
    except RuntimeError as error:  # torch's writer says so of a full disk
        raise OSError(str(error)) from error
    (beside / "bundle.json").write_text(json.dumps({"format": FORMAT, **about, "steps": plain}, allow_nan=False))
    os.replace(beside, folder)


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle.

    Raises:
        BundleError: it is none; the message says why.
    """
    try:
        about = json.loads((folder / "bundle.json").read_text())
        tensors = torch.load(folder / "attention.pt", weights_only=True)
    except FileNotFoundError as error:
        raise BundleError(f"{folder} is no bundle: {Path(error.filename).name} is missing. `capture` writes bundles") from None
    except Exception as error:
        raise BundleError(f"{folder} cannot be read as a bundle: {error}") from error
    if about.get("format") != FORMAT:
        raise BundleError(f"{folder} has format {about.get('format')!r}; this version reads {FORMAT}")
    steps = []
    for each in about.pop("steps"):
        calls = [
            AttentionSlice(
                module=call["module"],
                heads=tuple(call["heads"]),
                **{name: tensors.get(f"{each['step']}/{number}/{name}") for name in TENSORS},
                **{name: call[name] for name in ("scale", "spacing", "delta_from_output")},
            )
            for number, call in enumerate(each["attention"])
        ]
        statistics = [[*key, float(value)] for *key, value in each["statistics"]]
        steps.append(CapturedStep(each["step"], statistics, each["random_state"], calls))
    return Bundle(about, steps)
