"""Make tables and figure of docs/delta_sign.md: ``python docs/figures_delta_sign.py STATES ABLATIONS REPRODUCTION`` (Chromium).

The first two folders are those of figures_delta_sign_states.py and figures_delta_sign_training.py, the third that of a whole
``foreshock reproduce``, whose arms are two of the ablations. Intervals are 95 %, Student's t over seeds.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from figures_svg import markdown, put, write_svg
from foreshock.analyzer.failure import running_median
from plotly.subplots import make_subplots
from scipy import stats

Record = dict[str, Any]
STEPS = (100, 200, 300, 400, 500)  # before the loss turns, where the model has learned something
FITTED = (3, 4, 5, 6, 7, 8, 10)
KINDS = {
    "nearest": "rounding to nearest",
    "random sign": "the same sizes, random signs",
    "stochastic": "stochastic rounding",
    "stochastic, independent": "stochastic, delta's error drawn anew",
    "another token's": "delta has the previous token's error",
    "another window's": "delta has another window's error",
}
TRAINED = {
    "same error (what flash attention does)": ("rounded", "the same error: flash attention"),
    "no error in delta (the cure)": ("rounded", "none: the cure"),
    "same error, exact forward pass": ("exact", "the error of rounding"),
    "opposite error": ("rounded", "the opposite error"),
    "another token's error": ("rounded", "the error of another window's token"),
    "stochastic rounding, same error": ("stochastically rounded", "the same error"),
    "stochastic rounding, independent error": ("stochastically rounded", "a stochastic error drawn anew"),
    "same error, 4 bits": ("rounded to 4 bits", "the same error"),
    "same error, 5 bits": ("rounded to 5 bits", "the same error"),
}
AS_ARMS = {"same error (what flash attention does)": "low_precision", "no error in delta (the cure)": "float32_delta"}
COLOURS = ("#e11d48", "#0d9488", "#7c8aa0", "#3b82f6", "#d97706", "#9f1239", "#8b5cf6")


def chosen(records: Sequence[Record], **wanted: Any) -> list[Record]:
    """Return the records with these values."""
    return [record for record in records if all(record[name] == value for name, value in wanted.items())]


def interval(values: Sequence[float], form: str = ".2f") -> str:
    """Return mean and half-width of the interval, one value a seed."""
    if len(values) < 2:
        return format(values[0], form)
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values):{form}} ± {half:{form}}"


def first(record: Record) -> float:
    """Root mean square over windows of the first-order error of delta, in units of mean |delta|."""
    return float(np.sqrt(np.mean(np.square(record["first"]["windows"]))))


def second(record: Record) -> float:
    """Mean over windows of the second-order error of delta, in units of mean |delta|."""
    return float(np.mean(record["second"]["windows"]))


def by_seed(records: Sequence[Record], of: Callable[[list[Record]], float]) -> list[float]:
    """Return a number a seed."""
    return [of(chosen(records, seed=seed)) for seed in sorted({record["seed"] for record in records})]


def slope(measure: Callable[[Record], float]) -> Callable[[list[Record]], float]:
    """Return what fits the slope of log2 of a measure over bits."""

    def fitted(records: list[Record]) -> float:
        values = [np.log2(np.mean([measure(record) for record in chosen(records, bits=bits)])) for bits in FITTED]
        return float(np.polyfit(FITTED, values, 1)[0])

    return fitted


def scaling(records: Sequence[Record]) -> str:
    """Tabulate how both parts scale with the bits."""
    rows = []
    for run in ("failing", "float32"):
        for layer in (0, 1):
            of = [r for r in chosen(records, run=run, layer=layer, kind="nearest") if r["step"] in STEPS]
            windows = [np.array(r["second"]["windows"]) > 0 for r in of]
            exact = [r for r in chosen(records, run=run, layer=layer, kind="quadratic") if r["step"] in STEPS]

            def ratio(some: list[Record], of: list[Record] = of) -> float:
                twins = [chosen(of, seed=r["seed"], step=r["step"], bits=r["bits"])[0] for r in some]
                return float(np.mean([np.mean(r["windows"]) / second(twin) for r, twin in zip(some, twins, strict=True)]))

            def share(some: list[Record]) -> float:
                return float(np.mean([np.mean(r["gauss_newton"]) / np.mean(r["windows"]) for r in some]))

            rows.append(
                [
                    f"{run}, layer {layer}",
                    interval(by_seed(of, slope(first))),
                    interval(by_seed(of, slope(second))),
                    f"{np.mean(windows):.1%}",
                    interval(by_seed(chosen(exact, bits=3), ratio)),
                    interval(by_seed(chosen(exact, bits=3), share)),
                ]
            )
    head = ["run, layer", "slope of g.e", "slope of the second part", "windows where the second part is positive"]
    return markdown([*head, "e^T H e / second part, 3 bits", "Gauss-Newton / e^T H e, 3 bits"], rows)


def controls(records: Sequence[Record]) -> str:
    """Tabulate the second part and its push under every kind of error."""
    rows = []
    for kind, words in KINDS.items():
        row = [words]
        for bits in (3, 7):
            for layer in (0, 1):
                of = [r for r in chosen(records, run="failing", layer=layer, bits=bits) if r["step"] in STEPS]

                def ratio(some: list[Record], kind: str = kind) -> float:
                    usual = np.mean([second(r) for r in chosen(some, kind="nearest")])
                    return float(np.mean([second(r) for r in chosen(some, kind=kind)]) / usual)

                found = chosen(of, kind=kind)
                windows = np.mean([np.array(r["second"]["windows"]) > 0 for r in found])
                pushes = np.mean([r["second"]["push"] > 0 for r in found])
                row.append(f"{interval(by_seed(of, ratio))}; {windows:.0%}; {pushes:.0%}")
        rows.append(row)
    return markdown(["error", *(f"{bits} bits, layer {layer}" for bits in (3, 7) for layer in (0, 1))], rows)


def along(records: Sequence[Record]) -> str:
    """Tabulate both parts' push on sigma_1 in the first layer, step by step, and how many passes the noise takes to average out."""
    rows = []
    for bits in (3, 5, 7):
        for step in (50, *STEPS, 600):
            of = chosen(records, run="failing", layer=0, kind="nearest", bits=bits, step=step)
            pushes = [interval([r[part]["push"] for r in of], ".1e") for part in ("first", "second")]
            rows.append([str(bits), str(step), *pushes])
    return markdown(["bits", "step", "push of g.e", "push of the second part"], rows)


