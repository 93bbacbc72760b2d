"""Majorities, contradictions, Krippendorff's alpha and Cohen's kappa against published and hand-computed numbers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.errors import InputError
from tutelage.graders.agreement import Agreement, Vote, agreement, ballots, cohen_kappa, contradictions, krippendorff_alpha, majority

# Krippendorff (2011), "Computing Krippendorff's alpha-reliability", section C: four observers, twelve units, "." is missing
FOUR = {
    "A": "1 2 3 3 2 1 4 1 2 . . .",
    "B": "1 2 3 3 2 2 4 1 2 5 . 3",
    "C": ". 3 3 3 2 3 4 2 2 5 1 .",
    "D": "1 2 3 3 2 4 4 1 2 5 1 .",
}
# the same text, section A: two observers, ten units, two values
TWO = {"Meg": "0 1 0 0 0 0 0 0 1 0", "Owen": "1 1 1 0 0 1 0 0 0 0"}


def table(rows: dict[str, str], number=float) -> list[Vote]:
    return [Vote(f"u{n}", who, number(cell)) for who, row in rows.items() for n, cell in enumerate(row.split()) if cell != "."]


@pytest.mark.parametrize(("metric", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_matches_the_published_values(metric, alpha):
    assert krippendorff_alpha(table(FOUR), metric) == pytest.approx(alpha, abs=5e-4)


def test_alpha_by_hand():
    # 20 values in 10 pairs: 14 zeros and 6 ones; 4 units differ, so 8 of 20 coincidences do; 1 - 19 * 8 / (2 * 14 * 6)
    assert krippendorff_alpha(table(TWO)) == pytest.approx(1 - 19 * 8 / 168)
    assert krippendorff_alpha(table(TWO)) == pytest.approx(0.095, abs=5e-4)
    # three people, one unit a a b: pairs aa twice, ab four times, each weighed 1/2; with b b: n = 5, n_a = 2, n_b = 3
    votes = [Vote("u", "1", "a"), Vote("u", "2", "a"), Vote("u", "3", "b"), Vote("v", "1", "b"), Vote("v", "2", "b")]
    assert krippendorff_alpha(votes) == pytest.approx(1 - 4 * 2 / (2 * 2 * 3))


def test_for_two_values_every_metric_says_the_same():
    assert krippendorff_alpha(table(TWO), "interval") == pytest.approx(krippendorff_alpha(table(TWO)))
    assert krippendorff_alpha(table(TWO), "ordinal") == pytest.approx(krippendorff_alpha(table(TWO)))


def test_alpha_is_unknown_where_nothing_could_differ():
    assert krippendorff_alpha([]) is None
    assert krippendorff_alpha([Vote("u", "1", "a"), Vote("v", "1", "b")]) is None, "nobody labelled the same item"
    assert krippendorff_alpha([Vote("u", "1", "a"), Vote("u", "2", "a")]) is None, "all alike"
    assert krippendorff_alpha([Vote("u", "1", 1.0)], "interval") is None


def test_metrics_that_need_numbers_refuse_texts():
    with pytest.raises(InputError, match="needs numbers as labels, and one is `a`"):
        krippendorff_alpha([Vote("u", "1", "a"), Vote("u", "2", "b")], "ordinal")


LABELS = st.dictionaries(st.tuples(st.integers(0, 5), st.integers(0, 3)), st.integers(0, 3), max_size=24)


@given(LABELS, st.sampled_from(["nominal", "ordinal", "interval"]))
@settings(max_examples=80, deadline=None)
def test_alpha_knows_neither_the_order_nor_the_names(given_labels, metric):
    votes = [Vote(f"u{item}", f"p{who}", float(label)) for (item, who), label in given_labels.items()]
    found = krippendorff_alpha(votes, metric)
    renamed = [Vote(vote.item, f"x{vote.annotator}", 2 * float(vote.label) + 7) for vote in reversed(votes)]
    other = krippendorff_alpha(renamed, metric)
    assert other == (None if found is None else pytest.approx(found))
    assert found is None or found <= 1


# Cohen's kappa: the three tables of the article "Cohen's kappa" (yes/yes, yes/no, no/yes, no/no)
@pytest.mark.parametrize(("counts", "kappa"), [((20, 5, 10, 15), 0.4), ((45, 15, 25, 15), 0.1304), ((25, 35, 5, 35), 0.2593)])
def test_kappa_matches_known_tables(counts, kappa):
    pairs = [pair for pair, times in zip([("y", "y"), ("y", "n"), ("n", "y"), ("n", "n")], counts, strict=True) for _ in range(times)]
    first, second = zip(*pairs, strict=True)
    assert cohen_kappa(first, second) == pytest.approx(kappa, abs=5e-5)
    assert cohen_kappa(second, first) == pytest.approx(cohen_kappa(first, second))


def test_kappa_leaves_missing_out_and_admits_what_it_cannot_say():
    assert cohen_kappa(["a", "b", None, "a"], ["a", "b", "a", None]) == 1.0
    assert cohen_kappa(["a", "b"], ["b", "a"]) == -1.0
    assert cohen_kappa(["a", "a"], ["a", "a"]) is None
    assert cohen_kappa([], []) is None
    with pytest.raises(InputError, match="the same items"):
        cohen_kappa(["a"], [])


VOTES = [
    *[Vote("clear", who, label) for who, label in (("ann", "a"), ("bob", "a"), ("cy", "b"))],
    *[Vote("tied", who, label) for who, label in (("ann", "a"), ("bob", "b"))],
    *[Vote("three ways", who, label) for who, label in (("ann", "a"), ("bob", "b"), ("cy", "tie"))],
    Vote("alone", "cy", "tie"),
    *[Vote("taken back", "ann", label) for label in ("a", "b", "a")],
    Vote("settled", "ann", "a"),
    *[Vote("settled", "bob", label) for label in ("b", "a")],
    *[Vote("said twice", "bob", "b")] * 2,
    Vote("said twice", "ann", "a"),
    Vote("said twice", "cy", "b"),
]


def test_the_majority_and_its_ties():
    found = majority(VOTES)
    assert found.labels == {"clear": "a", "alone": "tie", "settled": "a", "said twice": "b"}
    assert found.tied == ("tied", "three ways")
    assert found.unlabelled == ("taken back",)


def test_who_contradicts_themselves_has_no_vote_there():
    assert [(one.item, one.annotator, one.labels) for one in contradictions(VOTES)] == [
        ("taken back", "ann", ("a", "b")),
        ("settled", "bob", ("b", "a")),
    ]
    assert ballots(VOTES)["settled"] == {"ann": "a"}
    assert ballots(VOTES)["taken back"] == {}


def test_a_repeated_label_counts_once():
    assert majority([Vote("u", "1", "a"), Vote("u", "1", "a"), Vote("u", "2", "b")]).tied == ("u",)


def test_all_that_is_said_beside_a_majority():
    found = agreement(VOTES)
    assert (found.items, found.annotators, found.tied, found.compared) == (7, 3, 2, 4)
    assert found.votes == 3 + 2 + 3 + 1 + 0 + 1 + 3
    assert len(found.contradictions) == 2
    # clear, said twice: one pair of three alike, three votes each; tied: none of two; three ways: none of three
    assert found.pairs == pytest.approx((3 / 3 + 3 / 3) / 11)
    assert found.krippendorff == krippendorff_alpha(VOTES)
    assert Agreement.model_validate_json(found.model_dump_json()) == found
    nothing = agreement([])
    assert (nothing.items, nothing.pairs, nothing.krippendorff) == (0, None, None)
