import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository root, which is the package."""
    return ROOT


@pytest.fixture(scope="session")
def tracked() -> list[str]:
    """Paths that git tracks, relative to the root."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted(path for path in listing.split("\0") if path and (ROOT / path).is_file())


@pytest.fixture(scope="session")
def tracked_copy(tracked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tracked files and nothing else."""
    folder = tmp_path_factory.mktemp("tracked") / "foreshock"
    for path in tracked:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, folder / path)
    return folder


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Our environment without any FORESHOCK_* setting, with a home of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FORESHOCK_", "PYTHON", "COLUMNS", "CI"))}
    return {**kept, "HOME": str(tmp_path), "NO_COLOR": "1", "FORESHOCK_HOME": str(tmp_path / "home")}


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def foreshock(tmp_path: Path, environment: dict[str, str]) -> Command:
    """Run the command line in an empty folder: ``foreshock("runs", "--json", FORESHOCK_STORE=url)``."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        code = "import sys; from foreshock.cli import main; sys.exit(main())"
        return subprocess.run(
            [sys.executable, "-P", "-W", "error", "-c", code, *arguments],
            cwd=tmp_path,
            env=environment | variables,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run
