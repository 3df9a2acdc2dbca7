"""The numbers behind the risk: a logistic regression with weights of 0 or more, its calibration, and how well both hold. Pure.

The first alert of a severity has a weight, and each rule has one that is drawn to that of its severity: with some twenty
scenarios to fit on, the weights of single rules carry little to another family, and the penalty is chosen by what carries. What
is reported is *out of family*: a family's moments are read by a model that was fitted, tuned and calibrated without it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]

PENALTIES = (0.3, 3.0, 100.0)
"""Of these the one is taken whose readings of families left out have the lowest log loss."""

SEVERITY_PENALTY = 0.03
_LEVELS = 3
_CLIP = 1e-6


@dataclass(frozen=True, slots=True)
class Moments:
    """Moments of runs: N moments, R rules.

    Attributes:
        evidence_NR: what each rule counts.
        failed_N: whether a failure follows soon.
        weight_N: of a run's moments together 1.
        family_N, run_N: numbers of the family and of the run.
        met_N: the loss meets the rule of failure, so that the reading does not come from the rules alone.
    """

    evidence_NR: Floats
    failed_N: Floats
    weight_N: Floats
    family_N: Whole
    run_N: Whole
    met_N: NDArray[np.bool_]

    def where(self, chosen_N: NDArray[np.bool_]) -> "Moments":
        """Return some of the moments."""
        return Moments(*(getattr(self, name)[chosen_N] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Weights:
    """Log odds, with L severities: info, warning, critical.

    Attributes:
        base: with no alert.
        first_L: what is added where any alert of at least this severity is open.
        each_L: what each rule of this severity adds, unless it has a weight of its own.
        rules_R: what each rule adds.
    """

    base: float
    first_L: Floats
    each_L: Floats
    rules_R: Floats

    def odds(self, evidence_NR: Floats, level_R: Whole) -> Floats:
        """Return the log odds of moments."""
        return np.asarray(self.base + reached(evidence_NR, level_R) @ self.first_L + evidence_NR @ self.rules_R)

    def scaled(self, slope: float, shift: float) -> "Weights":
        """Return the weights whose log odds are ``slope * odds + shift``."""
        return Weights(slope * self.base + shift, slope * self.first_L, slope * self.each_L, slope * self.rules_R)


def reached(evidence_NR: Floats, level_R: Whole) -> Floats:
    """Return, for each severity, the most that a rule of at least this severity counts; (N, L)."""
    most_NL = [evidence_NR[:, level_R >= level].max(axis=1, initial=0.0) for level in range(_LEVELS)]
    return np.stack(most_NL, axis=1)


def fit(moments: Moments, level_R: Whole, penalty: float) -> Weights:
    """Fit the weights: least weighted log loss, ``penalty`` times the squared distances of the rules' weights to their severities',
    and ``SEVERITY_PENALTY`` times the squares of the latter.

    Args:
        moments: those that meet the rule of failure are left out.
        level_R: severity of each rule, 0 to 2.
        penalty: in units of the log loss of one run.
    """
    kept = moments.where(~moments.met_N)
    fired_R = kept.evidence_NR.any(axis=0)  # the others' weights are just those of their severities
    x, y, w = _condensed(kept.evidence_NR[:, fired_R], kept.failed_N, kept.weight_N)
    levels = level_R[fired_R]
    first_NL = reached(x, levels)
    rises_RL = (np.arange(_LEVELS)[None, :] <= levels[:, None]).astype(np.float64)  # weight of a severity = sum of rises up to it

    # einsum and not BLAS: for matrices this small its threads cost more than they save, and its order of summing is not fixed.
    def cost(theta: Floats) -> tuple[float, Floats]:
        base, first_L, rises_L, rules_R = theta[0], theta[1:4], theta[4:7], theta[7:]
        odds = base + np.einsum("nl,l->n", first_NL, first_L) + np.einsum("nr,r->n", x, rules_R)
        apart = rules_R - rises_RL @ rises_L
        value = w @ (np.logaddexp(0.0, odds) - y * odds) + penalty * (apart @ apart)
        value += SEVERITY_PENALTY * (first_L @ first_L + rises_L @ rises_L)
        wrong = w * (expit(odds) - y)
        slope_first_L = np.einsum("nl,n->l", first_NL, wrong) + 2 * SEVERITY_PENALTY * first_L
        slope_rises_L = 2 * SEVERITY_PENALTY * rises_L - 2 * penalty * (rises_RL.T @ apart)
        slope_R = np.einsum("nr,n->r", x, wrong) + 2 * penalty * apart
        return float(value), np.concatenate(([wrong.sum()], slope_first_L, slope_rises_L, slope_R))

    count = 1 + 2 * _LEVELS + len(levels)
    bounds = [(-10.0, 10.0), *[(0.0, 20.0)] * (count - 1)]
    found = minimize(cost, np.zeros(count), jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500, "ftol": 1e-10})
    each_L = np.cumsum(found.x[4:7])
    rules_R = each_L[level_R]
    rules_R[fired_R] = found.x[7:]
    return Weights(float(found.x[0]), found.x[1:4], each_L, rules_R)


def _condensed(evidence_NR: Floats, failed_N: Floats, weight_N: Floats) -> tuple[Floats, Floats, Floats]:
    """Return moments of the same evidence and outcome as one with their weights summed: at most moments nothing is alarmed."""
    rows, place_N = np.unique(np.column_stack((failed_N, evidence_NR)), axis=0, return_inverse=True)
    return rows[:, 1:], rows[:, 0], np.bincount(place_N.ravel(), weight_N, len(rows)).astype(np.float64)


def platt(odds_N: Floats, failed_N: Floats, weight_N: Floats) -> tuple[float, float]:
    """Return slope (0 or more) and shift that bring log odds nearest to what happened (Platt scaling)."""

    def cost(theta: Floats) -> tuple[float, Floats]:
        odds = theta[0] * odds_N + theta[1]
        wrong = weight_N * (expit(odds) - failed_N)
        value = weight_N @ (np.logaddexp(0.0, odds) - failed_N * odds)
        return float(value), np.array([wrong @ odds_N, wrong.sum()])

    found = minimize(cost, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0.0, 5.0), (-10.0, 10.0)])
    return float(found.x[0]), float(found.x[1])


def out_of_family(moments: Moments, level_R: Whole, penalty: float) -> Floats:
    """Return log odds of every moment by weights that were fitted without its family."""
    odds_N = np.zeros(len(moments.failed_N))
    for family in np.unique(moments.family_N):
        inside = moments.family_N == family
        odds_N[inside] = fit(moments.where(~inside), level_R, penalty).odds(moments.evidence_NR[inside], level_R)
    return odds_N


def calibrated(moments: Moments, level_R: Whole) -> tuple[Weights, float]:
    """Return the weights, tuned and calibrated on the families left out one by one, and the penalty that was taken."""
    free = moments.where(~moments.met_N)
    best: tuple[float, float, float, float] | None = None
    for penalty in PENALTIES:
        odds_N = out_of_family(free, level_R, penalty)
        slope, shift = platt(odds_N, free.failed_N, free.weight_N)
        loss = log_loss(expit(slope * odds_N + shift), free.failed_N, free.weight_N)
        if best is None or loss < best[0] - 1e-9:
            best = loss, penalty, slope, shift
    assert best is not None
    _, penalty, slope, shift = best
    return fit(moments, level_R, penalty).scaled(slope, shift), penalty


def failing_share(lasting: Sequence[bool]) -> float:
    """Return the chance that a run which meets the rule of failure does not come back, of the runs that met it (Jeffreys)."""
    return (sum(lasting) + 0.5) / (len(lasting) + 1.0)


def brier(chance_N: Floats, failed_N: Floats, weight_N: Floats) -> float:
    """Return the mean squared difference of chance and outcome."""
    return float(weight_N @ (chance_N - failed_N) ** 2 / weight_N.sum())


def log_loss(chance_N: Floats, failed_N: Floats, weight_N: Floats) -> float:
    """Return the mean log loss in nat."""
    chance_N = np.clip(chance_N, _CLIP, 1.0 - _CLIP)
    return float(-(weight_N @ np.where(failed_N > 0.5, np.log(chance_N), np.log1p(-chance_N))) / weight_N.sum())


def bins_of(chance_N: Floats, count: int = 10) -> Whole:
    """Return the bin of each chance, of ``count`` equal ones."""
    return np.minimum((chance_N * count).astype(np.int64), count - 1)


def calibration_error(chance_N: Floats, failed_N: Floats, weight_N: Floats, count: int = 10) -> float:
    """Return the expected calibration error: the mean over bins of |mean chance - share that failed|, by their weight."""
    places = bins_of(chance_N, count)
    gaps = np.bincount(places, weight_N * (chance_N - failed_N), count)
    return float(np.abs(gaps).sum() / weight_N.sum())


def reliability(
    chance_N: Floats, failed_N: Floats, weight_N: Floats, run_N: Whole, scenario_N: Whole, *, count: int = 10, draws: int = 2000
) -> list[dict[str, Any]]:
    """Return a line for each bin that holds moments: what was said, what came of it, and the 95 % interval of that.

    The interval is the wider of two, at each end: a bootstrap over scenarios (their seeds go together, being nearly the same run),
    and Wilson's interval for as many independent trials as the bin has scenarios' worth of runs. The first is blind where all
    scenarios of a bin agree.
    """
    places = bins_of(chance_N, count)
    lines = []
    scenarios, number_N = np.unique(scenario_N, return_inverse=True)
    drawn = np.random.default_rng(0).multinomial(len(scenarios), np.full(len(scenarios), 1 / len(scenarios)), draws)
    for place in range(count):
        inside = places == place
        if not inside.any():
            continue
        weight, failed = weight_N[inside], weight_N[inside] * failed_N[inside]
        observed = float(failed.sum() / weight.sum())
        all_S = np.bincount(number_N[inside], weight, len(scenarios))
        failed_S = np.bincount(number_N[inside], failed, len(scenarios))
        totals = drawn @ all_S
        shares = (drawn @ failed_S)[totals > 0] / totals[totals > 0]
        low, high = np.quantile(shares, (0.025, 0.975))
        least, most = wilson(observed, len(np.unique(scenario_N[inside])))
        lines.append(
            {
                "low": 100 * place // count,
                "high": 100 * (place + 1) // count,
                "moments": int(inside.sum()),
                "runs": len(np.unique(run_N[inside])),
                "scenarios": len(np.unique(scenario_N[inside])),
                "said": 100 * float(weight @ chance_N[inside] / weight.sum()),
                "came": 100 * observed,
                "came_low": 100 * min(float(low), least),
                "came_high": 100 * max(float(high), most),
            }
        )
    return lines


def wilson(share: float, trials: float, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share that was seen in so many trials."""
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * (share * (1 - share) / trials + z * z / (4 * trials * trials)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)
