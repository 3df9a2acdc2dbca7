"""The root as a package: what happens when the root itself is on the import path."""

import subprocess
import sys
from pathlib import Path

PROBES = {
    # Current transformers: find the spec, then import and ask for the version.
    "version": """
import importlib, importlib.util
assert importlib.util.find_spec("kernels").origin.startswith({root!r})
assert getattr(importlib.import_module("kernels"), "__version__", "N/A") == "N/A"
""",
    # Older transformers: take what the library of that name offers, and live without it on ImportError.
    "names": """
try:
    from kernels import Device, LayerRepository, get_kernel, use_kernel_forward_from_hub
except ImportError:
    pass
else:
    raise SystemExit("our folder passes for the library `kernels`")
""",
    "stdlib": "import asyncio, concurrent.futures, http.server, logging.config, multiprocessing, sqlite3, unittest.mock",
}


def test_root_on_the_path_passes_for_no_other_library(root: Path) -> None:
    for name, code in PROBES.items():
        script = f"import sys; sys.path.insert(0, {str(root)!r})\n" + code.format(root=str(root))
        answer = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True)
        assert answer.returncode == 0, f"{name}: {answer.stderr}"


def test_own_imports_survive_the_root_on_the_path(root: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(root)!r}); import foreshock.storage.records, foreshock.cli, foreshock.config"
    answer = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr


def test_safe_path_keeps_the_root_away(root: Path) -> None:
    code = "import importlib.util; spec = importlib.util.find_spec('kernels'); print(spec.origin if spec else '')"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env={"PYTHONSAFEPATH": "1"}, capture_output=True, text=True, check=True
    )
    assert not answer.stdout.startswith(str(root))
