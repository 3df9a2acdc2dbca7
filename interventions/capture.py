"""``capture``: the flight recorder. A ring of the last sampled steps, written as a bundle when an alert comes.

Of each sampled step it keeps the statistics, the state of the random generators before it, and slices of the attention calls
(bundle.py says what a bundle holds, of the user's data too); of the last 256 steps, sampled or not, what was given as
``monitor.step(loss, batch=...)``. ``foreshock inspect BUNDLE`` re-computes the captured attention.

Memory: ``steps`` times ``megabytes``, on the model's device. Disk: the same a bundle, at most ``most`` bundles a run, and
``total_megabytes`` of them; those of before a resume count. When there is room for no more, that is told once. Alerts of one moment
make one bundle; after it the next comes at the earliest when ``steps`` other sampled steps have been seen.
Cost of a step that is not sampled: none, or a copy of the batch's indices if they are given.
"""

import base64
import json
import random
import socket
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from typing_extensions import override

from ..storage.records import Alert, Severity, StepRecord
from .base import Intervention, Training, Trigger
from .batches import BatchNote, noted
from .bundle import AttentionSlice, CapturedStep, write_bundle

_MOST_STATISTICS = 20_000
"""Values kept of a step."""
_BATCHES = 256
"""Steps whose batches are kept."""


@dataclass(slots=True)
class _Seen:
    """A sampled step; its record comes later, from the writer thread."""

    step: CapturedStep
    record: StepRecord | None = None


