"""Wheel and sdist hold exactly what git tracks; versions, extras and commands are stated once and agree."""

import json
import re
import socket
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

OUTSIDE_THE_WHEEL = {".ci", ".github", "docs", "examples", "tests"}
ROOT_FILES_IN_THE_WHEEL = {".py", ".typed"}


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def built(tracked_copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one sdist and, made from it, one wheel."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-P", "-m", "build", "--no-isolation", "--outdir", str(folder), str(tracked_copy)]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return folder


def test_sdist_holds_the_tracked_files(built: Path, tracked: list[str]) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as sdist:
        names = {member.name.partition("/")[2] for member in sdist.getmembers() if member.isfile()}
    made = {name for name in names if name in ("PKG-INFO", "setup.cfg") or name.startswith("foreshock.egg-info/")}
    assert sorted(names - made) == tracked


def test_wheel_holds_the_tracked_files_of_the_package(built: Path, tracked: list[str]) -> None:
    (archive,) = built.glob("*.whl")
    with zipfile.ZipFile(archive) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel.namelist())
    expected = {
        f"foreshock/{path}"
        for path in tracked
        if (Path(path).suffix in ROOT_FILES_IN_THE_WHEEL if "/" not in path else path.partition("/")[0] not in OUTSIDE_THE_WHEEL)
    }
    assert names == expected


def test_every_folder_of_modules_is_listed(project: dict[str, Any], tracked: list[str]) -> None:
    folders = {str(Path(path).parent) for path in tracked if Path(path).name == "__init__.py"}
    packages = {"foreshock" if folder == "." else "foreshock." + folder.replace("/", ".") for folder in folders}
    assert packages == set(project["tool"]["setuptools"]["packages"])


def test_constraints_pin_everything_asked_for(project: dict[str, Any], root: Path) -> None:
    """Every requirement of the base and of the extras that CI installs has one exact, public version."""
    lines = [line for line in (root / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    pinned = {normalised(line.partition("==")[0]) for line in lines}
    extras = project["project"]["optional-dependencies"]
    wanted = [*project["project"]["dependencies"], *extras["train"], *extras["postgres"], *extras["test"]]
    assert {normalised(re.split(r"[\[<>=;]", requirement)[0]) for requirement in wanted} <= pinned
    assert "torch==2.13.0" in lines


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def test_doctor_looks_at_every_requirement(project: dict[str, Any]) -> None:
    from foreshock.doctor import REQUIRED

    asked = {normalised(re.split(r"[\[<>=;]", requirement)[0]) for requirement in project["project"]["dependencies"]}
    assert asked | {"fastapi"} == set(REQUIRED)


def test_readme_commands_are_what_ci_runs(root: Path) -> None:
    readme, ci = (root / "README.md").read_text(), (root / ".ci" / "run").read_text()
    assert 'pip install -c constraints.txt ".[train]" && foreshock demo' in readme
    assert 'pip install -c constraints.txt -e ".[train,postgres,test]" && pytest' in readme
    assert '-c constraints.txt -e ".[train,postgres,test]"' in ci
    assert ci.rstrip().endswith("\npytest")


def test_changelog_names_this_version(root: Path) -> None:
    from foreshock import __version__

    assert f"## {__version__}" in (root / "CHANGELOG.md").read_text()


def test_the_container_can_be_reached_and_lets_in_only_who_has_a_token(root: Path) -> None:
    text = (root / "Containerfile").read_text()
    (command,) = re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)
    assert json.loads(command) == ["dashboard", "--host", "0.0.0.0", "--auth"]
    (check,) = re.findall(r"^HEALTHCHECK .*\n +CMD (\[.*\])$", text, re.MULTILINE)
    python, _, code = json.loads(check)
    assert python == "python"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    here = code.replace("8050", str(port))
    assert subprocess.run([sys.executable, "-c", here], capture_output=True).returncode == 1  # nobody listens


def test_lowest_versions_are_those_that_are_declared(project: dict[str, Any], root: Path) -> None:
    extras = project["project"]["optional-dependencies"]
    declared = [*project["project"]["dependencies"], *(each for extra in extras.values() for each in extra)]
    floors = dict(re.findall(r"^([\w.-]+)(?:\[\w+\])?>=([\w.]+)", "\n".join(declared), re.MULTILINE))
    for line in (root / "constraints-lowest.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        if name in floors:
            assert trimmed(version) == trimmed(floors[name]), line


def trimmed(version: str) -> str:
    return re.sub(r"(\.0)+$", "", version)
