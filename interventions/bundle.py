"""The bundle that the flight recorder writes: a folder of ``bundle.json``, ``attention.pt``, and ``README.txt`` to say what it is.

``bundle.json`` holds the format's number, the run, the alert, versions, what was said of the last steps' batches, and for each
captured step: its number, the statistics (by signal, module, head, rank), the state of Python's and torch's random generators
before the step (base64), and the attention calls by number. ``attention.pt`` holds their tensors, keyed ``"PLACE/CALL/NAME"``,
PLACE counting the captured steps; it is read with ``weights_only``, so that a bundle from elsewhere cannot run code.

What it holds of the user's data: some rows of q, k, v, O and dO of at most two sequences a call (numbers from which a determined
reader may learn something of those sequences); the metrics given to ``monitor.log`` or ``monitor.step``, and what was given as
``batch=``; no inputs, labels, weights or names of files.
"""

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FORMAT = 2
TENSORS = ("q", "k", "v", "out", "grad_out", "shift", "key_norm", "bias")
_NUMBERS = ("scale", "spacing", "roundoff", "row_share", "delta_from_output")

_README = """\
Written by foreshock's flight recorder (the intervention "capture") for the alert {rule} ({severity}) of run {run},
at step {step}: the last sampled steps before it, {steps}.

    foreshock inspect {folder}

re-computes the captured attention and judges whether rounding is the cause. bundle.json: run, alert, statistics, random state and
batches. attention.pt: rows of q, k, v, O and dO, read with torch.load(..., weights_only=True). Delete the folder and it is gone.
"""


@dataclass(frozen=True, slots=True)
class AttentionSlice:
    """A part of one attention call, float32.

    Attributes:
        module: its name.
        heads: the numbers of the H heads.
        q, out, grad_out: (B, H, R, D), B sequences, R sampled query rows; ``out`` as stored, ``grad_out`` its gradient.
        k, v: (B, G, S, D), G dividing H.
        shift: (B, G, D), the gradient that the layer itself gave the keys, summed over all S keys; all query rows are in it.
        key_norm: (B, G), the norm of that gradient before it was summed.
        bias: added to the scores, broadcastable to (B, H, R, S), -inf where masked; None for none.
        scale: of the scores.
        spacing: distance of 1 to the next number of the format that O is stored in.
        roundoff: unit roundoff of dS and dK in the layer's own arithmetic.
        row_share: R over the number of query rows there were.
        delta_from_output: whether the layer is expected to take delta from O as stored.
    """

    module: str
    heads: tuple[int, ...]
    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor
    grad_out: Tensor
    shift: Tensor
    key_norm: Tensor
    bias: Tensor | None
    scale: float
    spacing: float
    roundoff: float
    row_share: float
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
    """What a capture holds; ``about`` has what stands in ``bundle.json`` beside the steps."""

    about: Mapping[str, Any]
    steps: Sequence[CapturedStep]


class BundleError(ValueError):
    """A folder is no bundle, is damaged, or is one that this version cannot read."""


