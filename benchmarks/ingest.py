"""``foreshock bench ingest``: what writing costs, beside other ways of keeping the same numbers, in the same run.

Every contestant is a process of its own that logs the same values, 200 series a step, as fast as it takes them, and stops its clock
when all of them are durable. What durable means for each is said with its figures. All take turns, in an order that alternates
from round to round, so that what slows the machine down falls on each; a ratio is the median of those of the rounds. A contestant
that needs longer than the seconds allowed begins no more steps: its rate is that of the steps it did. What the training thread
waits is measured apart (``ingest_waiting``).
"""

import json as json_module
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from .ingest_contest import OURS, PEERS, Rate, Size, rates, sizes
from .ingest_trackers import TRACKERS
from .ingest_waiting import Wait, waiting_marks, waits
from .machine import Machine, machine
from .marks import Mark, at_least, at_most
from .places import Places

PARTS = ("rate", "bytes", "waiting")


@dataclass(frozen=True, slots=True)
class Ingest:
    """What was measured, on what."""

    machine: Machine
    series: int
    steps: int
    rounds: int
    rates: list[Rate]
    sizes: list[Size]
    waits: list[Wait]
    marks: list[Mark]


def measure(
    stores: Sequence[str] = ("sqlite:///bench.db",),
    *,
    series: int = 200,
    steps: int = 5_000,
    rounds: int = 3,
    seconds: float = 20.0,
    waiting_steps: int = 4_000,
    peers: Sequence[str] = PEERS,
    peer_pythons: Sequence[str] = (),
    parts: Sequence[str] = PARTS,
    say: Callable[[str], None] = lambda line: None,
) -> Ingest:
    """Measure what is asked for.

    Args:
        stores: where foreshock and what stands below it write, one of each engine; databases made there are dropped at the end.
        series, steps: the work, values a step and steps.
        rounds: turns that each contestant takes.
        seconds: after which a contestant begins no more steps.
        waiting_steps: of each case in which the training thread is looked at.
        peers: of ``PEERS``; who is not installed is told with what installs it.
        peer_pythons: other interpreters in which trackers are looked for that this one does not have.
        parts: of ``PARTS``.
        say: is told what is going on.

    Raises:
        ValueError: a store, peer, interpreter, part or size that cannot be measured.
    """
    for given, known in ((peers, PEERS), (parts, PARTS)):
        if unknown := [name for name in given if name not in known]:
            raise ValueError(f"{unknown[0]!r} is none of {', '.join(known)}")
    if min(series, steps, rounds, waiting_steps) < 1 or seconds <= 0:
        sizes_given = f"series={series}, steps={steps}, rounds={rounds}, seconds={seconds}, waiting_steps={waiting_steps}"
        raise ValueError(f"{sizes_given}: all must be above 0")
    with ExitStack() as stack:
        places = [stack.enter_context(Places(url)) for url in stores]
        engines = {place.engine: place.version for place in places}
        if len(engines) < len(places):
            raise ValueError(f"{len(places)} stores of {len(engines)} engines: name one of each")
        measured = machine(("SQLAlchemy", "psycopg", "pymysql", "numpy"), engines)
        found_rates = rates(places, series, steps, rounds, seconds, peers, peer_pythons, say) if "rate" in parts else []
        found_sizes = [size for place in places for size in sizes(place, series, steps, say)] if "bytes" in parts else []
        found_waits = waits(places, series, waiting_steps, say) if "waiting" in parts else []
    marks = [*_marks(found_rates, found_sizes), *waiting_marks(found_waits)]
    return Ingest(measured, series, steps, rounds, found_rates, found_sizes, found_waits, marks)


def _marks(found_rates: Sequence[Rate], found_sizes: Sequence[Size]) -> list[Mark]:
    marks = []
    for rate in found_rates:
        if rate.contestant == OURS:
            marks += [at_least(f"{rate.where}: points per second", mark, rate.points_per_second) for mark in (150_000, 250_000)]
        elif rate.contestant in TRACKERS:
            marks += [
                Mark(f"{where}: points per second over those of {rate.contestant}, above", 1.0, ratio, ratio > 1)
                for where, ratio in rate.ratio.items()
            ]
    return marks + [
        at_most(f"sqlite: bytes a point, a sample every {size.every} steps", 40.0, size.bytes_per_point)
        for size in found_sizes
        if size.where == "sqlite"
    ]


def main(*, json: bool, **wanted: Any) -> int:
    """Run the benchmark and print the figures; return the exit status."""
    found = measure(**wanted, say=lambda line: print(line, file=sys.stderr, flush=True))
    if json:
        print(json_module.dumps(asdict(found), indent=2))
    else:
        from .ingest_shown import shown

        shown(found)
    return 0
