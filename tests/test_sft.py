"""Supervised fine-tuning: its loss beside TRL's own pipeline, masks under packing, repetition, interruption, what goes wrong."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="extra `train` is not installed")
pytest.importorskip("trl", reason="extra `train` is not installed")

import torch
from hypothesis import given
from hypothesis import strategies as st

from toy_weights import make_toy, toy_tokenizer
from tutelage.errors import InputError, MissingExtra
from tutelage.records import Message
from tutelage.training import sft_trainer as sft
from tutelage.training import supervised_run
from tutelage.training.adapters import load_adapter, save_adapter
from tutelage.training.base import find_base, load_causal_lm, load_tokenizer
from tutelage.training.batches import IGNORED, Batch, best_fit, label_logprobs, labels_of, sum_by_owner
from tutelage.training.chat import TokenRow, render_row
from tutelage.training.cut_blocks import Blocks
from tutelage.training.keeper import copy_of, losses
from tutelage.training.rows import SFTRow
from tutelage.training.settings import Lora
from tutelage.training.supervised import tokenizer_for, train_sft
from tutelage.training.supervised_job import Interrupted, Job, SFTSettings

pytestmark = pytest.mark.torch
WORDS = ("pear", "fig", "date", "plum", "kiwi", "lime", "nut", "olive", "grape", "yam", "bean", "oat")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return find_base(str(make_toy(tmp_path_factory.mktemp("toy"))))


@pytest.fixture(scope="module")
def tokenizer(base):
    return load_tokenizer(base)


def user(text: str) -> Message:
    return Message(role="user", content=text)


def assistant(text: str) -> Message:
    return Message(role="assistant", content=text)


def demonstration(word: str, reply: str | None = None) -> SFTRow:
    return SFTRow(prompt=(user(word),), completion=(assistant(reply or word.upper()),), source=word)


def rendered(tokenizer, words=WORDS) -> list[TokenRow]:
    return [render_row(tokenizer, demonstration(word)) for word in words]


def job(base, tokenizer, folder, **more) -> Job:
    return Job(base, tokenizer, folder, **more)


def quick(**changes) -> SFTSettings:
    return SFTSettings(**{"learning_rate": 3e-3, "num_train_epochs": 2, "per_device_train_batch_size": 4, "lora": Lora(r=4), **changes})


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# The loss beside TRL's own


TRAINING_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The toy's template with the marks by which TRL finds what the assistant says."""

TALKS = [
    [("user", "pear"), ("assistant", "PEAR"), ("user", "and fig?"), ("assistant", "FIG, of course")],
    [("system", "Shout."), ("user", "plum"), ("assistant", "PLUM")],
    [("user", "kiwi and lime"), ("assistant", "KIWI AND LIME")],
]


def trl_trainer(base, tokenizer, rows, folder, **options):
    """TRL from its own data formats to its own loss."""
    import datasets
    from trl import SFTConfig, SFTTrainer

    datasets.disable_progress_bars()
    arguments = supervised_run.arguments(quick(lora=None, per_device_train_batch_size=8), folder, 0)
    return SFTTrainer(
        model=load_causal_lm(base),
        args=SFTConfig(**{**arguments, **options, "remove_unused_columns": True}),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )


def our_trainer(base, tokenizer, rows, folder, *, packing=True, alone=True, share_prefixes=False, **changes):
    settings = quick(lora=None, packing=packing, per_device_train_batch_size=8, share_prefixes=share_prefixes, **changes)
    arguments = supervised_run.arguments(settings, folder, 0)
    trainer = sft.sft_trainer(load_causal_lm(base), tokenizer, arguments, settings, rows)
    trainer.alone = alone
    return trainer


def loss_and_gradients(trainer) -> tuple[float, dict]:
    rows = [trainer.train_dataset[place] for place in range(len(trainer.train_dataset))]
    trainer.model.train().zero_grad()
    loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(trainer.data_collator(rows)))
    loss.backward()
    return loss.item(), {name: parameter.grad.clone() for name, parameter in trainer.model.named_parameters()}


