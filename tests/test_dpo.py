"""Direct preference optimisation: its loss beside TRL's and beside the formula, and both learners in practice and in a study."""

from __future__ import annotations

import asyncio
import json
import math

import pytest

pytest.importorskip("torch", reason="extra `train` is not installed")
pytest.importorskip("trl", reason="extra `train` is not installed")

import torch

import tutelage as tt
from test_sft import WORDS, assistant, job, one_thread, same, user  # noqa: F401  (one_thread is a fixture)
from toy_weights import make_toy
from tutelage.errors import InputError
from tutelage.graders.rules import Exact
from tutelage.knowledge import EMPTY, Exemplar, Knowledge, Retrieval
from tutelage.learner import Learner, Need
from tutelage.learners.curriculum import Curriculum
from tutelage.learners.dpo import DPO
from tutelage.learners.sft import SFT
from tutelage.learners.supervised import set_apart
from tutelage.models.huggingface import HuggingFace
from tutelage.records import Grade, Sampling, ToolCall
from tutelage.training import dpo_trainer as dpo
from tutelage.training import supervised_run
from tutelage.training.adapters import save_adapter
from tutelage.training.base import find_base, load_causal_lm, load_tokenizer
from tutelage.training.batches import labels_of
from tutelage.training.chat import TokenRow, render_preference
from tutelage.training.keeper import copy_of
from tutelage.training.rows import PreferenceRow
from tutelage.training.settings import Lora
from tutelage.training.supervised import train_dpo
from tutelage.training.supervised_job import DPOSettings, TokenPair

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return find_base(str(make_toy(tmp_path_factory.mktemp("toy"))))


@pytest.fixture(scope="module")
def tokenizer(base):
    return load_tokenizer(base)


def preference(word: str) -> PreferenceRow:
    return PreferenceRow(prompt=(user(word),), chosen=(assistant(word.upper()),), rejected=(assistant(f"no {word}"),), source=word)


def pairs(tokenizer, words=WORDS, weight: float = 1.0) -> list[TokenPair]:
    return [TokenPair(*render_preference(tokenizer, preference(word)), weight) for word in words]


def quick(**changes) -> DPOSettings:
    return DPOSettings(**{"learning_rate": 1e-3, "num_train_epochs": 2, "per_device_train_batch_size": 4, "lora": Lora(r=4), **changes})


