"""The monitor of a certificate: its wealth by hand, false alarms and power by simulation, and the draw of audits."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.errors import InputError
from tutelage.graders.audit import ODDS, SPAN, Audit, Monitor, drawn_for_audit, replay, simulate_withdrawals, start_monitor


def follow(agrees: list[bool], alpha=0.1, delta=0.05) -> Monitor:
    return replay([Audit(item=str(n), agrees=one) for n, one in enumerate(agrees)], alpha, delta)


def wealth_by_hand(agrees: list[bool], alpha: float) -> float:
    """Every bet by itself: rate, first label, product of what it earned."""
    total = 0.0
    for odds in ODDS:
        rate = odds * alpha / (1 - alpha + odds * alpha)
        for first in range(1, len(agrees) + 1):
            weight = SPAN / ((first + SPAN - 1) * (first + SPAN)) / len(ODDS)
            total += weight * math.prod((1 - rate) / (1 - alpha) if one else rate / alpha for one in agrees[first - 1 :])
    return total + 1 - sum(SPAN / ((first + SPAN - 1) * (first + SPAN)) for first in range(1, len(agrees) + 1))


@given(st.lists(st.booleans(), max_size=12), st.sampled_from([0.05, 0.2, 0.9]))
def test_the_wealth_is_the_sum_of_its_bets(agrees, alpha):
    assert follow(agrees, alpha).wealth == pytest.approx(wealth_by_hand(agrees, alpha))


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.5, 0.95])
def test_the_wealth_cannot_be_expected_to_grow_while_the_promise_holds(alpha):
    """The mean over all futures, exactly: 1 at a rate of alpha, less below it, more above."""

    def mean(rate: float, length: int = 8) -> float:
        futures = product([True, False], repeat=length)
        return sum(rate ** sum(not one for one in f) * (1 - rate) ** sum(f) * follow(list(f), alpha).wealth for f in futures)

    assert mean(alpha) == pytest.approx(1)
    assert mean(alpha / 2) < 1 < mean((1 + alpha) / 2)


def test_nothing_is_known_at_the_beginning():
    fresh = start_monitor(0.1, 0.05)
    assert (fresh.n, fresh.wealth, fresh.p_value, fresh.rate, fresh.withdrawn) == (0, pytest.approx(1), 1, None, False)


def test_a_judge_that_is_always_wrong_is_caught_at_once_and_for_good():
    found = follow([False] * 6)
    assert wealth_by_hand([False] * 5, 0.1) < 1 / 0.05 < wealth_by_hand([False] * 6, 0.1)
    assert follow([False] * 5).withdrawn is False
    assert (found.withdrawn_at, found.disagreements, found.rate) == (6, 6, 1.0)
    later = found
    for _ in range(300):
        later = later.after(agrees=True)
    assert later.wealth < 1
    assert later.withdrawn_at == 6, "what was withdrawn does not come back"
    assert later.p_value <= 0.05
    assert found.n == 6, "the earlier state is as it was"


def test_the_state_survives_a_file():
    found = follow([True, False, False, True])
    again = Monitor.model_validate_json(found.model_dump_json())
    assert again == found
    assert again.after(agrees=False) == found.after(agrees=False)
    endless = start_monitor(0.1, 0.05)
    assert Monitor.model_validate_json(endless.model_dump_json()) == endless
    for _ in range(1_000):
        endless = endless.after(agrees=False)
    assert math.isfinite(endless.wealth)
    assert Monitor.model_validate_json(endless.model_dump_json()) == endless


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.2])
def test_false_withdrawals_over_long_streams(alpha):
    caught = simulate_withdrawals(alpha, 0.05, alpha, limit=2_000, times=1_000, seed=1)
    assert np.mean(caught > 0) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1_000)
    assert np.mean(caught > 0) > 0, "a test that never rejects would be none"
    assert not simulate_withdrawals(alpha, 0.05, alpha / 2, limit=500, times=300).any()


def test_a_judge_that_became_bad_is_caught_the_sooner_the_worse_it_is():
    for good in [(0.0, 0), (0.05, 300)]:
        delays = [
            np.median(np.where(found == 0, 10**6, found - good[1]))
            for factor in (1.5, 2, 3)
            for found in [simulate_withdrawals(0.1, 0.05, 0.1 * factor, limit=1_600, times=100, good=good)]
        ]
        assert delays[0] > delays[1] > delays[2]
        assert delays[0] < 1_000
        assert delays[1] < 250
        assert delays[2] < 80


def test_the_simulation_is_the_monitor():
    drawn = np.random.default_rng(7)
    disagrees = [bool(drawn.random(1)[0] < 0.3) for _ in range(200)]
    expected = follow([not one for one in disagrees]).withdrawn_at
    assert simulate_withdrawals(0.1, 0.05, 0.3, limit=200, times=1, seed=7).tolist() == [expected or 0]
    assert expected is not None


def test_an_item_counts_once_and_is_never_taken_back():
    one, two = Audit(item="x", agrees=True), Audit(item="y", agrees=False)
    assert replay([one, one, two, one], 0.1, 0.1) == replay([one, two], 0.1, 0.1)
    with pytest.raises(InputError, match="`x` was audited twice with opposite results"):
        replay([one, Audit(item="x", agrees=False)], 0.1, 0.1)


@pytest.mark.parametrize(("alpha", "delta", "field"), [(0, 0.1, "alpha"), (1, 0.1, "alpha"), (0.1, 0, "delta"), (0.1, math.nan, "delta")])
def test_a_monitor_refuses_nonsense(alpha, delta, field):
    with pytest.raises(InputError, match=f"field `{field}`"):
        start_monitor(alpha, delta)


def test_the_draw_is_a_share_that_nobody_chooses():
    items = [f"item {n}" for n in range(20_000)]
    drawn = {item for item in items if drawn_for_audit(item, 0.1, "certificate 1")}
    assert len(drawn) / 20_000 == pytest.approx(0.1, abs=3 * math.sqrt(0.09 / 20_000))
    assert drawn == {item for item in reversed(items) if drawn_for_audit(item, 0.1, "certificate 1")}
    assert drawn < {item for item in items if drawn_for_audit(item, 0.2, "certificate 1")}, "a larger share keeps what was drawn"
    other = {item for item in items if drawn_for_audit(item, 0.1, "certificate 2")}
    assert len(drawn & other) / 20_000 == pytest.approx(0.01, abs=0.003), "another salt draws independently"


def test_the_ends_of_the_share_and_odd_ids():
    assert not any(drawn_for_audit(str(n), 0.0) for n in range(100))
    assert all(drawn_for_audit(str(n), 1.0) for n in range(100))
    drawn_for_audit("half a pair \ud800", 0.5)
    assert [drawn_for_audit(f"{n}a", 0.5, "1") for n in range(64)] != [drawn_for_audit("a", 0.5, f"1{n}") for n in range(64)]
    with pytest.raises(InputError, match="rate"):
        drawn_for_audit("x", 1.1)
    assert drawn_for_audit("item 3", 0.5, "s") is drawn_for_audit("item 3", 0.5, "s")
