"""RLVR on toys: a policy from scratch that learns to copy a digit, and scripted ones whose every token and reward is known."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import tutelage as tt
from tutelage.errors import BudgetExceeded, GraderError, InputError
from tutelage.grader import as_grader
from tutelage.knowledge import Exemplar, Knowledge, Retrieval
from tutelage.learner import Learner, Need
from tutelage.prices import FREE
from tutelage.records import Completion, Grade, Message, Sampling, TokenTrace, Usage

pytest.importorskip("torch", reason="extra `train` is not installed")
pytest.importorskip("transformers", reason="extra `train` is not installed")
pytest.importorskip("peft", reason="extra `train` is not installed")
pytestmark = pytest.mark.torch

from toy_weights import make_toy  # noqa: E402 -- needs the packages
from tutelage.learners import policy_weights  # noqa: E402
from tutelage.learners.policy import FRUITLESS_STEPS  # noqa: E402
from tutelage.learners.policy_state import Deck  # noqa: E402
from tutelage.learners.rlvr import RLVR  # noqa: E402
from tutelage.training.base import find_base, load_causal_lm, load_tokenizer  # noqa: E402
from tutelage.training.chat import prompt_ids  # noqa: E402

SMALL = {"steps": 3, "tasks_per_step": 2, "num_generations": 4, "learning_rate": 1e-2, "lora": {"r": 2}, "validation": 0}


# -- a policy that has to learn: asked for `a3` it says 4 more often than 3


def digit(letter: str, number: int) -> tt.Task:
    return tt.Task(messages=(Message(role="user", content=f"{letter}{number}"),), reference=str(number))


TRAIN = [digit(letter, number) for letter in "abcd" for number in range(10)]
TEST = [digit(letter, number) for letter in "ef" for number in range(10)]


@pytest.fixture(scope="module")
def pupil(tmp_path_factory) -> Path:
    """A small model that answers with the digit asked for in two of five replies, and with the next digit in the others."""
    return make_pupil(tmp_path_factory.mktemp("pupil"))


BARE = "{% for message in messages %}{{ message['content'] + ('<|im_end|>' if message['role'] == 'assistant' else '') }}{% endfor %}"
"""A template without any words of its own: the answer follows upon the digit, which a model learns in a second."""


def make_pupil(folder: Path) -> Path:
    import torch

    make_toy(folder, width=32, layers=1, template=BARE)
    base = find_base(str(folder))
    model, tokenizer = load_causal_lm(base).train(), load_tokenizer(base)
    chance = random.Random(0)
    prompts = {task.text: prompt_ids(tokenizer, task.messages) for task in [*TRAIN, *TEST]}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(100):
        rows = []
        for asked in chance.choices(list(prompts), k=48):
            said = (int(asked[1]) + (chance.random() > 0.4)) % 10
            rows.append([*prompts[asked], *tokenizer.encode(str(said), add_special_tokens=False), tokenizer.eos_token_id])
        ids = torch.tensor(rows)
        labels = ids.clone()
        labels[:, :-2] = -100
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


def copier(pupil: Path, **fields: Any) -> tt.Agent:
    return tt.Agent(model=f"hf:{pupil}", sampling=tt.Sampling(max_tokens=3), **fields)


COPYING = {"steps": 10, "tasks_per_step": 8, "num_generations": 8, "learning_rate": 1e-2, "lora": {"r": 8}, "eval_steps": 5}


def test_a_study_shows_that_the_reward_rose_on_held_out_tasks(pupil, tmp_path):
    study = tt.Study(
        agent=copier(pupil),
        train=TRAIN,
        test=TEST,
        grader=tt.Exact(),
        learners={"rlvr": RLVR(**COPYING, validation=0.25)},
        out=tmp_path,
    )
    arms = {arm.name: arm for arm in study.run().arms}
    assert arms["baseline"].score < 0.5
    assert arms["rlvr"].score > 0.75
    noted = arms["rlvr"].facts
    assert (noted["engine"], noted["train_tasks"], noted["validation_tasks"]) == ("hf", 30, 10)
    assert noted["reward_last"] > noted["reward_first"]
    assert noted["tokens_per_answer"][0] == pytest.approx(2, abs=0.2)
    rows = [json.loads(line) for line in (tmp_path / "training" / "rlvr" / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 11))
    assert {"reward", "reward_std", "dropped", "tokens_per_answer", "loss", "entropy", "clip_fraction", "seconds_rollout"} <= rows[0].keys()


async def test_ppo_learns_the_same(pupil, tmp_path):
    practice = tt.Practice(TRAIN, tt.Collector(tt.Exact()), folder=tmp_path)
    learned = await RLVR("ppo", **COPYING, validation=0).learn(copier(pupil), practice)
    after = await tt.Practice(TEST, tt.Collector(tt.Exact())).collect(learned)
    assert sum(one.grade.score for one in after) / len(after) > 0.75
    assert (practice.facts["dropped_groups"], practice.facts["updates"]) == (0, 10)
    assert learned.adapter.facts["learner"] == "rlvr"
    assert learned.sampling == tt.Sampling(max_tokens=3)


# -- interrupted runs


class Killed(BaseException):
    """Stands for the end of the process."""


SHORT = {**COPYING, "steps": 4, "tasks_per_step": 3, "num_generations": 4, "validation": 0.1, "eval_steps": 2}


async def run_short(pupil: Path, folder: Path, grader: Any = None, **changes: Any) -> tuple[tt.Agent, tt.Practice, list[dict[str, Any]]]:
    """A short run over a store on disk, as a new process would begin it."""
    settings = {**SHORT, **changes.pop("settings", {})}
    with tt.Store(folder / "experience.sqlite") as store:
        collector = tt.Collector(as_grader(grader or tt.Exact()), store=store, **changes)
        practice = tt.Practice(TRAIN, collector, folder=folder)
        learned = await RLVR(**settings).learn(copier(pupil), practice)
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    timeless = [{name: value for name, value in row.items() if "seconds" not in name and "memory" not in name} for row in rows]
    return learned, practice, timeless


@pytest.fixture(scope="module")
def whole(pupil, tmp_path_factory):
    """What an uninterrupted run learns, and where."""
    folder = tmp_path_factory.mktemp("whole")
    return *asyncio.run(run_short(pupil, folder)), folder


def dying(function: Callable[..., Any], call: int, *, after: bool = False) -> Callable[..., Any]:
    """The function, which at its nth call ends the process, before or after its work."""
    calls = iter(range(1, 10**6))

    def wrapped(*arguments: Any, **named: Any) -> Any:
        number = next(calls)
        if number == call and not after:
            raise Killed
        result = function(*arguments, **named)
        if number == call:
            raise Killed
        return result

    return wrapped


class DyingGrader(tt.Exact):
    """Ends the process at its nth grade."""

    def __init__(self, call: int) -> None:
        self.call, self.calls = call, 0

    async def grade(self, task, episode):
        self.calls += 1
        if self.calls == self.call:
            raise Killed
        return await super().grade(task, episode)


@pytest.mark.parametrize(
    ("place", "name", "call", "after", "save_steps"),
    [
        ("tutelage.training.trainer", "write_checkpoint", 2, False, 1),  # updated, and not kept
        ("tutelage.training.trainer", "write_checkpoint", 1, True, 1),  # kept, and no history of it
        ("tutelage.training.trainer", "write_checkpoint", 2, False, 3),  # several steps since the last one
        ("tutelage.training.checkpoint", "_settle", 5, False, 1),  # half a checkpoint
        ("tutelage.training.trainer", "save_adapter", 2, False, 1),  # weights, and no adapter of them
        ("tutelage.training.trainer", "save_adapter", 3, True, 3),  # an adapter that no checkpoint knows
        ("tutelage.learners.step_history", "write_atomically", 2, False, 1),  # an old history
    ],
)
async def test_a_killed_run_goes_on_to_the_same_weights(pupil, whole, tmp_path, monkeypatch, place, name, call, after, save_steps):
    module = sys.modules[place]
    with monkeypatch.context() as patch:
        patch.setattr(module, name, dying(getattr(module, name), call, after=after))
        with pytest.raises(Killed):
            await run_short(pupil, tmp_path, settings={"save_steps": save_steps})
    _check_same(await run_short(pupil, tmp_path, settings={"save_steps": save_steps}), whole, tmp_path)


@pytest.mark.parametrize("call", [3, 20, 41])
async def test_a_run_killed_while_it_samples_goes_on_to_the_same_weights(pupil, whole, tmp_path, call):
    with pytest.raises(Killed):
        await run_short(pupil, tmp_path, DyingGrader(call))
    _check_same(await run_short(pupil, tmp_path), whole, tmp_path)


def _check_same(found, whole, folder: Path) -> None:
    assert found[0].adapter.id == whole[0].adapter.id
    assert found[2] == whole[2]
    assert found[1].cost.calls == whole[1].cost.calls
    unstable = {"seconds_rollout", "seconds_update", "memory_planned_mb", "peak_memory_mb"}
    assert {name: value for name, value in found[1].facts.items() if name not in unstable} == {
        name: value for name, value in whole[1].facts.items() if name not in unstable
    }
    assert adapters_in(folder) == adapters_in(whole[3])


def adapters_in(folder: Path) -> set[str]:
    return {path.name for path in (folder / "adapters").iterdir() if not path.name.startswith(".")}


async def test_a_process_that_is_killed_goes_on_to_the_same_weights(pupil, whole, tmp_path):
    script = Path(__file__).with_name("test_rlvr.py")
    program = f"""
