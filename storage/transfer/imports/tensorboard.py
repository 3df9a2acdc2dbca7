"""TensorBoard: a folder with event files is a run, as TensorBoard itself sees it; its files are read one after another.

Scalars and histograms are read, of both the older kind (``simple_value``, ``histo``) and the newer (tensors with a plug-in's name),
hyper-parameters and their session's end. Everything else is counted.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typing_extensions import override

from ...records import RunStatus
from ..packages import TransferError, load
from .source import Found, HistogramPoint, Item, Part, Point, Progress, Source, Survey, equal_bins
from .tfrecord import Frames
from .tfscalar import scalar

_PATTERN = "*tfevents*"
_ENDS = {1: RunStatus.FINISHED, 2: RunStatus.CRASHED, 3: RunStatus.TERMINATED}  # of plug-in hparams; 3 means it never said
_SKIPPED = {"image": "images", "audio": "audio clips", "text": "texts", "images": "images", "histo": "histograms"}
_GRAPHS = {
    "graph_def": "graphs",
    "meta_graph_def": "graphs",
    "tagged_run_metadata": "traces of a step",
    "log_message": "log messages",
}
UNEQUAL = "histograms with bins of unequal width"


def find(path: Path) -> Found:
    """Return the runs at a path: an event file, a run's folder, or a folder of such.

    Raises:
        TransferError: there is none, or the package that reads them is not installed.
    """
    _protocol()
    if path.is_file():
        return Found([TensorBoardRun(path.resolve().parent.name, [path.resolve()], path.resolve())])
    folders: dict[Path, list[Path]] = {}
    for file in sorted(path.rglob(_PATTERN)):
        if file.is_file() and not file.name.endswith(".profile-empty"):
            folders.setdefault(file.parent, []).append(file)
    if not folders:
        raise TransferError(f"No TensorBoard event files (*tfevents*) in {path} or below it.")
    named = {folder: folder.relative_to(path).as_posix() for folder in folders}
    return Found(
        [
            TensorBoardRun(path.resolve().name if named[folder] == "." else named[folder], files, folder.resolve())
            for folder, files in folders.items()
        ]
    )


class TensorBoardRun(Source):
    """The event files of one folder, in order of their names, which begin with the time at which they were opened."""

    def __init__(self, name: str, files: list[Path], home: Path) -> None:
        self.name = name
        self._home = home
        self._frames = [Frames(file, file.stat().st_size) for file in files]
        self.size = sum(frames.size for frames in self._frames)
        self._plugins: dict[str, str] = {}

    @property
    @override
    def identity(self) -> tuple[object, ...]:
        return "tensorboard", str(self._home)

    @property
    @override
    def origin(self) -> str:
        return str(self._home)

    @override
    def survey(self, progress: Progress) -> Survey:
        found = Survey()
        for frames in self._frames:
            for event in _events(frames, progress):
                if isinstance(event, tuple):
                    found.labels[event[0]] += 1
                    found.saw(event[2])
                    continue
                if not event.HasField("summary"):
                    what = event.WhichOneof("what")
                    if what in _GRAPHS:
                        found.skipped[_GRAPHS[what]] += 1
                    continue
                kept = False
                for value in event.summary.value:
                    kept |= self._look(value, found)
                if kept:
                    found.saw(event.wall_time)
            if frames.damaged:
                found.skipped["damaged records (wrong checksum)"] += frames.damaged
            if frames.unread:
                found.notes.append(f"{frames.path.name}: the last {frames.unread:,} bytes are no whole record and were left.")
        return found

    @override
    def stream(self) -> Iterator[Item]:
        for frames in self._frames:
            yield Part()
            for event in _events(frames):
                if isinstance(event, tuple):
                    yield event
                    continue
                if not event.HasField("summary"):
                    continue
                step, time = event.step, event.wall_time
                for value in event.summary.value:
                    if value.HasField("simple_value"):
                        yield value.tag, step, time, value.simple_value
                    elif (item := self._item(value, step, time)) is not None:
                        yield item

    def _look(self, value: Any, found: Survey) -> bool:
        """Count a value of a summary; return whether it is kept."""
        tag = value.tag
        if value.HasField("simple_value"):
            found.labels[tag] += 1
            return True
        if value.HasField("metadata"):
            self._plugins[tag] = value.metadata.plugin_data.plugin_name
            if self._plugins[tag] == "hparams":
                _take_hyperparameters(value.metadata.plugin_data.content, found)
                return False
        item = self._item(value, 0, 0.0)
        if isinstance(item, HistogramPoint):
            found.histograms[tag] += 1
        elif item is not None:
            found.labels[tag] += 1
        else:
            kind = value.WhichOneof("value") or "empty"
            plugin = self._plugins.get(tag, "")
            if kind == "histo" or plugin == "histograms":
                found.skipped[UNEQUAL] += 1
            else:
                found.skipped[_SKIPPED.get(plugin or kind, f"values of kind {plugin or kind}")] += 1
        return item is not None

    def _item(self, value: Any, step: int, time: float) -> Point | HistogramPoint | None:
        """Return what is no plain scalar as what we keep; None where we cannot."""
        if value.HasField("histo"):
            return _old_histogram(value, step, time)
        if not value.HasField("tensor"):
            return None
        plugin = self._plugins.get(value.tag, "")
        if plugin == "histograms":
            return _new_histogram(value, step, time)
        if plugin == "scalars" or (not plugin and not value.tensor.tensor_shape.dim and value.tensor.dtype in (1, 2)):
            return value.tag, step, time, float(_array(value.tensor).item())
        return None


def _events(frames: Frames, progress: Progress | None = None) -> Iterator[Any]:
    """Yield the events of a file, those of one plain scalar as a point."""
    parse = _protocol().Event.FromString
    for block in frames:
        for data in block:
            yield scalar(data) or parse(data)
        if progress is not None:
            progress(sum(map(len, block)))


def _old_histogram(value: Any, step: int, time: float) -> HistogramPoint | None:
    limits, counts = list(value.histo.bucket_limit), list(value.histo.bucket)
    if counts and not counts[0]:  # torch puts an empty bucket first: its limit is where the next one begins
        edges, counts = limits, counts[1:]
    else:
        edges = [value.histo.min, *limits]
    return _histogram(value.tag, step, time, edges, counts)


def _new_histogram(value: Any, step: int, time: float) -> HistogramPoint | None:
    bins = _array(value.tensor)  # (bins, 3): left, right, count
    if bins.ndim != 2 or bins.shape[1] != 3 or not len(bins):
        return None
    return _histogram(value.tag, step, time, [*bins[:, 0], bins[-1, 1]], bins[:, 2])


def _histogram(tag: str, step: int, time: float, edges: Any, counts: Any) -> HistogramPoint | None:
    bins = equal_bins(edges, counts)
    return None if bins is None else HistogramPoint(tag, step, time, *bins)


def _take_hyperparameters(content: bytes, found: Survey) -> None:
    plugin = load("tensorboard.plugins.hparams.plugin_data_pb2", "tensorboard", "Reading TensorBoard's hyper-parameters")
    data = plugin.HParamsPluginData.FromString(content)
    if data.HasField("session_start_info"):
        values = sorted(data.session_start_info.hparams.items())
        given = {name: getattr(value, kind) for name, value in values if (kind := value.WhichOneof("kind"))}
        found.meta.setdefault("config", {}).update(given)
    if data.HasField("session_end_info"):
        found.status = _ENDS.get(data.session_end_info.status, found.status)


def _array(tensor: Any) -> Any:
    from tensorboard.util.tensor_util import make_ndarray

    return make_ndarray(tensor)


def _protocol() -> Any:
    """Return the module that knows what an event looks like.

    Raises:
        TransferError: the package is not installed.
    """
    return load("tensorboard.compat.proto.event_pb2", "tensorboard", "Reading TensorBoard's event files")
