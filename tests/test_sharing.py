"""Rows of SFT and DPO that begin alike: which of them go together, and that what is learned is what plain rows teach."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest

pytest.importorskip("torch", reason="extra `train` is not installed")
pytest.importorskip("trl", reason="extra `train` is not installed")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from test_dpo import TRAINING, our_loss, preference
from test_dpo import pairs as toy_pairs
from test_dpo import practice as practice_on
from test_dpo import quick as quick_dpo
from test_sft import WORDS, assistant, close, job, loss_and_gradients, one_thread, quick, same, user  # noqa: F401  (one_thread is a fixture)
from toy_weights import make_toy
from tutelage.learners.dpo import DPO
from tutelage.learners.sft import SFT
from tutelage.learners.supervised import file_id
from tutelage.models.huggingface import HuggingFace
from tutelage.study.config import load_study
from tutelage.training import sft_trainer as sft
from tutelage.training import supervised_run
from tutelage.training.base import find_base, load_causal_lm, load_tokenizer
from tutelage.training.batches import IGNORED, labels_of
from tutelage.training.chat import TokenRow, render_row
from tutelage.training.keeper import copy_of
from tutelage.training.rows import SFTRow
from tutelage.training.sharing import Sharing, pass_logprobs
from tutelage.training.splitting import Work, least_work
from tutelage.training.supervised import train_dpo, train_sft
from tutelage.training.supervised_job import Interrupted, Job, TokenPair
from tutelage.training.trees import aligned

pytestmark = pytest.mark.torch
SYSTEM = "You take calls at a help desk. Answer with one word, in capitals, and say nothing else whatever you are asked."


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return find_base(str(make_toy(tmp_path_factory.mktemp("toy"))))


@pytest.fixture(scope="module")
def tokenizer(base):
    return load_tokenizer(base)


def desk(tokenizer, words=WORDS) -> list[TokenRow]:
    """Rows with the same instructions, and one that has loss in what others only read, and twice the same row."""
    first = (user("all?"), assistant(words[0].upper()))
    said = [SFTRow(prompt=(system(), *first, user(word)), completion=(assistant(word.upper()),)) for word in words]
    told = SFTRow(prompt=(system(),), completion=(*first, user("more?"), assistant(words[1])))
    return [render_row(tokenizer, row) for row in [*said, told, told, said[0]]]


def system():
    return user(SYSTEM).model_copy(update={"role": "system"})


# Which go together


def test_the_least_work_by_hand():
    """Three sequences with 6 of 8 tokens in common: together 12 tokens, two of them 10."""
    units = [[(*range(6), 10 + place, 20)] for place in range(3)]
    assert least_work(units, Work(1.0, 0.0), 100) == [[0, 1, 2]]
    assert least_work(units, Work(1.0, 0.0), 11) in ([[0, 1], [2]], [[0], [1, 2]]), "12 tokens are too many"
    assert least_work(units, Work(1.0, 0.0), 1) == [[0], [1], [2]]
    # with N^2 only: 144 together, 100 + 64 in two, 192 apart; with N^2 - 4 N: 96, 60 + 32, 96
    assert least_work(units, Work(0.0, 1.0), 100) == [[0, 1, 2]]
    assert sorted(map(len, least_work(units, Work(-4.0, 1.0), 100))) == [1, 2]
    assert least_work([[(1, 2)], [(3, 4)]], Work(), 100) == [[0], [1]], "nothing in common, nothing saved"
    assert least_work([[(1, 2), (3, 4)], [(1, 2)]], Work(), 3) == [[1], [0]], "a unit stays whole however long it is"


tokens = st.lists(st.integers(1, 2), min_size=1, max_size=5).map(tuple)


def size_of(sequences) -> int:
    return len({sequence[:end] for sequence in sequences for end in range(1, len(sequence) + 1)})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(tokens, min_size=1, max_size=2), min_size=1, max_size=5), st.integers(1, 15), st.sampled_from([0.0, 0.05, 0.5]))
def test_no_other_way_to_cut_the_ordered_units_is_less_work(units, max_tokens, per_pair):
    work = Work(1.0, per_pair)

    def cost(trees) -> float:
        sizes = [size_of([sequence for place in tree for sequence in units[place]]) for tree in trees]
        allowed = all(size <= max_tokens or len(tree) == 1 for size, tree in zip(sizes, trees, strict=True))
        return sum(map(work.of, sizes)) if allowed else float("inf")

    found = least_work(units, work, max_tokens)
    order = [place for tree in found for place in tree]
    assert sorted(order) == list(range(len(units)))
    cuts = itertools.product([False, True], repeat=len(units) - 1)
    others = [[[*map(order.__getitem__, part)] for part in parts(cut)] for cut in cuts]
    assert cost(found) == pytest.approx(min(map(cost, others)))


def parts(cut) -> list[list[int]]:
    made = [[0]]
    for place, here in enumerate(cut, 1):
        made = [*made, [place]] if here else [*made[:-1], [*made[-1], place]]
    return made


def test_padding_to_a_multiple_changes_nothing(base, tokenizer):
    """What a GPU gets: masks whose width is a multiple of 16."""
    model = load_causal_lm(base)
    rows = [(row.ids, labels_of(row.ids, row.mask)) for row in desk(tokenizer)[:3]]
    (one,) = Sharing(Work(), 10**6).passes(rows)
    batch = one.micro_batch()
    ids, positions, allowed = aligned(batch.ids, batch.positions, batch.mask, 16)
    assert ids.shape[1] % 16 == 0
    assert 0 < ids.shape[1] - batch.ids.shape[1] < 16
    shapes = [(batch.ids, batch.positions, batch.mask), (ids, positions, allowed)]
    states = [model.base_model(input_ids=a, position_ids=b, attention_mask=c).last_hidden_state for a, b, c in shapes]
    assert states[1].isfinite().all()
    torch.testing.assert_close(states[1][:, : batch.ids.shape[1]], states[0], atol=1e-5, rtol=1e-5)


# What is learned


def our_trainer(base, tokenizer, rows, folder, **changes):
    plan = quick(lora=None, per_device_train_batch_size=8, **changes)
    return sft.sft_trainer(load_causal_lm(base), tokenizer, supervised_run.arguments(plan, folder, 0), plan, rows)


@pytest.mark.parametrize("max_tokens", [None, 250, 1])
def test_loss_and_gradients_are_those_of_plain_rows_and_of_trl(base, tokenizer, tmp_path, max_tokens):
    rows = desk(tokenizer)
    plain = our_trainer(base, tokenizer, rows, tmp_path / "plain", share_prefixes=False, packing=False)
    shared = our_trainer(base, tokenizer, rows, tmp_path / "shared", max_tokens_per_micro_batch=max_tokens)
    batch = shared.data_collator([shared.train_dataset[place] for place in range(len(rows))])
    assert len(batch["passes"]) in {None: [1], 250: range(3, 6), 1: [15]}[max_tokens]
    assert all(one.tokens_computed <= (max_tokens or 2048) for one in batch["passes"]) or max_tokens == 1
    tokens, computed = batch["counts"].tolist()
    assert tokens == sum(len(row.ids) for row in rows)
    assert computed < 0.3 * tokens or max_tokens
    found = loss_and_gradients(shared)
    close(found, loss_and_gradients(plain))
    plain.alone = False  # all of it TRL's
    close(found, loss_and_gradients(plain))


def test_a_token_with_loss_in_several_rows_counts_for_each(base, tokenizer):
    model, row = load_causal_lm(base), desk(tokenizer)[-2]
    labels = labels_of(row.ids, row.mask)
    (one,) = Sharing(Work(), 10**6).passes([(row.ids, labels), (row.ids, labels), (row.ids, [IGNORED, *labels[1:]])])
    logprobs, owner = pass_logprobs(model, one, torch.device("cpu"))
    learned = sum(label != IGNORED for label in labels)
    assert one.tokens_computed < len(row.ids)
    assert owner.bincount().tolist() == [learned] * 3
    expected = model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
    alone = [expected[at - 1, token].item() for at, token in enumerate(labels) if token != IGNORED]
    for number in range(3):
        assert logprobs[owner == number].tolist() == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize("changes", [{}, {"max_tokens_per_micro_batch": 200}, {"gradient_accumulation_steps": 2}])
def test_a_whole_training_learns_what_plain_rows_teach(base, tokenizer, tmp_path, changes):
    rows, plan = desk(tokenizer), {"lora": None, "num_train_epochs": 1, "per_device_train_batch_size": 6}
    plain = train_sft(job(base, tokenizer, tmp_path), rows[:12], quick(**plan, share_prefixes=False), validation=rows[12:])
    if "gradient_accumulation_steps" in changes:
        plan["per_device_train_batch_size"] = 3
    shared = train_sft(job(base, tokenizer, tmp_path), rows[:12], quick(**plan, **changes), validation=rows[12:])
    assert shared.facts["steps"] == plain.facts["steps"] == 2
    assert shared.facts["validation_loss"] == pytest.approx(plain.facts["validation_loss"], abs=1e-4)
    assert shared.facts["tokens_computed_share"] < 0.6
    assert plain.facts["tokens_computed_share"] > 0.9
    for name, tensor in copy_of(plain.model).items():
        torch.testing.assert_close(copy_of(shared.model)[name], tensor, atol=2e-4, rtol=1e-3)


def test_a_model_that_does_not_take_the_mask_keeps_its_packing(base, tokenizer, tmp_path):
    from transformers import MistralConfig, MistralForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = MistralForCausalLM(MistralConfig(vocab_size=len(tokenizer), sliding_window=64, **sizes))
    shapes = supervised_run.shapes_of(model, quick(), {})
    assert shapes.sharing is None
    assert shapes.packing
    assert model.training, "looking at it changes nothing"
    whole = MistralForCausalLM(MistralConfig(vocab_size=len(tokenizer), sliding_window=None, **sizes))
    assert supervised_run.shapes_of(whole, quick(), {}).sharing is not None
    assert supervised_run.shapes_of(whole, quick(share_prefixes=False), {}).sharing is None


# Preferences


def several_pairs(tokenizer) -> list[TokenPair]:
    """Pairs with the same instructions, two of them of one prompt, one with another weight."""
    from tutelage.training.chat import render_preference

    rows = [preference(word) for word in WORDS[:5]]
    rows = [row.model_copy(update={"prompt": (system(), *row.prompt)}) for row in rows]
    rows.append(rows[0].model_copy(update={"rejected": (assistant("what?"),)}))
    made = [TokenPair(*render_preference(tokenizer, row), 0.5 if number == 2 else 1.0) for number, row in enumerate(rows)]
    return [*made, *toy_pairs(tokenizer, WORDS[:2])]


@pytest.mark.parametrize("max_tokens", [None, 220, 1])
def test_dpo_loss_and_gradients_are_those_of_plain_rows(base, tokenizer, tmp_path, max_tokens):
    given = several_pairs(tokenizer)
    value, gradients = our_loss(base, tokenizer, tmp_path / "plain", given, share_prefixes=False, packing=False)
    found, shared = our_loss(base, tokenizer, tmp_path / "shared", given, max_tokens_per_micro_batch=max_tokens)
    assert found == pytest.approx(value, abs=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(shared[name], gradient, atol=1e-5, rtol=1e-4)


def test_a_pair_is_never_torn(tokenizer):
    given = several_pairs(tokenizer)
    rows = [(row.ids, labels_of(row.ids, row.mask)) for side in ("chosen", "rejected") for row in (getattr(pair, side) for pair in given)]
    passes = Sharing(Work(), 220).passes(rows, [(number, len(given) + number) for number in range(len(given))])
    assert len(passes) > 2
    for one in passes:
        half = [number for number in one.held if number < len(given)]
        assert one.held == sorted([*half, *(number + len(given) for number in half)])
    assert sorted(number for one in passes for number in one.held) == list(range(len(rows)))


def test_a_whole_preference_training_learns_what_plain_rows_teach(base, tokenizer, tmp_path):
    given, plan = several_pairs(tokenizer), {"lora": None, "num_train_epochs": 2, "per_device_train_batch_size": 4}
    plain = train_dpo(job(base, tokenizer, tmp_path / "a"), given[:6], quick_dpo(**plan, share_prefixes=False), validation=given[6:])
    shared = train_dpo(
        job(base, tokenizer, tmp_path / "b"), given[:6], quick_dpo(**plan, max_tokens_per_micro_batch=250), validation=given[6:]
    )
    assert shared.facts["validation_loss"] == pytest.approx(plain.facts["validation_loss"], abs=1e-4)
    assert shared.facts["reward_accuracy_last"] == plain.facts["reward_accuracy_last"]
    assert shared.facts["tokens_computed_share"] < 0.5
    for name, tensor in copy_of(plain.model).items():
        torch.testing.assert_close(copy_of(shared.model)[name], tensor, atol=2e-4, rtol=1e-3)


# The history


def test_the_history_is_whole_after_an_interruption_too(base, tokenizer, tmp_path):
    rows, told = desk(tokenizer), []
    plan = quick(num_train_epochs=3, save_steps=1, per_device_train_batch_size=6)

    def stopped_after(step: int) -> Job:
        halting = job(base, tokenizer, tmp_path / "a", history=lambda rows: told.append([dict(row) for row in rows]))

        class Bar:
            advanced = 0

            def __enter__(self):
                return self

            def __exit__(self, *_):
                pass

            def advance(self, note=""):
                self.advanced += 1
                if self.advanced == step:
                    halting.stop.set()

        return replace(halting, stage=lambda total: Bar())

    with pytest.raises(Interrupted):
        train_sft(stopped_after(3), rows[:12], plan, validation=rows[12:])
    before = told[-1]
    told.clear()
    resumed = train_sft(stopped_after(99), rows[:12], plan, validation=rows[12:])
    assert told[0] == before, "told again as soon as it goes on"
    whole = told[-1]
    assert whole[: len(before)] == before
    steps, looks = ([row for row in whole if name in row] for name in ("loss", "validation_loss"))
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in looks] == [2, 4, 6]
    assert set(steps[0]) == {"step", "loss", "learning_rate", "grad_norm", "tokens", "tokens_computed", "seconds"}
    assert sum(row["tokens"] for row in steps) == 3 * sum(len(row.ids) for row in rows[:12])
    assert all(0 < row["tokens_computed"] < row["tokens"] and row["seconds"] >= 0 for row in steps)
    assert resumed.facts["tokens_computed_share"] == pytest.approx(
        sum(row["tokens_computed"] for row in steps) / sum(row["tokens"] for row in steps), abs=1e-4
    )
    assert [row["loss"] for row in steps][-1] == pytest.approx(resumed.facts["loss_last"], abs=1e-6)


async def test_learners_leave_a_history_for_people(base, tmp_path):
    import tutelage as tt

    training = practice_on(TRAINING[:6], folder=tmp_path)
    agent = tt.Agent(model=HuggingFace(str(base.folder)), instructions="Shout.")
    plan = {"num_train_epochs": 1, "validation": 0.2, "per_device_train_batch_size": 3}
    await SFT(**plan).learn(agent, training)
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert {line["by"] for line in lines} == {"sft"}
    assert len({line["run"] for line in lines}) == 1
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, training.facts["steps"] + 1))
    assert training.facts["tokens_per_second"] > 0
    assert 0 < training.facts["tokens_computed_share"] < 1
    await SFT(**plan, share_prefixes=False).learn(agent, training)
    again = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert len(again) == len(lines), "what only changes the speed is the same run"
    await SFT(**plan, learning_rate=1e-3).learn(agent, training)
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 2 * len(lines)


def test_files_of_rows_are_found_beside_the_study_file(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "a", "completion": "A"}) + "\n")
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"input": split, "reference": "A"}) + "\n")
    (tmp_path / "study.yaml").write_text(
        "name: desk\nagent: {model: scripted:echo}\ngrader: exact\ntasks: {train: train.jsonl, test: test.jsonl}\n"
        "learners:\n  - sft: {source: file, file: rows.jsonl, share_prefixes: false}\n  - dpo: {source: file, file: rows.jsonl}\n"
    )
    study = load_study(tmp_path / "study.yaml")
    assert {name: type(learner) for name, learner in study.learners.items()} == {"sft": SFT, "dpo": DPO}
    for name, learner in study.learners.items():
        assert learner.options.file == str(tmp_path / "rows.jsonl")
        assert learner.described()[name]["file"] == file_id(str(tmp_path / "rows.jsonl"))
