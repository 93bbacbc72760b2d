"""Training of embeddings: what learns and what does not, the loss by hand, interruption, divergence, and measures across tokenizers."""

from __future__ import annotations

import threading

import numpy as np
import pytest

pytest.importorskip("torch", reason="extra `train` is not installed")
pytest.importorskip("transformers", reason="extra `train` is not installed")

import torch

from toy_languages import byte_tokenizer, make_model, sentences
from tutelage.errors import InputError
from tutelage.progress import Silent
from tutelage.training import embedding_training
from tutelage.training.adaptation_models import find_pretrained
from tutelage.training.base import load_causal_lm
from tutelage.training.corpus import Piece
from tutelage.training.embedding_training import (
    EmbeddingSettings,
    Place,
    Tables,
    layer_changes,
    learned_parameters,
    nats_of,
    set_tables,
    tables_of,
    text_blocks,
    train_embeddings,
)
from tutelage.training.supervised_job import Interrupted
from tutelage.training.tokenizer_training import PlainEncoder

pytestmark = pytest.mark.torch
TEXTS = sentences(120)
QUICK = EmbeddingSettings(steps=6, learning_rate=3e-3, per_device_train_batch_size=4, max_length=16, dtype="float32")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer(TEXTS)


@pytest.fixture(scope="module")
def bases(tokenizer, tmp_path_factory):
    """Tied or not -> the model."""
    return {
        tied: find_pretrained(str(make_model(tmp_path_factory.mktemp("model"), tokenizer, tied=tied, width=16))) for tied in (True, False)
    }


@pytest.fixture(scope="module")
def blocks(tokenizer):
    pieces = [Piece(text + "\n", "t", number) for number, text in enumerate(TEXTS, start=1)]
    return text_blocks(PlainEncoder(tokenizer), pieces, tokenizer.eos_token_id, 16)