class Capture(Intervention):
    """Writes the last sampled steps into a bundle when an alert comes.

    Args:
        folder: where to; a folder for each bundle is made in it.
        steps: sampled steps kept.
        megabytes: of attention kept of a step.
        rules: whose alerts set it off; empty: any rule's.
        severity: the least.
        most: bundles written in a run.
        total_megabytes: that the bundles of a run may take together on disk.

    Raises:
        ValueError: a number is too small.
    """

    name: ClassVar[str] = "capture"

    def __init__(
        self,
        folder: str | Path = "foreshock-captures",
        steps: int = 8,
        megabytes: float = 4.0,
        rules: Iterable[str] = (),
        severity: Severity | str = Severity.WARNING,
        most: int = 10,
        total_megabytes: float = 500.0,
    ) -> None:
        if steps < 1 or megabytes < 0 or most < 1 or total_megabytes < 0:
            raise ValueError(
                f"Capture(steps={steps}, megabytes={megabytes}, most={most}, total_megabytes={total_megabytes}): "
                "steps and most at least 1, megabytes 0"
            )
        self._total, self._full = int(total_megabytes * 2**20), False
        self._folder, self._bytes, self._most = Path(folder), int(megabytes * 2**20), most
        self._trigger = Trigger.of(rules, severity)
        self._ring: deque[_Seen] = deque(maxlen=steps)
        self._batches: deque[tuple[int, BatchNote]] = deque(maxlen=_BATCHES)
        self._lock = threading.Lock()
        self._random_state: dict[str, str] = {}
        self._asked_by: Alert | None = None
        self._newer = steps
        self.bundles: list[Path] = []
        """Those written so far."""

    @override
    def attach(self, training: Training) -> None:
        super().attach(training)
        self._random_state = random_state(self._devices())

    @override
    def on_batch(self, step: int, batch: object) -> None:
        self._batches.append((step, noted(batch)))

    @override
    def on_records(self, records: Sequence[StepRecord]) -> None:
        with self._lock:
            # The newest of a number: after a roll-back a step is seen twice, and this record is of the second time.
            waiting = {seen.step.step: seen for seen in self._ring if seen.record is None}
            for record in records:
                if (seen := waiting.get(record.step)) is not None:
                    seen.record = record

    @override
    def before_end(self, step: int) -> None:
        attention = list(bounded(self.training.attention(self._bytes), self._bytes))
        with self._lock:
            self._ring.append(_Seen(CapturedStep(step, random_state=self._random_state, attention=attention)))
        self._newer += 1

    @override
    def on_alert(self, alert: Alert) -> None:
        if self._trigger.matches(alert):
            self._asked_by = self._asked_by or alert

    @override
    def after_step(self, step: int) -> None:
        alert, self._asked_by = self._asked_by, None
        if alert is not None and self._ring and self._newer >= (self._ring.maxlen or 0) and self._has_room():
            self._newer = 0
            self._write(step, alert)
            self.training.pause()
        if self.training.sampled():  # the next step: what it will draw follows from the generators as they are now
            self._random_state = random_state(self._devices())

    def _has_room(self) -> bool:
        """Return whether one more bundle keeps to the bounds; those of a process before the run was resumed count too."""
        bundles = list(self._folder.glob(f"{self.training.run.id[:8]}-step-*"))
        used = sum(file.stat().st_size for bundle in bundles for file in bundle.glob("*"))
        needed = sum(call.bytes for seen in self._ring for call in seen.step.attention)
        room = max(len(self.bundles), len(bundles)) < self._most and used + needed <= self._total
        if not room and not self._full:
            self.tell(
                f"No more captures of this run are written: there are {len(bundles)} bundles of {used:,} bytes, and "
                f"Capture(most={self._most}, total_megabytes={self._total / 2**20:.3g}) allows no other."
            )
        self._full = not room
        return room

    def _devices(self) -> set[torch.device]:
        return {p.device for model in self.training.models.values() for p in model.parameters()}

    def _write(self, step: int, alert: Alert) -> None:
        with self._lock:
            ring = list(self._ring)
        for seen in ring:
            if seen.record is not None:
                pairs = zip(seen.record.keys[:_MOST_STATISTICS], seen.record.values, strict=False)
                seen.step.statistics = [[key.signal, key.module, key.head, key.rank, float(value)] for key, value in pairs]
        run = self.training.run
        path = self._folder / f"{run.id[:8]}-step-{step:09d}-{alert.rule}"
        about: dict[str, Any] = {
            "run": {"id": run.id, "name": run.name, "project": run.project},
            "alert": {
                "rule": alert.rule,
                "severity": str(alert.severity),
                "module": alert.module,
                "first_step": alert.first_step,
                "message": alert.message,
            },
            "written_at_step": step,
            "torch": torch.__version__,
            "batches": [{"step": of, **note.plain()} for of, note in self._batches],
        }
        try:
            write_bundle(path, about, [seen.step for seen in ring])
        except OSError as error:
            self.tell(f"The capture for {alert.rule} could not be written, training goes on: {error}")
            return
        self.bundles.append(path)
        self.tell(
            f"Captured the last {len(ring)} sampled steps for {alert.rule}: foreshock inspect {path}",
            path=str(path.absolute()),
            host=socket.gethostname(),
            rule=alert.rule,
            alert=alert.id,
        )


def bounded(calls: Sequence[AttentionSlice], most: int) -> Iterable[AttentionSlice]:
    """Yield the calls that fit into ``most`` bytes, evenly scattered over the layers if not all do."""
    if not calls:
        return
    largest = max(call.bytes for call in calls)
    room = min(len(calls), most // max(1, largest))
    yield from (calls[i * len(calls) // room] for i in range(room))


def random_state(devices: Iterable[torch.device]) -> dict[str, str]:
    """Return the state of Python's and torch's generators; of a GPU's it is seed and offset, which the host knows."""
    version, numbers, gauss = random.getstate()
    found = {"python": json.dumps([version, list(numbers), gauss]), "torch": _text(torch.get_rng_state())}
    for device in devices:
        if device.type == "cuda":
            found[str(device)] = _text(torch.cuda.get_rng_state(device))
    return found


def _text(state: torch.Tensor) -> str:
    return base64.b64encode(bytes(state.tolist())).decode()
