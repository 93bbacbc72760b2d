"""When may a judge's verdict stand in for a person's? A threshold on its confidence, with a guarantee.

Source: Jung, Brahman and Choi 2024, "Trust or Escalate" (arXiv:2407.18370). Write c for the judge's confidence and R(t) for the
probability, over all items of this kind, that the judge disagrees with people where c >= t. On N labelled items, n(t) have c >= t and k of
them are disagreements; the exact one-sided upper bound for R(t) is that of Clopper and Pearson (1934), `sup {r : BinomCDF(k; n, r) >=
delta}`. The thresholds are walked from the largest down as long as the bound is at most alpha, and the last one before the first failure
is taken (fixed-sequence testing); where the first one fails, the judge abstains always.

**The claim.** With probability at least 1 - delta over the draw of the labelled items, R(threshold) <= alpha. It says nothing about the
share observed in one test set, which scatters around R, and nothing about items of another kind.

**What it needs.** Labelled items and later items are independent draws of one population (of a finite pool: the claim is about the pool).
Disagreement is 0 or 1: weights and graded correctness are not supported, because the bound is a binomial one. `alpha`, `delta` and
`min_items` are chosen before the labels are looked at, and so are the annotator's prompts and whatever else makes the confidence.

**Why every observed confidence may be a threshold, though these depend on the data.** The hypotheses are "R(t) > alpha" for *all* real t,
in the fixed order of falling t. k and n change only at observed confidences, so the walk over these is the walk over all t. To accept any t
with R(t) > alpha the walk must have passed the first such t on its way, and that single test errs with probability delta at most (a limit
of such events where there is no first). No Bonferroni factor is due, and R need not be monotone. Ties are one threshold: n(t) counts all.

**Why few items may be skipped.** Thresholds with n(t) < min_items are not tested; n(t) depends on the confidences alone. Where confidences
have no ties the claim stays exact: let U be a stretch of confidences where R > alpha. Outside such stretches R returns to alpha, so errors
seen before a stretch are binomial with alpha given how many items fell where; inside a stretch errors come earlier, and correct verdicts
later, than they would at a constant rate alpha, so at the n-th item there are at least as many errors. (This holds for any rule that
skips by n.) Where ties, or thresholds that were given, let R jump over alpha, we have no proof for the skip; a numerical search over cases
of two steps found none above delta. Without a skip (the largest threshold has enough items) the claim is exact for them too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tutelage.errors import InputError
from tutelage.records import Record

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Confidences = Sequence[float | None] | Floats
"""One for each item (N,), larger is surer, any scale; None: the judge gave no verdict."""
Corrects = Sequence[bool | float | None] | NDArray[Any]
"""One for each item (N,): whether the judge agrees with people. Read only where it gave a verdict."""

MIN_ITEMS = 30
TIE = 1e-12
"""Confidences closer than this are one value computed in two ways (0.1 + 0.2 and 0.3)."""
ROUNDING = 1e-12
"""The binomial probability may pass delta by this share: it is computed in floating point."""
CURVE_POINTS = 200
MOST_SPARE_ERRORS = 5
MOST_ITEMS = 2**53
FIRST_TEST_SHARE = 6
MANY_TIES = 10


class CurvePoint(Record):
    """One threshold of the walk: items at or above it, disagreements among them, and the upper bound of their rate."""

    threshold: float
    accepted: int
    errors: int
    bound: float


class Calibration(Record):
    """What was promised, on what evidence. It holds for items like the labelled ones and for the judge exactly as it was.

    threshold: verdicts of at least this confidence are accepted (None: none is). n: labelled items, of which the judge gave no verdict on
    `abstained`. min_items: thresholds with fewer items were not tested. Among the `accepted` items are `errors` disagreements; `bound` is
    the upper bound for their rate, coverage the accepted share of all n. best_coverage: the largest share for which any threshold had an
    observed rate of at most alpha, so about what endless labels would allow. grid: thresholds are the observed confidences, or were
    given. curve: some 200 thresholds from the largest down, tested or not.
    """

    alpha: float
    delta: float
    n: int
    min_items: int
    threshold: float | None
    accepted: int = 0
    errors: int = 0
    bound: float | None = None
    coverage: float = 0.0
    best_coverage: float = 0.0
    abstained: int = 0
    grid: Literal["observed", "given"] = "observed"
    curve: tuple[CurvePoint, ...] = ()
    warnings: tuple[str, ...] = ()

    def accepts(self, confidence: float | None) -> bool:
        """Whether a verdict of this confidence may stand."""
        return accepts(confidence, self.threshold)


@dataclass(frozen=True)
class Evidence:
    """Labelled items as checked numbers (N,): the judge's confidence, -inf where it gave no verdict, and whether it was wrong."""

    confidence: Floats
    wrong: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.confidence)

    def only(self, kept: NDArray[np.bool_]) -> Evidence:
        """The items marked in `kept`."""
        return Evidence(self.confidence[kept], self.wrong[kept])


