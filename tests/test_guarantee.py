"""Thresholds with a guarantee: against brute force and exact fractions, by simulation on known risks, and with bad input."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from math import comb
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom

from tutelage.errors import InputError
from tutelage.graders.guarantee import (
    Calibration,
    accepts,
    calibrate,
    calibrate_threshold,
    first_test,
    items_needed,
    upper_bound,
)
from tutelage.graders.guarantee_cascade import CascadeCalibration, calibrate_cascade


def by_the_book(confidence, correct, alpha, delta, min_items) -> float | None:
    """The algorithm as it is written, with the bound from scipy's beta quantile."""
    confidence, wrong, found = np.array(confidence), 1 - np.array(correct, dtype=int), None
    for threshold in sorted(set(confidence), reverse=True):
        kept = confidence >= threshold
        n, errors = int(kept.sum()), int(wrong[kept].sum())
        if n < min_items:
            continue
        bound = 1.0 if errors == n else float(beta.ppf(1 - delta, errors + 1, n - errors))
        if bound > alpha:
            break
        found = float(threshold)
    return found


def test_the_bound_is_that_of_clopper_and_pearson():
    assert upper_bound(0, 30, 0.05) == pytest.approx(1 - 0.05 ** (1 / 30))  # no error: (1 - r) ** n = delta
    assert upper_bound(0, 1, 0.1) == pytest.approx(0.9)
    assert upper_bound(7, 7, 0.1) == 1.0
    assert upper_bound(0, 0, 0.1) == 1.0
    # two-sided 95% of 15 of 148 in Newcombe (1998), table I, method 5: 0.0578 to 0.1617
    assert upper_bound(15, 148, 0.025) == pytest.approx(0.1617, abs=5e-5)
    for errors, n, delta in [(3, 40, 0.1), (17, 500, 0.05), (1, 2, 0.3)]:
        assert binom.cdf(errors, n, upper_bound(errors, n, delta)) == pytest.approx(delta)


@pytest.mark.parametrize(("errors", "n", "delta"), [(-1, 3, 0.1), (4, 3, 0.1), (1, 3, 0), (1, 3, float("nan"))])
def test_what_is_no_rate_is_refused(errors, n, delta):
    with pytest.raises(InputError):
        upper_bound(errors, n, delta)


@pytest.mark.parametrize(
    ("alpha", "delta", "errors", "n"),
    [
        (0.1, 0.1, 0, 22),
        (0.1, 0.05, 0, 29),
        (0.05, 0.05, 0, 59),
        (0.05, 0.1, 0, 45),
        (0.01, 0.05, 0, 299),
        (0.1, 0.05, 1, 46),
        (0.5, 0.6, 0, 1),
    ],
)
def test_fewest_items(alpha, delta, errors, n):
    assert items_needed(alpha, delta, errors) == n
    share = Fraction(str(alpha))

    def exact(items: int) -> Fraction:
        return sum((comb(items, k) * share**k * (1 - share) ** (items - k) for k in range(errors + 1)), Fraction(0))

    assert exact(n) <= Fraction(str(delta)) < exact(n - 1)


def test_fewest_items_refuses_nonsense():
    with pytest.raises(InputError, match="alpha"):
        items_needed(0, 0.1)
    with pytest.raises(InputError, match="errors"):
        items_needed(0.1, 0.1, -1)
    with pytest.raises(InputError, match="anyone could label"):
        items_needed(1e-18, 0.1)
    assert items_needed(1e-9, 0.1) == pytest.approx(2.302585e9, rel=1e-5)


def test_the_walk_by_hand():
    # 22 right verdicts are the fewest that pass at 0.1, 0.1; one error needs 38; so the walk ends where the error comes
    confidence = [1 - i / 100 for i in range(40)]
    right = [1] * 30 + [0] + [1] * 9
    assert calibrate_threshold(confidence, right, 0.1, 0.1, min_items=22) == confidence[29]
    assert calibrate_threshold(confidence, right, 0.1, 0.1, min_items=21) is None, "the first test stands on 21 items and fails"
    assert calibrate_threshold(confidence, right, 0.1, 0.1, min_items=31) is None, "31 with one error fail first: abstain always"
    assert calibrate_threshold(confidence, right, 0.1, 0.1, min_items=38) == confidence[39], "38 with one error pass"
    assert calibrate_threshold(confidence, right, 0.1, 0.1, min_items=41) is None, "nothing may be tested"
    assert calibrate_threshold(confidence, [1] * 40, 0.1, 0.1) == confidence[39]
    assert calibrate_threshold(confidence, [0] * 40, 0.1, 0.1) is None
    assert calibrate_threshold([], [], 0.1, 0.1) is None


