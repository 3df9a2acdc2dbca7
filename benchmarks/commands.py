"""The commands ``foreshock bench ...``. Imports what is heavy when a command runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Measure what foreshock costs on this machine.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print data as JSON, and nothing else.")]
StoresOption = Annotated[
    list[str] | None,
    typer.Option("--store", metavar="URL", help="Where to make databases for it, dropped at the end; SQLite if left out."),
]
PeerPythonOption = Annotated[
    list[str] | None, typer.Option("--peer-python", metavar="PATH", help="An interpreter that has trackers which this one lacks.")
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads to train with.")]
DEFAULT_STORES = ("sqlite:///bench.db",)
"""A file in a temporary folder made here, for the folder is what is looked at."""


@contextmanager
def explained() -> Iterator[None]:
    """Tell of impossible wishes as of wrong arguments."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


@app.command(epilog="Example: foreshock bench overhead --model gpt --mode eager --json")
def overhead(
    model: Annotated[list[str] | None, typer.Option(help="gpt, wide-gpt or convnet; all if left out.")] = None,
    mode: Annotated[list[str] | None, typer.Option(help="eager or compile; both if left out.")] = None,
    preset: Annotated[list[str] | None, typer.Option(help="light, default or full; all if left out.")] = None,
    steps: Annotated[int, typer.Option(min=20, help="Steps of each run.")] = 200,
    every: Annotated[int, typer.Option(min=2, help="Steps from one sample to the next.")] = 50,
    threads: ThreadsOption = None,
    peers: Annotated[bool, typer.Option(help="Also run .item() hooks and, where installed, Weights & Biases.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Compare what each preset costs on several models, eager and compiled, with other ways of watching."""
    from .overhead import main as measure

    chosen = {"models": model or [], "modes": mode or [], "presets": preset or []}
    raise typer.Exit(measure(**chosen, steps=steps, every=every, threads=threads, peers=peers, json=as_json))


@app.command(epilog="Example: foreshock bench step --json")
def step(
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of runs, one with the monitor and one without.")] = 5,
    steps: Annotated[int, typer.Option(min=20, help="Steps of each run.")] = 60,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what a step costs at default settings, part by part, in paired runs of a small GPT."""
    from .step import main as measure

    raise typer.Exit(measure(pairs=pairs, steps=steps, threads=threads, json=as_json))


@app.command(epilog="Example: foreshock bench startup --json")
def startup(
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured.")] = 7,
    as_json: JsonOption = False,
) -> None:
    """Compare the time to the dashboard's first page with that of importing its libraries alone."""
    from .startup import main as measure

    raise typer.Exit(measure(rounds=rounds, json=as_json))


@app.command(epilog="Example: foreshock bench kernels --length 2048 --head-dim 64 --csv kernels.csv --plot kernels.html")
def kernels(
    backend: Annotated[str, typer.Option(help="cuda, cpu, or auto: the GPU if there is one.")] = "auto",
    length: Annotated[list[int] | None, typer.Option(min=1, help="T and S; a sweep if left out.")] = None,
    head_dim: Annotated[list[int] | None, typer.Option(min=1, help="D; the common ones if left out.")] = None,
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    causal: Annotated[bool, typer.Option(help="Hide keys after the query.")] = True,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured.")] = 20,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the figures there too.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with TFLOP/s over length there.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare foreshock's attention with SDPA's back ends and FlexAttention, forward and backward."""
    from .kernels import main as measure

    sweep = {"lengths": length or (), "head_dims": head_dim or ()}
    try:
        status = measure(backend=backend, **sweep, dtype=dtype, causal=causal, rounds=rounds, json=as_json, csv=csv, plot=plot)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    raise typer.Exit(status)


@app.command(epilog="Example: foreshock bench ingest --store sqlite:///bench.db --store postgresql://user@host/database --json")
def ingest(
    series: Annotated[int, typer.Option(min=1, help="Values a step.")] = 200,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each contestant's run.")] = 5_000,
    rounds: Annotated[int, typer.Option(min=1, help="Turns that each contestant takes.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.01, help="A contestant begins no step later than that.")] = 20.0,
    store: StoresOption = None,
    peer: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only these; all if left out.")] = None,
    peers: Annotated[bool, typer.Option(help="Compare with others at all.")] = True,
    peer_python: PeerPythonOption = None,
    waiting_steps: Annotated[
        int, typer.Option(min=1, help="Steps of each case in which the training thread is looked at.")
    ] = 4_000,
    part: Annotated[list[str] | None, typer.Option(help="rate, bytes or waiting; all if left out.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure durable points per second beside other trackers, bytes a point, and what the training thread waits."""
    from .ingest import PARTS
    from .ingest import main as measure
    from .ingest_contest import PEERS

    size = {"series": series, "steps": steps, "rounds": rounds, "seconds": seconds, "waiting_steps": waiting_steps}
    others = {"peers": (peer or PEERS) if peers else (), "peer_pythons": peer_python or ()}
    with explained():
        status = measure(**size, **others, stores=store or DEFAULT_STORES, parts=part or PARTS, json=as_json)
    raise typer.Exit(status)


@app.command(
    epilog="Example: foreshock bench query --store sqlite:///bench.db --store postgresql://user@host/database --keep --json"
)
def query(
    series: Annotated[int, typer.Option(min=5, help="Series of the long run; two in five are layers of one signal.")] = 500,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the long run: ten million points with 500 series.")] = 20_000,
    runs: Annotated[int, typer.Option(min=1, help="Short runs beside it.")] = 1_000,
    times: Annotated[int, typer.Option(min=1, help="How often each thing is read.")] = 30,
    store: StoresOption = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave what was built, and use it when it is there.")] = False,
    peers: Annotated[bool, typer.Option(help="Read a run of that size with trackio, where installed.")] = True,
    peer_python: PeerPythonOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how long the page waits for a series, a heatmap and the overview of a large store."""
    from .query import main as measure
    from .query_data import Sizes

    wanted = {"sizes": Sizes(series, steps, runs), "times": times, "keep": keep, "peers": peers, "peer_pythons": peer_python or ()}
    with explained():
        status = measure(**wanted, stores=store or DEFAULT_STORES, json=as_json)
    raise typer.Exit(status)


@app.command(epilog="Example: foreshock bench page --store sqlite:///bench.db --keep --json")
def page(
    series: Annotated[int, typer.Option(min=5, help="Series of the long run; two in five are layers of one signal.")] = 500,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the long run: ten million points with 500 series.")] = 20_000,
    updates: Annotated[int, typer.Option(min=1, help="Steps whose way to the pixels is timed.")] = 60,
    zooms: Annotated[int, typer.Option(min=1, help="How often a part of the long run is zoomed into.")] = 20,
    paints: Annotated[int, typer.Option(min=1, help="How often its page is opened.")] = 5,
    tabs: Annotated[int, typer.Option(min=1, help="Tabs that are open at once in the last part.")] = 20,
    pause: Annotated[float, typer.Option(min=0.01, help="Seconds from one step of the training to the next, about.")] = 0.5,
    store: Annotated[str, typer.Option("--store", metavar="URL", help="Where to make a database for it.")] = DEFAULT_STORES[0],
    keep: Annotated[bool, typer.Option("--keep", help="Leave the long run that was built, and use it when it is there.")] = False,
    part: Annotated[list[str] | None, typer.Option(help="live, paint, zoom or many; all if left out.")] = None,
    browser: Annotated[str | None, typer.Option(metavar="PATH", help="Chromium or Chrome; looked for if left out.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what a reader of the page waits for, in a real browser: live steps, the first paint, zooms; alone and among many."""
    from .page import PARTS
    from .page import main as measure
    from .query_data import Sizes

    times = {"updates": updates, "zooms": zooms, "paints": paints, "tabs": tabs, "pause": pause}
    with explained():
        sizes = Sizes(series, steps, 1)
        status = measure(store=store, sizes=sizes, **times, keep=keep, parts=part or PARTS, browser=browser, json=as_json)
    raise typer.Exit(status)