def weights(model) -> dict:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("tied", [True, False])
def test_only_the_tables_learn(bases, blocks, tmp_path, tied):
    model = load_causal_lm(bases[tied], "float32")
    before = weights(model)
    facts = train_embeddings(model, blocks, QUICK, Place(tmp_path))
    changed = {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
    assert changed == ({"model.embed_tokens.weight"} if tied else {"model.embed_tokens.weight", "lm_head.weight"})
    assert facts["steps"] == 6
    assert facts["loss_last"] < facts["loss_first"]
    assert facts["trainable_parameters"] == len(before["model.embed_tokens.weight"]) * 16 * (1 if tied else 2)


def test_the_last_layers_learn_on_demand(bases, blocks, tmp_path):
    model = load_causal_lm(bases[True], "float32")
    before = weights(model)
    train_embeddings(model, blocks, QUICK.model_copy(update={"train_layers": 1}), Place(tmp_path))
    changes = layer_changes(before, model)
    assert all(("layers.1." in name) == bool(change.any()) for name, change in changes.items())
    assert "model.embed_tokens.weight" not in changes
    with pytest.raises(InputError, match="the model has 2 layers"):
        learned_parameters(model, 3)


def test_the_first_loss_is_that_of_transformers(bases, blocks, tmp_path):
    model = load_causal_lm(bases[False], "float32")
    settings = QUICK.model_copy(update={"steps": 1, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2})
    chosen = [blocks[place] for place in embedding_training._order(0, 0, len(blocks))[:4]]
    ids = torch.tensor(chosen)
    expected = model(input_ids=ids, labels=ids).loss.item()
    facts = train_embeddings(model, blocks, settings, Place(tmp_path))
    assert facts["loss_first"] == pytest.approx(expected, rel=1e-5)


def test_every_block_is_seen_once_in_a_pass():
    order = embedding_training._order(3, 0, 10)
    assert sorted(order) == list(range(10))
    assert order != embedding_training._order(3, 1, 10)


def test_interrupted_it_goes_on_to_the_same_weights(bases, blocks, tmp_path):
    whole = load_causal_lm(bases[True], "float32")
    expected = train_embeddings(whole, blocks, QUICK, Place(tmp_path / "whole"))
    stop = threading.Event()

    class Stopping(Silent):
        done = 0

        def advance(self, note: str = "") -> None:
            self.done += 1
            if self.done == 3:
                stop.set()

    broken = load_causal_lm(bases[True], "float32")
    with pytest.raises(Interrupted):
        train_embeddings(broken, blocks, QUICK, Place(tmp_path / "broken", lambda total: Stopping(), stop))
    again = load_causal_lm(bases[True], "float32")
    facts = train_embeddings(again, blocks, QUICK, Place(tmp_path / "broken"))
    assert all(torch.equal(one, other) for one, other in zip(weights(again).values(), weights(whole).values(), strict=True))
    assert {**facts, "seconds": 0} == {**expected, "seconds": 0}


def test_a_divergence_keeps_the_last_good_weights(bases, blocks, tmp_path, monkeypatch):
    model = load_causal_lm(bases[True], "float32")
    real = embedding_training.summed_logprobs
    calls = []

    def failing(model, rows):
        calls.append(tables_of(model).input)
        return real(model, rows) * (float("nan") if len(calls) == 5 else 1)

    monkeypatch.setattr(embedding_training, "summed_logprobs", failing)
    facts = train_embeddings(model, blocks, QUICK, Place(tmp_path))
    assert facts["stopped"] == "diverged"
    assert facts["steps"] == 4
    # each step's loss judges the weights before it: the fourth is the last whose loss was seen
    np.testing.assert_array_equal(tables_of(model).input, calls[3])


def test_a_divergence_at_once_is_told(bases, blocks, tmp_path):
    model = load_causal_lm(bases[True], "float32")
    with torch.no_grad():
        model.get_input_embeddings().weight[:] = float("nan")
    with pytest.raises(InputError, match=r"diverged at step 1.*lower the learning rate"):
        train_embeddings(model, blocks, QUICK, Place(tmp_path))


def test_tables_of_another_size_go_in_and_come_out(bases):
    for tied in (True, False):
        model = load_causal_lm(bases[tied], "float32")
        rows = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
        set_tables(model, Tables(rows, None if tied else rows * 2))
        found = tables_of(model)
        np.testing.assert_array_equal(found.input, rows)
        assert (found.output is None) == tied
        if not tied:
            np.testing.assert_array_equal(found.output, rows * 2)
        assert model.config.vocab_size == 500
    with pytest.raises(InputError, match="one table and the base's are two"):
        set_tables(load_causal_lm(bases[True], "float32"), Tables(rows, rows))


def test_an_output_layer_with_a_bias_is_refused(bases):
    model = load_causal_lm(bases[False], "float32")
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(model.config.vocab_size))
    with pytest.raises(InputError, match="has a bias"):
        tables_of(model)


def test_blocks_are_the_text_with_separators_where_it_breaks_off(tokenizer):
    encode = PlainEncoder(tokenizer)
    follow = [Piece("one\n", "a", 1), Piece("two\n", "a", 2), Piece("two\n", "b", 1), Piece("one\n", "b", 5)]
    one, two = encode(["one\n", "two\n"])
    assert text_blocks(encode, follow, 9, 1000) == [[9, *one, *two, 9, *two, 9, *one]]
    cut = text_blocks(encode, follow, 9, 4)
    assert [len(block) for block in cut] == [4] * (len([9, *one, *two, 9, *two, 9, *one]) // 4)


def test_a_uniform_model_is_as_surprised_as_it_should_be(bases, tokenizer):
    """With all logits alike each token costs log(vocabulary), padding costs nothing, and the first token counts too."""
    model = load_causal_lm(bases[False], "float32")
    rows = tables_of(model)
    set_tables(model, Tables(rows.input, np.zeros_like(rows.output)))
    encode = PlainEncoder(tokenizer)
    pieces = [Piece(text, "t", 1) for text in TEXTS[:20]]
    tokens = sum(map(len, encode([piece.text for piece in pieces])))
    found = nats_of(model, encode, pieces, tokenizer.eos_token_id)
    assert found == pytest.approx(tokens * np.log(model.config.vocab_size), rel=1e-5)