def test_the_walk_never_passes_a_failure_even_where_lower_thresholds_would_do():
    confidence = [0.9] * 30 + [0.5] * 300
    right = [1] * 20 + [0] * 10 + [1] * 300  # 10 of 330 is well below 0.1
    assert calibrate_threshold(confidence, right, 0.1, 0.1) is None
    assert calibrate_threshold(confidence, right, 0.1, 0.1, thresholds=[0.5]) == 0.5, "a grid that begins lower was fixed beforehand"


def test_ties_stand_or_fall_together():
    confidence = [0.9] * 40 + [0.8] * 40
    assert calibrate_threshold(confidence, [1] * 40 + [0] * 40, 0.1, 0.1) == 0.9
    assert calibrate_threshold(confidence, [1] * 80, 0.1, 0.1) == 0.8
    one = calibrate([0.7] * 60, [1] * 60, 0.1, 0.1)
    assert (one.threshold, one.coverage) == (0.7, 1.0)
    assert any("alike" in warning for warning in one.warnings)


def test_the_same_number_computed_in_two_ways_is_one_threshold():
    confidence = [0.1 + 0.2] * 20 + [0.3] * 20
    assert 0.1 + 0.2 != 0.3
    found = calibrate_threshold(confidence, [1] * 40, 0.1, 0.1)
    assert found == 0.3
    assert calibrate_threshold(confidence, [1] * 20 + [0] * 20, 0.1, 0.1, min_items=20) is None
    assert accepts(0.3, 0.1 + 0.2)
    assert calibrate_threshold(confidence, [1] * 40, 0.1, 0.1, thresholds=[0.1 + 0.2]) == 0.1 + 0.2


def test_a_bound_that_is_exactly_alpha_passes():
    # one right verdict: the bound is 1 - delta; three: 0.5 ** 3 = 0.125
    assert calibrate_threshold([0.5] * 3, [1, 1, 1], 0.5, 0.125, min_items=1) == 0.5
    delta = float(binom.cdf(2, 50, 0.1))
    assert calibrate_threshold([0.5] * 50, [0] * 2 + [1] * 48, 0.1, delta) == 0.5
    assert calibrate_threshold([0.5] * 50, [0] * 2 + [1] * 48, 0.1, delta * (1 - 1e-9)) is None


ITEMS = st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=0, max_size=120)


@given(ITEMS, st.sampled_from([0.05, 0.1, 0.2, 0.35]), st.sampled_from([0.05, 0.1, 0.3]), st.sampled_from([1, 5, 30]))
@settings(max_examples=150, deadline=None)
def test_it_is_the_algorithm_of_the_book(items, alpha, delta, min_items):
    confidence, correct = [c / 40 for c, _ in items], [right for _, right in items]
    assert calibrate_threshold(confidence, correct, alpha, delta, min_items) == by_the_book(confidence, correct, alpha, delta, min_items)


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_it_is_the_algorithm_of_the_book_for_many_items(seed):
    drawn = np.random.default_rng(seed)
    confidence = drawn.random(400).round(drawn.integers(1, 4))
    correct = drawn.random(400) < 1 - 0.3 * (1 - confidence)
    expected = by_the_book(confidence, correct, 0.15, 0.1, 30)
    assert calibrate_threshold(confidence, correct, 0.15, 0.1) == expected
    order = drawn.permutation(400)
    assert calibrate_threshold(confidence[order], correct[order], 0.15, 0.1) == expected, "the order of the items does not matter"
    squeezed = calibrate_threshold(confidence**3, correct, 0.15, 0.1)
    assert squeezed == (None if expected is None else pytest.approx(expected**3)), "only the order of confidences matters"


