"""Does the guarantee of `tutelage.graders.guarantee` hold? Synthetic judges whose true risk is known, calibrated many times over.

For each judge, alpha and delta, 1,000 random splits: 1,000 new items, half of them for calibration, half for test. `kept` is the share of
splits in which the true disagreement among accepted verdicts is at most alpha (or nothing is accepted): what is promised, so it must be at
least 1 - delta within binomial error. `on the test half` is the same for the disagreement observed there, which scatters around the true
one and is not promised. Coverage stands beside the best possible (the lowest threshold whose true risk is at most alpha). Beside the
guarantee: the thresholds that people use without one, and cascades of two judges (cheap, then strong), where `kept` is about everything
that either level decides. Then how many audits it takes to catch a judge that became worse, and the speed of calibrating.

    python benchmarks/judge_guarantee.py [--times 1000] [--json FILE] [--html FILE]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import plotly.graph_objects as go
from rich.console import Console
from rich.table import Table

from common import machine
from tutelage.graders.audit import simulate_withdrawals
from tutelage.graders.guarantee import calibrate, calibrate_threshold, first_test
from tutelage.graders.guarantee_cascade import calibrate_cascade

ALPHAS, DELTAS = (0.05, 0.1, 0.2), (0.05, 0.1)
N = 500
"""Items for calibration, and as many for test."""
FINE = 200_000
"""Points of the numerical integration over confidence."""
Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Judge:
    """confidence: of a quantile u in (0, 1), rising. wrong: probability of disagreement at that quantile."""

    confidence: Callable[[Floats], Floats]
    wrong: Callable[[Floats, float], Floats]


def plain(u: Floats) -> Floats:
    return 0.5 + 0.5 * u


JUDGES: dict[str, Judge] = {
    "monotone": Judge(plain, lambda u, alpha: 0.5 * (1 - u) ** 1.5),  # better than it says
    "calibrated": Judge(plain, lambda u, alpha: 0.5 * (1 - u)),  # wrong as often as its confidence says
    "overconfident": Judge(lambda u: 1 - 0.25 * (1 - u) ** 2, lambda u, alpha: 0.02 + 0.5 * (1 - u)),
    "few levels": Judge(lambda u: np.ceil(8 * u) / 8, lambda u, alpha: 0.45 * (1 - np.ceil(8 * u) / 8) ** 0.8 + 0.01),
    "non-monotone": Judge(plain, lambda u, alpha: alpha * (0.3 + 4 * np.exp(-(((u - 0.7) / 0.05) ** 2)))),  # bad in a middle stretch only
    "adversarial: just above alpha": Judge(plain, lambda u, alpha: np.full_like(u, alpha * 1.001)),
    "adversarial: bad at the top": Judge(plain, lambda u, alpha: np.where(u > 0.9, 2 * alpha, 0.9 * alpha)),
    "useless": Judge(plain, lambda u, alpha: np.full_like(u, 0.3)),
}
CASCADES = {
    "independent errors": (0.0, "calibrated", "monotone"),
    "errors on the same items": (1.0, "calibrated", "monotone"),
    "errors on opposite items": (-1.0, "calibrated", "monotone"),
    "both overconfident": (0.0, "overconfident", "overconfident"),
    "just above alpha, opposite": (-1.0, "adversarial: just above alpha", "adversarial: just above alpha"),
}


class Truth:
    """The true risk and coverage at any threshold, by integration over quantiles."""

    def __init__(self, judge: Judge, alpha: float) -> None:
        u = (np.arange(FINE) + 0.5) / FINE
        self.confidence = judge.confidence(u)
        above = np.arange(FINE, 0, -1)
        self.risks = np.cumsum(judge.wrong(u, alpha)[::-1])[::-1] / above
        self.firsts = np.searchsorted(self.confidence, self.confidence, side="left")  # ties count whole

    def at(self, threshold: float | None) -> tuple[float, float]:
        """Risk and coverage of accepting from here on."""
        first = FINE if threshold is None else int(np.searchsorted(self.confidence, threshold - 1e-12, side="left"))
        return (0.0, 0.0) if first >= FINE else (float(self.risks[first]), 1 - first / FINE)

    def best(self, alpha: float) -> float:
        """The largest coverage of any threshold that keeps alpha."""
        good = np.flatnonzero(self.risks[self.firsts] <= alpha)
        return 1 - self.firsts[good[0]] / FINE if good.size else 0.0


def observed_only(confidence: Floats, correct: Floats, alpha: float) -> float | None:
    """The lowest threshold whose observed disagreement is at most alpha, on 30 items at least: no bound."""
    order = np.argsort(-confidence, kind="stable")
    falling, counts = confidence[order], np.arange(1, len(order) + 1)
    last = np.append(falling[:-1] > falling[1:], True)
    good = np.flatnonzero((np.cumsum(~correct[order]) <= alpha * counts) & (counts >= 30) & last)
    return float(falling[good[-1]]) if good.size else None


METHODS: dict[str, Callable[[Floats, Floats, float, float], float | None]] = {
    "guarantee": lambda c, y, alpha, delta: calibrate(c, y, alpha, delta).threshold,
    "guarantee, first test at 30": calibrate_threshold,
    "observed rate, no bound": lambda c, y, alpha, delta: observed_only(c, y, alpha),
    "confidence >= 1 - alpha": lambda c, y, alpha, delta: 1 - alpha,
}


def one_judge(judge: Judge, alpha: float, delta: float, times: int) -> dict[str, dict[str, float]]:
    """Method -> what was seen over all splits."""
    drawn, truth = np.random.default_rng(0), Truth(judge, alpha)
    rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in METHODS}
    for _ in range(times):
        u = drawn.random(2 * N)
        confidence, correct = judge.confidence(u), drawn.random(2 * N) >= judge.wrong(u, alpha)
        for name, method in METHODS.items():
            threshold = method(confidence[:N], correct[:N], alpha, delta)
            risk, coverage = truth.at(threshold)
            seen = ~correct[N:][confidence[N:] >= (np.inf if threshold is None else threshold - 1e-12)]
            rows[name].append((risk <= alpha, not seen.size or seen.mean() <= alpha, coverage, threshold is None))
    best = truth.best(alpha)
    names = ("kept", "kept on the test half", "coverage", "abstains always")
    return {name: dict(zip(names, np.mean(row, axis=0).tolist(), strict=True)) | {"best coverage": best} for name, row in rows.items()}


def one_cascade(kind: tuple[float, str, str], alpha: float, delta: float, times: int) -> dict[str, dict[str, float]]:
    """Two judges with confidences of their own; `tie` says whether they err on the same items (1), on opposite ones (-1), or neither."""
    tie, *names = kind
    judges, drawn = [JUDGES[name] for name in names], np.random.default_rng(1)
    truths = [Truth(judge, alpha) for judge in judges]
    rows: dict[str, list[tuple[float, ...]]] = {"guarantee": [], "guarantee, delta each": [], "confidence >= 1 - alpha": []}
    for _ in range(times):
        levels = two_judges(drawn, judges, tie, alpha)
        both = [calibrate_cascade(levels, alpha, delta, split_delta=split) for split in (True, False)]
        thresholds = [[level.calibration.threshold for level in found.levels] for found in both] + [[1 - alpha] * 2]
        for name, pair in zip(rows, thresholds, strict=True):
            rows[name].append(decided([truth.at(one) for truth, one in zip(truths, pair, strict=True)], alpha))
    names = ["kept", "kept on every level", "coverage", "first level"]
    return {name: dict(zip(names, np.mean(row, axis=0).tolist(), strict=True)) for name, row in rows.items()}


def two_judges(drawn: np.random.Generator, judges: list[Judge], tie: float, alpha: float) -> list[tuple[Floats, Any]]:
    """Confidence and correctness of both on N new items. The luck that decides errors is independent of either confidence."""
    luck = drawn.random(N)
    other = luck if tie > 0 else 1 - luck if tie < 0 else drawn.random(N)
    quantiles = [drawn.random(N), drawn.random(N)]
    return [(judge.confidence(u), one >= judge.wrong(u, alpha)) for one, judge, u in zip((luck, other), judges, quantiles, strict=True)]


def decided(levels: list[tuple[float, float]], alpha: float) -> tuple[float, ...]:
    """Whether all that the cascade decides keeps alpha, whether each level does, and the shares decided by both and by the first.

    levels: true risk and coverage of each. What the first leaves is no different for the second, whose confidence is independent.
    """
    (risk, share), (other_risk, other_share) = levels
    other_share *= 1 - share
    total = share + other_share
    mean = (risk * share + other_risk * other_share) / total if total else 0.0
    return mean <= alpha, max(risk, other_risk) <= alpha, total, share


def audits(times: int) -> dict[str, dict[str, float]]:
    """How many audited verdicts until the certificate is withdrawn, and how often it is withdrawn wrongly."""
    found: dict[str, dict[str, float]] = {}
    for alpha, delta in ((0.05, 0.05), (0.1, 0.05), (0.1, 0.1), (0.2, 0.05)):
        false = np.mean(simulate_withdrawals(alpha, delta, alpha, limit=5_000, times=times) > 0)
        row = {"withdrawn wrongly within 5,000": float(false)}
        for good in ((0.0, 0), (alpha / 2, 500)):
            for factor in (1.5, 2.0, 3.0):
                at = simulate_withdrawals(alpha, delta, factor * alpha, limit=good[1] + 2_000, times=max(times // 5, 20), good=good, seed=1)
                late = np.where(at == 0, np.inf, at - good[1])
                when = "from the start" if not good[1] else f"after {good[1]} good ones"
                row[f"{factor:g} alpha {when}"] = float(np.median(late))
        found[f"alpha {alpha}, delta {delta}"] = row
    return found


def speed() -> dict[str, float]:
    """Seconds for 10,000 items with 5,000 thresholds, best of five; every threshold passes, so that the whole is walked."""
    drawn = np.random.default_rng(5)
    confidence = drawn.permutation(np.repeat(np.linspace(0.5, 1, 5_000), 2))
    correct = drawn.random(10_000) < 0.98
    seconds: dict[str, float] = {}
    for function in (calibrate_threshold, calibrate):
        taken = []
        for _ in range(5):
            began = perf_counter()
            function(confidence, correct, 0.1, 0.1)
            taken.append(perf_counter() - began)
        seconds[function.__name__] = min(taken)
    return seconds


def show(found: dict[str, Any], times: int) -> None:
    for setting, judges in found["judges"].items():
        title = f"{setting}: {times} splits; first test on {found['first test'][setting]} items (fewer where many share a confidence); "
        title += f"kept must be at least {found['at least'][setting]:.3f} (1 - delta, less 99% of chance)"
        table = Table(
            "judge", "threshold", "kept", "on the test half", "coverage", "best", "abstains always", title=title, title_justify="left"
        )
        for judge, methods in judges.items():
            for name, row in methods.items():
                table.add_row(judge, name, *[f"{value:.3f}" for value in (row["kept"], row["kept on the test half"], row["coverage"])],
                              f"{row['best coverage']:.3f}", f"{row['abstains always']:.3f}")  # fmt: skip
        Console(width=150).print(table)
    for setting, cascades in found["cascades"].items():
        table = Table(
            "cascade", "threshold", "kept", "on every level", "coverage", "first level", title=f"cascades, {setting}", title_justify="left"
        )
        for name, methods in cascades.items():
            for method, row in methods.items():
                table.add_row(name, method, *[f"{value:.3f}" for value in row.values()])
        Console(width=150).print(table)
    table = Table("audits", *next(iter(found["audits"].values())), title="median audits until withdrawn", title_justify="left")
    for name, row in found["audits"].items():
        table.add_row(name, *[f"{value:g}" for value in row.values()])
    Console(width=180).print(table)
    Console().print({name: f"{seconds * 1000:.1f} ms" for name, seconds in found["speed"].items()})


def plot(found: dict[str, Any], path: Path) -> None:
    """Every judge and setting as a point: coverage as a share of the best possible, and how often the promise was kept."""
    figure = go.Figure(layout={
        "title": "How often the true disagreement of accepted verdicts is at most alpha (each point: one judge, alpha and delta)",
        "xaxis_title": "coverage", "yaxis_title": "share of splits that kept the promise", "yaxis_range": [-0.03, 1.03],
    })  # fmt: skip
    for name in METHODS:
        points = [(setting, judge, methods[name]) for setting, judges in found["judges"].items() for judge, methods in judges.items()]
        figure.add_scatter(
            x=[row["coverage"] for *_, row in points],
            y=[row["kept"] for *_, row in points],
            text=[f"{judge}<br>{setting}<br>best coverage {row['best coverage']:.2f}" for setting, judge, row in points],
            mode="markers",
            name=name,
        )
    for delta in DELTAS:
        figure.add_hline(y=1 - delta, line_dash="dash", annotation_text=f"1 - {delta}")
    path.write_text(figure.to_html(include_plotlyjs=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="write the numbers as data")
    parser.add_argument("--html", type=Path, help="write the plot as a page")
    chosen = parser.parse_args()
    found: dict[str, Any] = {"audits": audits(chosen.times), "speed": speed()}
    found |= {"judges": {}, "cascades": {}, "first test": {}, "at least": {}}
    for alpha in ALPHAS:
        for delta in DELTAS:
            setting = f"alpha {alpha}, delta {delta}"
            found["first test"][setting] = first_test(N, alpha, delta)
            found["at least"][setting] = 1 - delta - 2.33 * (delta * (1 - delta) / chosen.times) ** 0.5
            found["judges"][setting] = {name: one_judge(judge, alpha, delta, chosen.times) for name, judge in JUDGES.items()}
    for alpha in (0.1, 0.2):
        found["cascades"][f"alpha {alpha}, delta 0.1"] = {
            name: one_cascade(kind, alpha, 0.1, chosen.times) for name, kind in CASCADES.items()
        }
    show(found, chosen.times)
    if chosen.json:
        data = {"machine": machine(), "times": chosen.times, "items": N, **found}
        chosen.json.write_text(json.dumps(data, indent=1) + "\n")
    if chosen.html:
        plot(found, chosen.html)


if __name__ == "__main__":
    main()
