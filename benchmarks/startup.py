"""``foreshock bench startup``: how long the dashboard takes to serve its first page, against importing its libraries alone.

Measured in turns, from the start of a process: importing dash, plotly and sqlalchemy to its end, and ``foreshock dashboard`` to the
first 200 on ``/``. It wants an otherwise idle machine.
"""

import http.client
import json as json_module
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from ..storage import open_store

_BASELINE = "import dash, plotly, sqlalchemy"


@dataclass(frozen=True, slots=True)
class Startup:
    """Medians in seconds, and their ratio."""

    imports_s: float
    first_page_s: float
    ratio: float
    rounds: int


def measure(rounds: int = 7) -> Startup:
    """Take the two in turns. Raises ValueError for fewer than one round, OSError where the page does not start."""
    if rounds < 1:
        raise ValueError(f"rounds={rounds}: at least 1 is needed")
    imports, pages = [], []
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'runs.db'}"
        open_store(url).close()
        for _ in range(rounds):
            imports.append(_imports())
            pages.append(_first_page(url))
    return Startup(
        statistics.median(imports), statistics.median(pages), statistics.median(pages) / statistics.median(imports), rounds
    )


def _imports() -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-P", "-c", _BASELINE], check=True)
    return time.perf_counter() - started


def _first_page(url: str) -> float:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-P", "-m", "foreshock", "dashboard", "--store", url, "--port", str(port)]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            try:
                connection.request("GET", "/")
                if connection.getresponse().status == 200:
                    return time.perf_counter() - started
            except ConnectionRefusedError:
                time.sleep(0.005)
            finally:
                connection.close()
    finally:
        process.terminate()
        process.wait()
    raise OSError(f"the dashboard ended with status {process.returncode} before it served a page")


def main(*, rounds: int = 7, json: bool = False) -> int:
    """Run the benchmark and print the figures; return the exit status."""
    result = measure(rounds)
    if json:
        print(json_module.dumps(asdict(result), indent=2))
        return 0
    print(
        f"first page after {result.first_page_s:.3f} s, {result.ratio:.2f} times what importing dash, plotly and sqlalchemy takes "
        f"({result.imports_s:.3f} s); medians of {result.rounds}"
    )
    return 0