def test_what_is_promised_is_what_was_counted():
    drawn = np.random.default_rng(0)
    confidence = drawn.random(600).round(2)
    correct = drawn.random(600) < 0.75 + confidence / 4
    found = calibrate(confidence, correct, 0.1, 0.1)
    kept = confidence >= found.threshold
    assert found.accepted == kept.sum()
    assert found.errors == (~correct)[kept].sum()
    assert found.coverage == kept.mean()
    assert found.bound == upper_bound(found.errors, found.accepted, 0.1) <= 0.1
    assert found.threshold == calibrate_threshold(confidence, correct, 0.1, 0.1, min_items=found.min_items)
    rates = {t: (~correct)[confidence >= t].mean() for t in set(confidence)}
    assert found.best_coverage == max((confidence >= t).mean() for t, rate in rates.items() if rate <= 0.1)
    assert found.best_coverage >= found.coverage
    assert [found.accepts(c) for c in (1.0, found.threshold, found.threshold - 0.001, None, float("nan"))] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert Calibration.model_validate_json(found.model_dump_json()) == found


def test_the_curve_shows_the_walk_and_where_it_failed():
    confidence = np.linspace(1, 0, 5000)
    correct = np.arange(5000) % 10 != 9
    correct[:1000] = True
    found = calibrate(confidence, correct, 0.05, 0.1)
    assert 200 <= len(found.curve) <= 203
    thresholds = [point.threshold for point in found.curve]
    assert thresholds == sorted(thresholds, reverse=True)
    at = thresholds.index(found.threshold)
    failed = found.curve[at + 1]
    assert (found.curve[at].accepted, failed.accepted) == (found.accepted, found.accepted + 1), "the failing threshold is the next one"
    assert found.curve[at].bound <= 0.05 < failed.bound
    assert failed.bound == upper_bound(failed.errors, failed.accepted, 0.1)
    assert found.min_items in [point.accepted for point in found.curve], "where the walk began"


def test_where_the_judge_gave_no_verdict_nothing_is_accepted():
    found = calibrate([0.9] * 50 + [None] * 50, [1] * 50 + [None] * 50, 0.1, 0.1)
    assert (found.n, found.abstained, found.accepted, found.coverage) == (100, 50, 50, 0.5)
    assert calibrate_threshold([None] * 40, [1] * 40, 0.1, 0.1) is None
    with pytest.raises(InputError, match="abstained on all of 40 items"):
        calibrate([None] * 40, [1] * 40, 0.1, 0.1)


def test_nothing_passes_and_the_reason_is_said():
    found = calibrate(np.linspace(0, 1, 100), [0, 1] * 50, 0.1, 0.1)
    assert (found.threshold, found.accepted, found.bound, found.coverage) == (None, 0, None, 0.0)
    assert not found.accepts(1.0)
    assert "at the first threshold tested, 15 of 30 verdicts disagree (bound 0.630" in found.warnings[0]
    literal = calibrate(np.linspace(0, 1, 100), [1] * 100, 0.05, 0.05, min_items=30)
    assert "first threshold tested stands on 30 items, and fewer than 59 cannot pass; raise min_items to 59" in literal.warnings[0]
    assert calibrate(np.linspace(0, 1, 100), [1] * 100, 0.05, 0.05).coverage == 1.0, "by default the first test stands on enough"
    few = calibrate([0.5] * 20 + [None] * 80, [1] * 100, 0.1, 0.1)
    assert "needs 30 items, and 20 have a verdict" in few.warnings[0]


def test_warnings():
    assert any("as few as 22 items" in warning for warning in calibrate([0.5] * 50, [1] * 50, 0.1, 0.1, min_items=22).warnings)
    assert any("right on every item" in warning for warning in calibrate([0.5] * 50, [1] * 50, 0.1, 0.1).warnings)
    assert any("wrong on every item" in warning for warning in calibrate([0.5] * 50, [0] * 50, 0.1, 0.1).warnings)
    assert calibrate(np.arange(100), [1] * 99 + [0], 0.1, 0.1).warnings == ("abstains always: at the first threshold tested, 1 of 30 "
        "verdicts disagree (bound 0.124, above alpha = 0.1)",)  # fmt: skip
    assert calibrate(np.arange(100), [0] + [1] * 99, 0.1, 0.1).warnings == ()


