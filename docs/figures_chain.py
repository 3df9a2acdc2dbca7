"""Draw the chain from rounding errors to a loss explosion, as measured: ``python docs/figures_chain.py`` (5 minutes, Chromium).

The low-precision scenario of the zoo is trained three times with the probes at a fixed cadence: failing, with delta's errors given
a random sign, and with delta from the float32 output. Beside the probes a slow twin measures the error of W_q's gradient itself:
the gradient of one fixed batch, less what it is with delta from float32. Writes docs/images/chain.svg (the first seed) and the
table of docs/chain.md (every seed).
"""

import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from foreshock import open_store, watch
from foreshock.analyzer.failure import running_median
from foreshock.kernels import Precision, reference_attention
from foreshock.zoo.scenarios.low_precision_attention import STEPS, build
from foreshock.zoo.text import windows
from playwright.sync_api import sync_playwright
from plotly.subplots import make_subplots
from torch import Tensor, nn

SEEDS = (0, 1, 2)
RUNS = {"failing": "stored", "random sign": "random_sign", "delta from float32": "float32"}
EVERY = 20
LAYERS = 2
PROBES = ["attention", "rounding_bias", "spectral"]
DOCS = Path(__file__).resolve().parent
# Samples over which one sign is looked for, and how many in a row must be beyond a threshold.
WINDOW, IN_A_ROW = 15, 3
COLOURS = {"failing": "#c2410c", "random sign": "#2563eb", "delta from float32": "#15803d"}


def precision(source: str) -> Precision:
    """Return the scenario's precision with another source of delta."""
    return Precision.flash(output=3, delta_from=source)  # type: ignore[arg-type]


class Twin:
    """The error of W_q's gradient, dense: what one batch gives, less what it gives with delta from float32."""

    def __init__(self, model: nn.Module, source: str) -> None:
        self.model, self.source = model, source
        self.batch = windows(count=16, context=64)[:8]
        self.total = [torch.zeros(64, 64) for _ in range(LAYERS)]
        self.sizes = [0.0] * LAYERS

    def gradients(self, source: str) -> list[Tensor]:
        """Return the gradients of the layers' W_q with delta from ``source``."""
        attentions = [block.attention for block in self.model.blocks]
        before = [attention.attend for attention in attentions]
        for attention in attentions:
            attention.attend = lambda q, k, v: reference_attention(q, k, v, is_causal=True, precision=precision(source))
        logits = self.model(self.batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), self.batch[:, 1:].flatten())
        found = torch.autograd.grad(loss, [attention.q.weight for attention in attentions])
        for attention, attend in zip(attentions, before, strict=True):
            attention.attend = attend
        return list(found)

    def measure(self, step: int) -> list[dict[str, object]]:
        """Return size, rank and coherence of the error, and its share along W_q's leading pair, by layer."""
        rows: list[dict[str, object]] = []
        for i, (low, high) in enumerate(zip(self.gradients(self.source), self.gradients("float32"), strict=True)):
            error = low - high
            sigma = torch.linalg.svdvals(error)
            u, _, v = torch.linalg.svd(self.model.blocks[i].attention.q.weight.detach())
            size = error.norm()
            self.total[i] += error
            self.sizes[i] += float(size)
            found = {
                "error": size / low.norm(),
                "rank_one": sigma[0].square() / sigma.square().sum(),
                "along": -(u[:, 0] @ error @ v[0]) / size,
                "coherence": self.total[i].norm() / max(self.sizes[i], 1e-30),
            }
            rows.extend(
                {"step": step, "signal": f"twin.{name}", "module": f"blocks.{i}.attention", "head": -1, "value": float(value)}
                for name, value in found.items()
            )
        return rows


