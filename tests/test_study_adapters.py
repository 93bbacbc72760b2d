"""Learned weights in a study: kept in the run, found again where it was moved, learned anew where they are gone, worn by agent files."""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tutelage as tt
from tutelage.adapter import MANIFEST, Adapter, adapter_id, read_adapter
from tutelage.commands.adapter_cli import adapter_app
from tutelage.commands.worth import find_learned
from tutelage.errors import InputError
from tutelage.learner import Need
from tutelage.study.config import load_agent
from tutelage.study.learned import read_any_learned, wearing


def write_adapter(out: Path, number: int) -> Adapter:
    """An adapter of one tensor that holds one number, as training leaves it."""
    beside = out / "beside"
    beside.mkdir(parents=True)
    header = json.dumps({"model.layers.0.mlp.up_proj.lora_A.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    content = len(header).to_bytes(8, "little") + header + struct.pack("<f", number)
    (beside / "adapter_model.safetensors").write_bytes(content)
    (beside / "adapter_config.json").write_text(json.dumps({"r": 1, "lora_alpha": 2}))
    which = adapter_id(beside, "lora", base="b", tokenizer="t", template="c")
    made = Adapter(id=which, base="b", base_name="toy", tokenizer="t", template="c", folder=".", facts={"learner": "fake"})
    (beside / MANIFEST).write_text(made.model_dump_json())
    beside.rename(out / which)
    return read_adapter(out / which)


class Wearing:
    """An offline double whose answers are the number in the adapter that it wears (0 without one)."""

    native_tools, price = False, None

    def __init__(self, adapter: Adapter | None = None) -> None:
        self.adapter = adapter

    @property
    def name(self) -> str:
        return "double:bare" + (f"+{self.adapter.id}" if self.adapter else "")

    def with_adapter(self, adapter: Adapter) -> Wearing:
        return Wearing(adapter)

    async def complete(self, messages, *, tools=(), sampling=None) -> tt.Completion:
        number = 0.0
        if self.adapter:
            number = struct.unpack("<f", (Path(self.adapter.folder) / "adapter_model.safetensors").read_bytes()[-4:])[0]
        return tt.Completion(message=tt.Message(role="assistant", content=str(int(number))))


NOTHING = tt.Knowledge()


@dataclass
class Train:
    """A learner of weights that leaves what training leaves: checkpoints, adapters on the way, the last adapter, notes."""

    number: int = 7
    knowledge: tt.Knowledge = NOTHING
    runs: int = 0
    name = "train"
    needs = frozenset()

    def described(self):
        return {"train": self.number}

    def forecast_calls(self, n_tasks):
        return 0

    async def learn(self, agent, practice):
        self.runs += 1
        (practice.folder / "checkpoints" / "1").mkdir(parents=True)
        (practice.folder / "steps.csv").write_text("step,loss\n")
        write_adapter(practice.folder / "adapters", self.number - 1)
        return agent.but(adapter=write_adapter(practice.folder / "adapters", self.number), knowledge=self.knowledge)


def task(text: str, answer: str = "7") -> tt.Task:
    return tt.Task(messages=(tt.Message(role="user", content=text),), reference=answer)


KNOWN = tt.Knowledge(insights=(tt.Insight(text="Seven is right."),))


def study(out: Path | None, learner: Train | None = None, agent: tt.Agent | None = None, **changes) -> tt.Study:
    fields = {
        "agent": agent or tt.Agent(model=Wearing()),
        "train": [task("a")],
        "test": [task("b"), task("c", "8")],
        "grader": tt.Exact(),
        "learners": {"train": learner or Train(knowledge=KNOWN)},
        "out": out,
    }
    return tt.Study(**{**fields, **changes})


async def test_the_run_keeps_the_last_adapter_and_nothing_else_of_training(tmp_path: Path):
    report = await study(tmp_path / "run").arun()
    assert {arm.name: arm.score for arm in report.arms} == {"baseline": 0.0, "train": 0.5}
    learned = read_any_learned(tmp_path / "run" / "agents" / "train.json")
    assert [path.name for path in (tmp_path / "run" / "adapters").iterdir()] == [learned.adapter.id]
    assert [path.name for path in (tmp_path / "run" / "training" / "train").iterdir()] == ["steps.csv"]
    said = json.loads((tmp_path / "run" / "agents" / "train.json").read_text())
    assert said["adapter"]["folder"] == f"../adapters/{learned.adapter.id}"


async def test_a_moved_run_is_taken_as_it_is(tmp_path: Path):
    first = await study(tmp_path / "run").arun()
    shutil.move(tmp_path / "run", tmp_path / "moved")
    learner = Train(knowledge=KNOWN)
    again = await study(tmp_path / "moved", learner).arun()
    assert (learner.runs, again) == (0, first)
    learned = read_any_learned(tmp_path / "moved" / "agents" / "train.json")
    worn = wearing(tt.Agent(model=Wearing()), learned)
    assert (await worn.load().complete([])).message.text == "7"
    assert worn.knowledge.insights[0].text == "Seven is right."
    assert find_learned(study(tmp_path / "moved"), "train", 0)[1].adapter.folder.startswith(str(tmp_path / "moved"))


@pytest.mark.parametrize("harm", ["gone", "damaged", "another"])
async def test_weights_that_are_gone_or_damaged_are_learned_anew(tmp_path: Path, harm: str):
    first = await study(tmp_path).arun()
    folder = Path(read_any_learned(tmp_path / "agents" / "train.json").adapter.folder)
    if harm == "damaged":
        (folder / "adapter_model.safetensors").write_bytes((folder / "adapter_model.safetensors").read_bytes()[:-1] + b"\1")
    else:
        shutil.rmtree(folder)
    if harm == "another":
        write_adapter(tmp_path / "x", 3).folder  # noqa: B018 - made for its folder
        shutil.move(next((tmp_path / "x").iterdir()), folder)
    learner = Train(knowledge=KNOWN)
    again = await study(tmp_path, learner).arun()
    assert learner.runs == 1
    assert [arm.score for arm in again.arms] == [arm.score for arm in first.arms]
    assert (await tt.Agent(model=Wearing(), adapter=folder).load().complete([])).message.text == "7"


async def test_an_agent_that_wears_weights_already(tmp_path: Path):
    """They are part of its version and of what learning started from; a learner that leaves them alone copies nothing."""
    own = write_adapter(tmp_path / "own", 8)
    agent = tt.Agent(model=Wearing(), adapter=own)
    report = await study(tmp_path / "run", agent=agent, learners={"cases": tt.Exemplars(k=1)}).arun()
    assert [arm.score for arm in report.arms] == [0.5, 0.5]
    assert not (tmp_path / "run" / "adapters").exists()
    before = read_any_learned(tmp_path / "run" / "agents" / "cases.json").fingerprint
    shutil.move(own.folder, tmp_path / "elsewhere")
    agent = tt.Agent(model=Wearing(), adapter=tmp_path / "elsewhere")
    await study(tmp_path / "run", agent=agent, learners={"cases": tt.Exemplars(k=1)}).arun()
    learned = read_any_learned(tmp_path / "run" / "agents" / "cases.json")
    assert learned.fingerprint == before
    assert wearing(agent, learned).adapter.folder == str(tmp_path / "elsewhere")
    await study(tmp_path / "run", learners={"cases": tt.Exemplars(k=1)}).arun()
    assert read_any_learned(tmp_path / "run" / "agents" / "cases.json").fingerprint != before


async def test_a_study_in_memory_keeps_no_folder():
    report = await study(None).arun()
    assert report.arms[1].score == 0.5


# --- agent files ----------------------------------------------------------------------------------------------------------------------


def agent_file(folder: Path, text: str) -> tt.Agent:
    (folder / "agent.yaml").write_text(text)
    return load_agent(folder / "agent.yaml")


async def test_agent_files_wear_adapters(tmp_path: Path):
    await study(tmp_path / "run").arun()
    learned = read_any_learned(tmp_path / "run" / "agents" / "train.json")
    which, model = learned.adapter.id, "model: gguf:smollm2-135m"
    by_folder = agent_file(tmp_path, f"{model}\nadapter: run/adapters/{which}")
    assert (by_folder.adapter.id, by_folder.knowledge) == (which, tt.Knowledge())
    whole = agent_file(tmp_path, f"{model}\nknowledge: run/agents/train.json")
    assert (whole.adapter.id, whole.knowledge.insights[0].text) == (which, "Seven is right.")
    alone = agent_file(tmp_path, f"{model}\nknowledge: run/agents/train.json\nadapter: null")
    assert (alone.adapter, alone.knowledge) == (None, whole.knowledge)
    team = agent_file(tmp_path, f"{model}\nadapter: run/adapters/{which}\nworkflow: {{chain: {{agents: [{{}}, {{adapter: null}}]}}}}")
    assert [part.adapter and part.adapter.id for part in team.workflow.agents] == [which, None]
    team = agent_file(tmp_path, f"{model}\nknowledge: run/agents/train.json\nworkflow: {{chain: {{agents: [{{}}]}}}}")
    assert (team.workflow.agents[0].adapter.id, team.knowledge) == (which, whole.knowledge)
    with pytest.raises(InputError, match="no adapter here"):
        agent_file(tmp_path, f"{model}\nadapter: run/adapters/nowhere")
    shutil.rmtree(tmp_path / "run" / "adapters" / which)
    with pytest.raises(InputError, match=r"weights that this agent learned .* are no longer here.*run the study again"):
        agent_file(tmp_path, f"{model}\nknowledge: run/agents/train.json")
    assert agent_file(tmp_path, f"{model}\nknowledge: run/agents/train.json\nadapter: null").knowledge == whole.knowledge


# --- refused before anything is spent -------------------------------------------------------------------------------------------------


@dataclass
class NeedsWeights(Train):
    needs = frozenset({Need.WEIGHTS})


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        (tt.Agent(model="scripted:echo"), "trains weights: .*scripted.*hf:.*gguf:"),
        (tt.chain(tt.Agent(model="scripted:echo")), "workflow of several agents; train a part by itself"),
    ],
)
async def test_a_learner_of_weights_needs_weights(agent: tt.Agent, words: str):
    learner = NeedsWeights()
    with pytest.raises(InputError, match=rf"(?s)field `learners\.train`: .*{words}"):
        await study(None, learner, agent=agent).arun()
    with pytest.raises(InputError, match=words):
        await study(None, agent=agent, learners={"both": tt.Curriculum(tt.Exemplars(k=1), learner)}).arun()
    assert learner.runs == 0


