"""What runs the kernels: a GPU where there is one, else the interpreter with its bfloat16 made right."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
import triton

HERE = Path(__file__).parent


def _loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if triton.knobs.runtime.interpret:
    _loaded(HERE.parent / "interpreter_bf16.py").install()


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cpu" if triton.knobs.runtime.interpret else "cuda")


@pytest.fixture(scope="session")
def twin() -> ModuleType:
    """Attention in float64, slow and obvious."""
    return _loaded(HERE / "twin.py")
