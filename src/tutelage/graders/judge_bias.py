"""What moves a judge beside the quality of the answers: their place and their length, measured on labelled cases, with intervals.

Place: each pair is shown in both orders, so a judge without such a bias gives one verdict in both, and prefers what it is shown first half
of the time. Length: people too may prefer longer answers, so what counts is how far the judge goes beyond them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tutelage.graders.judge_case import Case
from tutelage.graders.judge_confidence import Ballot, Opinion, mean_mass
from tutelage.records import Record

_Z = 1.959963984540054  # the normal quantile of .975
_ORDERS = (False, True)

Floats = NDArray[np.float64]


class Measured(Record):
    """A number over `n` cases with its 95% interval (None: it cannot be bounded). value None: it cannot be told."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0

    def shown(self, *, percent: bool = False) -> str:
        """`0.61 [0.52, 0.70] (n = 40)`."""
        if self.value is None:
            return f"cannot be told (n = {self.n})"
        write = "{:.1%}".format if percent else "{:.2f}".format
        bounds = "" if self.low is None or self.high is None else f" [{write(self.low)}, {write(self.high)}]"
        return f"{write(self.value)}{bounds} (n = {self.n})"


class PlaceBias(Record):
    """flips: the share of pairs whose verdict changes with the order. first: the share of decided verdicts for what was shown first."""

    flips: Measured
    first: Measured

    def lines(self) -> list[str]:
        """For a report."""
        return [
            f"the verdict changes with the order of the answers: {self.flips.shown(percent=True)} of the pairs",
            f"the answer shown first is preferred: {self.first.shown(percent=True)} of the decided verdicts (without bias 50%)",
        ]


class LengthBias(Record):
    """judge, people: the share of pairs in which the longer answer is preferred, a tie counting half. beyond: their difference.

    odds: of a verdict for an answer where it is the longer one, over those where it is the shorter, among pairs that people judged alike.
    """

    judge: Measured
    people: Measured
    beyond: Measured
    odds: Measured

    def lines(self) -> list[str]:
        """For a report."""
        return [
            f"the longer answer is preferred: by the judge {self.judge.shown(percent=True)}, by people {self.people.shown(percent=True)}",
            f"beyond people's own preference: {self.beyond.shown(percent=True)} (without bias 0%)",
            f"odds for the longer answer among pairs that people judged alike: {self.odds.shown()} (without bias 1)",
        ]


class ScoreLengthBias(Record):
    """Of single answers: the rank correlation of length with the judge's score, with people's, and with how far the judge is above them."""

    judge: Measured
    people: Measured
    beyond: Measured

    def lines(self) -> list[str]:
        """For a report."""
        return [
            f"rank correlation of length and score: the judge's {self.judge.shown()}, people's {self.people.shown()}",
            f"rank correlation of length and how far the judge is above people: {self.beyond.shown()} (without bias 0)",
        ]


def place_bias(opinions: Sequence[Opinion]) -> PlaceBias:
    """Of pairs judged in both orders; those decided by rule are left out.

    first: each pair counts by the mean over its decided verdicts.
    """
    both = [verdicts for opinion in opinions if (verdicts := _both_orders(opinion)) is not None]
    flips = [float(in_order != swapped) for in_order, swapped in both]
    firsts = [np.mean(shares) for in_order, swapped in both if (shares := _first_shares(in_order, swapped))]
    return PlaceBias(flips=_mean(flips), first=_mean([float(share) for share in firsts]))


def _both_orders(opinion: Opinion) -> tuple[str, str] | None:
    """The verdict in the given order and in the swapped one, over all annotators."""
    by_order = [[ballot for ballot in opinion.ballots if ballot.swapped is order] for order in _ORDERS]
    if not all(by_order):
        return None
    in_order, swapped = (_verdict(ballots) for ballots in by_order)
    return in_order, swapped


def _verdict(ballots: list[Ballot]) -> str:
    mass = mean_mass(ballots)
    best = [name for name in mass if math.isclose(mass[name], max(mass.values()), rel_tol=1e-9)]
    return best[0] if len(best) == 1 else "tie"


def _first_shares(in_order: str, swapped: str) -> list[float]:
    shares = [float(in_order == "a")] if in_order != "tie" else []
    return [*shares, float(swapped == "b")] if swapped != "tie" else shares