# --- the command ----------------------------------------------------------------------------------------------------------------------


def test_show_says_what_it_is_and_whether_it_is_whole(tmp_path: Path):
    adapter = write_adapter(tmp_path, 7)
    done = CliRunner().invoke(adapter_app, ["show", adapter.folder])
    assert done.exit_code == 0
    for words in (adapter.id, "LoRA of rank 1, alpha 2", "trained on: toy (weights b", "learner: fake", "whole"):
        assert words in done.output
    weights = Path(adapter.folder) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    done = CliRunner().invoke(adapter_app, ["show", adapter.folder])
    assert isinstance(done.exception, InputError)


def test_fold_refuses_what_is_there_and_another_base(tmp_path: Path):
    adapter = write_adapter(tmp_path, 7)
    (tmp_path / "old.gguf").write_bytes(b"GGUF")
    done = CliRunner().invoke(adapter_app, ["fold", adapter.folder, "--out", str(tmp_path / "old.gguf")])
    assert "there already" in str(done.exception)
    other = ["--base", str(tmp_path / "old.gguf"), "--out", str(tmp_path / "new.gguf")]
    done = CliRunner().invoke(adapter_app, ["fold", adapter.folder, *other])
    assert "trained on toy" in str(done.exception)
    done = CliRunner().invoke(adapter_app, ["fold", adapter.folder, "--out", str(tmp_path / "new.gguf")])
    assert "no such file" in str(done.exception)