import asyncio, os, sys
sys.path.insert(0, {str(script.parent)!r})
from pathlib import Path
import test_rlvr
from tutelage.training import checkpoint
calls = []
def settle(path):
    calls.append(path)
    if len(calls) == 5:
        os._exit(9)
checkpoint._settle = settle
asyncio.run(test_rlvr.run_short(Path({str(pupil)!r}), Path({str(tmp_path)!r})))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 9, done.stderr
    _check_same(await run_short(pupil, tmp_path), whole, tmp_path)


async def test_a_spent_budget_keeps_what_is_done(pupil, whole, tmp_path):
    with pytest.raises(BudgetExceeded, match="run again to continue"):
        await run_short(pupil, tmp_path, budget=tt.Budget(calls=30))
    _check_same(await run_short(pupil, tmp_path, budget=tt.Budget(calls=500)), whole, tmp_path)


async def test_a_finished_run_asks_for_nothing_again(pupil, whole, tmp_path):
    first = await run_short(pupil, tmp_path)
    spent = first[1]._collector.meter.spent.calls
    again = await run_short(pupil, tmp_path, budget=tt.Budget(calls=spent))
    _check_same(again, whole, tmp_path)


# -- policies whose every word is scripted


Reply = Callable[[Sequence[Message], random.Random], str]