def accepts(confidence: float | None, threshold: float | None) -> bool:
    """Whether a confidence reaches a threshold; never where either is None, or the confidence is NaN."""
    return confidence is not None and threshold is not None and confidence >= threshold - TIE


def calibrate_threshold(
    confidence_N: Confidences,  # noqa: N803 -- the shape is in the name
    correct_N: Corrects,  # noqa: N803
    alpha: float,
    delta: float,
    min_items: int = MIN_ITEMS,
    *,
    thresholds: Sequence[float] | None = None,
) -> float | None:
    """The lowest confidence at which verdicts may be accepted; None: abstain always. See the module for the claim.

    None is returned where the first threshold tested fails, and where no threshold has `min_items` items. Note that no test can pass on
    fewer than `items_needed(alpha, delta)` items: for confidences without ties `min_items` should be at least that (`calibrate` sees
    to it). thresholds: a fixed grid in place of the observed confidences. Raises `InputError` for alpha or delta outside (0, 1),
    confidences that are not finite, and correctness other than 0 or 1.
    """
    check_levels(alpha, delta, min_items)
    return _walk(read_evidence(confidence_N, correct_N), alpha, delta, min_items, thresholds).threshold


def upper_bound(errors: int, n: int, delta: float) -> float:
    """The exact one-sided upper bound for a rate after `errors` of n: `sup {r : BinomCDF(errors; n, r) >= delta}`; 1 for n = 0.

    Raises `InputError` unless 0 <= errors <= n and 0 < delta < 1.
    """
    _check_probability(delta, "delta")
    if not 0 <= errors <= n:
        raise InputError(f"{errors} errors among {n} items are not a rate")
    return float(_bounds(np.array([errors]), np.array([n]), delta)[0])


