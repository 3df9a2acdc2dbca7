"""The frames of a TensorBoard event file: length, checksum, data, checksum.

Read by ourselves: TensorBoard's own reader takes ten microseconds a value for the checksums alone, and gives up a file at the first
frame that is damaged. The format is that of TFRecord: https://www.tensorflow.org/tutorials/load_data/tfrecord
"""

import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

_HEAD = struct.Struct("<QI")
_TAIL = 4
_READ = 1 << 20
_LONGEST = 1 << 20  # data whose checksum is looked at: longer ones are pictures and graphs, which nobody reads here

Array = np.ndarray[Any, Any]


@cache
def _table() -> Array:
    """The table of CRC-32C (Castagnoli), a byte at a time."""
    crc = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crc = np.where(crc & 1, (crc >> 1) ^ np.uint32(0x82F63B78), crc >> 1).astype(np.uint32)
    return crc


def masked_checksums(data_NL: Array) -> Array:
    """Return the masked CRC-32C of each of N rows of L bytes: column by column, all rows at once."""
    table, crc = _table(), np.full(len(data_NL), 0xFFFFFFFF, np.uint32)
    for column in data_NL.T:
        crc = table[(crc ^ column) & 0xFF] ^ (crc >> 8)
    crc = ~crc
    return ((crc >> 15) | (crc << 17)) + np.uint32(0xA282EAD8)


class Frames:
    """The frames of a file, some thousand at a time.

    Attributes:
        damaged: frames whose data does not fit its checksum, left out.
        unread: bytes at the end that are no whole frame: one being written, or one cut short.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self.damaged = 0
        self.unread = 0

    def __iter__(self) -> Iterator[list[bytes]]:
        """Yield the data of frames, in blocks of about a megabyte."""
        self.damaged = self.unread = 0
        with self.path.open("rb") as file:
            rest, left = b"", self.size
            while left and (more := file.read(min(left, max(_READ, self._wanted(rest))))):
                left -= len(more)
                data, rest, sound = self._cut(rest + more)
                if data:
                    yield data
                if not sound:
                    break
            self.unread = len(rest) + left

    def _wanted(self, rest: bytes) -> int:
        """Return how many bytes the frame that was begun still lacks."""
        return _HEAD.unpack_from(rest)[0] + _HEAD.size + _TAIL - len(rest) if len(rest) >= _HEAD.size else 0

    def _cut(self, block: bytes) -> tuple[list[bytes], bytes, bool]:
        """Return the whole frames, what is left, and whether reading may go on: a length that is wrong leads nowhere."""
        frames: list[tuple[int, int]] = []
        place = 0
        while len(block) - place >= _HEAD.size:
            length, _ = _HEAD.unpack_from(block, place)
            if place + _HEAD.size + length + _TAIL > len(block):
                break
            frames.append((place, length))
            place += _HEAD.size + length + _TAIL
        raw = np.frombuffer(block, np.uint8)
        sound = _lengths_sound(raw, [at for at, _ in frames] + ([place] if len(block) - place >= _HEAD.size else []))
        good = frames[:sound]
        damaged = _damaged(raw, good)
        self.damaged += len(damaged)
        kept = [block[at + _HEAD.size : at + _HEAD.size + length] for at, length in good if at not in damaged]
        if sound < len(frames):
            return kept, block[frames[sound][0] :], False
        whole_head = len(block) - place < _HEAD.size or sound > len(frames)
        return kept, block[place:], whole_head


def _lengths_sound(raw: Array, places: list[int]) -> int:
    """Return how many of the heads at these places, from the first on, fit their checksum."""
    if not places:
        return 0
    heads = raw[np.array(places)[:, None] + np.arange(_HEAD.size)]
    wrong = np.flatnonzero(masked_checksums(heads[:, :8]) != heads[:, 8:].copy().view("<u4")[:, 0])
    return int(wrong[0]) if len(wrong) else len(places)


def _damaged(raw: Array, frames: list[tuple[int, int]]) -> set[int]:
    """Return the places of frames whose data does not fit its checksum."""
    by_length: dict[int, list[int]] = {}
    for at, length in frames:
        by_length.setdefault(length, []).append(at)
    wrong: set[int] = set()
    for length, places in by_length.items():
        if length > _LONGEST:
            continue
        starts = np.array(places)
        data = raw[starts[:, None] + np.arange(_HEAD.size, _HEAD.size + length + _TAIL)]
        bad = masked_checksums(data[:, :length]) != data[:, length:].copy().view("<u4")[:, 0]
        wrong.update(starts[bad].tolist())
    return wrong