class Scribe:
    """Says what a script says, in the tokens of a toy model whose weights are trained; how it was asked is in `asked`."""

    native_tools, price, concurrency = False, FREE, 1

    def __init__(self, which: Path, reply: Reply, kind: str = "hf", worn: str = "", asked: list[Sampling] | None = None) -> None:
        self.which, self.reply, self.kind = str(which), reply, kind
        self.name = f"{kind}:scribe{worn}"
        self.asked = [] if asked is None else asked
        self.tokenizer = load_tokenizer(find_base(self.which))

    def with_adapter(self, adapter) -> Scribe:
        return Scribe(Path(self.which), self.reply, self.kind, f"+{adapter.id}", self.asked)

    async def complete(self, messages, *, tools=(), sampling=Sampling()) -> Completion:
        self.asked.append(sampling)
        text = self.reply(messages, random.Random(sampling.seed))
        prompt = prompt_ids(self.tokenizer, messages)
        said = (*self.tokenizer.encode(text, add_special_tokens=False), self.tokenizer.eos_token_id)
        return Completion(
            message=Message(role="assistant", content=text),
            usage=Usage(calls=1, tokens_in=len(prompt), tokens_out=len(said)),
            tokens=TokenTrace(prompt_ids=prompt, completion_ids=said, logprobs=(-1.5,) * len(said)),
        )


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    return make_toy(tmp_path_factory.mktemp("toy"), width=16, layers=1, heads=2)


@pytest.fixture
def updates(monkeypatch) -> list[tuple[list[Any], bool]]:
    """The samples of every update, and whether another engine drew them."""
    seen: list[tuple[list[Any], bool]] = []
    update = policy_weights.Weights.update

    def recorded(self, samples, step, *, foreign):
        seen.append((list(samples), foreign))
        return update(self, samples, step, foreign=foreign)

    monkeypatch.setattr(policy_weights.Weights, "update", recorded)
    return seen


def coin(messages, chance) -> str:
    return chance.choice("xy")


def questions(count: int) -> list[tt.Task]:
    return [tt.Task(messages=(Message(role="user", content=str(n)),), reference="x", source=f"t:{n}") for n in range(count)]


