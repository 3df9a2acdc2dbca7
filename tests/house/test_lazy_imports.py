"""What must stay cheap: ``import foreshock`` and ``foreshock --help``."""

import json
import subprocess
import sys
from pathlib import Path

import foreshock
import pytest

HEAVY = {"torch", "triton", "dash", "plotly", "pandas", "numpy", "scipy", "sqlalchemy", "alembic", "fastapi", "apprise"}

SHOW_HELP = """
import contextlib, io, sys
from foreshock.cli import main
sys.argv = ["foreshock", *{arguments!r}]
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as shown:
    main()
assert "Usage" in shown.getvalue()
"""

REPORT = """
import json, sys, time
print(json.dumps([time.process_time(), [name for name in sys.modules if "." not in name]]))
"""


@pytest.mark.parametrize(
    "code",
    [
        "import foreshock",
        "import foreshock.storage.records",
        "import foreshock.kernels",
        SHOW_HELP.format(arguments=["--help"]),
        SHOW_HELP.format(arguments=["demo", "--help"]),
        SHOW_HELP.format(arguments=["bench", "overhead", "--help"]),
    ],
    ids=["package", "records", "kernels", "help", "demo-help", "bench-help"],
)
def test_cheap(code: str, tmp_path: Path) -> None:
    answer = subprocess.run([sys.executable, "-P", "-c", code + REPORT], cwd=tmp_path, capture_output=True, text=True, check=True)
    seconds, modules = json.loads(answer.stdout)
    assert "foreshock" in modules
    assert set(modules) & HEAVY == set()
    assert seconds < 0.8, f"{seconds:.2f} s of CPU time"


def test_unknown_name_says_what_there_is() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'wach'; it has .*watch"):
        _ = foreshock.wach
    assert set(foreshock.__all__) <= set(dir(foreshock))