def shaken(model, seed: int = 3):
    """The model with other weights, so that it differs from its reference."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model


def our_loss(base, tokenizer, folder, given, **changes) -> tuple[float, dict]:
    """Loss and gradients of weights that differ from the reference, which is the base itself."""
    settings = quick(lora=None, per_device_train_batch_size=20, **changes)
    trainer = dpo.dpo_trainer(load_causal_lm(base), tokenizer, supervised_run.arguments(settings, folder, 0), settings, given)
    folder.mkdir(exist_ok=True)
    trainer._ask_reference(folder / "reference.safetensors")
    shaken(trainer.model).train()
    batch = trainer.data_collator([trainer.train_dataset[place] for place in range(len(given))])
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in trainer.model.named_parameters()}


def answer_logprob(model, row: TokenRow) -> float:
    """By the definition: one row alone, token by token."""
    logits = model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
    return sum(logits[at - 1, token].item() for at, (token, learned) in enumerate(zip(row.ids, row.mask, strict=True)) if learned)


def sigmoid_loss(margin: float) -> float:
    return math.log1p(math.exp(-margin))


def test_the_loss_of_pairs_by_hand():
    """margins 0.1 * ((-3 + 4) - (-2 + 2.5)) = 0.05 and 0.1 * ((-1 + 1) - (-5 + 3)) = 0.2"""
    chosen, rejected = torch.tensor([-3.0, -1.0]), torch.tensor([-2.0, -5.0])
    ref_chosen, ref_rejected = torch.tensor([-4.0, -1.0]), torch.tensor([-2.5, -3.0])
    found = dpo.preference_loss(chosen, rejected, ref_chosen, ref_rejected, beta=0.1)
    assert found.tolist() == pytest.approx([0.668460, 0.598139], abs=1e-6)
    smooth = dpo.preference_loss(chosen, rejected, ref_chosen, ref_rejected, beta=0.1, label_smoothing=0.1)
    assert smooth.tolist() == pytest.approx([0.673460, 0.618139], abs=1e-6), "0.9 * loss(m) + 0.1 * loss(-m) = loss(m) + 0.1 * m"


@pytest.mark.parametrize("packing", [False, True])
def test_loss_and_gradients_are_trls_own(base, tokenizer, tmp_path, packing):
    """TRL on the same conversations in its own format, its reference asked at each step."""
    import datasets
    from trl import DPOConfig, DPOTrainer

    datasets.disable_progress_bars()
    rows = [
        {
            name: [message.model_dump(include={"role", "content"}) for message in getattr(row, name)]
            for name in ("prompt", "chosen", "rejected")
        }
        for row in map(preference, WORDS)
    ]
    settings = quick(lora=None, per_device_train_batch_size=20)
    theirs = DPOTrainer(
        load_causal_lm(base),
        ref_model=load_causal_lm(base),
        args=DPOConfig(**supervised_run.arguments(settings, tmp_path / "theirs", 0), beta=settings.beta),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    # TRL also counts the line break after the answer, which nobody has to say: taken away on both sides.
    cut = theirs.train_dataset.map(lambda row: {name: row[name][:-1] for name in ("chosen_ids", "rejected_ids")})
    given = pairs(tokenizer)
    assert [[*row["prompt_ids"], *row["chosen_ids"]] for row in cut] == [list(pair.chosen.ids[:-1]) for pair in given]
    shaken(theirs.model).train()
    loss = theirs.compute_loss(theirs.model, theirs.data_collator(list(cut)))
    loss.backward()
    value, gradients = our_loss(base, tokenizer, tmp_path / "ours", given, packing=packing)
    assert value == pytest.approx(loss.item(), abs=1e-5)
    for name, parameter in theirs.model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("free", [False, True])
def test_the_loss_is_the_formulas(base, tokenizer, tmp_path, smoothing, free):
    given, model, reference = pairs(tokenizer), shaken(load_causal_lm(base)), load_causal_lm(base)
    expected = []
    for pair in given:
        gain = answer_logprob(model, pair.chosen) - answer_logprob(model, pair.rejected)
        before = 0.0 if free else answer_logprob(reference, pair.chosen) - answer_logprob(reference, pair.rejected)
        margin = 0.3 * (gain - before)
        expected.append((1 - smoothing) * sigmoid_loss(margin) + smoothing * sigmoid_loss(-margin))
    settings = {"beta": 0.3, "label_smoothing": smoothing, "reference_free": free}
    value, _ = our_loss(base, tokenizer, tmp_path / "ours", given, **settings)
    assert value == pytest.approx(sum(expected) / len(expected), abs=1e-5)


def test_weights_scale_the_loss_of_their_pairs(base, tokenizer, tmp_path):
    sure, _ = our_loss(base, tokenizer, tmp_path / "a", pairs(tokenizer))
    unsure, _ = our_loss(base, tokenizer, tmp_path / "b", pairs(tokenizer, weight=0.25))
    assert unsure == pytest.approx(0.25 * sure, abs=1e-6)


def test_results_between_the_turns_of_an_answer_bear_no_loss(base, tokenizer):
    row = PreferenceRow(
        prompt=(user("7+5?"),),
        chosen=(assistant("add"), user("12"), assistant("It is 12")),
        rejected=(assistant("It is 13"),),
    )
    chosen, _ = render_preference(tokenizer, row)
    learned = "".join(tokenizer.convert_ids_to_tokens([token for token in labels_of(chosen.ids, chosen.mask) if token >= 0]))
    assert learned == "add<|im_end|>It is 12<|im_end|>"


def test_preference_moves_and_the_same_seed_moves_it_the_same(base, tokenizer, tmp_path):
    given = pairs(tokenizer)
    first, again = (train_dpo(job(base, tokenizer, tmp_path / name), given[:8], quick(num_train_epochs=6)) for name in "ab")
    assert same(copy_of(first.model), copy_of(again.model))
    assert first.facts["loss_first"] == pytest.approx(math.log(2), abs=1e-6), "before the first step there is no preference"
    assert first.facts["loss_last"] < 0.6
    assert first.facts["reward_accuracy_last"] == 1
    before = load_causal_lm(base)
    for pair in given[8:]:  # words that it was not trained on
        gain = answer_logprob(first.model, pair.chosen) - answer_logprob(first.model, pair.rejected)
        assert gain > answer_logprob(before, pair.chosen) - answer_logprob(before, pair.rejected)


def test_learned_on_from_an_adapter_the_reference_wears_it(base, tokenizer, tmp_path):
    given = pairs(tokenizer)
    first = train_dpo(job(base, tokenizer, tmp_path), given, quick(num_train_epochs=4))
    adapter = save_adapter(first.model, base, tmp_path / "adapters", facts={})
    second = train_dpo(job(base, tokenizer, tmp_path, adapter=adapter), given, quick())
    assert second.facts["loss_first"] == pytest.approx(math.log(2), abs=1e-6)
    assert copy_of(second.model).keys() == copy_of(first.model).keys()
    assert list(second.model.peft_config) == ["default"]


def test_an_interrupted_training_asks_the_reference_once_and_ends_with_the_same_weights(base, tokenizer, tmp_path, monkeypatch):
    given, plan = pairs(tokenizer), quick(save_steps=1)
    whole = train_dpo(job(base, tokenizer, tmp_path / "a"), given[:10], plan, validation=given[10:])
    own = dpo.PreferenceTrainer.compute_loss

    def fail(self, model, inputs, **more):
        if self.state.global_step == 4:
            raise KeyboardInterrupt
        return own(self, model, inputs, **more)

    with monkeypatch.context() as patched:
        patched.setattr(dpo.PreferenceTrainer, "compute_loss", fail)
        with pytest.raises(KeyboardInterrupt):
            train_dpo(job(base, tokenizer, tmp_path / "b"), given[:10], plan, validation=given[10:])
    monkeypatch.setattr(dpo.PreferenceTrainer, "_reference_of", None)
    resumed = train_dpo(job(base, tokenizer, tmp_path / "b"), given[:10], plan, validation=given[10:])
    assert resumed.facts["resumed_at_step"] == 4
    assert same(copy_of(resumed.model), copy_of(whole.model))


def test_bad_pairs_are_named(base, tokenizer, tmp_path):
    with pytest.raises(InputError, match="no row to learn from"):
        train_dpo(job(base, tokenizer, tmp_path), [], quick())
    with pytest.raises(InputError, match=r"longer than max_length = 20"):
        train_dpo(job(base, tokenizer, tmp_path), pairs(tokenizer), quick(max_length=20))
    for wrong in ({"beta": 0}, {"label_smoothing": 0.5}, {"margin": 0}, {"attempts": 1}, {"pairs": "some"}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            DPO(**wrong)


def test_one_pair_is_enough_and_is_cut_only_where_it_says_so(base, tokenizer, tmp_path):
    given = pairs(tokenizer)[:1]
    longest = max(len(given[0].chosen.ids), len(given[0].rejected.ids))
    trained = train_dpo(job(base, tokenizer, tmp_path / "a"), given, quick(num_train_epochs=3))
    assert (trained.facts["pairs"], trained.facts["steps"]) == (1, 3)
    assert trained.facts["tokens"] == len(given[0].chosen.ids) + len(given[0].rejected.ids)
    cut = train_dpo(job(base, tokenizer, tmp_path / "b"), given, quick(max_steps=1, max_length=longest - 1, truncate=True))
    assert cut.facts["tokens"] < trained.facts["tokens"]


def failing_after(monkeypatch, good: int, outcome):
    """After so many losses `outcome` takes their place: a factor, or an error that is raised."""
    compute, count = dpo.PreferenceTrainer.compute_loss, iter(range(10**6))

    def compute_loss(self, *given, **more):
        if next(count) < good:
            return compute(self, *given, **more)
        if isinstance(outcome, Exception):
            raise outcome
        return compute(self, *given, **more) * outcome

    monkeypatch.setattr(dpo.PreferenceTrainer, "compute_loss", compute_loss)


def test_a_diverging_training_on_preferences_stops_with_the_last_good_weights(base, tokenizer, tmp_path, monkeypatch):
    given, plan = pairs(tokenizer)[:4], quick(max_steps=3, lr_scheduler_type="constant", share_prefixes=False, warmup_ratio=0)
    before = train_dpo(job(base, tokenizer, tmp_path / "a"), given, plan)
    failing_after(monkeypatch, 4, float("nan"))
    trained = train_dpo(job(base, tokenizer, tmp_path / "b"), given, plan.model_copy(update={"max_steps": 9}))
    assert (trained.facts["stopped"], trained.facts["kept_from_step"]) == ("diverged", 3)
    assert same(copy_of(trained.model), copy_of(before.model))


def test_no_memory_for_preferences_says_what_to_change(base, tokenizer, tmp_path, monkeypatch):
    failing_after(monkeypatch, 0, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(InputError, match=r"not enough memory.*per_device_train_batch_size \(now 4; "):
        train_dpo(job(base, tokenizer, tmp_path), pairs(tokenizer), quick())


# As learners


LETTERS = "abcd"


def shout(text: str) -> tt.Task:
    return tt.Task(messages=(user(text),), reference=text.upper(), source=text)


SHOUTS = [shout(one + two + three) for one in LETTERS for two in LETTERS for three in LETTERS]
HELD_OUT = SHOUTS[::8]
TRAINING = [task for task in SHOUTS if task not in HELD_OUT]
TEACH = {"learning_rate": 3e-3, "num_train_epochs": 40, "lora": None, "per_device_train_batch_size": 8, "eval_steps": 50}


def practice(tasks=TRAINING, grader=None, **more) -> tt.Practice:
    return tt.Practice(tasks, tt.Collector(grader or Exact()), **more)


def toy_agent(base, **fields) -> tt.Agent:
    return tt.Agent(model=HuggingFace(str(base.folder)), **{"sampling": Sampling(max_tokens=14), **fields})


async def score(agent: tt.Agent, tasks=HELD_OUT) -> float:
    experiences = await practice(tasks).collect(agent)
    return sum(experience.grade.score or 0 for experience in experiences) / len(experiences)


@pytest.fixture(scope="module")
def taught(base, tmp_path_factory):
    """An agent that has learned most of the task, and what was noted."""
    training = practice(folder=tmp_path_factory.mktemp("taught"))
    learned = asyncio.run(SFT(**TEACH).learn(toy_agent(base), training))
    return learned, training


async def test_sft_teaches_a_toy_task_on_words_that_it_has_not_seen(base, taught):
    learned, training = taught
    assert await score(toy_agent(base)) == 0
    assert await score(learned) >= 0.7
    facts = training.facts
    assert facts["rows"] == 50
    assert facts["rows_validation"] == 6, "a tenth of 56 tasks"
    assert facts["rows_dropped"] == 0
    assert facts["loss_last"] < facts["loss_first"] / 5
    assert learned.adapter.kind == "full"
    assert learned.adapter.facts["learner"] == "sft"
    assert learned.version != toy_agent(base).version
    assert not list((training.folder / "checkpoints").iterdir()), "checkpoints go once the adapter is saved"


async def test_learned_again_it_is_the_same_adapter(base, tmp_path):
    plan = {"num_train_epochs": 1, "lora": Lora(r=4)}
    one, other = [await SFT(**plan).learn(toy_agent(base), practice(folder=tmp_path / name)) for name in "ab"]
    assert one.adapter.id == other.adapter.id
    assert one.version == other.version
    seeded = await SFT(**plan).learn(toy_agent(base), practice(folder=tmp_path / "c", seed=1))
    assert seeded.adapter.id != one.adapter.id


async def test_successes_are_learned_from_and_dpo_prefers_them(taught, tmp_path):
    """The taught agent, sampled hot, fails at some attempts: pairs for DPO; its successes teach as well, and a curriculum joins both."""
    learned, _ = taught
    weak = learned.but(sampling=Sampling(max_tokens=14, temperature=1.5))
    options = {"lora": None, "learning_rate": 2e-4, "num_train_epochs": 1, "attempts": 3, "temperature": 1.5}
    training = practice(TRAINING[:24], folder=tmp_path)
    better = await Curriculum(SFT("success", **options), DPO(**options, validation=0)).learn(weak, training)
    assert training.facts["sft.rows"] > 4
    assert training.facts["dpo.pairs"] > 2
    assert training.facts["dpo.loss_first"] == pytest.approx(math.log(2), abs=0.05)
    assert better.adapter.facts["from_adapter"] not in (None, learned.adapter.id)
    assert better.knowledge == weak.knowledge
    assert await score(better.but(sampling=Sampling(max_tokens=14))) >= await score(learned) - 0.2


def exemplar(task: tt.Task) -> Exemplar:
    said = (*task.messages, assistant(str(task.reference)))
    return Exemplar(task_id=task.id, input_id=task.input_id, text=task.text, messages=said)


async def prompts_of(learner: SFT, agent: tt.Agent, tasks, tmp_path, monkeypatch) -> tuple[list[str], tt.Agent]:
    """What the rows looked like that training was given."""
    seen = []
    from tutelage.learners import sft as module

    def spy(job, rows, settings, *, validation):
        seen.extend(job.tokenizer.decode(row.ids) for row in [*rows, *validation])
        return module_train(job, rows, settings, validation=validation)

    module_train = module.train_sft
    monkeypatch.setattr(module, "train_sft", spy)
    return seen, await learner.learn(agent, practice(tasks, folder=tmp_path))


@pytest.mark.parametrize("source", ["reference", "success"])
@pytest.mark.parametrize("distil", [False, True])
async def test_exemplars_stand_in_the_prompt_or_are_distilled(base, tmp_path, monkeypatch, source, distil):
    """A grader that is pleased with everything; each prompt shows other cases than its own, or none."""
    tasks = TRAINING[:4]
    knowledge = Knowledge(exemplars=tuple(map(exemplar, tasks)), retrieval=Retrieval(choose="fixed", k=3))
    agent = toy_agent(base, knowledge=knowledge, instructions="Shout.")
    learner = SFT(source, distil=distil, num_train_epochs=1, threshold=0, validation=0, truncated_episodes=True)
    seen, learned = await prompts_of(learner, agent, tasks, tmp_path, monkeypatch)
    assert len(seen) == 4
    for task, text in zip(tasks, seen, strict=True):
        assert text.startswith("<|im_start|>system\nShout.<|im_end|>")
        others = [other for other in tasks if other is not task and f"{other.text}<|im_end|>" in text]
        assert len(others) == (0 if distil else 3)
        assert text.count(f"<|im_start|>user\n{task.text}<|im_end|>") == 1
    assert learned.knowledge == (EMPTY if distil else knowledge)
    assert learner.label == ("sft-distil" if distil else "sft")


async def test_rows_from_files(base, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"prompt": word, "completion": word.upper()}) for word in WORDS))
    training = practice([], folder=tmp_path)
    learned = await SFT("file", file=str(rows), num_train_epochs=1).learn(toy_agent(base), training)
    assert learned.adapter is not None
    assert (training.facts["rows"], training.facts["rows_validation"]) == (11, 1)
    likes = tmp_path / "likes.jsonl"
    likes.write_text("\n".join(json.dumps({"prompt": word, "chosen": word.upper(), "rejected": word}) for word in WORDS))
    training = practice([], folder=tmp_path)
    await DPO("file", file=str(likes), num_train_epochs=1, validation=0).learn(toy_agent(base), training)
    assert training.facts["pairs"] == 12
    assert SFT("file", file=str(rows)).described() != SFT("file", file=str(likes)).described()
    with pytest.raises(InputError, match="demonstrations are needed"):
        await SFT("file", file=str(likes)).learn(toy_agent(base), practice([]))
    with pytest.raises(InputError, match=r"rows\.jsonl:1.* longer than|longer than .*rows\.jsonl:1"):
        await SFT("file", file=str(rows), max_length=8).learn(toy_agent(base), practice([], folder=tmp_path))


async def test_where_nothing_is_found_the_agent_stays_as_it_was(base, tmp_path):
    for learner, said in ((SFT("success"), "no success to learn from"), (DPO(), "no training task had one success and one failure")):
        training, agent = practice(TRAINING[:2], folder=tmp_path), toy_agent(base)
        assert await learner.learn(agent, training) is agent
        assert said in training.facts["nothing_learned"]
    training = practice(TRAINING[:2], tt.grader.as_grader(lambda task, episode: 1.0), folder=tmp_path)
    await SFT("success").learn(toy_agent(base), training)
    assert training.facts["successes"] == 2, "all of them cut off at the limit of tokens"
    assert "came to its end" in training.facts["nothing_learned"]


async def test_not_graded_is_neither_good_nor_bad(base, tmp_path):
    training = practice(TRAINING[:2], tt.grader.as_grader(lambda task, episode: Grade(score=None)), folder=tmp_path)
    agent = toy_agent(base)
    assert await SFT("success", threshold=0).learn(agent, training) is agent
    assert await DPO(margin=0.1).learn(agent, training) is agent


async def test_what_cannot_be_trained_is_refused_before_anything_is_spent(base, tmp_path):
    scripted = tt.Agent(model=tt.Scripted("A"))
    with pytest.raises(InputError, match="not here to be trained"):
        await SFT().learn(scripted, practice(folder=tmp_path))
    with pytest.raises(InputError, match="workflow"):
        await DPO().learn(tt.chain(toy_agent(base), toy_agent(base)), practice(folder=tmp_path))
    bare = [tt.Task(messages=(user("a"),))]
    with pytest.raises(InputError, match="no training task has a reference"):
        await SFT().learn(toy_agent(base), practice(bare, folder=tmp_path))
    with pytest.raises(InputError, match="repeat itself at each attempt"):
        await SFT("success", attempts=3).learn(toy_agent(base), practice(folder=tmp_path))
    for wrong, said in (
        ({"source": "file"}, "name the file"),
        ({"file": "x.jsonl"}, "source: file"),
        ({"source": "gold"}, "source"),
        ({"learning_rat": 1}, "learning_rate"),
        ({"source": "file", "file": "x", "distil": True}, "distil"),
        ({"special_tokens": ["<b>"]}, "special_tokens"),
        ({"validation": 1}, "validation"),
    ):
        with pytest.raises(InputError, match=said):
            SFT(**wrong)
    with pytest.raises(InputError, match=r"nowhere\.jsonl"):
        SFT("file", file="nowhere.jsonl").described()


def test_what_they_need_and_how_many_episodes_they_run():
    assert isinstance(SFT(), Learner)
    assert isinstance(DPO(), Learner)
    assert SFT().needs == {Need.WEIGHTS, Need.REFERENCES}
    assert SFT("success").needs == DPO().needs == {Need.WEIGHTS, Need.GRADES}
    assert SFT("file", file="x").needs == {Need.WEIGHTS}
    assert (SFT().forecast_calls(10), SFT("success", attempts=2, temperature=1).forecast_calls(10), DPO().forecast_calls(10)) == (0, 20, 40)
    assert SFT(save_steps=5).described() == SFT().described(), "where checkpoints are written decides nothing"
    assert SFT(learning_rate=1e-5).described() != SFT().described()
    json.dumps([SFT().described(), DPO(lora=None).described()])


def test_validation_rows_share_no_question_with_the_others():
    rows = [(f"q{number % 10}", number) for number in range(40)]
    train, held = set_apart(rows, 0.2, seed=0)
    assert len(held) == 8
    assert {number % 10 for number in train} & {number % 10 for number in held} == set()
    assert set_apart(rows, 0.2, seed=0) == (train, held)
    assert set_apart(rows, 0.2, seed=2) != (train, held)
    assert set_apart(rows[:1], 0.9, seed=0) == ([0], []), "something is left to train on"
    assert set_apart(rows[:4], 0.1, seed=0)[1] == []


async def test_a_cancelled_learner_goes_on_where_it_was(base, tmp_path, monkeypatch):
    from tutelage.training import keeper

    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    own = keeper.Keeper.on_log

    def on_log(self, args, state, control, **more):
        loop.call_soon_threadsafe(begun.set)
        self.job.stop.wait(0.05)
        own(self, args, state, control, **more)

    plan = {"lora": Lora(r=4), "num_train_epochs": 4, "validation": 0}
    with monkeypatch.context() as patched:
        patched.setattr(keeper.Keeper, "on_log", on_log)
        learning = asyncio.ensure_future(SFT(**plan).learn(toy_agent(base), practice(folder=tmp_path / "a")))
        await begun.wait()
        learning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await learning
    training = practice(folder=tmp_path / "a")
    resumed = await SFT(**plan).learn(toy_agent(base), training)
    assert training.facts["resumed_at_step"] >= 1
    whole = await SFT(**plan).learn(toy_agent(base), practice(folder=tmp_path / "b"))
    assert resumed.adapter.id == whole.adapter.id


async def test_calls_of_tools_are_learned_as_text(base, tmp_path, monkeypatch):
    weather = tt.records.ToolSpec(name="weather", parameters={"type": "object", "properties": {"city": {"type": "string"}}})
    call = [{"name": "weather", "arguments": {"city": "Oslo"}}]
    task = tt.Task(messages=(user("Oslo?"),), tools=(weather,), reference=call)
    seen, _ = await prompts_of(SFT(num_train_epochs=1, validation=0), toy_agent(base), [task], tmp_path, monkeypatch)
    assert "weather" in seen[0].split("<|im_start|>assistant")[0], "the prompt describes the tool"
    assert '"city": "Oslo"' in seen[0].split("<|im_start|>assistant")[1].replace('":"', '": "')
    assert ToolCall(id="1", name="weather").arguments == "{}"


async def test_in_a_study(base, tmp_path):
    """Both ways beside the untrained agent, on tasks that nobody has seen; a second run of the study learns nothing anew."""

    def study() -> tt.Study:
        plan = {"num_train_epochs": 2, "learning_rate": 1e-3, "lora": Lora(r=4)}
        pleased = tt.grader.as_grader(lambda task, episode: float(len(episode.answer or "") % 2))
        learners = {"sft": SFT(**plan), "dpo": DPO(**plan, attempts=2, temperature=1.5, truncated_episodes=True)}
        return tt.Study(agent=toy_agent(base), train=TRAINING[:12], test=HELD_OUT[:4], grader=pleased, learners=learners, out=tmp_path)

    report = await study().arun()
    assert [arm.name for arm in report.arms] == ["baseline", "sft", "dpo"]
    assert len({arm.name for arm in report.arms if arm.score is not None}) == 3
    again = await study().arun()
    assert [arm.score for arm in again.arms] == [arm.score for arm in report.arms]