def scribe(toy: Path, reply: Reply = coin, kind: str = "hf", **fields: Any) -> tt.Agent:
    return tt.Agent(model=Scribe(toy, reply, kind), **fields)


def practising(folder: Path, tasks: Sequence[tt.Task], grader: Any = None, **collector: Any) -> tt.Practice:
    return tt.Practice(tasks, tt.Collector(as_grader(grader or tt.Exact()), **collector), folder=folder)


def by_turn(task, episode) -> float:
    """Every group differs."""
    return float(episode.attempt % 2)


async def test_groups_that_do_not_differ_are_replaced_until_the_batch_is_full(toy, tmp_path, updates):
    def even_differ(task, episode):
        return float(int(task.text) % 2 == 0 and episode.attempt % 2)

    tasks = questions(12)
    practice = practising(tmp_path, tasks, even_differ)
    await RLVR(**{**SMALL, "steps": 2, "max_rounds": 12}).learn(scribe(toy), practice)
    deck = [int(task.text) for task in Deck(tasks, 0).draw(0, 12, set())[0]]
    even = [number for number in deck if number % 2 == 0]
    ids = {task.id: int(task.text) for task in tasks}
    learned_from = [list(dict.fromkeys(ids[sample.group] for sample in samples)) for samples, _ in updates]
    assert learned_from == [even[:2], even[2:4]]
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["groups"] - row["dropped"] for row in rows] == [2, 2]
    assert sum(row["groups"] for row in rows) == deck.index(even[3]) + 1  # not a task more was drawn than was needed


async def test_after_max_rounds_the_batch_is_what_there_is(toy, tmp_path, updates):
    def one_differs(task, episode):
        return float(task.text == "3" and episode.attempt % 2)

    practice = practising(tmp_path, questions(4), one_differs)
    await RLVR(**{**SMALL, "steps": 1, "tasks_per_step": 4, "max_rounds": 3}).learn(scribe(toy), practice)
    (row,) = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert (row["groups"], row["dropped"], row["rounds"]) == (4, 3, 1)  # there are no other tasks
    assert len(updates[0][0]) == 4


async def test_without_dynamic_sampling_no_group_is_dropped(toy, tmp_path, updates):
    def even_differ(task, episode):
        return float(int(task.text) % 2 == 0 and episode.attempt % 2)

    settings = {**SMALL, "steps": 2, "tasks_per_step": 4, "dynamic_sampling": False}
    await RLVR(**settings).learn(scribe(toy), practising(tmp_path, questions(4), even_differ))
    assert [len(samples) for samples, _ in updates] == [16, 16]


class Lamp:
    """Two switches; the light is on after `press` of both."""

    def __init__(self) -> None:
        self.pressed: list[str] = []

    def reset(self, task):
        self.pressed = []
        return "It is dark."

    def press(self, switch: str) -> str:
        """Press a switch."""
        self.pressed.append(switch)
        return f"You pressed {switch}."

    def grade(self, episode):
        return float(sorted(self.pressed) == ["a", "b"])


def presser(messages, chance) -> str:
    """Two presses, the second of them at random, and a word."""
    turns = sum(message.role == "assistant" for message in messages)
    if turns == 2:
        return "done"
    switch = "a" if turns == 0 else chance.choice("ab")
    return f'<tool_call>{{"name": "press", "arguments": {{"switch": "{switch}"}}}}</tool_call>'


def marked(tokenizer, sample) -> str:
    """The sample as text, with what bears loss in double brackets."""
    text = ""
    for id_, said, before in zip(sample.ids, sample.action, (False, *sample.action), strict=False):
        text += ("[[" if said and not before else "]]" if before and not said else "") + tokenizer.decode([id_])
    return text + "]]" * sample.action[-1]


async def test_what_tools_say_bears_no_loss(toy, tmp_path, updates):
    agent = scribe(toy, presser)
    practice = practising(tmp_path, questions(2), tt.graders.rules.FromEnvironment(), environment=Lamp)
    await RLVR(**{**SMALL, "steps": 1, "num_generations": 6}).learn(agent, practice)
    samples, foreign = updates[0]
    assert (foreign, {sample.sampled_logprobs for sample in samples}) == (False, {None})
    assert len({sample.episode for sample in samples}) == len(samples)  # one sample an episode, though it has three turns
    won = next(sample for sample in samples if sample.reward == 1)
    _, _, said = marked(agent.model.tokenizer, won).partition("It is dark.")

    def call(switch: str) -> str:
        return f'[[<tool_call>{{"name": "press", "arguments": {{"switch": "{switch}"}}}}</tool_call><|im_end|>]]'

    def shown(switch: str) -> str:
        return f"\n<|im_start|>user\n<tool_response>You pressed {switch}.</tool_response><|im_end|>\n<|im_start|>assistant\n"

    assert said == f"<|im_end|>\n<|im_start|>assistant\n{call('a')}{shown('a')}{call('b')}{shown('b')}[[done<|im_end|>]]"