def length_bias(cases: Sequence[Case], opinions: Sequence[Opinion], labels: Sequence[str]) -> LengthBias:
    """Of pairs that people judged (`a`, `b` or `tie`). Pairs of equal length say nothing and are left out.

    odds: Mantel and Haenszel's estimate over the strata of people's label, with the interval of Robins, Breslow and Greenland (1986); ties
    of the judge are left out of it.
    """
    rows = [
        (1.0 if len(case.answers[0]) > len(case.answers[1]) else -1.0, opinion.verdict, label)
        for case, opinion, label in zip(cases, opinions, labels, strict=True)
        if len(case.answers[0]) != len(case.answers[1])
    ]
    judge = [_for_longer(side, verdict) for side, verdict, _ in rows]
    people = [_for_longer(side, label) for side, _, label in rows]
    beyond = [one - other for one, other in zip(judge, people, strict=True)]
    return LengthBias(judge=_mean(judge), people=_mean(people), beyond=_mean(beyond), odds=_odds(rows))


def _for_longer(side: float, verdict: str) -> float:
    return 0.5 + 0.5 * side * {"a": 1, "b": -1}.get(verdict, 0)


def _odds(rows: Sequence[tuple[float, str, str]]) -> Measured:
    """Mantel-Haenszel over people's labels of the table (judge says a?) x (a is longer?)."""
    decided = [row for row in rows if row[1] != "tie"]
    r = s = pr = ps_qr = qs = 0.0
    for label in sorted({row[2] for row in decided}):
        own = [(side > 0, verdict == "a") for side, verdict, people in decided if people == label]
        a, b, c, d = (own.count(cell) for cell in ((True, True), (True, False), (False, True), (False, False)))
        n = len(own)
        with_r, with_s = a * d / n, b * c / n
        p, q = (a + d) / n, (b + c) / n
        r, s = r + with_r, s + with_s
        pr, ps_qr, qs = pr + p * with_r, ps_qr + p * with_s + q * with_r, qs + q * with_s
    if r == 0 or s == 0:
        return Measured(value=None, n=len(decided))
    error = math.sqrt(pr / (2 * r * r) + ps_qr / (2 * r * s) + qs / (2 * s * s))
    odds = r / s
    return Measured(value=odds, low=odds * math.exp(-_Z * error), high=odds * math.exp(_Z * error), n=len(decided))


def score_length_bias(cases: Sequence[Case], opinions: Sequence[Opinion], labels: Sequence[float]) -> ScoreLengthBias:
    """Of single answers that people scored in [0, 1]. Opinions without a score are left out."""
    rows = [
        (float(len(case.answers[0])), opinion.score, label)
        for case, opinion, label in zip(cases, opinions, labels, strict=True)
        if opinion.score is not None
    ]
    lengths = np.array([row[0] for row in rows])
    judge, people = np.array([row[1] for row in rows], dtype=float), np.array([row[2] for row in rows], dtype=float)
    return ScoreLengthBias(
        judge=_correlation(lengths, judge), people=_correlation(lengths, people), beyond=_correlation(lengths, judge - people)
    )


def _mean(values: Sequence[float]) -> Measured:
    """The mean: of 0s and 1s with Wilson's interval, of others with the normal one (None where all are alike, which proves little)."""
    n = len(values)
    if not n:
        return Measured(value=None)
    data = np.asarray(values, dtype=float)
    mean = float(data.mean())
    if np.isin(data, (0.0, 1.0)).all():
        centre = (mean + _Z * _Z / (2 * n)) / (1 + _Z * _Z / n)
        half = _Z / (1 + _Z * _Z / n) * math.sqrt(mean * (1 - mean) / n + _Z * _Z / (4 * n * n))
        return Measured(value=mean, low=max(0.0, centre - half), high=min(1.0, centre + half), n=n)
    half = _Z * float(data.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    return Measured(value=mean, low=mean - half, high=mean + half, n=n) if half else Measured(value=mean, n=n)


def _correlation(x: Floats, y: Floats) -> Measured:
    """The rank correlation with the interval of Bonett and Wright (2000), on Fisher's scale."""
    value, n = spearman(x, y), len(x)
    if value is None or n < 4 or abs(value) >= 1 - 1e-12:
        return Measured(value=value, n=n)
    half = _Z * math.sqrt((1 + value * value / 2) / (n - 3))
    return Measured(value=value, low=math.tanh(math.atanh(value) - half), high=math.tanh(math.atanh(value) + half), n=n)


def spearman(x: Floats, y: Floats) -> float | None:
    """The rank correlation, ties with their mean rank; None where one side is constant."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def _ranks(values: Floats) -> Floats:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    means: Floats = np.cumsum(count) - (count - 1) / 2
    return means[place]
