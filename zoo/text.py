"""Real text for the zoo's language models: the opening of Herman Melville's "Moby-Dick" (1851, public domain), as bytes."""

from importlib.resources import files

import torch
from torch import Tensor


def windows(count: int, context: int) -> Tensor:
    """Return the text's first ``count`` stretches of ``context`` + 1 bytes, one byte overlapping: (count, context + 1), int64.

    Raises:
        ValueError: the text is shorter than that.
    """
    text = (files(__package__) / "data" / "moby_dick.txt").read_bytes()
    if count * context + 1 > len(text):
        raise ValueError(f"{count} windows of {context} bytes need {count * context + 1} bytes; the text has {len(text)}")
    data = torch.tensor(list(text[: count * context + 1]))
    return data.unfold(0, context + 1, context).clone()
