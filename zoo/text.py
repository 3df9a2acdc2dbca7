"""Real text for the zoo's language models, as bytes: two that every machine has.

``windows``: the opening of Herman Melville's "Moby-Dick" (1851, public domain), short enough to be learnt by heart.
``source_windows``: the source of Python's own standard library, which differs a little from one Python to the next.
"""

import argparse
import functools
import string
import textwrap
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

_SOURCES = (argparse, textwrap, string)


def windows(count: int, context: int) -> Tensor:
    """Return the text's first ``count`` stretches of ``context`` + 1 bytes, one byte overlapping: (count, context + 1), int64.

    Raises:
        ValueError: the text is shorter than that.
    """
    return _stretches((files(__package__) / "data" / "moby_dick.txt").read_bytes(), count, context)


def source_windows(count: int, context: int) -> Tensor:
    """Return stretches of Python's own source, shaped as those of ``windows``.

    Raises:
        ValueError: it is shorter than that.
    """
    return _stretches(_source(), count, context)


def batch_of(data: Tensor, size: int, order: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw ``size`` windows: inputs and the bytes that follow them, each (size, context)."""
    drawn = data[torch.randint(len(data), (size,), generator=order)]
    return drawn[:, :-1], drawn[:, 1:]


@functools.cache
def _source() -> bytes:
    return b"\n".join(Path(module.__file__).read_bytes() for module in _SOURCES if module.__file__)


def _stretches(text: bytes, count: int, context: int) -> Tensor:
    if count * context + 1 > len(text):
        raise ValueError(f"{count} windows of {context} bytes need {count * context + 1} bytes; the text has {len(text)}")
    data = torch.tensor(list(text[: count * context + 1]))
    return data.unfold(0, context + 1, context).clone()
