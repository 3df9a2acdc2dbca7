"""The import law, by reading every tracked module of the package."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

NOT_PACKAGE = {"tests", "docs", "examples"}
WIRING = {
    "__init__",
    "__main__",
    "attach",
    "distributed",
    "monitor",
    "slices",
    "telling",
    "commands",
    "cli",
    "doctor",
    "integrations",
    "zoo",
    "benchmarks",
}
"""Who may import anything of ours. ``attach`` holds ``watch()``; the doctor is a part of the command line."""

ALLOWED_ROOMS = {
    "_version": set(),
    "config": set(),
    "disabled": {"probes", "dashboard"},
    "lifecycle": set(),
    "kernels": set(),
    "storage": set(),
    "probes": {"kernels"},
    "analyzer": {"storage"},
    "dashboard": {"storage", "analyzer"},
    "interventions": {"kernels"},
}
ONLY_LIBRARIES = {
    "kernels": {"torch", "triton"},
    "probes": {"torch", "numpy", "typing_extensions"},
    "interventions": {"torch", "typing_extensions"},
    "analyzer": {"numpy", "scipy", "pandas", "apprise", "jinja2", "markdown_it"},
}
BANNED_LIBRARIES = {"storage": {"torch", "triton", "dash", "plotly"}, "dashboard": {"torch", "triton", "sqlalchemy", "alembic"}}
FOR_ALL_BUT_KERNELS = {"storage.records", "_version"}


@dataclass(frozen=True)
class Import:
    module: str
    """The importing module, such as ``probes.spectral`` (dots, no ``foreshock``)."""
    target: str
    """What is imported: ours as ``storage.records``, others as ``numpy.linalg``."""
    ours: bool
    line: int

    @property
    def room(self) -> str:
        return self.module.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {'.' if self.ours else ''}{self.target}"


def imports_of(path: str, source: str, modules: set[str]) -> Iterator[Import]:
    """Yield every import of a module, those inside functions and ``TYPE_CHECKING`` too; relative ones resolved."""
    parts = path.removesuffix(".py").split("/")
    package = parts[:-1]
    module = ".".join(package if parts[-1] == "__init__" else parts) or "__init__"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name, False, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield Import(module, node.module or "", False, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] + (node.module or "").split(".")
            stem = ".".join(part for part in base if part)
            for alias in node.names:
                inner = "_version" if alias.name == "__version__" else f"{stem}.{alias.name}".strip(".")
                yield Import(module, inner if inner in modules else stem or "__init__", True, node.lineno)


def broken(found: Import) -> str:
    """Say which part of the law an import breaks; empty if none."""
    room, target_room, library = found.room, found.target.partition(".")[0], found.target.partition(".")[0]
    if not found.ours:
        if library == "foreshock":
            return "imports inside the package are relative"
        if library in sys.stdlib_module_names:
            return ""
        if found.module == "storage.records" or (room in ONLY_LIBRARIES and library not in ONLY_LIBRARIES[room]):
            return f"{room} stands on {sorted(ONLY_LIBRARIES.get(room, []))} alone"
        return f"{room} must not know {library}" if library in BANNED_LIBRARIES.get(room, ()) else ""
    if found.module == "storage.records":
        return "storage.records is standard library only"
    if target_room == room or room in WIRING:
        return ""
    if target_room == "monitor":
        return "only wiring imports monitor"
    if room not in ALLOWED_ROOMS:
        return "a room without a law; add it to this test"
    if found.target in FOR_ALL_BUT_KERNELS and room != "kernels":
        return ""
    return "" if target_room in ALLOWED_ROOMS[room] else f"{room} may import {sorted(ALLOWED_ROOMS[room])}"


@pytest.fixture(scope="module")
def imports(root: Path, tracked: list[str]) -> list[Import]:
    paths = [path for path in tracked if path.endswith(".py") and path.partition("/")[0] not in NOT_PACKAGE]
    modules = {path.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for path in paths}
    return [found for path in paths for found in imports_of(path, (root / path).read_text(), modules)]


def test_every_import_keeps_the_law(imports: list[Import]) -> None:
    assert len({found.module for found in imports}) > 5
    assert "\n".join(f"{found}: {law}" for found in imports if (law := broken(found))) == ""


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("storage/records.py", "import numpy"),
        ("storage/records.py", "from .codec import pack"),
        ("storage/sql.py", "def f():\n    import torch"),
        ("storage/sql.py", "from ..probes import base"),
        ("analyzer/engine.py", "from sqlalchemy import select"),
        ("analyzer/engine.py", "from ..dashboard import figures"),
        ("dashboard/app.py", "import torch.nn"),
        ("dashboard/app.py", "from ..monitor import Monitor"),
        ("kernels/reference.py", "from ..storage.records import Run"),
        ("probes/base.py", "from ..storage.base import Store"),
        ("probes/base.py", "from .. import monitor"),
        ("dashboard/app.py", "from .. import watch"),
        ("probes/base.py", "import pandas"),
        ("interventions/skip.py", "from ..storage import open_store"),
        ("zoo/demo.py", "from foreshock import watch"),
    ],
)
def test_the_law_catches(path: str, source: str) -> None:
    assert any(broken(found) for found in imports_of(path, source, {"monitor"}))


@pytest.mark.parametrize("room", ["", "kernels", "storage"])
def test_front_doors_are_lazy(root: Path, room: str) -> None:
    """Nothing but lookups and ``__getattr__`` runs when these packages are imported."""
    tree = ast.parse((root / room / "__init__.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            assert (node.level, node.module) in {(0, "typing"), (1, "_version")}
        elif isinstance(node, ast.If):
            assert ast.unparse(node.test) == "TYPE_CHECKING"
        else:
            assert isinstance(node, ast.Expr | ast.Assign | ast.FunctionDef), ast.unparse(node)
            calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
            assert isinstance(node, ast.FunctionDef) or not calls
