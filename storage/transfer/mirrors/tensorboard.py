"""TensorBoard: scalars, histograms and alerts (as text) in an event file of our own. ``tensorboard:LOGDIR``."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from typing_extensions import override

from ...records import Alert, Batch, Histogram
from .base import PREFIX, Mirror, alert_text, edges, finite, label

_QUEUE = 1_000  # events that may wait for the disk
_SUFFIX = ".foreshock"


class TensorBoardMirror(Mirror):
    """Writes an event file into a log directory, where it may stand beside those of others. A value is a float32 there."""

    NAME = "tensorboard"
    PACKAGES = (("tensorboard", "tensorboard"),)

    _writer: Any = None

    @override
    def prepare(self) -> None:
        self._here = Path.cwd()  # now, should training change its folder

    @override
    def open(self) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder = self.target or "runs/" + re.sub(r"[^\w.-]+", "_", self.run.name)
        self._writer = EventFileWriter(str(self._here / Path(folder).expanduser()), max_queue_size=_QUEUE, filename_suffix=_SUFFIX)

    @override
    def take(self, batch: Batch, alerts: Sequence[Alert]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        for record in batch.steps:
            values = [
                Summary.Value(tag=label(key), simple_value=value) for key, value in zip(record.keys, record.values, strict=True)
            ]
            values += [
                Summary.Value(tag=label(shape.key), histo=_histogram(shape))
                for shape in record.histograms
                if finite((shape.low, shape.high))
            ]
            if values:
                self._add(record.step, record.time, values)
        for alert in alerts:
            self._add(alert.first_step, alert.created_at, [_text(f"{PREFIX}/alerts/{alert.rule}", alert_text(alert))])
        self._writer.flush()

    @override
    def close(self) -> None:
        self._writer.close()

    def _add(self, step: int, time: float, values: list[Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._writer.add_event(Event(step=step, wall_time=time, summary=Summary(value=values)))


def _histogram(shape: Histogram) -> Any:
    from tensorboard.compat.proto.histogram_pb2 import HistogramProto

    bounds = edges(shape)
    centres = [(low + high) / 2 for low, high in pairwise(bounds)]
    weighted = list(zip(centres, shape.counts, strict=True))
    return HistogramProto(
        min=shape.low,
        max=shape.high,
        num=sum(shape.counts),
        sum=sum(centre * count for centre, count in weighted),
        sum_squares=sum(centre * centre * count for centre, count in weighted),
        bucket_limit=bounds[1:],
        bucket=[float(count) for count in shape.counts],
    )


def _text(tag: str, text: str) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()], tensor_shape=shape)
    plugin = SummaryMetadata.PluginData(plugin_name="text")
    return Summary.Value(tag=tag, tensor=tensor, metadata=SummaryMetadata(plugin_data=plugin))