def test_the_first_test_leaves_room_for_errors_where_labels_abound():
    assert first_test(100, 0.2, 0.1) == 30
    assert first_test(100, 0.05, 0.05) == items_needed(0.05, 0.05) == 59
    assert first_test(6 * 93, 0.05, 0.05) == items_needed(0.05, 0.05, 1) == 93
    assert first_test(10**6, 0.05, 0.05) == items_needed(0.05, 0.05, 5)
    found = calibrate(np.linspace(1, 0, 600), [0] + [1] * 599, 0.1, 0.1)
    assert found.coverage == 1.0, "one wrong label at the very top does not end the walk"
    assert calibrate_threshold(np.linspace(1, 0, 600), [0] + [1] * 599, 0.1, 0.1) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"alpha": 0}, "field `alpha`"),
        ({"alpha": 1}, "field `alpha`"),
        ({"alpha": -0.1}, "field `alpha`"),
        ({"alpha": float("nan")}, "field `alpha`"),
        ({"delta": 1.0}, "field `delta`"),
        ({"min_items": 0}, "field `min_items`"),
        ({"confidence_N": [0.5, float("nan")] * 50}, "item 1 (from 0) has nan"),
        ({"confidence_N": [0.5, 0.1, float("inf")] + [0.1] * 97}, "item 2 (from 0) has inf"),
        ({"confidence_N": [0.5] * 99}, "99 and 100"),
        ({"confidence_N": ["sure"] * 100}, "numbers are needed"),
        ({"confidence_N": [[0.5, 0.5]] * 100}, "shape"),
        ({"correct_N": [1, 0.5] * 50}, "graded or weighted correctness is not supported"),
        ({"correct_N": [1, 0, 2, 1] * 25}, "item 2 (from 0) has 2"),
        ({"correct_N": [1, float("nan")] * 50}, "item 1 (from 0) has nan"),
        ({"correct_N": [1, 1, None, 1] * 25}, "item 2 (from 0) has None: it has no label"),
        ({"thresholds": []}, "thresholds"),
        ({"thresholds": [0.5, float("nan")]}, "thresholds"),
    ],
)
def test_bad_input_is_refused_with_the_place(change, said):
    good = {"confidence_N": [0.5] * 100, "correct_N": [1] * 100, "alpha": 0.1, "delta": 0.1}
    for function in (calibrate, calibrate_threshold):
        with pytest.raises(InputError) as caught:
            function(**{**good, **change})
        assert said in str(caught.value)


def test_too_few_labels_say_how_many_are_needed():
    with pytest.raises(InputError, match=r"58 labelled items cannot show a disagreement of at most 0.05 at delta = 0.05.* 59 are needed"):
        calibrate([0.5] * 58, [1] * 58, 0.05, 0.05)
    with pytest.raises(InputError, match="25 labelled items, and a threshold is tested on 30 at least"):
        calibrate([0.5] * 25, [1] * 25, 0.1, 0.1)
    assert calibrate([0.5] * 25, [1] * 25, 0.1, 0.1, min_items=22).threshold == 0.5


# ---- does the promise hold? ----------------------------------------------------------------------------------------------------------


def failures(draw, risk, alpha, delta, *, times=2_000, **options) -> tuple[float, float]:
    """How often the true risk of what is accepted is above alpha, and how often anything is accepted."""
    drawn, bad, any_ = np.random.default_rng(1), 0, 0
    for _ in range(times):
        threshold = calibrate_threshold(*draw(drawn), alpha, delta, **options)
        any_ += threshold is not None
        bad += threshold is not None and risk(threshold) > alpha
    return bad / times, any_ / times


def judge(rate, n=300):
    """Confidences uniform in [0, 1], wrong with probability rate(c); the true risk above t by numerical integration."""
    middles = (np.arange(100_000) + 0.5) / 100_000
    above = np.cumsum(rate(middles)[::-1])[::-1] / np.arange(100_000, 0, -1)

    def draw(drawn):
        confidence = drawn.random(n)
        return confidence, drawn.random(n) >= rate(confidence)

    return draw, lambda t: above[min(int(t * 100_000), 99_999)]


