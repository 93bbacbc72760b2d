"""Which losses mean that a training has gone wrong."""

from __future__ import annotations

from tutelage.training.divergence import exploded, healthy, leapt, recent_loss


def test_what_counts_as_diverged_in_a_supervised_training():
    assert not exploded([4.0])
    assert exploded([4.0, float("nan")])
    assert exploded([4.0, float("inf")])
    assert not exploded([2.0, 8.0, 2.0, 2.0, 2.0]), "one bad batch is none: the mean of five is 3.2"
    assert not exploded([2.0, *[4.0] * 5]), "4 = 1.5 * 2 + 1"
    assert exploded([2.0, *[4.1] * 5])
    assert recent_loss([9.0, 1.0, 2.0, 3.0, 4.0, 5.0]) == 3.0
    assert healthy([4.0, 3.0, 2.0])
    assert not healthy([2.0, 1.0, *[3.0] * 5]), "3 is more than 1.2 * 1.5 + 0.1"


def test_what_counts_as_diverged_in_the_policy_gradient():
    nan, inf = float("nan"), float("inf")
    assert not leapt(0.5, [])
    assert not leapt(-1000.0, []), "the smallest usual loss is 1"
    assert leapt(1000.1, [])
    assert leapt(-1000.1, [0.2])
    assert not leapt(2500.0, [0.1, -3.0])
    assert leapt(2500.0, [-3.0, *[0.1] * 20]), "only the last 20 count"
    assert leapt(nan, []) and leapt(inf, []) and leapt(-inf, [1e308])
