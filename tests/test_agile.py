"""AGILE on toys: a small policy that learns to ask only where asking pays, and scripted ones whose every session is known."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

import tutelage as tt
from tutelage.episode import Run
from tutelage.errors import BudgetExceeded, GraderError, InputError
from tutelage.executor import AgileExecutor
from tutelage.grader import as_grader
from tutelage.knowledge import Exemplar, Knowledge, Retrieval
from tutelage.learner import Learner, Need
from tutelage.records import Advice, Episode, Message, Observation, Record, Step, StopReason, ToolCall

pytest.importorskip("torch", reason="extra `train` is not installed")
pytest.importorskip("transformers", reason="extra `train` is not installed")
pytest.importorskip("peft", reason="extra `train` is not installed")
pytestmark = pytest.mark.torch

from test_rlvr import DyingGrader, Killed, Scribe, dying  # noqa: E402 -- needs the packages
from toy_weights import make_toy  # noqa: E402
from tutelage import streams  # noqa: E402
from tutelage.learners import agile_rewards, agile_streams, policy_weights  # noqa: E402
from tutelage.learners.agile import Agile  # noqa: E402
from tutelage.learners.policy_report import note_of  # noqa: E402
from tutelage.training import policy_batch  # noqa: E402
from tutelage.training.base import find_base, load_causal_lm, load_tokenizer  # noqa: E402

# -- a world of two kinds of questions: `pc3` is answered by its own digit, `sBx` by the digit of family B, which only the expert knows

SECRETS = dict(zip("ABCDEFGH", "70318264", strict=True))


def plain(letter: str, number: int) -> tt.Task:
    return tt.Task(messages=(Message(role="user", content=f"p{letter}{number}"),), reference=str(number), kind="plain")


def secret(family: str, letter: str) -> tt.Task:
    return tt.Task(messages=(Message(role="user", content=f"s{family}{letter}"),), reference=SECRETS[family], kind=family)


PLAIN = [plain(letter, number) for letter in "xy" for number in range(10)]
SECRET = [secret(family, letter) for family in SECRETS for letter in "xyz"]
ALL = [*PLAIN, *SECRET]


class Toy(Record):
    """Sessions in which `?` seeks advice and writes it into memory, and anything else is the answer.

    remembers: whether memory is shown: `=4` after a question of a family whose digit is known.
    """

    price: float = 0.3
    remembers: bool = False
    name: str = "toy"
    actions: tuple[str, ...] = ("seek_advice", "update_memory", "submit_answer")

    def described(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    async def run(self, agent: tt.Agent, task: tt.Task, scene: Any) -> Episode:
        run = Run(agent, task, scene.models(agent), {}, seed=scene.seed, attempt=scene.attempt)
        known = [entry.messages[-1].text for entry in agent.knowledge.exemplars if entry.kind == task.kind]
        run.begin((Message(role="user", content=task.text + (f"={known[-1]}" if known and self.remembers else "")),))
        said, advice = await self.turn(run), ()
        if said == "?":
            answer = str(task.reference)
            advice = (Advice(question_id="q", answer=answer, by="expert", when="2024-01-01T00:00:00Z", price=self.price),)
            kept = ToolCall(id="call_1", name="update_memory", arguments=json.dumps({"text": answer}))
            run.steps[-1] = run.steps[-1].model_copy(update={"calls": (kept,), "observations": (Observation(text=answer),)})
            run.extend(Message(role="assistant", content=said), (), (Observation(text=answer),))
            said = await self.turn(run)
        run.answer = said
        return run.episode(StopReason.ANSWERED).model_copy(update={"advice": advice})

    async def turn(self, run: Run) -> str:
        completion = await run.ask()
        run.steps.append(Step(completion=completion))
        return completion.message.text


# -- a policy that asks at random


BARE = "{% for message in messages %}{{ message['content'] + ('<|im_end|>' if message['role'] == 'assistant' else '') }}{% endfor %}"


@pytest.fixture(scope="module")
def pupil(tmp_path_factory) -> Path:
    """A small model that asks at every second question, whatever it is; else it copies a digit that it sees, and guesses without one."""
    return make_pupil(tmp_path_factory.mktemp("pupil"))


def make_pupil(folder: Path) -> Path:
    import torch

    make_toy(folder, width=32, layers=1, template=BARE)
    base = find_base(str(folder))
    model, tokenizer = load_causal_lm(base).train(), load_tokenizer(base)
    chance = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(120):
        rows = [_lesson(tokenizer, chance) for _ in range(48)]
        longest = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([ids + [tokenizer.pad_token_id] * (longest - len(ids)) for ids, _ in rows])
        labels = torch.tensor([marks + [-100] * (longest - len(marks)) for _, marks in rows])
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


def _lesson(tokenizer: Any, chance: random.Random) -> tuple[list[int], list[int]]:
    """A session as tokens, and which of them bear loss."""
    task, digit = chance.choice(ALL), str(chance.randrange(10))
    shown = task.text if task.kind == "plain" or chance.random() < 0.7 else f"{task.text}={digit}"
    turns: list[tuple[str, bool]] = [(shown, False)]
    if chance.random() < 0.5:
        turns += [("?", True), (digit, False), (digit, True)]
    else:
        turns.append((shown[-1] if shown[-1].isdigit() else digit, True))
    ids: list[int] = []
    marks: list[int] = []
    for text, said in turns:
        own = tokenizer.encode(text, add_special_tokens=False) + [tokenizer.eos_token_id] * said
        ids += own
        marks += own if said else [-100] * len(own)
    return ids, marks


def asker(model: Path, price: float = 0.3, **fields: Any) -> tt.Agent:
    executor = Toy(price=price, remembers=fields.pop("remembers", False))
    return tt.Agent(model=f"hf:{model}", sampling=tt.Sampling(max_tokens=3), executor=executor, **fields)


def practising(folder: Path, tasks: Sequence[tt.Task] = ALL, grader: Any = None, **options: Any) -> tt.Practice:
    collector = tt.Collector(as_grader(grader or tt.Exact()), advisor=tt.ReferenceAdvisor(ALL), **options)
    return tt.Practice(tasks, collector, folder=folder)


LEARNING: dict[str, Any] = {
    "streams": 6,
    "sessions": 6,
    "steps": 7,
    "num_generations": 4,
    "learning_rate": 1e-2,
    "lora": {"r": 8},
    "validation": 0,
    "state_advantage": "none",
}


async def rates(agent: tt.Agent, folder: Path) -> tuple[float, float]:
    """How often it asks plain questions and secret ones, greedily."""
    practice = practising(folder)

    async def rate(tasks: Sequence[tt.Task]) -> float:
        return fmean(bool(one.episode.advice) for one in await practice.collect(agent, tasks))

    return await rate(PLAIN), await rate(SECRET)


async def it_learns_to_ask(pupil: Path, folder: Path, algorithm: str = "grpo", **changes: Any) -> tt.Practice:
    practice = practising(folder)
    learned = await Agile(algorithm, **{**LEARNING, **changes}).learn(asker(pupil, 0.3), practice)
    of_plain, of_secret = await rates(learned, folder)
    assert of_plain < 0.15
    assert of_secret > 0.85
    return practice


async def it_stops_asking(pupil: Path, folder: Path) -> None:
    learned = await Agile("grpo", **LEARNING).learn(asker(pupil, 1.5), practising(folder))
    assert max(await rates(learned, folder)) < 0.15


async def test_it_learns_to_ask_only_where_asking_pays(pupil, tmp_path):
    facts = (await it_learns_to_ask(pupil, tmp_path)).facts
    first, last = facts["total_score"]
    assert last > first + 0.1
    assert (facts["reward_first"], facts["reward_last"]) == (first, last)
    assert (facts["price"], facts["steps"], facts["episodes"]) == (0.3, 7, 7 * 6 * 6 * 4)
    assert [block["first"] for block in facts["last_blocks"]] == [0, 2, 3, 5]
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert {"advice_rate", "accuracy", "total_score", "blocks", "reward", "loss"} <= rows[0].keys()
    assert re.match(r"score 0\.\d\d, advice \d+%, \d+% dropped, entropy", note_of(rows[0]))
    for row in rows:
        assert row["total_score"] == pytest.approx(row["accuracy"] - 0.3 * row["advice_rate"])


async def test_ppo_learns_the_same(pupil, tmp_path):
    await it_learns_to_ask(pupil, tmp_path, "ppo", steps=10, value_learning_rate=3e-2, vf_coef=0.5)


async def test_where_advice_costs_more_than_an_answer_earns_it_stops_asking(pupil, tmp_path):
    await it_stops_asking(pupil, tmp_path)


# -- interrupted runs

SHORT = {**LEARNING, "streams": 2, "sessions": 3, "steps": 3, "num_generations": 2, "validation": 0.1, "eval_steps": 2, "similar": "kind"}
SHORT |= {"state_advantage": "value"}


async def run_short(pupil: Path, folder: Path, grader: Any = None, **changes: Any) -> tuple[tt.Agent, tt.Practice, list[dict[str, Any]]]:
    """A short run over a store on disk, as a new process would begin it."""
    settings = {**SHORT, **changes.pop("settings", {})}
    with tt.Store(folder / "experience.sqlite") as store:
        practice = practising(folder, ALL, grader, store=store, **changes)
        learned = await Agile("grpo", **settings).learn(asker(pupil, remembers=True), practice)
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return learned, practice, [timeless(row) for row in rows]


def timeless(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if "seconds" not in name and "memory" not in name}


@pytest.fixture(scope="module")
def whole(pupil, tmp_path_factory):
    """What an uninterrupted run learns."""
    return asyncio.run(run_short(pupil, tmp_path_factory.mktemp("whole")))


def check_same(found, whole) -> None:
    assert found[0].adapter.id == whole[0].adapter.id
    assert found[2] == whole[2]
    assert found[1].cost.calls == whole[1].cost.calls
    assert timeless(found[1].facts) == timeless(whole[1].facts)


@pytest.mark.parametrize(
    ("name", "call", "after", "save_steps"),
    [
        ("write_checkpoint", 2, False, 1),  # updated, and not kept
        ("write_checkpoint", 1, True, 2),  # kept, and no history of it
        ("save_adapter", 2, False, 1),  # weights, and no adapter of them
    ],
)
async def test_a_killed_run_goes_on_to_the_same_weights(pupil, whole, tmp_path, monkeypatch, name, call, after, save_steps):
    from tutelage.training import trainer

    with monkeypatch.context() as patch:
        patch.setattr(trainer, name, dying(getattr(trainer, name), call, after=after))
        with pytest.raises(Killed):
            await run_short(pupil, tmp_path, settings={"save_steps": save_steps})
    check_same(await run_short(pupil, tmp_path, settings={"save_steps": save_steps}), whole)


@pytest.mark.parametrize("call", [2, 13, 24, 30])  # in the first judgement, and in the middle of streams
async def test_a_run_killed_while_it_samples_goes_on_to_the_same_weights(pupil, whole, tmp_path, call):
    with pytest.raises(Killed):
        await run_short(pupil, tmp_path, DyingGrader(call))
    check_same(await run_short(pupil, tmp_path), whole)


async def test_a_spent_budget_keeps_what_is_done(pupil, whole, tmp_path):
    with pytest.raises(BudgetExceeded, match="run again to continue"):
        await run_short(pupil, tmp_path, budget=tt.Budget(calls=25))
    check_same(await run_short(pupil, tmp_path, budget=tt.Budget(calls=500)), whole)


# -- sessions whose every word is scripted, run by the real executor


def door(colour: str, street: str) -> tt.Task:
    text = f"Which digit opens the {colour} door in {street} street?"
    return tt.Task(messages=(Message(role="user", content=text),), reference={"red": "7", "blue": "2"}[colour], kind=colour)


DOORS = [door("red", "oak"), door("red", "elm"), door("red", "ash"), door("blue", "fir")]


def asking(messages: Sequence[Message], chance: random.Random) -> str:
    """Asks, states what it learned, keeps it, and submits it."""
    told = messages[-1].text
    if told.startswith("seek_advice: "):
        return f"reflect It is {told[-1]}"
    if told.startswith("reflect: "):
        return "update_memory"
    if told.startswith("update_memory: "):
        return f"submit_answer {messages[-4].text[-1]}"
    return "seek_advice"


def reading(messages: Sequence[Message], chance: random.Random) -> str:
    """As `asking`, but what memory knows is submitted at once."""
    known = re.search(r"Known: It is (\d)", messages[-1].text)
    return f"submit_answer {known[1]}" if known else asking(messages, chance)


def wavering(messages: Sequence[Message], chance: random.Random) -> str:
    """As `asking`, but in every second session it guesses."""
    return asking(messages, chance) if len(messages) > 2 or chance.random() < 0.5 else "submit_answer 7"


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    return make_toy(tmp_path_factory.mktemp("toy"), width=16, layers=1, heads=2)


@pytest.fixture
def updates(monkeypatch) -> list[list[Any]]:
    """The samples of every update."""
    seen: list[list[Any]] = []
    update = policy_weights.Weights.update

    def recorded(self, samples, step, *, foreign):
        seen.append(list(samples))
        return update(self, samples, step, foreign=foreign)

    monkeypatch.setattr(policy_weights.Weights, "update", recorded)
    return seen


def doorman(toy: Path, reply: Any = asking, **options: Any) -> tt.Agent:
    same_kind = Retrieval(choose="text", k=1, same_kind=True)
    return tt.Agent(model=Scribe(toy, reply), executor=AgileExecutor(retrieval=same_kind, **options))


def at_doors(folder: Path, grader: Any = None, tasks: Sequence[tt.Task] = DOORS) -> tt.Practice:
    collector = tt.Collector(as_grader(grader or tt.Exact()), advisor=tt.ReferenceAdvisor(DOORS))
    return tt.Practice(tasks, collector, folder=folder)


ONE = {"streams": 1, "sessions": 4, "steps": 1, "learning_rate": 1e-2, "lora": {"r": 2}, "validation": 0, "similar": "kind"}


async def earned(toy: Path, folder: Path, **changes: Any) -> dict[str, list[float]]:
    """What sessions of an agent that always asks are learned from with, by the colour of the door, in the order of the stream."""
    seen: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            policy_weights.Weights, "update", lambda self, samples, step, *, foreign: seen.extend(samples) or ({}, self.save(step))
        )
        await Agile("ppo", **{**ONE, **changes}).learn(doorman(toy), at_doors(folder))
    colours = {task.id: task.kind for task in DOORS}
    rewards: dict[str, list[float]] = {"red": [], "blue": []}
    for sample in seen:
        rewards[colours[sample.group.split("/")[2]]].append(sample.reward)
    return rewards


async def sessions_earn_what_is_worked_out_by_hand(toy: Path, folder: Path) -> None:
    # all are right and pay .3; of three red doors the first finds memory empty and two red ones come (.1 / 1), the second finds one there
    # and one comes (.1 / 2), after the third none comes; no other blue one comes
    rewards = await earned(toy, folder)
    assert rewards["red"] == pytest.approx([0.7 + 0.1, 0.7 + 0.05, 0.7])
    assert rewards["blue"] == pytest.approx([0.7])


async def test_sessions_earn_what_is_worked_out_by_hand(toy, tmp_path):
    await sessions_earn_what_is_worked_out_by_hand(toy, tmp_path / "similarity")
    rewards = await earned(toy, tmp_path / "larger", state_beta=0.6)
    assert rewards["red"] == pytest.approx([1.3, 1.0, 0.7])


async def what_was_learned_is_not_asked_again(toy: Path, folder: Path) -> None:
    practice = at_doors(folder)
    await Agile("ppo", **ONE).learn(doorman(toy, reading), practice)
    assert practice.facts["advice_rate"] == [0.5, 0.5]  # the first red door and the blue one
    assert practice.facts["accuracy"] == [1.0, 1.0]
    assert practice.facts["total_score"] == pytest.approx([1 - 0.3 * 0.5] * 2)
    assert [block["sessions"] for block in practice.facts["last_blocks"]] == [1, 1, 1, 1]
    assert practice.facts["last_blocks"][0]["rate"] == 1.0


async def test_what_was_learned_is_not_asked_again(toy, tmp_path):
    await what_was_learned_is_not_asked_again(toy, tmp_path)


async def test_loss_falls_on_actions_alone(toy, tmp_path, updates):
    agent = doorman(toy)
    await Agile("ppo", **ONE).learn(agent, at_doors(tmp_path))
    sample = updates[0][0]
    assert len({one.episode for one in updates[0]}) == len(updates[0]) == 4
    said = "".join(agent.model.tokenizer.decode([id_]) for id_, chosen in zip(sample.ids, sample.action, strict=True) if chosen)
    digit = said[-len("<|im_end|>") - 1]
    turns = ["seek_advice", f"reflect It is {digit}", "update_memory", f"submit_answer {digit}"]
    assert said == "".join(f"{turn}<|im_end|>" for turn in turns)


async def test_a_group_is_what_was_tried_from_one_memory_and_the_stream_goes_on_with_one(toy, tmp_path, monkeypatch):
    walks: list[Any] = []
    own = agile_streams.proxied

    def seen(given, *args, **named):
        walks.extend(given)
        return own(given, *args, **named)

    monkeypatch.setattr(agile_streams, "proxied", seen)
    settings = {**ONE, "streams": 3, "num_generations": 3, "save_steps": 1}
    practice = at_doors(tmp_path)
    await Agile("grpo", **settings).learn(doorman(toy, wavering), practice)
    assert [len(walk) for walk in walks] == [4, 4, 4]
    chosen: set[int] = set()
    for walk in walks:
        assert {fork.session.task.id for fork in walk} == {task.id for task in DOORS}
        assert len(walk[0].memory.exemplars) == 0
        for fork, following in pairwise(walk):
            assert following.memory.id == streams.grown(fork.memory, fork.session).id
        for fork in walk:
            assert {tried.memory_id for tried in fork.tried} == {fork.memory.id}
            assert {tried.experience.episode.agent_version for tried in fork.tried} == {fork.session.experience.episode.agent_version}
            refs = [tried.experience.episode.ref for tried in fork.tried]
            assert len(set(refs)) == 3
            chosen.add(refs.index(fork.session.experience.episode.ref))
    assert len(chosen) > 1
    (row,) = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert (row["episodes"], row["groups"]) == (36, 12)
    assert practice.cost.calls == sum(tried.experience.episode.usage.calls for walk in walks for fork in walk for tried in fork.tried)


async def test_ungraded_sessions_are_left_out_and_counted(toy, tmp_path, updates):
    def no_blue(task, episode):
        if task.kind == "blue":
            raise KeyError("no such colour")
        return float(episode.answer == task.reference)

    for how in ("similarity", "value"):
        practice = at_doors(tmp_path / how, no_blue)
        await Agile("ppo", **{**ONE, "streams": 2, "state_advantage": how}).learn(doorman(toy), practice)
        assert len(updates[-1]) == 6
        assert practice.facts["left_out"] == {"ungraded": 2}
        assert practice.facts["accuracy"] == [1.0, 1.0]


async def test_where_nothing_is_graded_it_is_an_error(toy, tmp_path):
    def broken(task, episode):
        raise KeyError("no such key")

    with pytest.raises(GraderError, match=r"4 of 4 episodes of a step are not graded.*KeyError: 'no such key'"):
        await Agile("ppo", **ONE).learn(doorman(toy), at_doors(tmp_path, broken))
    with pytest.raises(GraderError, match="none of the 1 held-out tasks is graded"):
        await Agile("ppo", **{**ONE, "validation": 0.25}).learn(doorman(toy), at_doors(tmp_path / "judged", broken))


async def test_weights_are_judged_by_a_greedy_stream_over_held_out_tasks(toy, tmp_path):
    agent, practice = doorman(toy, reading), at_doors(tmp_path)
    learned = await Agile("ppo", **{**ONE, "steps": 2, "validation": 0.5, "sessions": 9}).learn(agent, practice)
    facts = practice.facts
    assert (facts["train_tasks"], facts["validation_tasks"]) == (2, 2)
    assert [step for step, _ in facts["validation_total_score"]] == [0, 2]
    (_, score), (_, rate) = facts["validation_scores"][0], facts["validation_advice_rate"][0]
    assert score == pytest.approx(1 - 0.3 * rate)
    assert sum(block["sessions"] for block in facts["validation_blocks"]) == 2
    assert {sampling.temperature for sampling in agent.model.asked} == {0.0, 1.0}
    assert (learned.knowledge, learned.executor) == (agent.knowledge, agent.executor)


# -- what is broken is noticed

BREAKS: dict[str, tuple[Any, str, Any, Any]] = {
    "the price is ignored": (
        streams.StreamSession,
        "reward",
        property(lambda session: session.score),
        sessions_earn_what_is_worked_out_by_hand,
    ),
    "the state advantage has the wrong sign": (
        agile_rewards,
        "state_advantage",
        lambda *args, own=agile_rewards.state_advantage: -own(*args),
        sessions_earn_what_is_worked_out_by_hand,
    ),
    "memory is not written": (streams, "written", lambda agent, task, experience: (), what_was_learned_is_not_asked_again),
}


@pytest.mark.parametrize("broken", BREAKS)
async def test_what_is_broken_is_noticed(broken, toy, tmp_path, monkeypatch):
    holder, name, change, proof = BREAKS[broken]
    monkeypatch.setattr(holder, name, change)
    with pytest.raises(AssertionError):
        await proof(toy, tmp_path)


async def test_an_advantage_of_the_wrong_sign_is_noticed(pupil, tmp_path, monkeypatch):
    own = policy_batch.group_advantages
    monkeypatch.setattr(policy_batch, "group_advantages", lambda samples, scale: -own(samples, scale))
    with pytest.raises(AssertionError):
        await it_learns_to_ask(pupil, tmp_path, steps=4)


# -- settings


def test_a_learner_with_its_needs():
    learner = Agile("grpo", streams=2, sessions=5, steps=3, num_generations=4, validation=0.2, eval_steps=2)
    assert isinstance(learner, Learner)
    assert learner.needs == {Need.WEIGHTS, Need.GRADES}
    assert learner.label == "agile-grpo"
    assert learner.forecast_calls(40) == 3 * 2 * 5 * 4 + 8 * 3
    assert Agile("ppo", streams=2, sessions=500, steps=1, validation=0).forecast_calls(7) == 2 * 7
    described = learner.described()["agile"]
    assert (described["algorithm"], described["sessions"], described["state_beta"], described["imitation"]) == ("grpo", 5, 0.1, None)
    assert "tasks_per_step" not in described


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tasks_per_step": 3}, r"`tasks_per_step`: has no use here: a step has `streams`"),
        ({"dynamic_sampling": True}, "no sessions of a stream are drawn again"),
        ({"state_advantage": "luck"}, "`state_advantage`"),
        ({"sessions": 0}, "`sessions`"),
        ({"algorithm": "grpo", "num_generations": 1}, "grpo compares the attempts"),
        ({"stream": 3}, "stream"),
    ],
)
def test_wrong_settings_are_named(settings, words):
    with pytest.raises(InputError, match=words):
        Agile(**settings)


async def test_an_agent_without_an_executor_or_anybody_to_ask_is_refused(toy, tmp_path):
    with pytest.raises(InputError, match="give it an executor"):
        await Agile(**ONE).learn(tt.Agent(model=Scribe(toy, asking)), at_doors(tmp_path))
    alone = tt.Practice(DOORS, tt.Collector(tt.Exact()), folder=tmp_path)
    with pytest.raises(InputError, match="there is nobody to ask"):
        await Agile(**ONE).learn(doorman(toy), alone)


def test_streams_begin_with_what_the_settings_say(tmp_path):
    known = Knowledge(exemplars=tuple(Exemplar(task_id=str(n), input_id=str(n), text=str(n), messages=()) for n in range(6)))
    agent, practice = tt.Agent(model=tt.Scripted(["x"]), knowledge=known, executor=AgileExecutor()), at_doors(tmp_path)

    def begin(memory: str) -> list[int]:
        learner = Agile(memory=memory)
        sampler = agile_streams.StreamSampler.of(agent, practice, learner.settings, learner.streams)
        starts = [sampler._start(number) for number in range(8)]
        assert starts == [sampler._start(number) for number in range(8)]
        assert all([entry for entry in known.exemplars if entry in start.exemplars] == [*start.exemplars] for start in starts)
        return [len(start.exemplars) for start in starts]

    assert begin("own") == [6] * 8
    assert begin("empty") == [0] * 8
    assert len(set(begin("random"))) > 3


class Imitating:
    """Stands for a learner that runs first."""

    name, needs = "imitating", frozenset({Need.REFERENCES})

    def described(self):
        return {"imitating": {}}

    def forecast_calls(self, n_tasks):
        return n_tasks

    async def learn(self, agent, practice):
        practice.note(rows=12)
        return agent.but(instructions="Be brief.")


async def test_imitation_comes_first(toy, tmp_path):
    learner = Agile("ppo", imitation=Imitating(), **ONE)
    assert learner.needs == {Need.WEIGHTS, Need.GRADES, Need.REFERENCES}
    assert learner.forecast_calls(4) == 4 + 4
    assert learner.described()["agile"]["imitation"] == {"imitating": {}}
    practice = at_doors(tmp_path)
    learned = await learner.learn(doorman(toy), practice)
    assert learned.instructions == "Be brief."
    assert practice.facts["imitation.rows"] == 12
    again = await Agile("ppo", **ONE).learn(learned, practice)
    assert again.adapter.facts["from_adapter"] == learned.adapter.id