HARD = {
    "just above alpha everywhere": lambda c: np.full_like(c, 0.2001),
    "worst where it is surest": lambda c: np.where(c > 0.9, 0.5, 0.1668),
    "up and down": lambda c: 0.2 + 0.2 * np.sin(40 * c),
    "crosses alpha late": lambda c: np.clip(1.2 * (0.9 - c), 0.02, 1),
    "a thin bad layer at the top": lambda c: np.where(c > 0.98, 1.0, 0.0) + np.where(c < 0.9, 0.2002, 0.0),
}


@pytest.mark.parametrize("min_items", [14, 30, 45])
@pytest.mark.parametrize("name", HARD)
def test_the_promise_is_kept_on_judges_made_to_break_it(name, min_items):
    bad, _ = failures(*judge(HARD[name]), 0.2, 0.1, min_items=min_items)
    assert bad <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 2_000)


def test_the_promise_is_used_up_where_the_risk_is_just_above_alpha():
    bad, any_ = failures(*judge(HARD["just above alpha everywhere"]), 0.2, 0.1, min_items=30)
    assert bad == any_, "everything accepted is a failure here"
    assert bad > 0.03, "a threshold is found now and then: the bound is not needlessly wide"


def test_the_promise_is_kept_with_ties_and_with_a_fixed_grid():
    drawn_from, rates = np.array([1.0, 0.75, 0.5, 0.25]), np.array([0.3, 0.15, 0.25, 0.2])
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    risk = dict(zip(drawn_from, np.cumsum(weights * rates) / np.cumsum(weights), strict=True))

    def draw(drawn):
        places = drawn.choice(4, 300, p=weights)
        return drawn_from[places], drawn.random(300) >= rates[places]

    for options in ({"min_items": 30}, {"min_items": 30, "thresholds": list(drawn_from)}, {"min_items": 1}):
        bad, _ = failures(draw, lambda t: risk[t], 0.2, 0.1, **options)
        assert bad <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 2_000)


def test_thresholds_from_the_observed_rate_alone_break_the_promise():
    """The measure can fail: without the bound, the same judges are trusted too often."""
    draw, risk = judge(HARD["just above alpha everywhere"])
    drawn, bad = np.random.default_rng(2), 0
    for _ in range(300):
        confidence, correct = draw(drawn)
        order = np.argsort(-confidence)
        rates = np.cumsum(~correct[order]) / np.arange(1, 301)
        good = np.flatnonzero(rates[29:] <= 0.2)
        bad += bool(good.size) and risk(confidence[order][29 + good[-1]]) > 0.2
    assert bad / 300 > 0.3


# ---- cascades ------------------------------------------------------------------------------------------------------------------------


def test_a_cascade_by_hand():
    cheap = ([0.9] * 60 + [0.4] * 140, [1] * 60 + [0] * 140)
    strong = ([0.95] * 120 + [0.3] * 80, [1] * 120 + [0] * 80)
    found = calibrate_cascade([cheap, strong], 0.1, 0.1, costs=[1.0, 10.0], person_cost=100.0)
    assert [(level.reached, level.decided, level.share) for level in found.levels] == [(200, 60, 0.3), (140, 60, 0.3)]
    assert [level.calibration.threshold for level in found.levels] == [0.9, 0.95]
    assert [level.calibration.delta for level in found.levels] == [0.05, 0.05]
    assert [level.calibration.n for level in found.levels] == [200, 140]
    assert (found.left, found.left_share) == (80, 0.4)
    assert found.cost_per_item == pytest.approx((200 * 1 + 140 * 10 + 80 * 100) / 200)
    assert [found.decides(pair) for pair in [(0.9, 0.0), (0.5, 0.95), (0.5, 0.5), (None, 0.99), (None, None)]] == [0, 1, None, 1, None]
    assert CascadeCalibration.model_validate_json(found.model_dump_json()) == found
    whole = calibrate_cascade([cheap, strong], 0.1, 0.1, split_delta=False)
    assert [level.calibration.delta for level in whole.levels] == [0.1, 0.1]


