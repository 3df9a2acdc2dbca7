"""On what was measured: a figure without its machine says nothing."""

import datetime
import importlib.metadata
import os
import platform
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and when a benchmark ran.

    Attributes:
        date: UTC, to the minute.
        cpu: the processor's name.
        cores: that this process may use.
        load: processes that wanted a core in the minute before (None where the system does not say): beyond the cores
            it was not idle, and figures are too low.
        software: names and versions: Python, packages, engines.
    """

    date: str
    cpu: str
    cores: int
    load: float | None
    system: str
    software: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        software = ", ".join(f"{name} {version}" for name, version in self.software.items())
        load = "" if self.load is None else f", load {self.load:.1f}"
        return f"{self.cpu}, {self.cores} cores{load}; {self.system}; {software}; {self.date}"


def machine(packages: Iterable[str] = (), software: Mapping[str, str] | None = None) -> Machine:
    """Describe this machine, now, with the versions of some packages and of what else is named."""
    versions = {"Python": platform.python_version(), "SQLite": sqlite3.sqlite_version}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):
        load = None
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return Machine(now, _cpu(), cores, load, f"{platform.system()} {platform.machine()}", versions | dict(software or {}))


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown processor"