async def test_another_engine_brings_its_logprobs(toy, tmp_path, updates):
    await RLVR(**{**SMALL, "steps": 1}).learn(scribe(toy, kind="gguf"), practising(tmp_path, questions(2), by_turn))
    samples, foreign = updates[0]
    assert foreign
    assert {value for sample in samples for value, said in zip(sample.sampled_logprobs, sample.action, strict=True) if said} == {-1.5}


async def test_exploring_is_free_of_cuts_and_the_learned_agent_samples_as_before(toy, tmp_path):
    own = tt.Sampling(temperature=0.3, top_p=0.5, min_p=0.1, seed=7, max_tokens=9)
    agent = scribe(toy, sampling=own)
    settings = {**SMALL, "steps": 2, "temperature": 0.8, "validation": 0.25, "eval_steps": 2}
    learned = await RLVR(**settings).learn(agent, practising(tmp_path, questions(8), by_turn))
    exploring = [sampling for sampling in agent.model.asked if sampling.temperature > 0]
    assert {(s.temperature, s.top_p, s.min_p, s.logprobs, s.max_tokens) for s in exploring} == {(0.8, 1.0, 0.0, True, 9)}
    assert len({s.seed for s in exploring}) == len(exploring)
    greedy = [s for s in agent.model.asked if s.temperature == 0]
    assert len(greedy) == 2 * 2
    assert learned.sampling == own


async def test_exemplars_stand_in_the_prompts_that_are_learned_from(toy, tmp_path, updates):
    messages = (Message(role="user", content="hint?"), Message(role="assistant", content="say x"))
    shown = Exemplar(task_id="other", input_id="other", text="hint?", messages=messages)
    agent = scribe(toy, knowledge=Knowledge(exemplars=(shown,), retrieval=Retrieval(choose="fixed", k=1)))
    learned = await RLVR(**{**SMALL, "steps": 1}).learn(agent, practising(tmp_path, questions(2), by_turn))
    assert "user\nhint?" in marked(agent.model.tokenizer, updates[0][0][0])
    assert "[[say x" not in marked(agent.model.tokenizer, updates[0][0][0])
    assert learned.knowledge == agent.knowledge


# -- which weights are returned


def by_version(scores: Sequence[float]):
    """A grader that gives greedy episodes the next of these scores for every new agent, and others by turns."""
    given: dict[str, float] = {}
    left = iter(scores)

    def grade(task, episode):
        if any(step.completion.tokens is not None and step.completion.message.text == "greedy" for step in episode.steps):
            if episode.agent_version not in given:
                given[episode.agent_version] = next(left)
            return given[episode.agent_version]
        return by_turn(task, episode)

    return grade


class Judged(Scribe):
    """Says `greedy` where it is asked greedily."""

    def with_adapter(self, adapter) -> Judged:
        return Judged(Path(self.which), self.reply, self.kind, f"+{adapter.id}", self.asked)

    async def complete(self, messages, *, tools=(), sampling=Sampling()) -> Completion:
        if sampling.temperature == 0:
            return await Scribe(Path(self.which), lambda *_: "greedy").complete(messages, sampling=sampling)
        return await super().complete(messages, sampling=sampling)


async def test_the_best_weights_on_held_out_tasks_are_returned_and_patience_ends_a_run(toy, tmp_path):
    practice = practising(tmp_path, questions(8), by_version([0.2, 0.9, 0.5, 0.4, 1.0]))
    settings = {**SMALL, "steps": 20, "validation": 0.25, "eval_steps": 2, "patience": 2}
    learned = await RLVR(**settings).learn(tt.Agent(model=Judged(toy, coin)), practice)
    facts = practice.facts
    assert facts["validation_scores"] == [[0, 0.2], [2, 0.9], [4, 0.5], [6, 0.4]]
    assert (facts["best_step"], facts["steps"], facts["stopped"]) == (2, 6, "no better score in 2 evaluations")
    assert learned.adapter.id == facts["adapter"]
    assert learned.adapter.facts["step"] == 2
    assert len(list((tmp_path / "adapters").iterdir())) == 2  # the best and the last


