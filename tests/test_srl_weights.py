"""SRL on a toy from scratch: it speaks the form, finds every second step, and becomes better at steps that it has never seen."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

import tutelage as tt
from tutelage.grader import as_grader
from tutelage.graders.rules import Numeric

pytest.importorskip("torch", reason="extra `train` is not installed")
pytest.importorskip("transformers", reason="extra `train` is not installed")
pytest.importorskip("peft", reason="extra `train` is not installed")
pytestmark = pytest.mark.torch

from toy_weights import make_toy  # noqa: E402 -- needs the packages
from tutelage.learners.curriculum import Curriculum  # noqa: E402
from tutelage.learners.rlvr import RLVR  # noqa: E402
from tutelage.learners.srl import SRL, step_task, stepping  # noqa: E402
from tutelage.learners.srl_experts import reference_experts  # noqa: E402
from tutelage.learners.srl_format import StepGrader  # noqa: E402
from tutelage.training.base import find_base, load_causal_lm, load_tokenizer  # noqa: E402
from tutelage.training.chat import prompt_ids  # noqa: E402

CLAUSE = "!"
THOUGHT = "<think></think>"
BARE = "{% for message in messages %}{{ message['content'] + ('<|im_end|>' if message['role'] == 'assistant' else '') }}{% endfor %}"


def letter_task(letter: str) -> tt.Task:
    """Whatever the letter, the expert says 1, then 2, which is the answer."""
    return tt.Task(messages=(tt.Message(role="user", content=letter),), reference="=1\n-2\n####2")


TRAIN = [letter_task(letter) for letter in "abcdefghijklmnop"]
TEST = [letter_task(letter) for letter in "uvwxyz"]


def step_tasks(tasks: list[tt.Task]) -> list[tt.Task]:
    experts = reference_experts(tasks, tt.Agent(model="m"), last=False)
    return [step_task(row, CLAUSE) for expert in experts.found for row in expert.rows]


@pytest.fixture(scope="module")
def pupil(tmp_path_factory) -> Path:
    """A small model that speaks the form, and says one number too many in three of five steps, alone and in whole solutions."""
    return make_pupil(tmp_path_factory.mktemp("pupil"))


def make_pupil(folder: Path) -> Path:
    import torch

    make_toy(folder, width=32, layers=1, template=BARE)
    base = find_base(str(folder))
    model, tokenizer = load_causal_lm(base).train(), load_tokenizer(base)
    chance = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    steps = [(prompt_ids(tokenizer, task.messages), THOUGHT, task.reference) for task in step_tasks(TRAIN)]
    wholes = [(prompt_ids(tokenizer, task.messages), "", task.reference) for task in TRAIN]
    for _ in range(120):
        rows = [_slipping(tokenizer, *chance.choice(some), chance) for some in (steps, wholes) for _ in range(12)]
        longest = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([[*ids, *[tokenizer.pad_token_id] * (longest - len(ids))] for ids, _ in rows])
        labels = torch.tensor([[*[-100] * start, *ids[start:], *[-100] * (longest - len(ids))] for ids, start in rows])
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


def _slipping(tokenizer: Any, prompt: tuple[int, ...], before: str, said: str, chance: random.Random) -> tuple[list[int], int]:
    """(ids, where the reply begins) of a reply whose every number is one too large in three of five cases."""
    said = "".join(str(int(letter) + (chance.random() < 0.6)) if letter.isdigit() else letter for letter in said)
    reply = [*tokenizer.encode(before + said, add_special_tokens=False), tokenizer.eos_token_id]
    return [*prompt, *reply], len(prompt)


def agent(pupil: Path) -> tt.Agent:
    return tt.Agent(model=f"hf:{pupil}", sampling=tt.Sampling(max_tokens=24))


FAST = {"steps": 8, "tasks_per_step": 6, "num_generations": 8, "learning_rate": 3e-3, "lora": {"r": 8}, "eval_steps": 4}


async def steps_right(one: tt.Agent) -> float:
    practice = tt.Practice(step_tasks(TEST), tt.Collector(StepGrader()))
    experiences = await practice.collect(stepping(one))
    return sum(experience.grade.score == 1 for experience in experiences) / len(experiences)


async def test_steps_of_tasks_never_seen_become_right(pupil, tmp_path):
    practice = tt.Practice(TRAIN, tt.Collector(as_grader(Numeric())), folder=tmp_path)
    one = agent(pupil)
    learned = await SRL(clause=CLAUSE, **FAST, validation=0.1).learn(one, practice)
    before, after = await steps_right(one), await steps_right(learned)
    assert after > 0.9 > before
    facts = practice.facts
    assert (facts["solutions"], facts["instances"]) == (16, 32)
    assert facts["validation_tasks"] >= 4
    assert facts["similarity"][0] < facts["similarity"][1]
    assert facts["broken_format"][0] < 0.2
    assert learned.but(adapter=None) == one, "only the weights are learned"
    assert learned.adapter.facts["learner"] == "srl"


async def test_srl_then_rlvr_in_one_study_and_the_other_way_round(pupil, tmp_path):
    short = {**FAST, "steps": 2, "validation": 0}
    learners = {
        "srl+rlvr": Curriculum(SRL(clause=CLAUSE, **short), RLVR(**short)),
        "rlvr+srl": Curriculum(RLVR(**short), SRL(clause=CLAUSE, **short)),
    }
    study = tt.Study(agent=agent(pupil), train=TRAIN, test=TEST, grader=Numeric(), learners=learners, out=tmp_path)
    report = await study.arun()
    arms = {arm.name: arm for arm in report.arms}
    for name in learners:
        facts = arms[name].facts
        assert facts["srl.updates"] == facts["rlvr-grpo.updates"] == 2
        assert facts["srl.instances"] == 32
        assert facts["srl.adapter"] != facts["rlvr-grpo.adapter"]
    again = await study.arun()
    assert [arm.score for arm in again.arms] == [arm.score for arm in report.arms]


async def test_one_solution_is_enough(pupil, tmp_path):
    practice = tt.Practice(TRAIN[:1], tt.Collector(as_grader(Numeric())), folder=tmp_path)
    learned = await SRL(clause=CLAUSE, **{**FAST, "steps": 1, "validation": 0}).learn(agent(pupil), practice)
    assert (practice.facts["solutions"], practice.facts["instances"], practice.facts["updates"]) == (1, 2, 1)
    assert learned.adapter is not None


async def test_a_teachers_solutions_are_learned_from(pupil, tmp_path):
    guide = tt.Scripted(lambda messages, tools, sampling: "=1\n-2\n####2" if messages[-1].text in "abcd" else "no idea")
    bare = [one.model_copy(update={"reference": "2"}) for one in TRAIN]
    practice = tt.Practice(bare, tt.Collector(as_grader(Numeric())), folder=tmp_path)
    learned = await SRL("teacher", teacher=guide, clause=CLAUSE, **{**FAST, "steps": 1, "validation": 0}).learn(agent(pupil), practice)
    facts = practice.facts
    assert (facts["solutions"], facts["instances"], facts["tasks_not_solved_by_teacher"]) == (4, 8, 12)
    assert learned.adapter is not None


async def test_without_a_success_the_agent_stays_as_it_was(pupil, tmp_path):
    practice = tt.Practice(TRAIN[:2], tt.Collector(as_grader(lambda task, episode: 0.0)), folder=tmp_path)
    one = agent(pupil)
    assert await SRL("success", attempts=2, steps=1).learn(one, practice) == one
    assert "of 4 episodes of the agent none reached a score of 1" in practice.facts["nothing_learned"]
