"""Compute: attention with its rounding in the open, kernels that low precision does not bias, the switch that installs them.

This file holds nothing but a lazy ``__getattr__`` on purpose: with the repository root on ``sys.path`` Hugging Face transformers
takes this folder for the library ``kernels``, and must find it "not available" instead of failing on a relative import.
"""

from typing import Any

# No module bears the name of what it holds: once imported, it would hide it.
_WHERE = {
    "Precision": "precision",
    "reference_attention": "reference",
    "attention": "drop_in",
    "Options": "options",
    "Variant": "options",
    "STANDARD": "options",
    "FAILING": "options",
    "STABILISED": "options",
    "install": "switch",
    "uninstall": "switch",
    "installed": "switch",
    "stabilized_attention": "switch",
    "register_with_transformers": "huggingface",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(f".{_WHERE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
