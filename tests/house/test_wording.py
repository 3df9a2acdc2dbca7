"""What no tracked file may name: package hosts and places on one machine."""

import re
from pathlib import Path

# Split, so that this file does not name them either.
HOSTS = ["pypi" + r"\.org", "python" + "hosted", "extra-index" + "-url", "find" + "-links"]
PLACES = ["/wo" + "rk/", "/opt/" + "fs", "/roo" + "t/"]
FORBIDDEN = re.compile("|".join(HOSTS + PLACES))


def test_no_machine_paths_or_package_hosts(root: Path, tracked: list[str]) -> None:
    texts = {path: (root / path).read_bytes().decode(errors="ignore") for path in tracked}
    assert [f"{path}: {found.group()}" for path, text in texts.items() if (found := FORBIDDEN.search(text))] == []
