"""The one event that there are millions of, read straight from its bytes: a summary of one scalar, as every writer puts it.

Four times as fast as through protobuf's objects. What looks any different is not read here; a test holds the two together.
"""

import re
import struct

# wall_time | step (varint; none when 0) | length of summary | length of value | length of tag, tag | simple_value
_SCALAR = re.compile(
    rb"\x09(.{8})(?:\x10([\x80-\xff]{0,9}[\x00-\x7f]))?\x2a([\x00-\x7f])\x0a([\x00-\x7f])\x0a([\x00-\x7f])(.*)\x15(.{4})", re.DOTALL
)
_DOUBLE = struct.Struct("<d").unpack
_FLOAT = struct.Struct("<f").unpack


def scalar(data: bytes) -> tuple[str, int, float, float] | None:
    """Return tag, step, time and value of an event that is nothing but one scalar, else None."""
    found = _SCALAR.fullmatch(data)
    if found is None:
        return None
    time, varint, summary, value, length, tag, number = found.groups()
    size = len(tag)
    if length[0] != size or value[0] != size + 7 or summary[0] != size + 9:
        return None
    step = 0
    if varint is not None:
        for byte in reversed(varint):
            step = step << 7 | byte & 0x7F
        if step >> 63:
            step -= 1 << 64
    return tag.decode(), step, _DOUBLE(time)[0], _FLOAT(number)[0]