def close(one: tuple[float, dict], other: tuple[float, dict]) -> None:
    assert one[0] == pytest.approx(other[0], abs=1e-5)
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("alone", [False, True])
def test_loss_and_gradients_are_those_of_trls_own_assistant_masks(base, tokenizer, tmp_path, packing, alone):
    talks = [[{"role": role, "content": text} for role, text in talk] for talk in TALKS]
    marked = toy_tokenizer(TRAINING_TEMPLATE)
    theirs = trl_trainer(base, marked, [{"messages": talk} for talk in talks], tmp_path / "theirs", assistant_only_loss=True)
    rows = [render_row(tokenizer, SFTRow(completion=tuple(Message(**message) for message in talk))) for talk in talks]
    ours = our_trainer(base, tokenizer, rows, tmp_path / "ours", packing=packing, alone=alone)
    assert [list(row.ids) for row in rows] == theirs.train_dataset["input_ids"]
    assert [labels_of(row.ids, row.mask) for row in rows] == theirs.train_dataset["labels"], "the same tokens bear loss"
    close(loss_and_gradients(ours), loss_and_gradients(theirs))


def test_loss_is_that_of_trls_own_prompt_completion_format(base, tokenizer, tmp_path):
    """TRL's format lets loss fall on the line break after the answer too, which nobody has to say; its label is taken away here."""
    rows = [demonstration(word) for word in WORDS]
    pairs = [
        {side: [message.model_dump(include={"role", "content"}) for message in getattr(row, side)] for side in ("prompt", "completion")}
        for row in rows
    ]
    theirs = trl_trainer(base, tokenizer, pairs, tmp_path / "theirs")
    theirs.train_dataset = theirs.train_dataset.map(lambda row: {"labels": [*row["labels"][:-1], IGNORED]})
    ours = our_trainer(base, tokenizer, rendered(tokenizer), tmp_path / "ours", packing=True)
    assert ours.train_dataset["labels"] == theirs.train_dataset["labels"]
    close(loss_and_gradients(ours), loss_and_gradients(theirs))