def train(name: str, source: str, seed: int) -> pd.DataFrame:
    """Train one run; return its samples in long form."""
    torch.set_num_threads(1)
    training = build(precision(source), seed)
    twin = Twin(training.model, source)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'chain.db'}"
        with watch(training.model, training.optimizer, run=name, store=url, probes=PROBES, every=EVERY) as monitor:
            for step in range(STEPS):
                if step % EVERY == EVERY // 2:  # between two samples: the twin's passes are not seen
                    rows.extend(twin.measure(step))
                monitor.step(training.step(step).detach())
        store = open_store(url)
        measured = store.frame(monitor.run)
        store.close()
    columns = ["step", "signal", "module", "head", "value"]
    return pd.concat([measured[columns], pd.DataFrame(rows)[columns]], ignore_index=True)


def series(run: pd.DataFrame, signal: str, module: str, heads: str = "max") -> pd.Series:
    """Return the largest value over heads by step, or another aggregate of them."""
    found = run[(run["signal"] == signal) & (run["module"] == module)]
    return found.groupby("step")["value"].agg(heads)


def one_sign(run: pd.DataFrame, module: str) -> pd.Series:
    """Return the t-value of delta's bias over the last samples, of the head where it is largest."""
    found = run[(run["signal"] == "rounding.delta_bias") & (run["module"] == module)]
    heads = found.pivot_table(index="step", columns="head", values="value").rolling(WINDOW)
    return (heads.mean() / heads.std() * WINDOW**0.5).max(axis=1).dropna()


def first_beyond(values: pd.Series, threshold: float) -> int | None:
    """Return the step of the first of some samples in a row above a threshold."""
    above = (values > threshold).rolling(IN_A_ROW).sum() == IN_A_ROW
    return int(values.index[int(np.argmax(above.to_numpy())) - IN_A_ROW + 1]) if above.any() else None


def worst_layer(run: pd.DataFrame) -> str:
    """Return the attention whose W_q has the largest sigma_1 at the end."""
    ends = {f"blocks.{i}.attention": series(run, "weight.spectral_norm", f"blocks.{i}.attention.q").iloc[-1] for i in range(LAYERS)}
    return max(ends, key=lambda name: ends[name])


def links(run: pd.DataFrame, healthy: pd.DataFrame, module: str) -> dict[str, tuple[pd.Series, float]]:
    """Return the links of the chain: a series, and above what it is out of order. Growth is judged by the healthy run."""

    def beyond_healthy(signal: str, where: str) -> tuple[pd.Series, float]:
        usual = series(healthy, signal, where)
        return series(run, signal, where), 1.25 * float(usual[usual.index > 100].max())

    along = series(run, "twin.along", module).rolling(WINDOW, min_periods=5).mean().dropna()
    return {
        f"delta's bias has one sign over {WINDOW} samples (t > 4)": (one_sign(run, module), 4.0),
        "error of W_q's gradient above 0.3 of it (probe)": (series(run, "rounding.query_gradient_error", module), 0.3),
        "the same, dense (twin)": (series(run, "twin.error", module), 0.3),
        f"the error pushes sigma_1 up: mean of {WINDOW} cosines above 0.25 (twin)": (along, 0.25),
        "sigma_1 of W_q above 1.25 x healthy": beyond_healthy("weight.spectral_norm", f"{module}.q"),
        "max logit above 1.25 x healthy": beyond_healthy("attention.max_logit", module),
    }


def turn(run: pd.DataFrame) -> str:
    """Say when the loss was at its best, if it ends above that for good."""
    loss = series(run, "loss", "")
    median = running_median(loss.to_numpy())
    best = int(np.nanargmin(median))
    return f"{int(loss.index[best])}" if median[-1] > 1.25 * median[best] + 0.05 else "-"


