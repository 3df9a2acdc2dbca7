"""Samples as CSV that reads back exactly: the shortest decimals that are the same float64; ``nan``, ``inf``, ``-inf`` spelt."""

import csv
import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import IO

import numpy as np

from ..records import Kind
from .export import COLUMNS, Sink
from .points import Array, Places, Points

_KINDS = [kind.name.lower() for kind in Kind]


class _CsvSink:
    def __init__(self, stream: IO[str]) -> None:
        self._writer = csv.writer(stream, lineterminator="\n")
        self._writer.writerow(COLUMNS)

    def write(self, chunk: Points, places: Places) -> None:
        """Write a row a sample, about a microsecond each."""
        keys = [places.keys[place] for place in chunk.series.tolist()]
        self._writer.writerows(
            zip(
                chunk.steps.tolist(),
                repeat(chunk.segment),
                [key.signal for key in keys],
                [key.module for key in keys],
                [key.head for key in keys],
                [key.rank for key in keys],
                chunk.values.tolist(),  # Python writes a float in the shortest way that reads back as the same one
                [_KINDS[kind] for kind in kinds(chunk.values).tolist()],
                strict=False,
            )
        )


def stream_sink(stream: IO[str]) -> Sink:
    """Return what writes to an open text stream."""
    return _CsvSink(stream)


@contextmanager
def file_sink(path: Path, *, compressed: bool) -> Iterator[Sink]:
    """Open a file to write to, gzip-compressed or plain."""
    with (
        gzip.open(path, "wt", encoding="utf-8", newline="") if compressed else path.open("w", encoding="utf-8", newline="") as file
    ):
        yield _CsvSink(file)


def kinds(values: Array) -> Array:
    """Return the number of each value's ``Kind``, int8."""
    found = np.where(np.isnan(values), Kind.NAN.value, 0)
    found[values == np.inf] = Kind.POSITIVE_INFINITY.value
    found[values == -np.inf] = Kind.NEGATIVE_INFINITY.value
    return found.astype(np.int8)
