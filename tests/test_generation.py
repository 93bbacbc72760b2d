"""Sampling in batches: shared beginnings, rows of different length, ends, and independence of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

pytest.importorskip("torch", reason="extra `train` is not installed")
pytest.importorskip("transformers", reason="extra `train` is not installed")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toy_weights import make_toy
from tutelage.errors import InputError, ModelFailed
from tutelage.records import Sampling
from tutelage.training import generation
from tutelage.training.base import find_base, load_causal_lm, load_tokenizer
from tutelage.training.generation import Generated, Generator, Request
from tutelage.training.kv_cache import Layers, PrefixTree, RowsCache, common

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Any:
    base = find_base(str(make_toy(tmp_path_factory.mktemp("toy"))))
    return load_causal_lm(base), load_tokenizer(base)


@pytest.fixture
def generator(toy: Any) -> Generator:
    return make(toy)


def make(toy: Any, **changes: Any) -> Generator:
    model, tokenizer = toy
    options: dict[str, Any] = {"ends": frozenset(), "decode": tokenizer.decode, "context": 1024, **changes}
    return Generator(model, **options)


def run(generator: Generator, requests: Sequence[Request], **options: Any) -> list[Generated]:
    made: dict[int, Generated] = {}
    generator.generate(requests, made.__setitem__, **options)
    return [made[number] for number in sorted(made)]


def prompt(seed: int, length: int) -> tuple[int, ...]:
    return tuple(torch.randint(3, 90, (length,), generator=torch.Generator().manual_seed(seed)).tolist())


def warm(seed: int, tokens: int = 12, **settings: Any) -> Sampling:
    return Sampling(temperature=1.0, max_tokens=tokens, seed=seed, **settings)


def plain_logits(model: Any, ids: Sequence[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0]


# --- what is generated -------------------------------------------------------------------------------------------------------------------


def test_logprobs_are_those_of_a_plain_forward_pass(toy: Any, generator: Generator):
    requests = [Request(prompt(1, 9), warm(1)), Request(prompt(2, 30), warm(2, 20)), Request(prompt(3, 3), Sampling(max_tokens=7))]
    for request, made in zip(requests, run(generator, requests), strict=True):
        scores = plain_logits(toy[0], request.prompt + made.ids)[len(request.prompt) - 1 : -1].log_softmax(-1)
        expected = scores[range(len(made.ids)), list(made.ids)].tolist()
        assert made.logprobs == pytest.approx(expected, abs=1e-4)
        assert len(made.ids) == request.sampling.max_tokens
        assert made.finish == "length"


def test_temperature_zero_is_what_transformers_finds(toy: Any, generator: Generator):
    model, _ = toy
    prompts = [prompt(5, 11), prompt(6, 4), prompt(7, 25)]
    made = run(generator, [Request(ids, Sampling(max_tokens=10)) for ids in prompts])
    for ids, own in zip(prompts, made, strict=True):
        theirs = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=10, eos_token_id=-1)
        assert theirs[0, len(ids) :].tolist() == list(own.ids)


def test_a_reply_does_not_depend_on_its_batch(toy: Any):
    """Alone, among samples of its prompt, among others, with and without what was computed before: the same tokens."""
    shared = prompt(10, 60)
    requests = [Request(shared + prompt(20 + n, n), warm(n, 3 + 5 * (n % 4))) for n in range(8)]
    requests += [Request(shared, warm(100 + n)) for n in range(4)]
    together = run(make(toy), requests)
    used = make(toy)
    alone = [run(used, [request])[0] for request in requests]
    fresh = [run(make(toy, kept_bytes=0), [request])[0] for request in requests]
    backwards = run(used, requests[::-1])[::-1]
    for one, *others in zip(together, alone, fresh, backwards, strict=True):
        for other in others:
            assert other.ids == one.ids
            assert other.logprobs == pytest.approx(one.logprobs, abs=1e-4)
    assert len({made.ids for made in together}) == len(together)


def test_the_same_seed_repeats_and_another_differs(generator: Generator):
    ids = prompt(1, 20)
    one, two, other = run(generator, [Request(ids, warm(1, 30)), Request(ids, warm(1, 30)), Request(ids, warm(2, 30))])
    assert one.ids == two.ids != other.ids
    unseeded = run(generator, [Request(ids, Sampling(temperature=1.0, max_tokens=30))] * 2)
    assert unseeded[0].ids != unseeded[1].ids


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(1, 12)), min_size=1, max_size=7))
@settings(max_examples=15, deadline=None)
def test_any_mixture_of_prompts_is_answered_as_each_alone(toy: Any, shapes: list[tuple[int, int, int]]):
    stems = [(5,), prompt(1, 40), prompt(1, 40)[:33] + prompt(2, 8), prompt(3, 5)]
    requests = [Request((*stems[stem], *prompt(4, extra)), warm(n, tokens)) for n, (stem, extra, tokens) in enumerate(shapes)]
    together = run(make(toy, kept_bytes=300_000), requests)
    assert [made.ids for made in together] == [run(make(toy), [request])[0].ids for request in requests]


def test_reading_one_prompt_may_leave_nothing_to_read_of_another(toy: Any):
    """The third is the beginning of the second: once that is read, the third lacks less than the first, which was planned after it."""
    requests = [Request(prompt(1, 5), warm(1)), Request(prompt(2, 40), warm(2)), Request(prompt(2, 30), warm(3))]
    assert [made.ids for made in run(make(toy), requests)] == [run(make(toy), [request])[0].ids for request in requests]


def test_a_sliding_window_is_kept():
    """Rows of different length in a model whose layers look back eight tokens only."""
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=90,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=8,
    )
    model = MistralForCausalLM(config).eval()
    requests = [Request(prompt(1, 5), warm(1)), Request(prompt(2, 40), warm(2)), Request(prompt(2, 30), warm(3))]
    made = run(Generator(model, ends=frozenset(), decode=str, context=100), requests)
    for request, own in zip(requests, made, strict=True):
        scores = plain_logits(model, request.prompt + own.ids)[len(request.prompt) - 1 : -1].log_softmax(-1)
        assert own.logprobs == pytest.approx(scores[range(len(own.ids)), list(own.ids)].tolist(), abs=1e-4)


def test_models_without_keys_and_values_are_refused(toy: Any):
    class Hybrid:
        class Config:
            layer_types = ("full_attention", "linear_attention")

            def get_text_config(self) -> Any:
                return self

        config = Config()

    with pytest.raises(InputError, match="linear_attention"):
        Generator(Hybrid(), ends=frozenset(), decode=str, context=9)  # type: ignore[arg-type]


# --- ends --------------------------------------------------------------------------------------------------------------------------------


def test_an_end_token_ends_its_own_row_only(toy: Any):
    ids = prompt(4, 15)
    free = run(make(toy), [Request(ids, warm(n, 40)) for n in range(6)])
    end = free[0].ids[7]
    ended = run(make(toy, ends=frozenset({end})), [Request(ids, warm(n, 40)) for n in range(6)])
    assert end in free[0].ids[:8]
    for before, after in zip(free, ended, strict=True):
        if end in before.ids:
            assert after.ids == before.ids[: before.ids.index(end) + 1]  # the end token is recorded
            assert after.finish == "stop"
        else:
            assert (after.ids, after.finish) == (before.ids, "length")


def test_a_stop_string_ends_a_row_once_it_is_whole(toy: Any):
    _, tokenizer = toy
    ids = prompt(4, 15)

    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True))

    (free,) = run(make(toy), [Request(ids, warm(4, 40))])
    stop = decode(free.ids[10:13])
    (made,) = run(make(toy, decode=decode), [Request(ids, warm(4, 40, stop=("never there", stop)))])
    text = decode(free.ids)
    assert len(stop) == 3
    assert made.finish == "stop"
    assert decode(made.ids) == text[: text.index(stop) + 3]


def test_replies_end_with_the_context(toy: Any):
    (made,) = run(make(toy, context=20), [Request(prompt(1, 15), warm(1, 400))])
    assert (len(made.ids), made.finish) == (5, "length")
    with pytest.raises(ModelFailed, match=r"the prompt has 20 tokens and the context holds 20.*\?context=N"):
        run(make(toy, context=20), [Request(prompt(1, 20), warm(1))])
    with pytest.raises(ModelFailed, match="empty"):
        run(make(toy), [Request((), warm(1))])


def test_an_abandoned_request_leaves_and_harms_no_other(toy: Any):
    ids = prompt(4, 15)
    expected = run(make(toy), [Request(ids, warm(n, 30)) for n in range(3)])
    asked: list[int] = []

    def abandoned(number: int) -> bool:
        asked.append(number)
        return number == 1 and asked.count(1) > 5

    made: dict[int, Generated] = {}
    make(toy).generate([Request(ids, warm(n, 30)) for n in range(3)], made.__setitem__, abandoned)
    assert {number: one.ids for number, one in made.items()} == {0: expected[0].ids, 2: expected[2].ids}
    assert asked.count(1) < 10


def test_what_nobody_waits_for_is_not_computed(toy: Any, monkeypatch: pytest.MonkeyPatch):
    generator = make(toy)
    monkeypatch.setattr(generator, "_forward", None)
    generator.generate([Request(prompt(1, 9), warm(1))] * 3, lambda *_: None, lambda _: True)


def test_replies_come_as_soon_as_they_are_complete(generator: Generator):
    order: list[int] = []
    lengths = [9, 2, 30, 5]
    generator.generate([Request(prompt(n, 8), warm(n, t)) for n, t in enumerate(lengths)], lambda number, _: order.append(number))
    assert order == [1, 3, 0, 2]


# --- what is shared ---------------------------------------------------------------------------------------------------------------------


def count_forwards(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    shapes: list[tuple[int, int]] = []
    forward = generator._forward

    def counted(ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        shapes.append(tuple(ids.shape))
        return forward(ids, *rest)

    monkeypatch.setattr(generator, "_forward", counted)
    return shapes


def test_a_prompt_is_computed_once_for_all_its_samples(generator: Generator, monkeypatch: pytest.MonkeyPatch):
    shapes = count_forwards(generator, monkeypatch)
    made = run(generator, [Request(prompt(1, 50), warm(n, 2)) for n in range(8)])
    assert shapes == [(1, 50), (8, 1)]
    assert [one.reused for one in made] == [0] + [49] * 7
    shapes.clear()
    (again,) = run(generator, [Request((*prompt(1, 50), 7, 8, 9), warm(1, 1))])
    assert (shapes, again.reused) == ([(1, 3)], 50)


def test_a_beginning_that_prompts_share_is_computed_once(generator: Generator, monkeypatch: pytest.MonkeyPatch):
    """The first prompt is computed whole, then what the others add to the shared forty tokens, in one go."""
    shapes = count_forwards(generator, monkeypatch)
    requests = [Request(prompt(1, 40) + prompt(n, 4 + n), warm(n, 1)) for n in range(2, 6)]
    made = run(generator, requests)
    assert shapes == [(1, 46), (3, 9)]
    assert [one.reused for one in made] == [0, 38, 39, 40]  # of the shorter ones some are computed again, to have equally many


def test_long_prompts_are_computed_in_pieces(toy: Any, monkeypatch: pytest.MonkeyPatch):
    request = Request(prompt(1, 100), warm(1))
    whole = run(make(toy), [request])[0]
    monkeypatch.setattr(generation, "_PIECE", 32)
    generator = make(toy)
    shapes = count_forwards(generator, monkeypatch)
    pieces = run(generator, [request])[0]
    assert shapes[:4] == [(1, 32), (1, 32), (1, 32), (1, 4)]
    assert pieces.ids == whole.ids
    assert pieces.logprobs == pytest.approx(whole.logprobs, abs=1e-4)


def test_no_more_is_kept_than_there_is_room_for(toy: Any):
    generator = make(toy, kept_bytes=100_000)
    for n in range(12):
        run(generator, [Request(prompt(n, 60), warm(n, 1))])
        assert generator._tree.bytes <= 100_000
    assert generator._tree.known(prompt(11, 60)) == 60
    assert generator._tree.known(prompt(0, 60)) == 0
    generator.forget()
    assert generator._tree.known(prompt(11, 60)) == 0


def layers(ids: Sequence[int]) -> Layers:
    """Keys and values that say which token they belong to."""
    keys = torch.tensor(ids, dtype=torch.float32)[None, :, None]
    return [(keys, -keys), (keys * 2, -keys * 2)]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8).map(tuple), min_size=1, max_size=12), st.integers(0, 400))
@settings(max_examples=80, deadline=None)
def test_the_tree_gives_back_what_was_put_in(sequences: list[tuple[int, ...]], room: int):
    tree = PrefixTree(room)
    for ids in sequences:
        tree.add(ids, layers(ids))
        assert tree.known(ids) == len(ids)
        for length in range(len(ids) + 1):
            pieces = tree.stretches(ids, length)
            keys = [key for piece in pieces for key in piece[0][0][0, :, 0].tolist()]
            values = [value for piece in pieces for value in piece[1][1][0, :, 0].tolist()]
            assert keys == [float(token) for token in ids[:length]]
            assert values == [-2.0 * token for token in ids[:length]]
    assert tree.known(sequences[0]) == len(sequences[0])
    distinct = {ids[:length] for ids in sequences for length in range(1, len(ids) + 1)}
    assert tree.bytes == 16 * len(distinct)  # each token of each beginning is stored once
    tree.trim()
    assert tree.bytes <= room


def test_rows_are_right_aligned_over_zeros_and_move_up():
    cache = RowsCache([[layers((1, 2, 3))], [layers((4, 5)), layers((6,))], [layers((7,))]], 3)
    keys = cache.layers[0].keys
    assert keys is not None
    assert keys[:, 0, :, 0].tolist() == [[1, 2, 3], [4, 5, 6], [0, 0, 7]]
    cache.keep([2, 1], left=1)
    new = torch.full((2, 1, 1, 1), 9.0)
    for number in range(2):
        shown, values = cache.update(new, -new, number)
        scale = number + 1
        assert shown[:, 0, :, 0].tolist() == [[0, 7 * scale, 9], [5 * scale, 6 * scale, 9]]
        assert values[:, 0, :, 0].tolist() == [[0, -7 * scale, -9], [-5 * scale, -6 * scale, -9]]
    assert cache.get_seq_length() == 3


def test_common_beginnings():
    assert [common((1, 2, 3), other) for other in ((), (1,), (1, 2, 3), (1, 2, 4), (2,), (1, 2, 3, 4))] == [0, 1, 3, 2, 0, 3]