def test_a_whole_training_is_trls_own(base, tokenizer, tmp_path):
    """The same rows in the same order through TRL's own trainer, loss for loss."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = rendered(tokenizer)
    settings = quick(lora=None, gradient_accumulation_steps=2)
    data = Dataset.from_dict({"input_ids": [list(row.ids) for row in rows], "labels": [labels_of(row.ids, row.mask) for row in rows]})
    arguments = supervised_run.arguments(settings, tmp_path / "theirs", 0) | {"remove_unused_columns": True}
    theirs = SFTTrainer(load_causal_lm(base), args=SFTConfig(**arguments), train_dataset=data, processing_class=tokenizer)
    theirs.train()
    ours = train_sft(job(base, tokenizer, tmp_path / "ours"), rows, settings)
    expected = losses(theirs.state.log_history)
    assert ours.facts["steps"] == len(expected) == 4
    assert ours.facts["loss_first"] == pytest.approx(expected[0], abs=1e-5)
    assert ours.facts["loss_last"] == pytest.approx(expected[-1], abs=1e-4)


# Packing


@given(st.lists(st.integers(1, 20), min_size=1, max_size=30))
def test_every_row_has_its_place_and_no_line_overflows(lengths):
    lines = best_fit(lengths, max(lengths))
    assert sorted(place for line in lines for place in line) == list(range(len(lengths)))
    assert all(sum(lengths[place] for place in line) <= max(lengths) for line in lines)
    assert len(lines) <= 2 * -(-sum(lengths) // max(lengths)), "no two lines are less than half full together"


def test_a_packed_batch_by_hand():
    rows = [([1, 2, 3], [IGNORED, 2, 3]), ([4, 5], [4, 5]), ([6], [IGNORED])]
    batch = Batch.of(rows, 0, packing=True)
    assert batch.input_ids.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert batch.inputs["position_ids"].tolist() == [[0, 1, 2], [0, 1, 0]]
    assert batch.labels.tolist() == [[IGNORED, 2, 3], [IGNORED, 5, IGNORED]], "no row's first token is predicted from another row"
    assert batch.owner.tolist() == [[0, 0, 0], [1, 1, 2]]
    padded = Batch.of(rows, 9, packing=False)
    assert padded.input_ids.tolist() == [[1, 2, 3], [4, 5, 9], [6, 9, 9]]
    assert padded.inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 0]]


def qwen2(tokenizer):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), tie_word_embeddings=False, **sizes)).eval()


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_rows_of_one_line_do_not_see_each_other(base, tokenizer, kind):
    model = load_causal_lm(base) if kind == "llama" else qwen2(tokenizer)
    rows = [(row.ids, labels_of(row.ids, row.mask)) for row in rendered(tokenizer, (*WORDS, "a much longer line than all the others"))]
    found = {}
    for packing in (False, True):
        batch = Batch.of(rows, 0, packing=packing)
        lines = label_logprobs(model, {"input_ids": batch.input_ids, **batch.inputs}, batch.labels)
        found[packing] = sum_by_owner(lines, batch.owner, len(rows))
    assert Batch.of(rows, 0, packing=True).input_ids.numel() < 0.8 * Batch.of(rows, 0, packing=False).input_ids.numel()
    torch.testing.assert_close(found[True], found[False], atol=1e-5, rtol=1e-5)
    alone = [model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1) for ids, _ in rows]
    for number, (ids, labels) in enumerate(rows):
        expected = sum(alone[number][at - 1, ids[at]].item() for at in range(len(ids)) if labels[at] != IGNORED)
        assert found[True][number].item() == pytest.approx(expected, abs=1e-4)


def test_logits_in_blocks_change_nothing(base, tokenizer, monkeypatch):
    model = load_causal_lm(base)
    batch = Batch.of([(row.ids, labels_of(row.ids, row.mask)) for row in rendered(tokenizer)], 0, packing=True)
    gradients = []
    for size in (1024, 7):
        monkeypatch.setattr(Blocks, "of", lambda *_, size=size: Blocks(size, size))
        model.zero_grad()
        label_logprobs(model, {"input_ids": batch.input_ids, **batch.inputs}, batch.labels).sum().backward()
        gradients.append(model.get_input_embeddings().weight.grad.clone())
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-5)


def test_packing_and_accumulation_do_not_change_what_is_learned(base, tokenizer, tmp_path):
    rows = rendered(tokenizer)
    whole = train_sft(job(base, tokenizer, tmp_path), rows, quick(lora=None, packing=False))
    accumulated = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    for changes in ({"packing": True}, accumulated, {"gradient_checkpointing": True}):
        other = train_sft(job(base, tokenizer, tmp_path), rows, quick(lora=None, **{"packing": False, **changes}))
        for name, tensor in copy_of(whole.model).items():
            torch.testing.assert_close(copy_of(other.model)[name], tensor, atol=2e-4, rtol=1e-3, msg=f"{changes} {name}")


# Learning


def test_the_same_seed_gives_the_same_weights_and_leaves_other_randomness_alone(base, tokenizer, tmp_path):
    rows = rendered(tokenizer)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (train_sft(job(base, tokenizer, tmp_path / str(n), seed=seed), rows, quick()) for n, seed in enumerate((0, 0, 1)))
    assert torch.equal(torch.rand(3), expected)
    assert same(copy_of(first.model), copy_of(again.model))
    assert not same(copy_of(first.model), copy_of(other.model))
    assert first.facts["rows"] == 12
    assert first.facts["steps"] == first.facts["steps_planned"] == 6
    assert first.facts["trainable_parameters"] == sum(tensor.numel() for tensor in copy_of(first.model).values())
    assert first.facts["loss_last"] < first.facts["loss_first"]
    assert first.facts["stopped"] is None


def test_lora_learned_on_from_lora_is_one_adapter(base, tokenizer, tmp_path):
    rows = rendered(tokenizer)
    first = train_sft(job(base, tokenizer, tmp_path), rows, quick())
    adapter = save_adapter(first.model, base, tmp_path / "adapters", facts={})
    second = train_sft(job(base, tokenizer, tmp_path, adapter=adapter), rows, quick())
    assert second.facts["loss_first"] < first.facts["loss_first"]
    assert copy_of(second.model).keys() == copy_of(first.model).keys()
    assert not same(copy_of(second.model), copy_of(first.model))
    whole = train_sft(job(base, tokenizer, tmp_path, adapter=adapter), rows, quick(lora=None))
    assert whole.facts["loss_first"] == pytest.approx(second.facts["loss_first"], abs=1e-4), "LoRA weights are merged, then all are trained"
    full = save_adapter(whole.model, base, tmp_path / "adapters", facts={}, tokenizer=tokenizer)
    assert full.kind == "full"
    with pytest.raises(InputError, match="trained as a whole; set lora to null"):
        train_sft(job(base, tokenizer, tmp_path, adapter=full), rows, quick())


def test_the_best_weights_by_the_validation_rows_are_kept_and_patience_ends(base, tokenizer, tmp_path):
    """The validation rows want the opposite of what is trained, so every look is worse than the first."""
    rows = rendered(tokenizer)
    contrary = [render_row(tokenizer, demonstration(word, "zzzz")) for word in WORDS[:4]]
    plan = quick(lora=None, num_train_epochs=8, learning_rate=1e-2, early_stopping_patience=2)
    trained = train_sft(job(base, tokenizer, tmp_path), rows, plan, validation=contrary)
    looks = trained.facts["validation_loss"]
    best = looks.index(min(looks))
    assert trained.facts["kept_from_step"] == 3 * (best + 1)
    assert len(looks) == best + 3, "two looks without a better one"
    assert trained.facts["stopped"] == "no better by the validation rows"
    assert trained.facts["steps"] == 3 * len(looks) < trained.facts["steps_planned"]
    whole = train_sft(job(base, tokenizer, tmp_path), rows, plan.model_copy(update={"early_stopping_patience": None}), validation=contrary)
    assert whole.facts["steps"] == whole.facts["steps_planned"]
    assert same(copy_of(whole.model), copy_of(trained.model)), "the same best weights without patience"


def test_tokens_are_added_where_missing_and_only_their_rows_are_trained(base, tmp_path):
    tokens = ("<think>", "</think>")
    tokenizer = tokenizer_for(base, tokens)
    assert len(tokenizer) == len(load_tokenizer(base)) + 2
    assert len(tokenizer_for(base)) == len(load_tokenizer(base))
    rows = [render_row(tokenizer, demonstration(word, f"<think>{word}</think>{word.upper()}")) for word in WORDS]
    trained = train_sft(job(base, tokenizer, tmp_path), rows, quick(special_tokens=tokens))
    extra = [name for name in copy_of(trained.model) if "lora_" not in name]
    assert [copy_of(trained.model)[name].shape for name in extra] == [(2, 64)]
    adapter = save_adapter(trained.model, base, tmp_path / "adapters", facts={}, tokenizer=trained.tokenizer)
    ids = torch.tensor([rows[0].ids])
    worn = load_adapter(load_causal_lm(base), adapter)
    assert torch.equal(worn(ids).logits, trained.model(ids).logits)
    assert len(tokenizer_for(base, tokens, adapter)) == len(tokenizer), "the adapter's own tokenizer has them already"
    with pytest.raises(InputError, match="learned without <tool_call>"):
        tokenizer_for(base, ("<tool_call>",), adapter)


# Interruption


KILLED = """
import os, signal, sys, threading
from pathlib import Path
import torch
torch.set_num_threads(1)
from test_sft import WORDS, demonstration, job, quick, rendered, same
from tutelage.training import keeper
from tutelage.training.base import find_base, load_tokenizer
from tutelage.training.keeper import copy_of
from tutelage.training.supervised import train_sft
import tutelage.training.sft_trainer

