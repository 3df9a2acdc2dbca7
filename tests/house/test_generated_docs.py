import subprocess
import sys
from pathlib import Path

import pytest

STALE = "<!-- begin: commands (made) -->\n| old |\n<!-- end: commands -->\nkept\n"


@pytest.fixture
def readme(tmp_path: Path, root: Path) -> Path:
    """A README with a stale table, beside a copy of the generator."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "generate.py").write_text((root / "docs" / "generate.py").read_text())
    path = tmp_path / "README.md"
    path.write_text(STALE)
    return path


def generate(readme: Path, *arguments: str) -> int:
    return subprocess.run([sys.executable, "-P", "docs/generate.py", *arguments], cwd=readme.parent, check=False).returncode


def test_stale_tables_fail_the_check_and_are_made_anew(readme: Path) -> None:
    assert generate(readme, "--check") == 1
    assert readme.read_text() == STALE
    assert generate(readme) == 0
    assert "| `foreshock bench overhead` | " in readme.read_text()
    assert "| old |" not in readme.read_text()
    assert readme.read_text().endswith("kept\n")
    assert generate(readme, "--check") == 0
