"""Measure how long the dashboard takes to serve its first page, against importing dash, plotly and sqlalchemy alone.

    python tests/dashboard/measure_startup.py [rounds]

Not a test: it wants an otherwise idle machine. The two are taken in turns; medians are printed.
"""

import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from foreshock.storage import open_store

BASELINE = "import dash, plotly, sqlalchemy"


def baseline() -> float:
    """Seconds that a process needs to import the three and end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-P", "-c", BASELINE], check=True)
    return time.perf_counter() - start


def first_page(url: str, command: list[str]) -> float:
    """Seconds from starting the process to the first 200 on ``/``."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-P", *command], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        base = "http://" + process.stdout.readline().split("http://")[1].split()[0]
        with urllib.request.urlopen(base) as answer:
            assert answer.status == 200
            answer.read()
        return time.perf_counter() - start
    finally:
        process.terminate()
        process.communicate()


def main() -> None:
    """Print both medians and their ratio."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/runs.db"
        open_store(url).close()
        commands = {
            "serve()": [
                "-c",
                "from foreshock.storage import open_store; from foreshock.dashboard.server import serve; "
                f"serve(open_store({url!r}, create=False), port=0)",
            ],
            "foreshock dashboard": ["-m", "foreshock.cli", "dashboard", "--store", url, "--port", "0"],
        }
        times: dict[str, list[float]] = {"imports alone": [], **{name: [] for name in commands}}
        for _ in range(rounds):
            times["imports alone"].append(baseline())
            for name, command in commands.items():
                times[name].append(first_page(url, command))
    reference = statistics.median(times["imports alone"])
    for name, taken in times.items():
        print(f"{name:20} median {statistics.median(taken):.3f} s, best {min(taken):.3f} s, ratio {statistics.median(taken) / reference:.2f}")


if __name__ == "__main__":
    main()
