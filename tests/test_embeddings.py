"""Learned embedding propagation: the algebra against numbers worked out by hand, and what must hold whatever the numbers are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.errors import InputError
from tutelage.training.embeddings import Shared, Table, align, propagate
from tutelage.training.tokenizer_training import Vocabulary

PARTS = ((0,), (1,), (2,), (0, 1), (0, 1, 2), (3,))
"""Six new tokens: three old ones, a pair, a triple, and a special token."""
SHARED = Shared(ordinary=(0, 1, 2, 3, 4), common=(0, 1, 2), special={5: 3})


def random_rows(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def many_parts(old: int, new: int, seed: int = 0) -> tuple[tuple[int, ...], ...]:
    chance = np.random.default_rng(seed)
    made = [tuple(map(int, chance.integers(0, old, size=chance.integers(2, 5)))) for _ in range(new - old)]
    return (*((number,) for number in range(old)), *made)


def all_common(old: int, new: int) -> Shared:
    return Shared(tuple(range(new)), tuple(range(old)), {})


def test_new_rows_are_the_means_of_their_sub_tokens():
    table = Table(np.array([[1, 2], [3, 6], [5, 1], [9, 9]], dtype=np.float32), PARTS)
    np.testing.assert_array_equal(table.convert([3, 4]), [[2, 4], [3, 3]])
    converted = table.converted()
    np.testing.assert_array_equal(converted, np.array([[1, 2], [3, 6], [5, 1], [2, 4], [3, 3], [9, 9]]))
    assert converted.dtype == np.float32
    repeated = Table(np.array([[1.0], [4.0]]), ((0, 0, 1), ()))
    np.testing.assert_array_equal(repeated.converted(), [[2], [0]])


def test_unchanged_tokens_keep_their_bits():
    rows = (random_rows(4, 3) * 1e-30).astype(np.float32)
    assert Table(rows, ((2,), (0,))).converted().tobytes() == rows[[2, 0]].tobytes()


def test_a_projection_worked_out_by_hand():
    """A = ((1, 0), (0, 2), (1, 1)), B = ((2, 0), (2, 0), (3, 1)): A'A = ((2, 1), (1, 5)), A'B = ((5, 1), (7, 1)), D = A'A^-1 A'B."""
    ours, theirs = np.array([[1.0, 0], [0, 2], [1, 1]]), np.array([[2.0, 0], [2, 0], [3, 1]])
    found = align([(ours, theirs)], 2)
    np.testing.assert_allclose(found.matrix, np.array([[18, 4], [9, 1]]) / 9, atol=1e-12)
    # A D = ((2, 4/9), (2, 2/9), (3, 5/9)): off by (0, 4/9), (0, 2/9), (0, -4/9), of which the squares sum to 36/81; |B|^2 = 18
    assert found.residual == pytest.approx((36 / 81 / 18) ** 0.5)
    assert found.apart == pytest.approx(((1 + 8 + 4) / 18) ** 0.5)
    assert (found.rows, found.rank, found.note) == (3, 2, "")


def test_blocks_make_no_difference():
    ours, theirs = random_rows(50, 6), random_rows(50, 6, seed=1)
    whole = np.linalg.lstsq(ours, theirs, rcond=None)[0]
    for size in (1, 7, 50):
        pairs = [(ours[start : start + size], theirs[start : start + size]) for start in range(0, 50, size)]
        np.testing.assert_allclose(align(pairs, 6).matrix, whole, atol=1e-10)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6), st.sampled_from(["conversion", "overlap"]))
def test_a_linear_change_is_recovered(seed, width, projection):
    """Where the instruct model's embeddings are the base's times R, what training brought about is carried through R."""
    old, new = 3 * width, 5 * width
    change, ours = random_rows(width, width, seed=seed), random_rows(old, width, seed=seed + 1)
    trained, parts = random_rows(new, width, seed=seed + 2), many_parts(old, new, seed)
    found, alignment = propagate(trained, Table(ours, parts), Table(ours @ change, parts), all_common(old, new), projection)
    np.testing.assert_allclose(found, trained @ change, rtol=1e-4, atol=1e-5)
    assert alignment.residual < 1e-9
    assert alignment.rank == width


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 8))
def test_with_an_untuned_instruct_model_all_projections_agree(seed, old):
    """Also where the rows show fewer directions than there are."""
    width, new = 5, 10
    ours, trained, parts = random_rows(old, width, seed=seed), random_rows(new, width, seed=seed + 1), many_parts(old, new, seed)
    table = Table(ours, parts)
    for projection in ("conversion", "overlap", "swap"):
        found, alignment = propagate(trained, table, table, all_common(old, new), projection)
        np.testing.assert_allclose(found, trained, atol=1e-5)
        assert alignment.residual == pytest.approx(0, abs=1e-9)


def test_swap_puts_the_trained_rows_in_and_copies_special_tokens():
    base, instruct = Table(random_rows(4, 2), PARTS), Table(random_rows(4, 2, seed=1), PARTS)
    trained = random_rows(6, 2, seed=2)
    found, alignment = propagate(trained, base, instruct, SHARED, "swap")
    np.testing.assert_array_equal(found[:5], trained[:5].astype(np.float32))
    np.testing.assert_array_equal(found[5], instruct.rows[3].astype(np.float32))
    np.testing.assert_array_equal(alignment.matrix, np.eye(2))
    ours, theirs = base.converted()[:5], instruct.converted()[:5]
    assert alignment.apart == alignment.residual == pytest.approx(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def test_special_tokens_take_no_part_in_the_projection():
    base = np.array([[1.0, 0], [0, 1], [1, 1], [7, 7]])
    instruct = np.array([[2.0, 0], [0, 2], [2, 2], [-5, 3]])
    trained = random_rows(6, 2)
    for projection in ("conversion", "overlap"):
        found, alignment = propagate(trained, Table(base, PARTS), Table(instruct, PARTS), SHARED, projection)
        np.testing.assert_allclose(alignment.matrix, 2 * np.eye(2), atol=1e-12)
        np.testing.assert_array_equal(found[5], [-5, 3])


def test_overlap_looks_at_the_common_rows_only():
    """Two tokens in one old row each: a conversion by three rows that do not lie on a line differs from that by two."""
    base, instruct = Table(np.array([[1.0], [2.0], [4.0]]), ((0,), (1, 2))), Table(np.array([[3.0], [1.0], [1.0]]), ((0,), (1, 2)))
    shared = Shared((0, 1), (0,), {})
    _, overlap = propagate(np.ones((2, 1)), base, instruct, shared, "overlap")
    _, conversion = propagate(np.ones((2, 1)), base, instruct, shared, "conversion")
    assert overlap.matrix[0, 0] == pytest.approx(3)
    assert conversion.matrix[0, 0] == pytest.approx((1 * 3 + 3 * 1) / (1 + 9))


def test_too_few_rows_leave_the_other_directions_as_they_are_and_say_so():
    found = align([(np.array([[1.0, 0, 0], [2, 0, 0]]), np.array([[0.0, 1, 0], [0, 2, 0]]))], 3)
    np.testing.assert_allclose(found.matrix, [[0, 1, 0], [0, 1, 0], [0, 0, 1]], atol=1e-12)
    assert found.rank == 1
    assert "the 2 rows show 1 of 3 directions" in found.note
    nothing = align([], 2)
    np.testing.assert_array_equal(nothing.matrix, np.eye(2))
    assert "no rows to align by" in nothing.note


def test_without_common_rows_overlap_falls_back_and_says_so():
    shared = Shared((0, 1), (), {})
    table = Table(random_rows(2, 2), ((0, 1), (1, 0)))
    trained = random_rows(2, 2, seed=3)
    found, alignment = propagate(trained, table, table, shared, "overlap")
    np.testing.assert_allclose(found, trained, rtol=1e-6)
    assert "swap" in alignment.note


def test_what_does_not_fit_is_refused():
    table, narrow = Table(random_rows(4, 3), PARTS), Table(random_rows(4, 2), PARTS)
    with pytest.raises(InputError, match="widths: 2, 3"):
        propagate(random_rows(6, 3), table, narrow, SHARED, "conversion")
    broken = Table(np.full((4, 3), np.nan), PARTS)
    with pytest.raises(InputError, match="NaN"):
        propagate(random_rows(6, 3), table, broken, SHARED, "conversion")


def test_what_two_vocabularies_share():
    new = Vocabulary({"a": 0, "b": 1, "ab": 2}, {"<end>": 3, "<tool>": 4}, (("a", "b"),))
    old = Vocabulary({"a": 5, "b": 6, "x": 1}, {"<end>": 9}, ())
    shared = Shared.of(new, old)
    assert (shared.ordinary, shared.common, dict(shared.special)) == ((0, 1, 2), (0, 1), {3: 9})
    assert (shared.rows_for("conversion"), shared.rows_for("overlap"), shared.rows_for("swap")) == ((0, 1, 2), (0, 1), ())
