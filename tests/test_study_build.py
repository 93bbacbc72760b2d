"""What a study file names becomes a thing: tools, workflows, environments, generated tasks, learners; every mistake in it is located."""

from __future__ import annotations

from pathlib import Path

import pytest

import tutelage as tt
from tutelage import registry
from tutelage.errors import InputError
from tutelage.study.build import build_environment, build_learner, generate_tasks
from tutelage.study.config import load_agent, load_study

PYTHON = '''
import tutelage as tt

class World:
    """A world with a size."""
    def __init__(self, size: int = 1):
        self.size = size
    def reset(self, task):
        return f"size {self.size}"
    def look(self) -> str:
        """Look around."""
        return "nothing"
    def grade(self, episode):
        return 1.0

def tasks(n, seed, *, base=10):
    asked = [tt.Message(role="user", content=f"{base + i} plus {seed}?") for i in range(n)]
    return [tt.Task(messages=(message,), reference=str(base + i + seed)) for i, message in enumerate(asked)]

def few(n, seed):
    return tasks(1, seed)

def good(text):
    return "good" in text

def pick(task):
    return "a"

@tt.tool
def lookup(order: str) -> str:
    """Find an order.

    Args:
        order: Its number.
    """
    return "here"
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "things.py").write_text(PYTHON)
    return tmp_path


def write(folder: Path, agent: str = "model: scripted:echo", rest: str = "grader: exact") -> Path:
    path = folder / "study.yaml"
    path.write_text(f"name: s\nagent: {{{agent}}}\n{rest}\n")
    return path


STUDY = "tasks: {from: things.py:tasks, train: 3, test: 2, seed: 5}\ngrader: exact"


def test_tasks_come_from_a_generator(folder):
    study = load_study(write(folder, rest=STUDY))
    assert [task.text for task in study.train] == ["10 plus 5?", "11 plus 5?", "12 plus 5?"]
    assert [task.text for task in study.test] == ["13 plus 5?", "14 plus 5?"]
    changed = load_study(write(folder, rest=STUDY.replace("from: things.py:tasks", "from: {things.py:tasks: {base: 1}}")))
    assert changed.train[0].text == "1 plus 5?"


def test_a_generator_by_name(folder, monkeypatch):
    monkeypatch.setitem(registry.TASK_SOURCES, "sums", "tests.test_study_build:sums")
    monkeypatch.setattr("tutelage.study.build.load", lambda path: sums if path.endswith(":sums") else registry.load(path))
    train, test = generate_tasks("sums", 2, 1, 0, folder)
    assert (len(train), len(test)) == (2, 1)


def sums(n: int, seed: int) -> tuple[tt.Task, ...]:
    return tuple(tt.Task(messages=(tt.Message(role="user", content=f"{i}+{seed}"),)) for i in range(n))


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("tasks: {from: things.py:tasks, train: a.jsonl, test: 2}\ngrader: exact", "numbers of tasks"),
        ("tasks: {from: things.py:few, train: 3, test: 2}\ngrader: exact", "gave 1 tasks, and 3 \\+ 2"),
        ("tasks: {from: nowhere, train: 3, test: 2}\ngrader: exact", "nowhere"),
        ("tasks: {from: {things.py:tasks: {bass: 1}}, train: 3, test: 2}\ngrader: exact", "bass.*base"),
        ("tasks: {from: {a: {}, b: {}}, train: 3, test: 2}\ngrader: exact", "2 keys"),
        (f"{STUDY}\nenvironment: nowhere", "nowhere"),
        (f"{STUDY}\nenvironment: {{things.py:World: {{sise: 1}}}}", "sise.*size"),
        (f"{STUDY}\nenvironment: {{things.py:World: 3}}", "key: value"),
        (f"{STUDY}\nlearners: [exemplar]", "exemplars"),
        (f"{STUDY}\nlearners: [{{exemplars: [fixed]}}]", "key: value"),
        (f"{STUDY}\nlearners: [{{exemplars: {{kay: 1}}}}]", "kay"),
    ],
)
def test_mistakes_name_the_file_and_the_line(folder, rest, words):
    with pytest.raises(InputError, match=f"(?s)study.yaml:[0-9]+.*{words}"):
        load_study(write(folder, rest=rest))


def test_an_environment_with_options(folder):
    make = build_environment({"things.py:World": {"size": 7}}, folder)
    assert make().reset(None) == "size 7"
    assert build_environment("things.py:World", folder)().reset(None) == "size 1"
    study = load_study(write(folder, rest=f"{STUDY}\nenvironment: things.py:World"))
    assert study.environment().size == 1


def agent_file(folder: Path, text: str) -> tt.Agent:
    (folder / "agent.yaml").write_text(text)
    return load_agent(folder / "agent.yaml")


async def test_a_workflow_whose_parts_inherit(folder):
    agent = agent_file(
        folder,
        """
model: scripted:echo
instructions: Common.
sampling: {max_tokens: 7}
workflow:
  refine:
    worker: {}
    evaluator: {instructions: Judge.}
    rounds: 2
""",
    )
    pattern = agent.workflow
    assert (pattern.name, pattern.rounds) == ("refine", 2)
    assert (pattern.worker.instructions, pattern.evaluator.instructions) == ("Common.", "Judge.")
    assert pattern.evaluator.sampling.max_tokens == 7
    episode = await tt.run_episode(agent, sums(1, 1)[0])
    assert episode.answer == "0+1"


@pytest.mark.parametrize(
    ("workflow", "parts"),
    [
        ("{chain: {agents: [{instructions: a}, {instructions: b}], gates: ['things.py:good', null], retries: 1}}", 2),
        ("{route: {router: 'things.py:pick', routes: {a: {instructions: a}, b: {}}, default: b}}", 2),
        ("{route: {router: {instructions: which}, routes: {a: {}}}}", 1),
        ("{sections: {agents: {pro: {}, con: {}}, join: {instructions: j}}}", 2),
        ("{vote: {agents: [{}, {}, {}]}}", 3),
        ("{orchestrate: {planner: {}, worker: {instructions: w}, cap: 2}}", 2),
        ("{route: {router: {}, routes: {a: {workflow: {chain: {agents: [{}]}}}}}}", 1),
    ],
)
def test_every_pattern_from_yaml(folder, workflow, parts):
    agent = agent_file(folder, f"model: scripted:echo\nworkflow: {workflow}\n")
    described = agent.workflow.described()
    assert next(iter(described)) == agent.workflow.name
    assert agent.version != agent_file(folder, "model: scripted:echo\n").version


@pytest.mark.parametrize(
    ("workflow", "words"),
    [
        ("{chains: {agents: [{}]}}", "chain"),
        ("{chain: {agents: [{instruction: a}]}}", "instruction"),
        ("{chain: {agents: [text]}}", "agent's keys"),
        ("{chain: [1]}", "key: value"),
        ("{refine: {worker: {}}}", "evaluator"),
        ("{refine: {worker: {}, evaluator: {}, round: 1}}", "rounds"),
        ("{chain: {}, route: {}}", "2 keys"),
        ("{vote: {agents: [{}], normalise: 'things.py:no'}}", "no"),
    ],
)
def test_mistakes_in_a_workflow(folder, workflow, words):
    with pytest.raises(InputError, match=words):
        agent_file(folder, f"model: scripted:echo\nworkflow: {workflow}\n")


def test_tools_from_files(folder):
    agent = agent_file(folder, "model: scripted:echo\ntools: [things.py]\n")
    assert [tool.spec.name for tool in agent.tools] == ["lookup"]
    with pytest.raises(InputError, match="is not a tool"):
        agent_file(folder, "model: scripted:echo\ntools: [thing]\n")


def test_a_learner_may_be_named_and_have_options(folder):
    assert build_learner("exemplars", folder)[0] == "exemplars-fixed"
    name, learner = build_learner({"exemplars": {"choose": "text", "k": 2}, "as": "cases"}, folder)
    assert (name, learner.retrieval.k) == ("cases", 2)
    with pytest.raises(InputError, match="one learner"):
        build_learner({"exemplars": {}, "reflexion": {}}, folder)