async def test_an_agent_that_only_got_worse_is_returned_as_it_was(toy, tmp_path):
    practice = practising(tmp_path, questions(8), by_version([0.9, 0.2, 0.1]))
    agent = tt.Agent(model=Judged(toy, coin))
    learned = await RLVR(**{**SMALL, "steps": 2, "validation": 0.25, "eval_steps": 1}).learn(agent, practice)
    assert (learned.version, practice.facts["best_step"], practice.facts["adapter"]) == (agent.version, 0, None)


async def test_a_run_that_diverges_returns_the_last_good_weights(toy, tmp_path, monkeypatch):
    from tutelage.training.divergence import Diverged
    from tutelage.training.trainer import PolicyTrainer

    update = PolicyTrainer.update

    def diverging(self, samples, **named):
        if self.updates == 2:
            raise Diverged("the loss is nan")
        return update(self, samples, **named)

    monkeypatch.setattr(PolicyTrainer, "update", diverging)
    practice = practising(tmp_path, questions(4), by_turn)
    learned = await RLVR(**{**SMALL, "steps": 9}).learn(scribe(toy), practice)
    assert learned.adapter.facts["step"] == 2
    assert "diverged in step 3, and the weights before it are kept: the loss is nan" in practice.facts["stopped"]
    again = await RLVR(**{**SMALL, "steps": 9}).learn(scribe(toy), practice)
    assert again.version == learned.version


async def test_a_run_that_diverges_at_once_says_so(toy, tmp_path, monkeypatch):
    from tutelage.training.divergence import Diverged
    from tutelage.training.trainer import PolicyTrainer

    def diverging(self, samples, **named):
        raise Diverged("the loss is nan")

    monkeypatch.setattr(PolicyTrainer, "update", diverging)
    with pytest.raises(Diverged, match="the loss is nan"):
        await RLVR(**SMALL).learn(scribe(toy), practising(tmp_path, questions(4), by_turn))


async def test_an_agent_with_an_adapter_learns_on(toy, tmp_path):
    both = tt.Curriculum(RLVR(**SMALL), RLVR(**{**SMALL, "steps": 2}))
    practice = practising(tmp_path, questions(4), by_turn)
    learned = await both.learn(scribe(toy), practice)
    assert (practice.facts["rlvr-grpo.steps"], practice.facts["rlvr-grpo-2.steps"]) == (3, 2)
    assert learned.adapter.facts["from_adapter"] == practice.facts["rlvr-grpo.adapter"]
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 1, 2]


# -- rewards that are not as they should be


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
async def test_a_constant_reward_ends_the_run_and_says_why(toy, tmp_path, algorithm):
    agent = scribe(toy)
    practice = practising(tmp_path, questions(4), lambda task, episode: 0.0)
    learner = RLVR(algorithm, **{**SMALL, "steps": 50, "tasks_per_step": 4})
    assert await learner.learn(agent, practice) == agent
    assert "no group differs: the grader gives 0.00 to all 48 episodes of the last 3 steps" in practice.facts["nothing_learned"]
    calls = len(agent.model.asked)
    assert calls == FRUITLESS_STEPS * 4 * 4
    assert await learner.learn(agent, practice) == agent
    assert len(agent.model.asked) == calls  # running again samples nothing


async def test_a_reward_that_no_longer_differs_ends_the_run_with_what_was_learned(toy, tmp_path):
    def solved_later(task, episode):
        return by_turn(task, episode) if episode.attempt < 8 else 1.0

    practice = practising(tmp_path, questions(4), solved_later)
    learned = await RLVR(**{**SMALL, "steps": 50}).learn(scribe(toy), practice)
    assert learned.adapter.facts["step"] == 2
    assert "the grader gives 1.00 to all" in practice.facts["stopped"]
    assert (practice.facts["steps"], practice.facts["updates"]) == (5, 2)


async def test_ungraded_episodes_are_left_out_and_counted(toy, tmp_path, updates):
    def sometimes(task, episode):
        if episode.attempt % 4 == 3:
            raise KeyError("broken")
        if episode.attempt % 4 == 2:
            return Grade(score=0.0, abstained=True)
        return by_turn(task, episode)

    practice = practising(tmp_path, questions(2), sometimes)
    await RLVR(**{**SMALL, "steps": 1}).learn(scribe(toy), practice)
    assert [sample.reward for sample in updates[0][0]] == [0.0, 1.0, 0.0, 1.0]
    assert practice.facts["left_out"] == {"ungraded": 2, "abstained": 2}
    assert practice.facts["reward_first"] == 0.5