def table(seeds: Mapping[int, Mapping[str, pd.DataFrame]]) -> str:
    """Return the Markdown table: a row a link, a column a seed: failing run / run with random signs."""
    lines: dict[str, list[str]] = {}
    for runs in seeds.values():
        module = worst_layer(runs["failing"])
        cells = [links(runs[name], runs["delta from float32"], module) for name in ("failing", "random sign")]
        for link in cells[0]:
            steps = [None if cell[link][0].empty else first_beyond(*cell[link]) for cell in cells]
            shown = [
                "n/a" if cell[link][0].empty else "-" if step is None else str(step)
                for cell, step in zip(cells, steps, strict=True)
            ]
            lines.setdefault(link, []).append(" / ".join(shown))
        lines.setdefault("the loss is at its best, and rises from there", []).append(
            " / ".join(turn(runs[name]) for name in ("failing", "random sign"))
        )
        ends = (f"{series(runs[name], 'loss', '').iloc[-50:].mean():.2f}" for name in RUNS)
        lines.setdefault("final loss: failing / random sign / delta from float32", []).append(" / ".join(ends))
        lines.setdefault("layer", []).append(f"`{module}`")
    head = f"| first step of | {' | '.join(f'seed {seed}' for seed in seeds)} |\n|---|{'---|' * len(seeds)}\n"
    return head + "".join(f"| {link} | {' | '.join(cells)} |\n" for link, cells in lines.items())


def figure(seeds: Mapping[int, Mapping[str, pd.DataFrame]]) -> go.Figure:
    """Draw the links of the first seed below each other, its three runs in each; dotted, the other seeds' failing runs."""
    first, *others = seeds.values()
    runs, module = first, worst_layer(first["failing"])
    panels = {
        "Running sum of delta's bias, mean of heads (dotted: other seeds)": lambda run: series(
            run, "rounding.delta_bias_sum", module, "mean"
        ),
        "Error of W_q's gradient, share of it (twin)": lambda run: series(run, "twin.error", module).rolling(5).median(),
        f"Its cosine with growth of σ₁, mean of {WINDOW} (twin)": lambda run: (
            series(run, "twin.along", module).rolling(WINDOW).mean()
        ),
        "σ₁ of W_q": lambda run: series(run, "weight.spectral_norm", f"{module}.q"),
        "Max attention logit": lambda run: series(run, "attention.max_logit", module),
        "Loss, running median of 25 steps": lambda run: series(run, "loss", "").rolling(25).median(),
    }
    drawn = make_subplots(len(panels), 1, shared_xaxes=True, vertical_spacing=0.035, subplot_titles=list(panels))
    for row, of in enumerate(panels.values(), 1):
        for name, run in runs.items():
            values = of(run)
            style = {"color": COLOURS[name], "width": 2}
            drawn.add_scatter(x=values.index, y=values, name=name, line=style, showlegend=row == len(panels), row=row, col=1)
    for other in others:
        values = series(other["failing"], "rounding.delta_bias_sum", worst_layer(other["failing"]), "mean")
        style = {"color": COLOURS["failing"], "width": 1.5, "dash": "dot"}
        drawn.add_scatter(x=values.index, y=values, line=style, showlegend=False, row=1, col=1)
    for row in (4, 5):
        drawn.update_yaxes(type="log", row=row, col=1)
    drawn.update_xaxes(title_text="step", row=len(panels), col=1)
    drawn.update_annotations(x=0, xanchor="left", font_size=13)
    legend = {"orientation": "h", "y": 1.06, "x": 0}
    return drawn.update_layout(
        template="plotly_white", width=820, height=1080, margin={"l": 60, "r": 20, "t": 80, "b": 50}, legend=legend
    )


def write_svg(drawn: go.Figure, file: Path) -> None:
    """Let Chromium turn the figure into SVG."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("no Chromium found; install it (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page()
        tab.set_content(drawn.to_html(include_plotlyjs=True, div_id="chain"))
        address = tab.evaluate("Plotly.toImage('chain', {format: 'svg', width: 820, height: 1080})")
        browser.close()
    file.write_text(unquote(address.partition(",")[2]), "utf-8")


def main() -> int:
    """Train, draw, write; return the exit status."""
    seeds = {seed: {name: train(name, source, seed) for name, source in RUNS.items()} for seed in SEEDS}
    write_svg(figure(seeds), DOCS / "images" / "chain.svg")
    page = DOCS / "chain.md"
    marked = re.compile(r"(<!-- begin: chain -->\n).*?(<!-- end: chain -->)", re.DOTALL)
    page.write_text(marked.sub(lambda found: found[1] + table(seeds) + found[2], page.read_text("utf-8")), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
