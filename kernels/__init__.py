"""Compute: attention with its rounding in the open.

This file holds nothing but a lazy ``__getattr__`` on purpose: with the repository root on ``sys.path`` Hugging Face transformers
takes this folder for the library ``kernels``, and must find it "not available" instead of failing on a relative import.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name in ("Precision", "reference_attention"):
        from importlib import import_module

        return getattr(import_module(".reference", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