def items_needed(alpha: float, delta: float, errors: int = 0) -> int:
    """The fewest items among which so many errors still show a rate of at most alpha: with fewer, no test at level delta can pass."""
    _check_probability(alpha, "alpha")
    _check_probability(delta, "delta")
    if errors < 0:
        raise InputError(f"errors are counted from 0, and this is {errors}", field="errors")
    high = errors + 1
    while not _passes(errors, high, alpha, delta):
        high *= 2
        if high > MOST_ITEMS:
            raise InputError(f"no number of items that anyone could label shows a rate of at most {alpha}", field="alpha")
    low = max(errors, high // 2)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _passes(errors, middle, alpha, delta) else (middle, high)
    return high


def first_test(n: int, alpha: float, delta: float, distinct: int | None = None) -> int:
    """On how many of n items the first test should stand: at least 30, and enough to pass. distinct: how many different confidences.

    With many labels there is room for some errors among the surest items (up to 5, within a sixth of the labels), so that a single
    wrong label at the top does not end the walk. Where ten items or more share a confidence there is none: a test on a whole tie is rare
    and firm enough, and passing over the surest tie would lose it. Depends on no label, as the guarantee requires.
    """
    least = max(MIN_ITEMS, items_needed(alpha, delta))
    if distinct is not None and distinct * MANY_TIES <= n:
        return least
    needed = [items_needed(alpha, delta, errors) for errors in range(1, MOST_SPARE_ERRORS + 1)]
    return max([least, *(count for count in needed if count * FIRST_TEST_SHARE <= n)])


def calibrate(
    confidence_N: Confidences,  # noqa: N803
    correct_N: Corrects,  # noqa: N803
    alpha: float,
    delta: float,
    min_items: int | None = None,
    *,
    thresholds: Sequence[float] | None = None,
) -> Calibration:
    """As `calibrate_threshold`, with all that a certificate has to state. min_items None: `first_test` chooses.

    Raises `InputError` as it does, and where the labels are fewer than any bound allows, or the judge gave no verdict at all.
    """
    check_levels(alpha, delta, 1 if min_items is None else min_items)
    evidence = read_evidence(confidence_N, correct_N)
    check_enough(len(evidence), alpha, delta, min_items)
    if np.all(evidence.confidence == -np.inf):
        raise InputError(
            f"the judge abstained on all of {len(evidence)} items, so there is nothing to calibrate; look at its replies first"
        )
    return calibrate_evidence(evidence, alpha, delta, min_items, thresholds)


@dataclass(frozen=True)
class _Walk:
    """All thresholds (T,) from the largest down, with items and errors at or above each; `tested` and `passed` are places among them.

    tested: the first threshold with enough items (T: none). passed: the last one accepted (-1: none).
    """

    thresholds: Floats
    counts: Ints
    errors: Ints
    tested: int
    passed: int

    @property
    def threshold(self) -> float | None:
        return float(self.thresholds[self.passed]) if self.passed >= 0 else None


def _walk(evidence: Evidence, alpha: float, delta: float, min_items: int, grid: Sequence[float] | None) -> _Walk:
    given = evidence.confidence > -np.inf
    order = np.argsort(-evidence.confidence[given], kind="stable")
    falling = evidence.confidence[given][order]
    wrong_so_far = np.concatenate([[0], np.cumsum(evidence.wrong[given][order], dtype=np.int64)])
    thresholds, counts = _observed(falling) if grid is None else _fixed(falling, grid)
    errors = wrong_so_far[counts]
    tested = int(np.searchsorted(counts, min_items))
    passes = _passes(errors[tested:], counts[tested:], alpha, delta)
    failed = np.flatnonzero(~passes)
    length = int(failed[0]) if failed.size else len(passes)
    return _Walk(thresholds, counts, errors, tested, tested + length - 1 if length else -1)


def _observed(falling: Floats) -> tuple[Floats, Ints]:
    """The distinct confidences, each the smallest of those alike, and how many items reach each."""
    if not falling.size:
        return falling, np.zeros(0, np.int64)
    last = np.append(np.flatnonzero(falling[:-1] - falling[1:] > TIE), len(falling) - 1)
    return falling[last], last.astype(np.int64) + 1


def _fixed(falling: Floats, grid: Sequence[float]) -> tuple[Floats, Ints]:
    thresholds = np.unique(np.asarray(grid, dtype=np.float64))[::-1]
    if not thresholds.size or not np.isfinite(thresholds).all():
        raise InputError("a grid of thresholds needs one finite number at least, and only such", field="thresholds")
    return thresholds, np.searchsorted(-falling, -(thresholds - TIE), side="right").astype(np.int64)


def _passes(errors: ArrayLike, counts: ArrayLike, alpha: float, delta: float) -> Any:
    """Whether the upper bound is at most alpha: BinomCDF falls as the rate grows, so no root has to be found."""
    from scipy.special import betaincc  # slow to import

    wrong = np.asarray(errors, np.float64)
    right = np.asarray(counts, np.float64) - wrong
    return (right > 0) & (betaincc(wrong + 1, np.maximum(right, 1), alpha) <= delta * (1 + ROUNDING))


def _bounds(errors: Ints, counts: Ints, delta: float) -> Floats:
    from scipy.special import betainccinv

    right = counts - errors
    return np.where(right > 0, betainccinv(errors + 1.0, np.maximum(right, 1.0), delta), 1.0)


def calibrate_evidence(
    evidence: Evidence, alpha: float, delta: float, min_items: int | None = None, grid: Sequence[float] | None = None
) -> Calibration:
    """As `calibrate`, for evidence that was read already; where it is too little, the judge abstains always."""
    n = len(evidence)
    least = first_test(n, alpha, delta, len(np.unique(evidence.confidence))) if min_items is None else min_items
    walk = _walk(evidence, alpha, delta, least, grid)
    accepted, errors = (int(walk.counts[walk.passed]), int(walk.errors[walk.passed])) if walk.passed >= 0 else (0, 0)
    good = walk.counts[walk.errors <= alpha * walk.counts + TIE]
    return Calibration(
        alpha=alpha,
        delta=delta,
        n=n,
        min_items=least,
        threshold=walk.threshold,
        accepted=accepted,
        errors=errors,
        bound=upper_bound(errors, accepted, delta) if accepted else None,
        coverage=accepted / n if n else 0.0,
        best_coverage=float(good.max(initial=0)) / n if n else 0.0,
        abstained=int(np.count_nonzero(evidence.confidence == -np.inf)),
        grid="observed" if grid is None else "given",
        curve=_curve(walk, delta),
        warnings=_warnings(walk, alpha, delta, least, n),
    )


def _curve(walk: _Walk, delta: float) -> tuple[CurvePoint, ...]:
    total = len(walk.thresholds)
    if not total:
        return ()
    ends = np.array([walk.tested, walk.passed, walk.passed + 1])  # where the walk began, ended, and failed are always shown
    spread = np.linspace(0, total - 1, min(total, CURVE_POINTS)).round().astype(np.int64)
    shown = np.unique(np.concatenate([spread, ends[(ends >= 0) & (ends < total)]]))
    bounds = _bounds(walk.errors[shown], walk.counts[shown], delta)
    return tuple(
        CurvePoint(threshold=float(walk.thresholds[at]), accepted=int(walk.counts[at]), errors=int(walk.errors[at]), bound=float(bound))
        for at, bound in zip(shown, bounds, strict=True)
    )


def _warnings(walk: _Walk, alpha: float, delta: float, min_items: int, n: int) -> tuple[str, ...]:
    found = []
    if min_items < MIN_ITEMS:
        found.append(
            f"thresholds with as few as {min_items} items were tested ({MIN_ITEMS} is usual): the bound is exact, but a few wrong labels, "
            "or items that are not typical, decide it"
        )
    if walk.passed < 0:
        found.append(f"abstains always: {_why_nothing(walk, alpha, delta, min_items)}")
    if len(walk.thresholds) == 1 and n > 1:
        found.append("all confidences are alike: the judge is trusted everywhere or nowhere")
    verdicts, wrong = (int(walk.counts[-1]), int(walk.errors[-1])) if len(walk.counts) else (0, 0)
    if verdicts and wrong in (0, verdicts):
        found.append(f"labels of one class: the judge was {'wrong' if wrong else 'right'} on every item; are these the right labels?")
    return tuple(found)


def _why_nothing(walk: _Walk, alpha: float, delta: float, min_items: int) -> str:
    if walk.tested >= len(walk.thresholds):
        most = int(walk.counts[-1]) if len(walk.counts) else 0
        return f"a threshold needs {min_items} items, and {most} have a verdict to test"
    count, errors = int(walk.counts[walk.tested]), int(walk.errors[walk.tested])
    needed = items_needed(alpha, delta)
    if count < needed:
        return f"the first threshold tested stands on {count} items, and fewer than {needed} cannot pass; raise min_items to {needed}"
    bound = upper_bound(errors, count, delta)
    return f"at the first threshold tested, {errors} of {count} verdicts disagree (bound {bound:.3f}, above alpha = {alpha})"


def check_levels(alpha: float, delta: float, min_items: int) -> None:
    """Raise `InputError` where one of them makes no sense."""
    _check_probability(alpha, "alpha")
    _check_probability(delta, "delta")
    if min_items < 1:
        raise InputError(f"a threshold needs at least one item, and min_items is {min_items}", field="min_items")


def _check_probability(value: float, name: str) -> None:
    if not 0 < value < 1:
        raise InputError(f"must lie between 0 and 1, both excluded, and is {value}", field=name)


def check_enough(n: int, alpha: float, delta: float, min_items: int | None) -> None:
    """Raise `InputError` where so few labelled items cannot pass any test, whatever their labels say."""
    needed = items_needed(alpha, delta)
    if n < needed:
        raise InputError(
            f"{n} labelled items cannot show a disagreement of at most {alpha} at delta = {delta:g}: even without a single disagreement "
            f"{needed} are needed, and {items_needed(alpha, delta, 5)} leave room for five. Label more, or allow a larger alpha or delta"
        )
    least = MIN_ITEMS if min_items is None else min_items
    if n < least:
        raise InputError(f"{n} labelled items, and a threshold is tested on {least} at least. Label more, or lower min_items")


def read_evidence(confidence_N: Confidences, correct_N: Corrects) -> Evidence:  # noqa: N803
    """What was given, checked. Raises `InputError` naming the first item that is wrong."""
    if len(confidence_N) != len(correct_N):
        raise InputError(f"each item needs a confidence and a label, and there are {len(confidence_N)} and {len(correct_N)}")
    listed = confidence_N.tolist() if isinstance(confidence_N, np.ndarray) else list(confidence_N)
    silent = np.array([value is None for value in listed], dtype=np.bool_)
    confidence = _numbers([0.0 if value is None else value for value in listed], "confidence")
    _refuse_first(~np.isfinite(confidence), confidence, "confidence", "a confidence must be a finite number, or None for no verdict")
    labels = [0.0 if quiet or value is None else value for quiet, value in zip(silent, correct_N, strict=True)]
    unlabelled = np.array([value is None for value in correct_N], dtype=np.bool_) & ~silent
    _refuse_first(unlabelled, correct_N, "correct", "it has no label; leave out items without one (ties among people too)")
    correct = _numbers(labels, "correct")
    advice = (
        "correctness is 0 or 1; graded or weighted correctness is not supported, so decide first from which grade on it counts as right"
    )
    _refuse_first(~np.isin(correct, (0.0, 1.0)), correct, "correct", advice)
    return Evidence(np.where(silent, -np.inf, confidence), correct == 0)


def _numbers(values: Sequence[Any], field: str) -> Floats:
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"numbers are needed: {error}", field=field) from None
    if found.ndim != 1:
        raise InputError(f"one number for each item is needed, and these have the shape {found.shape}", field=field)
    return found


def _refuse_first(bad: NDArray[np.bool_], values: Any, field: str, advice: str) -> None:
    if bad.any():
        at = int(np.argmax(bad))
        raise InputError(f"item {at} (from 0) has {values[at]}: {advice}", field=field)