def passes(records: Sequence[Record]) -> str:
    """Tabulate after how many passes the one-signed part stands out of the other's noise."""
    rows = []
    for bits in FITTED:
        row = [str(bits)]
        for layer in (0, 1):
            of = [r for r in chosen(records, run="failing", layer=layer, kind="nearest", bits=bits) if r["step"] in STEPS]
            noise = np.sqrt(np.mean([r["first"]["push"] ** 2 for r in of]))
            drift = np.mean([r["second"]["push"] for r in of])
            row.append(f"{drift:.1e}; {noise:.1e}; {(noise / drift) ** 2:,.0f}")
        rows.append(row)
    return markdown(["bits", "layer 0: push of second part; rms of g.e; passes", "layer 1"], rows)


def ablations(runs: Sequence[Record]) -> str:
    """Tabulate the trainings."""
    rows = []
    for name, words in TRAINED.items():
        of = sorted(chosen(runs, name=name), key=lambda run: run["seed"])
        if of:
            failed = sum(run["outcome"] != "survived" for run in of)
            rows.append([*words, f"{failed} of {len(of)}", ", ".join(f"{run['final']:.2f}" for run in of)])
    return markdown(["O in the forward pass", "error of delta", "seeds that fail", "final loss by seed"], rows)


def figure(records: Sequence[Record], runs: Sequence[Record]) -> go.Figure:
    """Draw scaling, controls, push along training, and the trainings."""
    titles = (
        "Error of delta over bits, layer 0 (of mean |delta|)",
        "Second part against rounding to nearest, layer 0, 3 bits",
        "Push on σ₁ of W_q, layer 0, 3 bits, failing runs",
        "Loss (running median): where delta's error comes from",
    )
    drawn = make_subplots(2, 2, subplot_titles=titles, horizontal_spacing=0.1, vertical_spacing=0.13)
    bits = sorted({r["bits"] for r in records})
    of = [r for r in chosen(records, run="failing", layer=0, kind="nearest") if r["step"] in STEPS]
    for measure, name, colour, power in ((first, "g.e, rms", COLOURS[3], 1), (second, "second part, mean", COLOURS[0], 2)):
        means = [np.mean([measure(r) for r in chosen(of, bits=b)]) for b in bits]
        line = {"color": colour}
        drawn.add_scatter(x=bits, y=means, mode="lines+markers", name=name, line=line, row=1, col=1, legendgroup="a")
        law = [means[1] * 2.0 ** (-power * (b - bits[1])) for b in bits]
        dotted = line | {"dash": "dot", "width": 1}
        drawn.add_scatter(x=bits, y=law, name=f"{2**power}^-bits", line=dotted, row=1, col=1, legendgroup="a")
    for place, (kind, words) in enumerate(KINDS.items()):
        ratios = []
        for seed in sorted({r["seed"] for r in of}):
            usual = np.mean([second(r) for r in chosen(of, seed=seed, bits=3)])
            some = [r for r in chosen(records, run="failing", layer=0, kind=kind, bits=3, seed=seed) if r["step"] in STEPS]
            ratios.append(np.mean([second(r) for r in some]) / usual)
        where = {"x": [place] * len(ratios), "y": ratios, "row": 1, "col": 2}
        drawn.add_scatter(**where, mode="markers", name=words, marker={"color": COLOURS[0]}, showlegend=False)
    drawn.update_xaxes(
        tickvals=list(range(len(KINDS))), ticktext=[kind.replace(" ", "<br>") for kind in KINDS], tickangle=0, row=1, col=2
    )
    for part, colour in (("first", COLOURS[3]), ("second", COLOURS[0])):
        for seed in sorted({r["seed"] for r in of}):
            line_of = chosen(records, run="failing", layer=0, kind="nearest", bits=3, seed=seed)
            steps, pushes = [r["step"] for r in line_of], [r[part]["push"] for r in line_of]
            drawn.add_scatter(x=steps, y=pushes, line={"color": colour}, mode="lines+markers", showlegend=False, row=2, col=1)
    for colour, name in zip(COLOURS, TRAINED, strict=False):
        for place, run in enumerate(chosen(runs, name=name)):
            values = running_median(np.asarray(run["losses"]))[::5]
            line, label = {"color": colour, "width": 1.4}, ": delta has ".join(TRAINED[name])
            steps = [5 * i for i in range(len(values))]
            drawn.add_scatter(x=steps, y=values, line=line, name=label, legendgroup=name, showlegend=place == 0, row=2, col=2)
    drawn.update_yaxes(type="log", exponentformat="power", row=1, col=1)
    drawn.update_yaxes(type="log", row=2, col=2)
    drawn.update_annotations(font_size=13)
    legend = {"orientation": "h", "y": -0.06, "x": 0}
    return drawn.update_layout(template="plotly_white", width=1000, height=900, margin={"l": 50, "r": 20, "t": 40}, legend=legend)


def main() -> int:
    """Read, tabulate, draw; return the exit status."""
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    states, trained, reproduced = map(Path, sys.argv[1:])
    records = [record for file in sorted(states.glob("states-*.json")) for record in json.loads(file.read_text("utf-8"))]
    runs = [json.loads(file.read_text("utf-8")) for file in sorted(trained.glob("*.json"))]
    for name, arm in AS_ARMS.items():
        seeds = {run["seed"] for run in chosen(runs, name=name)}
        arms = [json.loads(file.read_text("utf-8")) for file in sorted((reproduced / "runs").glob(f"{arm}-?-1200-1.json"))]
        runs += [run | {"name": name} for run in arms if run["seed"] not in seeds]
    tables = {"scaling": scaling, "controls": controls, "along": along, "passes": passes}
    put("delta_sign.md", {name: table(records) for name, table in tables.items()} | {"trained": ablations(runs)})
    write_svg(figure(records, runs), "delta_sign")
    return 0


if __name__ == "__main__":
    sys.exit(main())
