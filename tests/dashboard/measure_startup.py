"""Measure how long the dashboard takes to serve its first page, against importing dash, plotly and sqlalchemy alone.

    python tests/dashboard/measure_startup.py [rounds]

Not a test: it wants an otherwise idle machine. The two are taken in turns; medians are printed.
"""

import socket
import statistics
import subprocess
import sys
import tempfile
import time

from foreshock.storage import open_store

BASELINE = "import dash, plotly, sqlalchemy"
CLI = "from foreshock.cli import main; main()"


def baseline() -> float:
    """Seconds that a process needs to import the three and end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-P", "-c", BASELINE], check=True)
    return time.perf_counter() - start


def free_port() -> int:
    """A port that nobody uses just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def first_page(command: list[str]) -> float:
    """Seconds from starting the process to the first 200 on ``/``."""
    port = free_port()
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-P", *(part.replace("PORT", str(port)) for part in command)], stdout=subprocess.DEVNULL
    )
    try:
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port)) as connection:
                    connection.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
                    assert connection.makefile("rb").read().startswith(b"HTTP/1.1 200")
                    return time.perf_counter() - start
            except ConnectionRefusedError:
                assert process.poll() is None, "the dashboard ended"
                time.sleep(0.01)
    finally:
        process.terminate()
        process.wait()


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
                f"serve(open_store({url!r}, create=False), port=PORT)",
            ],
            "serve(opener)": [
                "-c",
                "from foreshock.dashboard.server import serve\n"
                "def opener():\n    from foreshock.storage import open_store\n"
                f"    return open_store({url!r}, create=False)\nserve(opener, port=PORT)",
            ],
            "foreshock dashboard": ["-c", CLI, "dashboard", "--store", url, "--port", "PORT"],
        }
        times: dict[str, list[float]] = {"imports alone": [], **{name: [] for name in commands}}
        for _ in range(rounds):
            times["imports alone"].append(baseline())
            for name, command in commands.items():
                times[name].append(first_page(command))
    reference = statistics.median(times["imports alone"])
    for name, taken in times.items():
        median = statistics.median(taken)
        print(f"{name:20} median {median:.3f} s, best {min(taken):.3f} s, ratio {median / reference:.2f}")


if __name__ == "__main__":
    main()