base, folder = find_base(sys.argv[1]), Path(sys.argv[2])
tokenizer = load_tokenizer(base)
rows = rendered(tokenizer)
settings = quick(save_steps=1, num_train_epochs=3, gradient_accumulation_steps=2, lora={"r": 4, "lora_dropout": 0.1})

def train(place):
    return train_sft(job(base, tokenizer, folder / place), rows[:10], settings, validation=rows[10:])

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

class Dying(keeper.Keeper):
    def on_log(self, args, state, control, **more):
        if state.global_step == self.at:
            die()
        super().on_log(args, state, control, **more)

def in_a_step(at):
    def arm():
        Dying.at = at
        tutelage.training.supervised_run.Keeper = Dying
    return arm

def in_the_save(at, method):
    def arm():
        trainer = tutelage.training.sft_trainer.SupervisedTrainer
        own = getattr(trainer, method)
        setattr(trainer, method, lambda self, *a: die() if self.state.global_step == at else own(self, *a))
    return arm

def after_the_rename(at):
    def arm():
        rmtree = keeper.shutil.rmtree
        keeper.shutil.rmtree = lambda path, **more: die() if path.name == f"checkpoint-{at - 1}" else rmtree(path, **more)
    return arm

early, late = in_the_save(2, "_save_optimizer_and_scheduler"), in_the_save(4, "_save_rng_state")
moments = [in_a_step(1), early, in_a_step(3), after_the_rename(3), late]
halves = 0
for number, arm in enumerate(moments):  # one training that dies of them all, one after the other
    child = os.fork()
    if not child:
        arm()
        train("killed")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"moment {number} was not reached"
    halves += len(list((folder / "killed").rglob("*.part")))