async def test_a_grader_that_always_fails_is_an_error(toy, tmp_path):
    def broken(task, episode):
        raise KeyError("no such key")

    with pytest.raises(GraderError, match=r"8 of 8 episodes of a step are not graded.*KeyError: 'no such key'"):
        await RLVR(**SMALL).learn(scribe(toy), practising(tmp_path, questions(4), broken))


async def test_episodes_that_are_all_too_long_end_the_run_and_say_why(toy, tmp_path):
    with pytest.raises(InputError, match=r"none of the last \d+ episodes can be learned from: \d+ because they have more tokens than"):
        await RLVR(**SMALL, max_length=4).learn(scribe(toy), practising(tmp_path, questions(2), by_turn))


async def test_a_reward_that_is_no_number_names_its_task(toy, tmp_path):
    practice = practising(tmp_path, questions(1), lambda task, episode: float("nan"))
    with pytest.raises(InputError, match="the reward of the task from t:0 is nan"):
        await RLVR(**SMALL).learn(scribe(toy), practice)


async def test_a_reward_of_its_own_teaches_and_the_studys_grader_chooses(toy, tmp_path, updates):
    def length(task, episode):
        return float(episode.answer == "y")

    practice = practising(tmp_path, questions(8), tt.Exact(), environment=Lamp)
    learner = RLVR(reward=length, **{**SMALL, "validation": 0.25})
    await learner.learn(scribe(toy), practice)
    said = {(sample.reward, marked(scribe(toy).model.tokenizer, sample).partition("[[")[2]) for sample in updates[0][0]}
    assert said == {(1.0, "y<|im_end|>]]"), (0.0, "x<|im_end|>]]")}
    assert "It is dark." in marked(scribe(toy).model.tokenizer, updates[0][0][0])  # the study's environment stays
    assert learner.described()["rlvr"]["reward"] == "length (reward)"
    assert practice.facts["validation_scores"][0][1] in (0.0, 0.5, 1.0)


# -- what it is, and whom it refuses


def test_what_it_says_of_itself():
    learner = RLVR("ppo", steps=10, tasks_per_step=4, num_generations=2, validation=0)
    assert isinstance(learner, Learner)
    assert learner.needs == {Need.WEIGHTS, Need.GRADES}
    assert (learner.label, learner.forecast_calls(100)) == ("rlvr-ppo", 80)
    said = learner.described()["rlvr"]
    assert (said["algorithm"], said["steps"], said["dynamic_sampling"], said["reward"]) == ("ppo", 10, False, None)
    assert json.dumps(said)
    with pytest.raises(InputError, match="is not a setting of rlvr"):
        RLVR(step=3)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model": tt.Scripted("x")}, "weights of scripted are not here to be trained"),
        ({"model": "endpoint:gpt"}, "are not here to be trained"),
        ({"sampling": tt.Sampling(json_schema={"type": "object"})}, "JSON Schema"),
    ],
)
async def test_an_agent_that_cannot_be_trained_is_refused(toy, tmp_path, fields, words):
    agent = scribe(toy).but(**fields)
    with pytest.raises(InputError, match=words):
        await RLVR(**SMALL).learn(agent, practising(tmp_path, questions(4)))


async def test_a_workflow_is_refused(toy, tmp_path):
    with pytest.raises(InputError, match="train an agent alone"):
        await RLVR(**SMALL).learn(tt.refine(scribe(toy), scribe(toy)), practising(tmp_path, questions(4)))


async def test_one_task_is_enough(toy, tmp_path, updates):
    practice = practising(tmp_path, questions(1), by_turn)
    learned = await RLVR(**{**SMALL, "steps": 2}).learn(scribe(toy), practice)
    assert learned.adapter is not None
    assert [len(samples) for samples, _ in updates] == [4, 4]
    assert (practice.facts["train_tasks"], practice.facts["updates"]) == (1, 2)


async def test_no_tasks(toy, tmp_path):
    with pytest.raises(InputError, match="no training tasks"):
        await RLVR(**SMALL).learn(scribe(toy), practising(tmp_path, []))
