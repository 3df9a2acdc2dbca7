"""Make the pictures of README and docs from real pages: ``python docs/screenshots.py`` (needs Chromium, Playwright and Pillow).

Runs are trained, or generated where the caption says so, into temporary stores; the real dashboard is served over them, and
headless Chromium looks at every page in light, in dark and at the width of a phone. A new page is a line in ``PICTURES``.

    python docs/screenshots.py --list
    python docs/screenshots.py --only 'run*' --looks light,dark --to /tmp/pictures
"""

import argparse
import json
import math
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image
from playwright.sync_api import Browser, Page, Route, sync_playwright

IMAGES = Path(__file__).resolve().parent / "images"
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SETTLE = 4000
"""Milliseconds that charts are given to come to rest: the page is live, so nothing on it says "done"."""
STILL_LOADING = "(each) => each.checkVisibility() && each.textContent.startsWith('loading')"
PATIENCE = 180_000
"""Milliseconds that a page may take to be ready: this machine may be busy."""
MOST_BYTES = 300_000
LOOKS = {"light": ("light", 1400), "dark": ("dark", 1400), "phone": ("light", 390)}
"""Look -> (colour scheme, width in pixels)."""
MOST_HEIGHT = 1560


class Stores:
    """The stores that pictures are made of, each filled when a picture first needs it, unless ``folder`` has it already."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def filled(self, name: str) -> tuple[str, dict[str, str]]:
        """Return the URL of a store and what is in it."""
        noted = self.folder / f"{name}.json"
        if not noted.exists():
            (self.folder / f"{name}.db").unlink(missing_ok=True)  # one that was not filled to its end
            noted.write_text(json.dumps(getattr(self, name)()))
        return self._place(name), json.loads(noted.read_text())

    def real(self) -> dict[str, str]:
        """The demo's two runs, trained here: ``failing`` and ``healthy``."""
        from foreshock.storage import open_store
        from foreshock.zoo.demo import train
        from foreshock.zoo.scenario import scenario

        names = {"healthy": "healthy", "failing": "low-precision-attention"}
        made = {name: train(scenario(kind), self._place("real"), seed=0, say=print) for name, kind in names.items()}
        print({name: one.outcome for name, one in made.items()})
        runs = {name: one.run for name, one in made.items()}
        store = open_store(self._place("real"))
        alerts = sorted(store.alerts(store.run(runs["failing"]).id), key=lambda one: (-one.severity.rank, one.first_step))
        store.close()
        return {**runs, "alert": alerts[0].id}

    def little(self) -> dict[str, str]:
        """A run that has just begun: a small model, watched for twelve steps."""
        import foreshock
        import torch
        from torch import nn

        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        with foreshock.watch(model, optimizer, run="just-begun", store=self._place("little"), every=4) as monitor:
            for _ in range(12):
                loss = nn.functional.cross_entropy(model(torch.randn(64, 16)), torch.randint(4, (64,)))
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                monitor.step(loss)
        return {"run": "just-begun"}

    def empty(self) -> dict[str, str]:
        """No run at all."""
        from foreshock.storage import open_store

        open_store(self._place("empty")).close()
        return {}

    def big(self) -> dict[str, str]:
        """Generated: one run of 10 million points, and a thousand short ones."""
        from foreshock.benchmarks.query_data import SIGNAL, Sizes, build
        from foreshock.storage import open_store

        store = open_store(self._place("big"))
        run = build(store, Sizes(), print)
        store.close()
        return {"run": run.id, "signal": SIGNAL}

    def wide(self) -> dict[str, str]:
        """Generated: 200 layers of 16 heads, one of which turns after two thirds of the run."""
        from foreshock.storage import open_store
        from foreshock.storage.records import Batch, Run, RunStatus, SeriesKey, StepRecord, new_id

        store, draw, now = open_store(self._place("wide")), random.Random(0), time.time()
        run = Run(new_id(), "200 layers of 16 heads", "demo", RunStatus.RUNNING, now, now)
        store.create_run(run)
        segment = store.open_segment(run.id, 0, now)
        heads = [(layer, head) for layer in range(200) for head in range(16)]
        keys = [SeriesKey("attention.max_logit", f"model.layers.{layer}.self_attn", head) for layer, head in heads]
        keys += [SeriesKey("attention.entropy_min", key.module, key.head) for key in keys]
        for step in range(0, 1500, 10):
            turned = max(0.0, (step - 700) / 100)
            logits = [8 + layer / 40 + draw.gauss(0, 0.4) + (head == 5 and layer == 120) * 2**turned for layer, head in heads]
            values = [1 + 4 * math.exp(-step / 200) + draw.gauss(0, 0.02), *logits, *(3 / logit for logit in logits)]
            store.write(Batch(new_id(), run.id, segment, (StepRecord(step, now, (SeriesKey("loss"), *keys), values),)))
        store.update_run(run.id, status=RunStatus.FINISHED, ended_at=now)
        store.close()
        return {"run": run.id}

    def _place(self, name: str) -> str:
        return f"sqlite:///{self.folder / name}.db"


