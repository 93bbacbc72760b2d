"""Objectives of supervised training: what is read, what is learned, their losses by hand, and agents that learned by each."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest

pytest.importorskip("torch", reason="extra `train` is not installed")
pytest.importorskip("trl", reason="extra `train` is not installed")

import torch
from hypothesis import given
from hypothesis import strategies as st

import tutelage as tt
from toy_weights import make_toy
from tutelage.errors import InputError
from tutelage.records import Message
from tutelage.training import sft_trainer as sft
from tutelage.training import supervised_run
from tutelage.training.base import find_base, load_causal_lm, load_tokenizer
from tutelage.training.batches import IGNORED
from tutelage.training.chat import TokenRow, render_row
from tutelage.training.keeper import copy_of
from tutelage.training.objectives import Objective, check_objective, check_replies, reading_order, reading_order_of, spare_token
from tutelage.training.rows import SFTRow
from tutelage.training.settings import read_settings
from tutelage.training.supervised import tokenizer_for, train_sft
from tutelage.training.supervised_job import REVERSED, Interrupted, Job, SFTSettings

pytestmark = pytest.mark.torch
WORDS = ("pear", "fig", "date", "plum", "kiwi", "lime")
MASK, MARK = 90, 91
EVERY = {
    "standard": {},
    "reversed": {"objective": "reversed"},
    "teacherless": {"objective": "teacherless", "objective_share": 1.0},
    "masked": {"objective": "masked", "mask_rate": 0.5, "objective_share": 0.8},
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return find_base(str(make_toy(tmp_path_factory.mktemp("toy"))))


def said(role: str, text: str) -> Message:
    return Message(role=role, content=text)


def demonstration(*turns: str) -> SFTRow:
    messages = [said("user" if place % 2 == 0 else "assistant", turn) for place, turn in enumerate(turns)]
    return SFTRow(prompt=(messages[0],), completion=tuple(messages[1:]))


def rendered(tokenizer, words=WORDS) -> list[TokenRow]:
    return [render_row(tokenizer, demonstration(word, word.upper())) for word in words]


def quick(**changes) -> SFTSettings:
    return SFTSettings(**{"learning_rate": 3e-3, "num_train_epochs": 2, "per_device_train_batch_size": 3, "lora": None, **changes})


# What is read and what is learned, by hand

ROW = TokenRow((1, 2, 3, 4, 5, 6, 7, 8), (False, False, True, True, True, False, True, True))
"""A question, an answer that ends with 5, a question, an answer that ends with 8."""


def test_rows_of_each_objective_by_hand():
    assert Objective().rows([ROW]) == [ROW], "the standard way changes nothing"
    first, second = TokenRow((1, 2, 3, 4, 5), (False, False, True, True, True)), TokenRow(ROW.ids, (*[False] * 6, True, True))
    for name in ("teacherless", "masked"):
        assert Objective(name, MASK).rows([ROW]) == [first, second], "each turn for itself, after the turns as they were said"
    turned = Objective("reversed", MARK).rows([ROW])
    assert [row.ids for row in turned] == [(1, 2, MARK, 4, 3, 5), (1, 2, 3, 4, 5, 6, MARK, 7, 8)], "what ends the turn stays the last"
    assert [row.mask for row in turned] == [(False, False, True, True, True, True), (*[False] * 6, True, True, True)]


def test_what_is_read_by_hand():
    ids, learned = ROW.ids[:5], ROW.mask[:5]
    assert Objective("teacherless", MASK).reads(ids, learned, epoch=0, row=0) == [1, 2, MASK, MASK, MASK]
    assert Objective("masked", MASK, rate=1.0).reads(ids, learned, epoch=0, row=0) == [1, 2, MASK, MASK, MASK]
    for name in ("standard", "reversed"):
        assert Objective(name, MARK).reads(ids, learned, epoch=0, row=0) == list(ids)


def test_shares_and_rates_are_as_asked_for():
    ids, learned = tuple(range(11)), (False, *[True] * 10)
    objective = Objective("masked", MASK, share=0.25, rate=0.4)
    read = [objective.reads(ids, learned, epoch=0, row=row) for row in range(4000)]
    hidden = [sum(token == MASK for token in one) for one in read]
    assert sum(count > 0 for count in hidden) / 4000 == pytest.approx(0.25 * (1 - 0.6**10), abs=0.02)
    assert sum(hidden) / 40_000 == pytest.approx(0.1, abs=0.01)
    assert all(one[0] == 0 for one in read), "no prompt is hidden"
    whole = Objective("teacherless", MASK, share=0.25)
    assert {sum(token == MASK for token in whole.reads(ids, learned, epoch=0, row=row)) for row in range(50)} == {0, 10}


@given(st.integers(0, 10**6), st.integers(0, 50), st.integers(0, 10**6))
def test_draws_are_decided_by_seed_epoch_and_row(seed, epoch, row):
    ids, learned = tuple(range(100)), (False, *[True] * 99)
    objective = Objective("masked", MASK, rate=0.5, seed=seed)
    read = objective.reads(ids, learned, epoch=epoch, row=row)
    assert objective.reads(ids, learned, epoch=epoch, row=row) == read
    others = (
        objective.reads(ids, learned, epoch=epoch + 1, row=row),
        objective.reads(ids, learned, epoch=epoch, row=row + 1),
        Objective("masked", MASK, rate=0.5, seed=seed + 1).reads(ids, learned, epoch=epoch, row=row),
    )
    assert read not in others


@given(st.lists(st.integers(0, 80), min_size=1, max_size=20), st.integers(0, 20))
def test_a_reversed_reply_is_put_back(answer, cut):
    (row,) = Objective("reversed", MARK).rows([TokenRow((99, *answer, 98), (False, *[True] * (len(answer) + 1)))])
    reply = row.ids[1:]
    assert reading_order_of(reply, MARK) == [98, *answer], "the end token is no word"
    so_far = min(cut, len(answer))
    assert reading_order_of(reply[: 1 + so_far], MARK) == answer[len(answer) - so_far :], "of a reply that was cut off its end is there"
    assert reading_order_of(answer, MARK) == answer, "a plain reply is as it is"
    assert reading_order_of(answer, None) == answer


# Losses by hand


def trainer_of(base, tokenizer, rows, folder, **changes):
    settings = quick(per_device_train_batch_size=8, **changes)
    arguments = supervised_run.arguments(settings, folder, 0)
    rows = Objective.of(settings, tokenizer, 0).rows(rows)
    model = load_causal_lm(base)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        torch.manual_seed(0)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return sft.sft_trainer(model, tokenizer, arguments, settings, rows)


def loss_by_hand(model, rows, objective: Objective, epoch: int) -> float:
    """Token by token, each row alone: minus the mean log-probability of what stands in the row, given what is read."""
    found = []
    for number, row in enumerate(rows):
        read = objective.reads(row.ids, row.mask, epoch=epoch, row=number)
        logprobs = model(input_ids=torch.tensor([read])).logits[0].log_softmax(-1)
        found += [logprobs[place - 1, row.ids[place]].item() for place in range(len(row.ids)) if row.mask[place]]
    return -sum(found) / len(found)


@pytest.mark.parametrize("way", [{"packing": False, "share_prefixes": False}, {"share_prefixes": False}, {}])
@pytest.mark.parametrize("name", EVERY)
def test_losses_are_those_worked_out_by_hand(base, tmp_path, name, way):
    """Padded, packed, and with shared prefixes; a prompt stands twice, so that rows share it."""
    settings = quick(**EVERY[name])
    tokenizer = tokenizer_for(base, settings.special_tokens)
    rows = [*rendered(tokenizer), *rendered(tokenizer, WORDS[:1]), render_row(tokenizer, demonstration("a", "BC", "d", "EF"))]
    trainer = trainer_of(base, tokenizer, rows, tmp_path, **EVERY[name], **way)
    objective = Objective.of(settings, tokenizer, 0)
    own = objective.rows(rows)
    trainer.data_collator.epoch = 3
    batch = trainer.data_collator([trainer.train_dataset[place] for place in range(len(own))])
    assert ("passes" in batch) == (not way)
    loss = trainer.compute_loss(trainer.model.train(), trainer._prepare_inputs(batch))
    assert loss.item() == pytest.approx(loss_by_hand(trainer.model, own, objective, 3), abs=1e-4)
    if objective.name in ("teacherless", "masked"):
        assert loss.item() != pytest.approx(loss_by_hand(trainer.model, own, Objective(), 3), abs=1e-3), "something was hidden"


def test_gradients_are_the_same_padded_packed_and_shared(base, tmp_path):
    tokenizer = load_tokenizer(base)
    gradients = []
    for way in ({"packing": False, "share_prefixes": False}, {"share_prefixes": False}, {}):
        trainer = trainer_of(base, tokenizer, rendered(tokenizer) * 2, tmp_path, **EVERY["masked"], **way)
        batch = trainer.data_collator([trainer.train_dataset[place] for place in range(12)])
        trainer.compute_loss(trainer.model.train(), trainer._prepare_inputs(batch)).backward()
        gradients.append({key: value.grad for key, value in trainer.model.named_parameters()})
    for other in gradients[1:]:
        for key, value in gradients[0].items():
            torch.testing.assert_close(other[key], value, atol=1e-5, rtol=1e-4, msg=key)


def test_labels_are_the_answers_own(base, tmp_path):
    tokenizer = load_tokenizer(base)
    (row,) = rendered(tokenizer, WORDS[:1])
    trainer = trainer_of(base, tokenizer, [row], tmp_path, **EVERY["teacherless"], share_prefixes=False)
    batch = trainer.data_collator([trainer.train_dataset[0]])
    mask = spare_token(tokenizer)
    begin, end = row.mask.index(True), row.mask.index(True) + sum(row.mask)
    assert batch["input_ids"].tolist() == [[*row.ids[:begin], *[mask] * (end - begin)]]
    assert batch["labels"].tolist() == [[*[IGNORED] * begin, *row.ids[begin:end]]]


# Training


@dataclass
class Stopping:
    """A bar that ends training at a step."""

    stop: threading.Event
    at: int
    seen: int = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def advance(self, note=""):
        self.seen += 1
        if self.seen == self.at:
            self.stop.set()


@pytest.mark.parametrize("at", [1, 3, 4])
def test_an_interrupted_training_draws_the_same(base, tmp_path, at):
    """Two steps of two micro-batches an epoch: in the middle of the first, at the end of the second, in the middle of the third."""
    tokenizer = load_tokenizer(base)
    plan = quick(**EVERY["masked"], num_train_epochs=3, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    rows, stop = rendered(tokenizer), threading.Event()
    whole = train_sft(Job(base, tokenizer, tmp_path / "whole"), rows, plan)
    with pytest.raises(Interrupted):
        train_sft(Job(base, tokenizer, tmp_path / "cut", stop=stop, stage=lambda total: Stopping(stop, at)), rows, plan)
    resumed = train_sft(Job(base, tokenizer, tmp_path / "cut"), rows, plan)
    assert resumed.facts["resumed_at_step"] == at
    one, other = copy_of(whole.model), copy_of(resumed.model)
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_draws_change_from_epoch_to_epoch_and_validation_rows_are_not_hidden(base, tmp_path, monkeypatch):
    tokenizer = load_tokenizer(base)
    asked = []
    own = Objective.reads

    def reads(self, ids, learned, *, epoch, row):
        asked.append((epoch, row))
        return own(self, ids, learned, epoch=epoch, row=row)

    monkeypatch.setattr(Objective, "reads", reads)
    rows = rendered(tokenizer)
    trained = train_sft(Job(base, tokenizer, tmp_path), rows, quick(**EVERY["masked"]), validation=rows[:2])
    assert sorted(asked) == [(epoch, row) for epoch in range(2) for row in range(6)]
    assert trained.facts["objective"] == "masked"
    assert trained.facts["objective_token"] == "<|endoftext|>"
    assert trained.facts["mask_rate"] == 0.5


def test_the_standard_objective_is_what_it_was(base, tmp_path):
    """Its settings, and so the folders of its checkpoints, have the hashes of before there were objectives."""
    assert not {"objective", "objective_share", "mask_rate", "mask_token"} & quick().model_dump().keys()
    assert {"objective", "mask_rate"} <= quick(objective="masked", mask_rate=0.2).model_dump().keys()
    tokenizer = load_tokenizer(base)
    trained = train_sft(Job(base, tokenizer, tmp_path), rendered(tokenizer), quick(num_train_epochs=1))
    assert not {"objective", "objective_token", "mask_rate"} & trained.facts.keys()


# Agents


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "reversed"},
        {"objective": "reversed", "lora": {"r": 8}, "max_steps": 120},
        {"objective": "masked"},
        {"objective": "teacherless"},
    ],
    ids=lambda options: "-".join(map(str, [options["objective"], *(["lora"] if "lora" in options else [])])),
)
async def test_an_agent_learns_by_each_objective_and_is_understood(tmp_path, base, options):
    tasks = [tt.Task(messages=(said("user", word),), reference="one 2\n34") for word in ("a", "b")]
    agent = tt.Agent(model=f"hf:{base.folder}", sampling=tt.Sampling(max_tokens=12))
    learner = tt.SFT(**{"lora": None, "learning_rate": 1e-2 if "lora" in options else 3e-3, "max_steps": 40, "validation": 0, **options})
    practice = tt.Practice(tasks, tt.Collector(tt.Exact()), folder=tmp_path)
    learned = await learner.learn(agent, practice)
    assert practice.facts["objective"] == options["objective"]
    episodes = [experience.episode for experience in await practice.collect(learned)]
    assert [episode.answer for episode in episodes] == ["one 2\n34", "one 2\n34"]
    if options["objective"] == "reversed":
        own = tokenizer_for(base, (), learned.adapter)
        ids = episodes[0].segments[0].steps[0].completion.tokens.completion_ids
        assert own.decode(ids[:-1]) == REVERSED + str(episodes[0].answer)[::-1], "what was sampled is kept as it was"


async def test_agents_that_could_not_be_understood_are_refused(tmp_path, base):
    task = tt.Task(messages=(said("user", "a"),), reference="b")
    practice = tt.Practice([task], tt.Collector(tt.Exact()), folder=tmp_path)
    stopping = tt.Agent(model=f"hf:{base.folder}", sampling=tt.Sampling(stop=("\n",)))
    with pytest.raises(InputError, match="stop strings"):
        await tt.SFT(objective="reversed").learn(stopping, practice)
    with pytest.raises(InputError, match="hf models only"):  # as of a gguf model; a scripted one has no weights, and is told so first
        check_replies(quick(objective="reversed"), tt.Agent(model=tt.Scripted(["b"])))


@pytest.mark.parametrize(
    ("options", "field", "words"),
    [
        ({"objective": "backwards"}, "objective", "standard"),
        ({"objective": "masked", "mask_rate": 0}, "mask_rate", "greater than 0"),
        ({"objective": "masked", "objective_share": 1.5}, "objective_share", "less than or equal to 1"),
        ({"mask_rate": 0.5}, "mask_rate", "belongs to the objective masked"),
        ({"objective": "teacherless", "mask_rate": 0.5}, "mask_rate", "here it is teacherless"),
        ({"objective": "reversed", "mask_token": "x"}, "mask_token", "masked or teacherless"),
        ({"objective": "teacherless", "objective_share": 1}, "objective_share", "token by token"),
        ({"objective": "reversed", "truncate": True}, "truncate", "come first in reverse"),
    ],
)
def test_wrong_options_are_said(options, field, words):
    with pytest.raises(InputError, match=words) as wrong:
        tt.SFT(**options)
    assert wrong.value.field == field


def test_settings_of_the_trainer_itself_are_checked_too(base, tmp_path):
    tokenizer = load_tokenizer(base)
    with pytest.raises(InputError, match="belongs to the objective masked"):
        train_sft(Job(base, tokenizer, tmp_path), rendered(tokenizer), quick(mask_rate=0.5))
    with pytest.raises(InputError, match=r"lacks <\|reversed\|>"):
        train_sft(Job(base, tokenizer, tmp_path), rendered(tokenizer), quick(objective="reversed"))
    check_objective(read_settings(SFTSettings, {"objective": "teacherless"}, "sft"))


def test_the_token_in_place_of_hidden_ones(base):
    tokenizer = load_tokenizer(base)
    assert tokenizer.convert_ids_to_tokens(spare_token(tokenizer)) == "<|endoftext|>", "the others stand in every conversation"
    assert spare_token(tokenizer, "~") == tokenizer.get_vocab()["~"]
    with pytest.raises(InputError, match=r"mean .<\|endoftext\|>") as wrong:
        spare_token(tokenizer, "<|endoftex|>")
    assert wrong.value.field == "mask_token"
    tokenizer.add_special_tokens({"mask_token": "<|mask|>"})
    assert spare_token(tokenizer) == tokenizer.mask_token_id
    bare = load_tokenizer(base)
    bare.chat_template = "<|endoftext|>" + bare.chat_template
    with pytest.raises(InputError, match="no special token to spare"):
        spare_token(bare)


@pytest.mark.model
def test_a_real_tokenizer_reads_reversed_replies_back():
    """Words of several tokens, characters of several, blanks: what was said token by token is the same text."""
    base = find_base("smollm2-135m")
    tokenizer = tokenizer_for(base, (REVERSED,))
    mark = tokenizer.added_tokens_encoder[REVERSED]
    for text in ("It is 42.", "naïve café — ☕☕", "def f(x):\n    return  x\n", " leading blanks", "<|endoftext|"):
        plain = render_row(tokenizer, demonstration("ask", text))
        (row,) = Objective("reversed", mark).rows([plain])
        begin = row.mask.index(True)
        assert row.ids[begin] == mark
        assert row.ids[begin + 1 :] != plain.ids[begin : plain.mask.index(True) + sum(plain.mask)]
        assert tokenizer.decode(reading_order(row.ids[begin:], tokenizer), skip_special_tokens=True) == text
    taken = tokenizer.convert_ids_to_tokens(spare_token(tokenizer))
    assert taken not in str(tokenizer.chat_template)
