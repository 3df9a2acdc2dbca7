"""Samples as Parquet: names as dictionaries, steps as differences, zstd. pandas reads back what ``Store.frame`` gives."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..records import Kind
from .csv_file import kinds
from .export import COLUMNS, Sink
from .packages import load
from .points import Array, Places, Points

EXTRA = "parquet"


def pyarrow(purpose: str) -> Any:
    """Return pyarrow with its Parquet part.

    Raises:
        TransferError: it is not installed.
    """
    load("pyarrow.parquet", EXTRA, purpose)
    return load("pyarrow", EXTRA, purpose)


class _ParquetSink:
    def __init__(self, arrow: Any, writer: Any) -> None:
        self._arrow = arrow
        self._writer = writer
        self._kinds = arrow.array([kind.name.lower() for kind in Kind])

    def write(self, chunk: Points, places: Places) -> None:
        """Write a chunk as a row group. Names stay numbers on the way; only the dictionary has text."""
        arrow, keys = self._arrow, places.keys
        columns = [
            chunk.steps,
            np.full(len(chunk), chunk.segment, np.int64),
            self._named([key.signal for key in keys], chunk.series),
            self._named([key.module for key in keys], chunk.series),
            np.array([key.head for key in keys], np.int64)[chunk.series],
            np.array([key.rank for key in keys], np.int64)[chunk.series],
            chunk.values,
            arrow.DictionaryArray.from_arrays(kinds(chunk.values), self._kinds),
        ]
        self._writer.write_table(arrow.Table.from_arrays(columns, schema=_schema(arrow)))

    def _named(self, names: list[str], series: Array) -> Any:
        """Return a column of the names of these series, as a dictionary and numbers in it."""
        distinct = list(dict.fromkeys(names))
        place = {name: number for number, name in enumerate(distinct)}
        codes = np.array([place[name] for name in names], np.int32)[series]
        return self._arrow.DictionaryArray.from_arrays(codes, self._arrow.array(distinct, self._arrow.string()))


def _schema(arrow: Any) -> Any:
    whole, named = arrow.int64(), arrow.dictionary(arrow.int32(), arrow.string())
    kinds = arrow.dictionary(arrow.int8(), arrow.string())
    return arrow.schema(list(zip(COLUMNS, (whole, whole, named, named, whole, whole, arrow.float64(), kinds), strict=True)))


@contextmanager
def parquet_sink(path: Path, facts: Mapping[str, str]) -> Iterator[Sink]:
    """Open a Parquet file to write to; ``facts`` go into its metadata.

    Raises:
        TransferError: pyarrow is not installed.
    """
    arrow = pyarrow("A Parquet file")
    # Without Arrow's own schema readers see plain text, as in the frame, not the dictionaries it was written from.
    options: dict[str, Any] = {"store_schema": False} | layout(names=[each for each in COLUMNS if each not in ("step", "value")])
    with arrow.parquet.ParquetWriter(path, _schema(arrow), **options) as writer:
        yield _ParquetSink(arrow, writer)
        writer.add_key_value_metadata(dict(facts))


def layout(names: list[str]) -> dict[str, Any]:
    """Return how columns are packed: dictionaries for ``names``, differences for steps, the bytes of values side by side."""
    encodings = {"step": "DELTA_BINARY_PACKED", "value": "BYTE_STREAM_SPLIT"}
    return {"compression": "zstd", "use_dictionary": names, "column_encoding": encodings}
