"""Drawing tokens: cuts worked out by hand, their order, and draws that follow the distribution."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch", reason="extra `train` is not installed")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.errors import ModelFailed
from tutelage.records import Sampling
from tutelage.training.sampling import Cuts, distribution, draw

pytestmark = pytest.mark.torch
CPU = torch.device("cpu")

P = torch.tensor([[0.1, 0.5, 0.25, 0.15]])


def cut(**settings: Any) -> list[float]:
    left = distribution(P.log(), Cuts.of([Sampling(**{"temperature": 1.0, **settings})], CPU))
    return [round(value, 4) for value in (left / left.sum())[0].tolist()]


def test_cuts_of_a_distribution_worked_out_by_hand():
    assert cut() == [0.1, 0.5, 0.25, 0.15]
    assert cut(min_p=0.3) == [0.0, 0.5556, 0.2778, 0.1667]  # 0.3 * 0.5 = 0.15: 0.15 stays
    assert cut(min_p=0.31) == [0.0, 0.6667, 0.3333, 0.0]
    assert cut(min_p=1.0) == [0.0, 1.0, 0.0, 0.0]
    assert cut(top_p=0.7) == [0.0, 0.6667, 0.3333, 0.0]  # 0.5 is too little, 0.75 suffices
    assert cut(top_p=0.8) == [0.0, 0.5556, 0.2778, 0.1667]
    assert cut(top_p=0.0) == [0.0, 1.0, 0.0, 0.0]  # the likeliest always stays
    assert cut(top_p=0.95, min_p=0.4) == [0.0, 0.6667, 0.3333, 0.0]


def test_temperature_comes_before_the_cuts():
    """At temperature 2 the probabilities go by their roots: 0.316, 0.707, 0.5, 0.387 of 1.911 -> 0.165, 0.370, 0.262, 0.203."""
    assert cut(temperature=2.0) == [0.1655, 0.3701, 0.2617, 0.2027]
    assert cut(temperature=2.0, min_p=0.5) == [0.0, 0.4435, 0.3136, 0.2429]  # at temperature 1 the last one would go
    assert cut(temperature=2.0, top_p=0.6) == [0.0, 0.5858, 0.4142, 0.0]  # 0.37 is too little; at temperature 1 0.75 would be reached too


def test_each_row_has_its_own_settings_and_its_own_number():
    rows = [
        Sampling(temperature=0.0),
        Sampling(temperature=1.0),
        Sampling(temperature=1.0, min_p=1.0),
        Sampling(temperature=1.0, top_p=0.7),
        Sampling(temperature=0.0, top_p=0.1),
    ]
    ids, logprobs = draw(P.log().expand(5, 4), Cuts.of(rows, CPU), [0.0, 0.05, 0.0, 0.99, 0.99])
    assert ids.tolist() == [1, 0, 1, 2, 1]
    assert logprobs.exp().tolist() == pytest.approx([0.5, 0.1, 0.5, 0.25, 0.5])  # of the model's own, uncut distribution


@pytest.mark.parametrize(("number", "token"), [(0.0, 0), (0.0999, 0), (0.1001, 1), (0.5999, 1), (0.6001, 2), (0.8501, 3), (1 - 2**-32, 3)])
def test_the_running_sum_decides(number: float, token: int):
    ids, _ = draw(P.log(), Cuts.of([Sampling(temperature=1.0)], CPU), [number])
    assert ids.tolist() == [token]


@given(st.lists(st.floats(-8, 8), min_size=2, max_size=300), st.floats(0.05, 0.999), st.floats(0, 1), st.floats(0, 1 - 2**-32))
@settings(max_examples=60, deadline=None)
def test_cuts_keep_what_their_definition_says(scores: list[float], top_p: float, min_p: float, number: float):
    logits = torch.tensor([scores])
    p = torch.softmax(logits, -1)[0].double()
    left = distribution(logits, Cuts.of([Sampling(temperature=1.0, top_p=top_p, min_p=min_p)], CPU))[0]
    kept = left > 0
    in_order = sorted(p.tolist(), reverse=True)
    smallest = min(p[kept].tolist())
    before = sum(value for value in in_order if value > smallest)
    assert before < top_p + 1e-6  # without the last kept one (and its equals) it was too little
    assert smallest >= min_p * in_order[0] * (1 - 1e-5)
    assert p[kept].max() == p.max()
    ids, _ = draw(logits, Cuts.of([Sampling(temperature=1.0, top_p=top_p, min_p=min_p)], CPU), [number])
    assert kept[ids[0]]


def test_draws_follow_the_distribution():
    numbers = torch.rand(4000, generator=torch.Generator().manual_seed(0)).tolist()
    ids, _ = draw(P.log().expand(4000, 4), Cuts.of([Sampling(temperature=1.0)] * 4000, CPU), numbers)
    assert (torch.bincount(ids, minlength=4) / 4000).tolist() == pytest.approx(P[0].tolist(), abs=0.03)


def test_weights_that_are_no_numbers_are_refused():
    with pytest.raises(ModelFailed, match="NaN or infinity"):
        draw(torch.tensor([[0.0, float("nan")]]), Cuts.of([Sampling()], CPU), [0.0])
