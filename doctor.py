"""What ``foreshock doctor`` looks at: installation, GPU, settings, the store, and what went wrong lately.

Each check is a function that returns lines; a line says ok, warn or problem, and what mends it. Run as a module
(``python -m foreshock.doctor``) this file reports on torch and Triton instead: in a process of its own, because torch takes
seconds to import, and a broken driver may take the process with it.
"""

import importlib.util
import json
import math
import os
import platform
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ._version import __version__

if TYPE_CHECKING:
    from .storage import Store
    from .storage.records import Run

REQUIRED = (
    "alembic",
    "apprise",
    "dash",
    "fastapi",
    "jinja2",
    "markdown-it-py",
    "numpy",
    "orjson",
    "pandas",
    "plotly",
    "prometheus-client",
    "pydantic-settings",
    "rich",
    "scipy",
    "sqlalchemy",
    "tsdownsample",
    "typer",
    "typing-extensions",
    "tzdata",
)
DEVICE_TIMEOUT_SECONDS = 120
LATEST_RUNS = 20
TROUBLE_DAYS = 7
MOST_TROUBLES = 5


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report. ``remedy`` is empty where nothing needs mending."""

    level: Literal["ok", "warn", "problem"]
    name: str
    message: str
    remedy: str = ""


def examine(store: str | None = None) -> list[Check]:
    """Run every check; ``store`` is a URL to look at instead of the configured one."""
    return [*_packages(), *_device(), *_drivers(), *_paths(), *_settings(store)]


def _version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _packages() -> Iterator[Check]:
    yield Check("ok", "foreshock", f"{__version__} on Python {platform.python_version()}, {platform.platform(terse=True)}")
    found = {package: _version_of(package) for package in REQUIRED}
    yield Check("ok", "packages", ", ".join(f"{package} {version}" for package, version in found.items() if version))
    if missing := [package for package, version in found.items() if version is None]:
        yield Check("problem", "packages", f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")


def _device() -> Iterator[Check]:
    """Ask a second process about torch, GPU and Triton."""
    if importlib.util.find_spec("torch") is None:
        yield Check("warn", "torch", "not installed; fine for a dashboard, needed for training", "pip install 'foreshock[train]'")
        return
    command = [sys.executable, "-P", "-m", f"{__package__}.doctor"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=DEVICE_TIMEOUT_SECONDS, check=True)
        facts = json.loads(answer.stdout)
    except subprocess.TimeoutExpired:
        yield Check("problem", "torch", f"not imported within {DEVICE_TIMEOUT_SECONDS} s", "python -X importtime -c 'import torch'")
    except (subprocess.CalledProcessError, json.JSONDecodeError) as error:
        lines = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        yield Check("problem", "torch", f"cannot be imported: {lines[-1]}", "install torch anew for this machine")
    else:
        yield from _device_lines(facts)


def _device_lines(facts: dict[str, Any]) -> Iterator[Check]:
    yield Check("ok", "torch", f"{facts['torch']}, {facts['threads']} threads")
    yield Check("ok", "GPU", ", ".join(facts["gpus"]) or "none; training and the demo run on the CPU")
    if facts["triton"] is None:
        yield Check("warn", "Triton", "not installed; its kernels are off", "pip install 'foreshock[train]' on Linux")
    elif facts["kernel"] == "ok":
        yield Check("ok", "Triton", f"{facts['triton']}, ran a kernel on {facts['kernel_device']}")
    elif facts["gpus"]:
        yield Check(
            "warn",
            "Triton",
            f"{facts['triton']} cannot run a kernel: {facts['kernel']}",
            "install a C compiler and a matching CUDA driver",
        )
    else:
        yield Check("ok", "Triton", f"{facts['triton']}; without a GPU its kernels run only under TRITON_INTERPRET=1")


def _drivers() -> Iterator[Check]:
    yield Check("ok", "SQLite", sqlite3.sqlite_version)
    psycopg = _version_of("psycopg")
    yield Check("ok", "PostgreSQL", f"psycopg {psycopg}" if psycopg else "no driver (pip install 'foreshock[postgres]')")


def _paths() -> Iterator[Check]:
    """Look for our own root on the import path, where its folders stand in for other libraries."""
    root = Path(__file__).resolve().parent
    exposed = [entry for entry in sys.path if Path(entry or ".").resolve() == root]
    if exposed or (Path.cwd() == root and not sys.flags.safe_path):
        yield Check(
            "warn",
            "import path",
            f"{root} is on sys.path when a script is run from there: its folders hide libraries of the same names (kernels)",
            "export PYTHONSAFEPATH=1, or run from another folder",
        )


def _settings(store: str | None) -> Iterator[Check]:
    from .config import ConfigurationError, load_settings, unknown_variables

    for name, near in unknown_variables().items():
        yield Check(
            "warn", "environment", f"{name} means nothing to foreshock", f"did you mean {near}?" if near else f"unset {name}"
        )
    try:
        settings = load_settings(store=store)
    except ConfigurationError as error:
        yield Check("problem", "settings", str(error), "correct it")
        return
    given = sorted(name for name in os.environ if name.startswith("FORESHOCK_"))
    yield Check(
        "ok",
        "settings",
        f"from {', '.join([*given, 'foreshock.toml'] if Path('foreshock.toml').exists() else given) or 'defaults'}",
    )
    if settings.disable:
        yield Check(
            "warn", "settings", "disabled: watch() measures nothing", "unset FORESHOCK_DISABLE, or disable in foreshock.toml"
        )
    yield from _trouble()
    yield from _spools("." if settings.spool in ("", "off") else settings.spool)
    yield from _store(settings.store)


def _trouble() -> Iterator[Check]:
    """Tell what the monitors of this machine could not write to their stores, and so is not in any."""
    from .storage.trouble import path, recent

    since = time.time() - TROUBLE_DAYS * 86400
    found = [trouble for trouble in recent() if trouble.time >= since]
    for trouble in found[:MOST_TROUBLES]:
        when = datetime.fromtimestamp(trouble.time).isoformat(" ", "seconds")
        lost = f" ({trouble.lost} samples lost)" if trouble.lost else ""
        yield Check("warn", "trouble", f"{when}, run {trouble.run}: {trouble.message}{lost}", f"once mended, remove {path()}")
    if not found:
        yield Check("ok", "trouble", f"none on this machine in {TROUBLE_DAYS} days")
    elif len(found) > MOST_TROUBLES:
        yield Check("warn", "trouble", f"and {len(found) - MOST_TROUBLES} more", f"read {path()}")


def _spools(folder: str) -> Iterator[Check]:
    """Tell what runs could not bring into their stores and left on disk."""
    from .storage.leftovers import leftovers_in

    for left in leftovers_in(Path(folder).expanduser()):
        if left.about is not None:
            what = f"{left.path}: {left.points:,} samples of run {left.about.run.name} wait for {left.about.address}"
            yield Check("warn", "spool", what, f"foreshock db drain {left.path.parent}")
        elif left.state == "in use":
            yield Check("ok", "spool", f"{left.path} ({left.path.stat().st_size:,} bytes) is in use: its run's store is away")
        else:
            yield Check("warn", "spool", left.why, "mend that, or remove the file")


def _store(url: str) -> Iterator[Check]:
    from .storage import StoreError, open_store

    file = _file_of(url)
    if file is not None and not file.exists() and file.parent.is_dir():
        if os.access(file.parent, os.W_OK):
            yield Check("ok", "store", f"{file} is not there yet; the first run makes it")
        else:
            yield Check("problem", "store", f"{file} is not there, and its folder cannot be written", f"chmod u+w {file.parent}")
        return
    try:
        with closing(open_store(url, create=False)) as store:
            yield from _store_lines(store)
    except StoreError as error:
        yield Check("problem", "store", str(error), "mend that, or name another with --store URL or FORESHOCK_STORE")


def _file_of(url: str) -> Path | None:
    """Return the file of a SQLite store, None for every other."""
    name = url.removeprefix("sqlite:///").partition("?")[0]
    named = url.startswith("sqlite:///") or ("://" not in url and name.endswith((".db", ".sqlite", ".sqlite3")))
    return Path(name).expanduser().resolve() if named and name not in ("", ":memory:") else None


def _store_lines(store: "Store") -> Iterator[Check]:
    from .storage import ReadOnlyStoreError, StoreError
    from .storage.schema import HEAD

    listed = store.runs(limit=LATEST_RUNS)
    try:
        store.check()
    except ReadOnlyStoreError as error:
        yield Check("warn", "store", str(error), "nothing, if this host only shows the page")
    except StoreError as error:
        yield Check("problem", "store", f"can be read, not written: {error}", "make file and folder writable, or free the disk")
    else:
        yield Check(
            "ok",
            "store",
            f"{store.url}: can be written, schema {HEAD}, {'no runs yet' if not listed else f'last run {listed[0].name}'}",
        )
    for run in listed:
        yield from _run_lines(store, run)


def _run_lines(store: "Store", run: "Run") -> Iterator[Check]:
    """Tell what the run's own monitor suffered."""
    faults = store.events(run.id, kind="fault")
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        what = f"{run.name}: the monitor had a fault at step {faults[0].step}: {faults[0].message}{more}"
        yield Check("warn", "run", what, "training was not touched; the log has the traceback")
    # A running total, so its largest value is its last.
    dropped = store.read(store.series(run.id, signal="monitor.dropped"), max_points=16)
    lost = max((value for series in dropped for value in series.values if math.isfinite(value)), default=0.0)
    if lost > 0:
        what = f"{run.name}: {lost:.0f} samples were dropped before they could be written"
        yield Check("warn", "run", what, "see whether the store keeps up with the run")


def device_facts() -> dict[str, Any]:
    """Import torch and run a Triton kernel of a few lines. Takes seconds; called in a process of its own."""
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    facts: dict[str, Any] = {"torch": torch.__version__, "threads": torch.get_num_threads(), "gpus": gpus}
    facts["triton"] = _version_of("triton")
    if facts["triton"] is None:
        return facts
    facts["kernel_device"] = "cuda" if gpus else "cpu"
    try:
        facts["kernel"] = _run_kernel(facts["kernel_device"])
    except Exception as error:  # noqa: BLE001 - compilers and drivers fail in ways of their own, and each is worth telling
        facts["kernel"] = f"{type(error).__name__}: {error}".splitlines()[0]
    return facts


def _run_kernel(device: str) -> str:
    import torch
    import triton
    import triton.language as tl

    @triton.jit  # type: ignore[untyped-decorator]
    def double(pointer: Any, size: tl.constexpr) -> None:
        offsets = tl.arange(0, size)
        tl.store(pointer + offsets, 2.0 * tl.load(pointer + offsets))

    values = torch.ones(16, device=device)
    double[(1,)](values, 16)
    return "ok" if bool((values == 2.0).all()) else "wrong result"


if __name__ == "__main__":
    print(json.dumps(device_facts()))