trained = train("killed")
assert not list((folder / "killed").rglob("*.part"))
assert same(copy_of(trained.model), copy_of(train("whole").model))
print(halves, "half written, resumed at", trained.facts["resumed_at_step"])
"""


def test_a_training_killed_at_any_moment_resumes_to_the_same_weights(base, tmp_path):
    """Killed in a step, in the middle of writing a checkpoint and before the old one is removed; with dropout, validation, accumulation."""
    script = [sys.executable, "-c", textwrap.dedent(KILLED), str(base.folder), str(tmp_path)]
    done = subprocess.run(script, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "2 half written, resumed at 3"


@pytest.mark.parametrize("after", [2, 6])
@pytest.mark.parametrize("validates", [False, True])
def test_stopped_by_another_thread_it_leaves_a_checkpoint_and_goes_on(base, tokenizer, tmp_path, after, validates):
    """In the middle, and after the last of its steps, when it only has to be taken over."""
    rows = rendered(tokenizer)
    held_out = rows[:2] if validates else ()
    stop, seen = threading.Event(), []

    class Bar:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            seen.append("closed")

        def advance(self, note=""):
            seen.append(note)
            if len(seen) == after:
                stop.set()

    with pytest.raises(Interrupted):
        train_sft(job(base, tokenizer, tmp_path / "a", stop=stop, stage=lambda total: Bar()), rows, quick(), validation=held_out)
    assert [note[:4] for note in seen] == [*["loss"] * after, "clos"]
    resumed = train_sft(job(base, tokenizer, tmp_path / "a"), rows, quick(), validation=held_out)
    assert resumed.facts["resumed_at_step"] == after
    whole = train_sft(job(base, tokenizer, tmp_path / "b"), rows, quick(), validation=held_out)
    assert same(copy_of(resumed.model), copy_of(whole.model))
    for told in ("steps", "loss_last", "kept_from_step", "validation_loss"):
        assert resumed.facts.get(told) == whole.facts.get(told)
    resumed.clear()
    assert not resumed.workplace.exists()


def test_other_settings_rows_or_seeds_do_not_share_checkpoints(base, tokenizer, tmp_path):
    rows = rendered(tokenizer)[:4]
    quick_one = quick(num_train_epochs=1)
    runs = [
        train_sft(job(base, tokenizer, tmp_path, seed=seed), data, plan)
        for seed, data, plan in ((0, rows, quick_one), (1, rows, quick_one), (0, rows[:3], quick_one), (0, rows, quick(num_train_epochs=2)))
    ]
    assert len({run.workplace for run in runs}) == 4
    assert train_sft(job(base, tokenizer, tmp_path), rows, quick(num_train_epochs=1, save_steps=9)).workplace == runs[0].workplace


# What goes wrong


def test_the_losses_of_a_log():
    assert losses([{"loss": 2.0}, {"eval_loss": 1.0}, {"loss": 1.0}]) == [2.0, 1.0]


def poisoned(monkeypatch, at: int, value: float):
    """The loss becomes `value` from step `at` on, by weights gone wrong."""
    own = sft.SupervisedTrainer.compute_loss

    def compute_loss(self, model, inputs, **more):
        loss = own(self, model, inputs, **more)
        if self.state.global_step >= at and model.training:
            return loss * 0 + value
        return loss

    monkeypatch.setattr(sft.SupervisedTrainer, "compute_loss", compute_loss)


@pytest.mark.parametrize("value", [float("nan"), 1000.0])
@pytest.mark.parametrize("validates", [False, True])
def test_a_diverging_training_stops_with_the_last_good_weights(base, tokenizer, tmp_path, monkeypatch, value, validates):
    rows = rendered(tokenizer)
    held_out = rows[:2] if validates else ()
    before = train_sft(job(base, tokenizer, tmp_path / "a"), rows, quick(max_steps=3, lr_scheduler_type="constant"), validation=held_out)
    poisoned(monkeypatch, 4, value)
    plan = quick(num_train_epochs=9, lr_scheduler_type="constant", warmup_ratio=0)
    trained = train_sft(job(base, tokenizer, tmp_path / "b"), rows, plan, validation=held_out)
    assert trained.facts["stopped"] == "diverged"
    assert trained.facts["steps"] in (4, 5)
    assert trained.facts["kept_from_step"] == 3, "the loss of step 5, which is that of the weights after step 4, is the bad one"
    assert trained.facts["loss_last"] is None or trained.facts["loss_last"] == 1000.0
    assert all(tensor.isfinite().all() for tensor in copy_of(trained.model).values())
    assert before.facts["stopped"] is None


def test_diverged_from_the_first_step_on_there_is_nothing_to_keep(base, tokenizer, tmp_path, monkeypatch):
    poisoned(monkeypatch, 0, float("nan"))
    with pytest.raises(InputError, match=r"diverged at step .* lower learning_rate"):
        train_sft(job(base, tokenizer, tmp_path), rendered(tokenizer), quick())


def test_a_really_too_high_learning_rate_is_survived(base, tokenizer, tmp_path):
    """Warming up, the first step moves nothing and the second all too far: the weights before that are given back."""
    plan = quick(lora=None, learning_rate=50.0, num_train_epochs=10, max_grad_norm=1e9)
    trained = train_sft(job(base, tokenizer, tmp_path), rendered(tokenizer), plan)
    assert (trained.facts["stopped"], trained.facts["kept_from_step"]) == ("diverged", 1)
    assert trained.facts["steps"] < trained.facts["steps_planned"]
    untrained = copy_of(load_causal_lm(base))
    assert all(torch.equal(tensor, untrained[name]) for name, tensor in copy_of(trained.model).items())
    with pytest.raises(InputError, match="before anything was worth keeping"):
        train_sft(job(base, tokenizer, tmp_path), rendered(tokenizer), plan.model_copy(update={"warmup_ratio": 0.0}))


def test_a_single_step_learns(base, tokenizer, tmp_path):
    """It is not spent on warming up."""
    steps: list[float] = []
    own = job(base, tokenizer, tmp_path, history=lambda rows: steps.__setitem__(slice(None), [row["learning_rate"] for row in rows]))
    train_sft(own, rendered(tokenizer)[:2], quick(num_train_epochs=1, warmup_ratio=0.03))
    assert steps == [quick().learning_rate]


def test_no_memory_left_says_what_to_change(base, tokenizer, tmp_path, monkeypatch):
    for error in (torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")):

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr(sft.SupervisedTrainer, "compute_loss", fail)
        with pytest.raises(
            InputError, match=r"lower max_tokens_per_micro_batch.*per_device_train_batch_size \(now 4; .*max_length.*gradient_checkpointing"
        ):
            train_sft(job(base, tokenizer, tmp_path), rendered(tokenizer), quick())


def test_bad_input_is_named(base, tokenizer, tmp_path):
    rows = rendered(tokenizer)
    here = job(base, tokenizer, tmp_path)
    with pytest.raises(InputError, match="no row to learn from"):
        train_sft(here, [], quick())
    said = r"2 of 12 rows are longer than max_length = 29 tokens: row 8 \(31\), row 9 \(31\)\. Set max_length to 31, or truncate"
    with pytest.raises(InputError, match=said):
        train_sft(here, rows, quick(max_length=29))
    with pytest.raises(InputError, match="its answer lies beyond max_length"):
        train_sft(here, rows, quick(max_length=12, truncate=True))
    with pytest.raises(InputError, match="row 1: no token of it bears loss"):
        train_sft(here, [TokenRow(rows[0].ids, (False,) * len(rows[0].ids))], quick())
    with pytest.raises(InputError, match=r"nowhere.*Linear layers here: .*q_proj"):
        train_sft(here, rows, quick(lora=Lora(target_modules=("nowhere",))))
    with pytest.raises(InputError, match="output layer cannot be adapted"):
        train_sft(here, rows, quick(lora=Lora(target_modules=("lm_head",))))
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="float16 cannot be trained on a CPU"):
            train_sft(here, rows, quick(dtype="float16"))
    endless = TokenRow((5,) * 1025, (False, *(True,) * 1024))
    with pytest.raises(InputError, match="the longest row has 1025 tokens, and the model reads 1024 at once"):
        train_sft(here, [endless], quick(max_length=2000))
    other = find_base(str(make_toy(tmp_path / "other", seed=7)))
    adapter = save_adapter(train_sft(here, rows[:4], quick(num_train_epochs=1)).model, base, tmp_path / "adapters", facts={})
    with pytest.raises(InputError, match="was trained on"):
        train_sft(job(other, tokenizer, tmp_path, adapter=adapter), rows, quick())


def test_a_row_that_is_cut_learns_its_first_tokens(base, tokenizer, tmp_path):
    rows = rendered(tokenizer, ("a", "grapefruit"))
    trained = train_sft(job(base, tokenizer, tmp_path), rows, quick(max_length=30, truncate=True, max_steps=1))
    assert trained.facts["tokens"] == len(rows[0].ids) + 30


def test_one_row_is_enough(base, tokenizer, tmp_path):
    trained = train_sft(job(base, tokenizer, tmp_path), rendered(tokenizer, ("fig",)), quick(num_train_epochs=3))
    assert trained.facts["steps"] == 3


def test_without_the_extra_it_says_what_to_install(base, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trl.trainer.sft_config", None)
    monkeypatch.delitem(sys.modules, "tutelage.training.sft_trainer")
    with pytest.raises(MissingExtra, match=r"trl.*tutelage\[train\]"):
        train_sft(job(base, tokenizer, tmp_path), rendered(tokenizer), quick())