@dataclass(frozen=True)
class Picture:
    """One page to look at.

    Args:
        store: which method of ``Stores`` fills the store that it is served from.
        path: the address below the dashboard's, from what that method returns.
        ready: what is there when the page is.
        caption: what the picture shows, and whether the data are generated.
        hold: keep the page as it is while it waits for its data.
        part: show only this part of the page.
    """

    store: str
    path: Callable[[dict[str, str]], str]
    ready: str
    caption: str
    hold: bool = False
    part: str = ""


CHART = ".js-plotly-plot .scatterlayer .trace, .js-plotly-plot .heatmaplayer image"
FAILING = "signal=attention.max_logit"
PICTURES: dict[str, Picture] = {
    "runs": Picture("real", lambda _: "", "table.runs", "The list of runs"),
    "runs-empty": Picture("empty", lambda _: "", "#no-runs", "The list of runs before the first one"),
    "runs-many": Picture("big", lambda _: "", "table.runs", "The list of a thousand runs (generated)"),
    "run": Picture("real", lambda runs: f"run/{runs['failing']}?{FAILING}", CHART, "A run that is about to fail"),
    "run-healthy": Picture("real", lambda runs: f"run/{runs['healthy']}", CHART, "A healthy run"),
    "run-little": Picture("little", lambda runs: f"run/{runs['run']}", CHART, "A run that has just begun"),
    "run-loading": Picture(
        "real", lambda runs: f"run/{runs['failing']}", "#loss .js-plotly-plot", "A run's page as it loads", hold=True
    ),
    "run-big": Picture(
        "big",
        lambda runs: f"run/{runs['run']}?signal={quote(runs['signal'])}",
        CHART,
        "A run of 500 series and 10 million points (generated: random walks)",
    ),
    "run-wide": Picture(
        "wide", lambda runs: f"run/{runs['run']}?signal=attention.max_logit", CHART, "A run of 200 layers of 16 heads (generated)"
    ),
    "panel-layer": Picture("real", lambda runs: f"run/{runs['failing']}", CHART, "One layer", part="#panel-layer"),
    "panel-rounding": Picture(
        "real", lambda runs: f"run/{runs['failing']}?panel=rounding", CHART, "Rounding bias", part="#panel-rounding"
    ),
    "panel-attention": Picture(
        "real", lambda runs: f"run/{runs['failing']}?panel=attention", CHART, "Low-rank attention", part="#panel-attention"
    ),
    "panel-optimizer": Picture(
        "real", lambda runs: f"run/{runs['failing']}?panel=optimizer", CHART, "Optimizer and numerics", part="#panel-optimizer"
    ),
    "panel-monitor": Picture(
        "real", lambda runs: f"run/{runs['failing']}?panel=monitor", CHART, "What monitoring costs", part="#panel-monitor"
    ),
    "compare": Picture("real", lambda runs: f"compare?runs={runs['failing']},{runs['healthy']}", CHART, "Two runs compared"),
    "compare-none": Picture("empty", lambda _: "compare", "main", "Comparing before runs are chosen"),
    "alerts": Picture("real", lambda _: "alerts?state=all", ".inbox-row", "The inbox of alerts"),
    "alerts-empty": Picture("empty", lambda _: "alerts", "#inbox-empty", "The inbox without an alert"),
    "alert": Picture("real", lambda runs: f"alert/{runs['alert']}", CHART, "One alert: evidence, causes, what to do"),
    "rules": Picture("real", lambda runs: f"rules?run={runs['failing']}", ".rule-entry", "The rules, as a run is judged by them"),
    "rule": Picture(
        "real",
        lambda runs: f"rules/loss_spike?run={runs['failing']}",
        "main fieldset, main input",
        "One rule, and how to change it",
    ),
    "api": Picture("real", lambda _: "api", "main", "The HTTP API"),
    "report": Picture("real", lambda runs: f"report/{runs['failing']}", CHART, "The same run as a report, one HTML file"),
    "cause": Picture("empty", lambda _: "cause/low-precision-attention", ".prose h2", "The page of a cause"),
    "unknown": Picture("empty", lambda _: "run/nobody", ".message", "A run that the store does not have"),
}