def test_one_judge_is_a_cascade_of_one():
    drawn = np.random.default_rng(3)
    confidence, correct = drawn.random(400), drawn.random(400) < 0.97
    alone = calibrate(confidence, correct, 0.1, 0.1)
    assert calibrate_cascade([(confidence, correct)], 0.1, 0.1).levels[0].calibration == alone


def test_a_level_without_enough_items_or_verdicts_decides_nothing():
    everything = ([0.9] * 100, [1] * 100)
    found = calibrate_cascade([everything, everything], 0.1, 0.1)
    assert [level.decided for level in found.levels] == [100, 0]
    assert (found.levels[1].calibration.n, found.levels[1].calibration.threshold, found.left) == (0, None, 0)
    silent = ([None] * 100, [None] * 100)
    found = calibrate_cascade([silent, everything], 0.1, 0.1)
    assert [level.decided for level in found.levels] == [0, 100]


def test_parts_keep_the_items_of_each_level_apart():
    one, other = ([0.9] * 200, [1] * 200), ([0.9] * 200, [0] * 200)
    found = calibrate_cascade([other, one], 0.1, 0.1, parts_N=[0, 1] * 100)
    assert [level.calibration.n for level in found.levels] == [100, 100]
    assert [level.decided for level in found.levels] == [0, 200], "shares are of all items"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"levels": []}, "one judge at least"),
        ({"levels": [([0.5] * 60, [1] * 60), ([0.5] * 59, [1] * 59)]}, "they have 60, 59"),
        ({"costs": [1.0]}, "costs"),
        ({"costs": [1.0, -1.0]}, "costs"),
        ({"parts_N": [0, 2] * 30}, "parts"),
        ({"parts_N": [0] * 59}, "parts"),
        ({"alpha": 2}, "alpha"),
        ({"levels": [([0.5] * 20, [1] * 20)]}, "22 are needed"),
    ],
)
def test_a_cascade_refuses_nonsense(options, said):
    good = {"levels": [([0.5] * 60, [1] * 60)] * 2, "alpha": 0.1, "delta": 0.1}
    with pytest.raises(InputError, match=said):
        calibrate_cascade(**{**good, **options})


def test_the_promise_of_a_whole_cascade_is_kept_where_the_judges_err_on_opposite_items():
    """Either level decides at a risk just above alpha: all that is accepted is a failure of the promise."""
    drawn, bad = np.random.default_rng(4), 0
    for _ in range(1_000):
        first, luck = drawn.random(300), drawn.random(300)
        wrong, other = luck < 0.2001, luck > 1 - 0.2001  # never both wrong
        found = calibrate_cascade([(first, ~wrong), (drawn.random(300), ~other)], 0.2, 0.1, min_items=30)
        bad += found.left < 300
    assert bad / 1_000 <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 1_000)


# ---- speed ---------------------------------------------------------------------------------------------------------------------------


def test_ten_thousand_items_with_five_thousand_thresholds_take_less_than_a_second():
    drawn = np.random.default_rng(5)
    confidence = drawn.permutation(np.repeat(np.linspace(0.5, 1, 5_000), 2))
    correct = drawn.random(10_000) < 0.98
    calibrate_threshold(confidence[:100], correct[:100], 0.1, 0.1)  # scipy is imported
    began = perf_counter()
    found = calibrate(confidence, correct, 0.1, 0.1)
    assert perf_counter() - began < 1
    assert found.coverage == 1.0


def test_the_module_needs_no_scipy_to_be_imported():
    code = "import sys, tutelage.graders.guarantee_cascade, tutelage.graders.audit, tutelage.graders.labels; print('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_many_ties_leave_the_first_test_at_the_fewest_that_pass():
    assert first_test(1_000, 0.1, 0.1) == 91
    assert first_test(1_000, 0.1, 0.1, distinct=101) == 91
    assert first_test(1_000, 0.1, 0.1, distinct=100) == 30
    tied = calibrate([0.9] * 60 + [0.5] * 440, [1] * 60 + [0, 1] * 220, 0.1, 0.1)
    assert (tied.min_items, tied.threshold) == (30, 0.9), "the surest tie is not passed over"
