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
def foreshock_process(tmp_path: Path, environment: dict[str, str]) -> Command:
    """Run the command line in a process of its own, in an empty folder: ``foreshock("runs", "--json", FORESHOCK_STORE=url)``."""

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


@pytest.fixture
def foreshock(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Command:
    """Do the same in this process, which saves the imports."""
    from foreshock.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as patch:
            for name in os.environ.keys() - environment.keys():
                patch.delenv(name)
            for name, value in (environment | variables).items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["foreshock", *arguments])
            capfd.readouterr()
            try:
                status: int | str | None = main()
            except SystemExit as exit_:
                status = exit_.code
        shown = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, int(status or 0), shown.out, shown.err)

    return run