def main(arguments: Sequence[str]) -> int:
    """Fill stores, serve, take the pictures; return the exit status."""
    given = _arguments(arguments)
    chosen = {name: one for name, one in PICTURES.items() if any(fnmatchcase(name, pattern) for pattern in given.only)}
    if given.list:
        print("\n".join(f"{name:14} {one.store:8} {one.caption}" for name, one in chosen.items()))
        return 0
    if not chosen:
        print(f"no picture is named {' or '.join(given.only)}; there are: {', '.join(PICTURES)}", file=sys.stderr)
        return 2
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        print("no Chromium found; install it (Debian: apt-get install chromium)", file=sys.stderr)
        return 1
    for folder in [given.to, *([given.stores] if given.stores else [])]:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as ending, sync_playwright() as playwright:
        stores, served = Stores(given.stores or Path(temporary)), dict[str, tuple[str, dict[str, str]]]()
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        for name, picture in chosen.items():
            if picture.store not in served:
                store, runs = stores.filled(picture.store)
                served[picture.store] = ending.enter_context(_serving(store)), runs
            base, runs = served[picture.store]
            url = base + picture.path(runs)
            for look in given.looks:
                _take(browser, picture, url, look, given.to / f"{name}-{look}.png")
        browser.close()
    if given.to != IMAGES:  # there the documents say what each shows
        _captions(given.to)
    return 0


def _arguments(arguments: Sequence[str]) -> Any:
    def looks(given: str) -> list[str]:
        names = given.split(",")
        if strangers := [name for name in names if name not in LOOKS]:
            raise argparse.ArgumentTypeError(f"{', '.join(strangers)}: allowed are {', '.join(LOOKS)}")
        return names

    parser = argparse.ArgumentParser(description="Make the pictures of README and docs from real pages.")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=["*"], help="these pictures: names or patterns such as 'run*'")
    parser.add_argument("--looks", type=looks, default=list(LOOKS), help=f"of {','.join(LOOKS)}; all by default")
    parser.add_argument("--to", type=Path, default=IMAGES, metavar="FOLDER", help="where to; docs/images by default")
    parser.add_argument("--stores", type=Path, metavar="FOLDER", help="keep the stores here, and use those that are there already")
    parser.add_argument("--list", action="store_true", help="name the pictures and end")
    return parser.parse_args(arguments)


@contextmanager
def _serving(store: str) -> Iterator[str]:
    from foreshock.zoo.page import LivePage

    with LivePage(store, port=_free_port()) as page:
        if not page.wait_until_serving():
            raise RuntimeError(f"the dashboard over {store} did not start")
        yield page.url


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _take(browser: Browser, picture: Picture, url: str, look: str, file: Path) -> None:
    """Open a page, wait until it is ready and has come to rest, and keep the picture: of a long page its upper part."""
    scheme, width = LOOKS[look]
    context = browser.new_context(viewport={"width": width, "height": 1000}, color_scheme=scheme)
    tab = context.new_page()
    tab.set_default_timeout(PATIENCE)
    if picture.hold:
        _hold(tab)
    tab.goto(url)
    tab.locator(picture.ready).first.wait_for(state="attached")
    height = int(
        tab.evaluate("Math.max(...[...document.querySelectorAll('main')].map((each) => each.getBoundingClientRect().bottom))")
    )
    # A part is shown whole, below what stays at the top of the window.
    tab.set_viewport_size({"width": width, "height": height if picture.part else max(300, min(height, MOST_HEIGHT))})
    if not picture.hold:
        tab.wait_for_function(f"() => ![...document.querySelectorAll('.annotation-text')].some({STILL_LOADING})")
    tab.wait_for_timeout(SETTLE)
    if picture.part:
        tab.locator(picture.part).screenshot(path=file)
    else:
        tab.screenshot(path=file)
    context.close()
    print(f"{file}  {_shrink(file):,} bytes")


def _hold(tab: Page) -> None:
    """Let the page itself come, and nothing that it then asks for. Without a SharedWorker it asks over HTTP."""
    tab.add_init_script("delete window.SharedWorker")

    def answer(route: Route) -> None:
        if re.search(r'"output":\s*"page\.children"', route.request.post_data or ""):
            route.continue_()

    tab.route("**/_dash-update-component*", answer)


def _shrink(file: Path) -> int:
    """Write a picture with as many colours as it may have to stay small; return its size in bytes."""
    picture = Image.open(file).convert("RGB")
    for colours in (0, 256, 128, 64):  # 0: all of them
        (picture.quantize(colours, dither=Image.Dither.NONE) if colours else picture).save(file, optimize=True)
        if file.stat().st_size < MOST_BYTES:
            return file.stat().st_size
    raise RuntimeError(
        f"{file} has {file.stat().st_size:,} bytes even with 64 colours, of {MOST_BYTES:,} allowed: show less of the page"
    )


def _captions(folder: Path) -> None:
    """Write what the pictures of a folder show beside them."""
    lines = [
        "# Pictures",
        "",
        "Made by `python docs/screenshots.py`; data are of runs trained for it, or generated where it says so.",
        "",
    ]
    for name, picture in PICTURES.items():
        for look in LOOKS:
            file = f"{name}-{look}.png"
            if (folder / file).exists():
                lines += [f"## {picture.caption} ({look})", "", f"![{picture.caption}]({file})", ""]
    (folder / "README.md").write_text("\n".join(lines), "utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
