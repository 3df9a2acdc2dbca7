"""How a record's parts look in a column: values with their kind, packed histograms, JSON text."""

import json
import math
import struct
from array import array
from collections.abc import Mapping, Sequence
from sys import byteorder
from typing import Any

from .records import Cause, Evidence, Histogram, Kind, SeriesKey

NON_FINITE = {Kind.POSITIVE_INFINITY: math.inf, Kind.NEGATIVE_INFINITY: -math.inf, Kind.NAN: math.nan}
_WIDTHS = ("B", "H", "I", "Q")  # array type codes of 1, 2, 4 and 8 bytes
_HEAD = struct.Struct("<ddB")


def split(value: float | None) -> tuple[float | None, int]:
    """Return what the value and kind columns hold. ``None`` (does not apply) is NULL of kind finite."""
    if value is None:
        return None, Kind.FINITE.value
    kind = Kind.of(value)
    return (float(value), 0) if kind is Kind.FINITE else (None, kind.value)


def join(value: float | None, kind: int) -> float | None:
    """Undo ``split``."""
    return NON_FINITE[Kind(kind)] if kind else value


def pack(histogram: Histogram) -> bytes:
    """Pack a histogram: bounds as float64, then the counts in the narrowest unsigned type that holds the largest.

    Raises:
        OverflowError: a count is negative or beyond 64 bits.
    """
    largest = max(histogram.counts, default=0)
    code = next((code for code in _WIDTHS if largest < 1 << 8 * array(code).itemsize), _WIDTHS[-1])
    counts = array(code, histogram.counts)
    if byteorder == "big":
        counts.byteswap()
    return _HEAD.pack(histogram.low, histogram.high, _WIDTHS.index(code)) + counts.tobytes()


def unpack(key: SeriesKey, packed: bytes) -> Histogram:
    """Undo ``pack``."""
    low, high, width = _HEAD.unpack_from(packed)
    counts = array(_WIDTHS[width], packed[_HEAD.size :])
    if byteorder == "big":
        counts.byteswap()
    return Histogram(key, low, high, tuple(counts))


def clean(text: str) -> str:
    """Replace what not every engine can store: the null character and halves of surrogate pairs."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def to_json(value: Mapping[str, Any] | Sequence[Any]) -> str:
    """Return JSON text. What JSON does not know is written as its ``str``; nan and infinities in Python's own spelling."""
    return clean(json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str))


def evidence_to_json(evidence: Sequence[Evidence]) -> str:
    """Return an alert's evidence as JSON text."""
    return to_json(
        [
            {
                "key": [item.key.signal, item.key.module, item.key.head, item.key.rank],
                "steps": item.steps,
                "values": [float(value) for value in item.values],
                "threshold": item.threshold,
                "baseline": item.baseline,
            }
            for item in evidence
        ]
    )


def evidence_from_json(text: str) -> tuple[Evidence, ...]:
    """Undo ``evidence_to_json``."""
    return tuple(
        Evidence(SeriesKey(*item["key"]), tuple(item["steps"]), tuple(item["values"]), item["threshold"], item["baseline"])
        for item in json.loads(text)
    )


def diagnosis_to_json(diagnosis: Sequence[Cause]) -> str:
    """Return an alert's ranked causes as JSON text."""
    return to_json([[cause.name, cause.title, cause.confidence, cause.reasons, cause.remedy, cause.doc] for cause in diagnosis])


def diagnosis_from_json(text: str) -> tuple[Cause, ...]:
    """Undo ``diagnosis_to_json``."""
    return tuple(
        Cause(name, title, confidence, tuple(reasons), remedy, doc)
        for name, title, confidence, reasons, remedy, doc in json.loads(text)
    )