def write_bundle(folder: Path, about: Mapping[str, Any], steps: Sequence[CapturedStep]) -> None:
    """Write a bundle; it appears whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    beside = folder.with_name(folder.name + ".part")
    try:
        beside.mkdir(parents=True, exist_ok=True)
        _write_into(beside, folder, about, steps)
        os.replace(beside, folder)
    except OSError:
        shutil.rmtree(beside, ignore_errors=True)  # what is half made holds of the user's data as well
        raise


def _write_into(beside: Path, folder: Path, about: Mapping[str, Any], steps: Sequence[CapturedStep]) -> None:
    tensors: dict[str, Tensor] = {}
    plain = []
    for place, step in enumerate(steps):
        calls = []
        for number, each in enumerate(step.attention):
            for name in TENSORS:
                if (x := getattr(each, name)) is not None:
                    tensors[f"{place}/{number}/{name}"] = x.detach().to("cpu", torch.float32, copy=True).contiguous()
            calls.append({"module": each.module, "heads": list(each.heads)} | {name: getattr(each, name) for name in _NUMBERS})
        statistics = [[*key, value if math.isfinite(value) else str(value)] for *key, value in step.statistics]
        plain.append({"step": step.step, "statistics": statistics, "random_state": step.random_state, "attention": calls})
    try:
        torch.save(tensors, beside / "attention.pt")
    except RuntimeError as error:  # torch's writer says so of a full disk
        raise OSError(str(error)) from error
    (beside / "bundle.json").write_text(json.dumps({"format": FORMAT, **about, "steps": plain}, allow_nan=False))
    (beside / "README.txt").write_text(_readme(folder, about, steps))


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle.

    Raises:
        BundleError: it is none, or damaged; the message says what is wrong with it.
    """
    try:
        about = json.loads((folder / "bundle.json").read_text())
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            found = about.get("format") if isinstance(about, dict) else None
            raise BundleError(f"{folder} has format {found!r}; this version reads {FORMAT}")
        tensors = torch.load(folder / "attention.pt", weights_only=True, map_location="cpu")
        steps = [_step(place, each, tensors) for place, each in enumerate(about.pop("steps"))]
    except BundleError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        name = Path(error.filename or "bundle.json").name
        raise BundleError(f"{folder} is no bundle: {name} is missing. `capture` writes bundles; give the folder") from None
    except Exception as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise BundleError(f"{folder} is damaged and cannot be read as a bundle ({what})") from error
    return Bundle(about, steps)


def _step(place: int, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> CapturedStep:
    calls = []
    for number, call in enumerate(plain["attention"]):
        found: dict[str, Any] = {name: tensors.get(f"{place}/{number}/{name}") for name in TENSORS}
        found |= {name: call[name] for name in _NUMBERS}
        made = AttentionSlice(module=str(call["module"]), heads=tuple(map(int, call["heads"])), **found)
        _check(made, plain["step"])
        calls.append(made)
    statistics = [[*key, float(value)] for *key, value in plain["statistics"]]
    return CapturedStep(int(plain["step"]), statistics, dict(plain["random_state"]), calls)


def _check(call: AttentionSlice, step: int) -> None:
    """Compare shapes with each other.

    Raises:
        BundleError: one does not fit.
    """
    given = {each.name: getattr(call, each.name) for each in fields(call) if each.name in TENSORS}
    shapes = {name: tuple(x.shape) if isinstance(x, Tensor) else None for name, x in given.items()}
    fits = all(shapes[name] is not None for name in TENSORS if name != "bias") and call.q.dim() == call.k.dim() == 4
    if fits:
        (b, h, r, d), (_, g, s, _) = call.q.shape, call.k.shape
        wanted: dict[str, tuple[int, ...]] = {
            "q": (b, h, r, d),
            "out": (b, h, r, d),
            "grad_out": (b, h, r, d),
            "k": (b, g, s, d),
            "v": (b, g, s, d),
        }
        wanted |= {"shift": (b, g, d), "key_norm": (b, g)}
        fits = len(call.heads) == h and g > 0 and h % g == 0 and all(shapes[name] == shape for name, shape in wanted.items())
        if call.bias is not None:
            sizes = zip(reversed(call.bias.shape), (s, r, h, b), strict=False)
            fits = fits and call.bias.dim() <= 4 and all(size in (1, full) for size, full in sizes)
    if not fits:
        raise BundleError(f"attention.pt is damaged: the tensors of {call.module} at step {step} do not fit each other: {shapes}")


def _readme(folder: Path, about: Mapping[str, Any], steps: Sequence[CapturedStep]) -> str:
    alert, run = about.get("alert", {}), about.get("run", {})
    return _README.format(
        rule=alert.get("rule"),
        severity=alert.get("severity"),
        run=run.get("name"),
        step=about.get("written_at_step"),
        steps=", ".join(str(step.step) for step in steps),
        folder=folder,
    )
