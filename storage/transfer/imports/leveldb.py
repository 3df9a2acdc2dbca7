"""The log in which Weights & Biases writes a run: that of LevelDB, with a head of its own.

Blocks of 32 KiB hold records: a checksum (CRC-32 of type and data), a length, a type (whole, first, middle or last piece), data.
W&B's package reads it in Go alone. The format: https://github.com/google/leveldb/blob/main/doc/log_format.md
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

_HEAD = struct.Struct("<4sHB")
_RECORD = struct.Struct("<LHB")
_BLOCK = 32768
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


class NotALogError(ValueError):
    """The file does not begin as such a log does."""


class Log:
    """The records of a file, one after another.

    Attributes:
        damaged: records that do not fit their checksum, or lack a piece; left out.
        unread: bytes at the end that are no whole record: one being written, or one cut short.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self.damaged = 0
        self.unread = 0

    def __iter__(self) -> Iterator[bytes]:
        """Yield the data of each record.

        Raises:
            NotALogError: it is another kind of file.
        """
        self.damaged = self.unread = 0
        parts: list[bytes] = []
        for kind, data, sound in self._pieces():
            broken = not sound or bool(parts) != (kind in (_MIDDLE, _LAST))
            if broken:
                self.damaged += 1
                parts = [data] if sound and kind == _FIRST else []
                if sound and kind == _WHOLE:
                    yield data
            elif kind == _WHOLE:
                yield data
            else:
                parts.append(data)
                if kind == _LAST:
                    yield b"".join(parts)
                    parts = []
        if parts:  # its end was not written
            self.unread += sum(map(len, parts))

    def _pieces(self) -> Iterator[tuple[int, bytes, bool]]:
        """Yield (type, data, whether the checksum fits)."""
        with self.path.open("rb") as file:
            head = file.read(_HEAD.size)
            if len(head) < _HEAD.size or _HEAD.unpack(head)[:2] != (b":W&B", 0xBEE1):
                raise NotALogError("it does not begin with ':W&B'")
            start, block = 0, head + file.read(_BLOCK - len(head))
            place = _HEAD.size
            while True:
                block = block[: self.size - start]
                while len(block) - place >= _RECORD.size:
                    checksum, length, kind = _RECORD.unpack_from(block, place)
                    data = block[place + _RECORD.size : place + _RECORD.size + length]
                    if len(data) < length:
                        if len(block) == _BLOCK:  # no record goes beyond its block
                            yield kind, b"", False
                        break
                    place += _RECORD.size + length
                    if kind:  # zeros fill what was set aside and not written
                        yield kind, data, zlib.crc32(data, zlib.crc32(bytes([kind]))) == checksum
                if len(block) < _BLOCK:
                    self.unread = len(block) - place
                    return
                start, place, block = start + _BLOCK, 0, file.read(_BLOCK)
