"""Learning with weights, from end to end: study file, command line and Python, with a pupil of some ten thousand weights.

The pupil and its study are in `students/digits.py`. It knows how to change numbers step by step, alone and as a step that SRL asks for, but
slips in more than half of its replies. Runs that are ended by force are children of `students/forked.py`.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tutelage as tt
from tutelage import cli, model
from tutelage.errors import BudgetExceeded, InputError, StoreError
from tutelage.learner import Learner
from tutelage.records import StopReason
from tutelage.study.config import load_agent
from tutelage.study.learned import read_any_learned

torch = pytest.importorskip("torch", reason="extra `train` is not installed")
pytest.importorskip("trl", reason="extra `train` is not installed")
pytestmark = pytest.mark.torch

from students import digits  # noqa: E402 -- needs the packages
from students.digits import ARMS, CASES, LORA, N_TRAIN, ROLLOUTS, SFT, write_study  # noqa: E402
from students.studies import facts, report, scores  # noqa: E402
from toy_weights import make_toy  # noqa: E402
from tutelage.environments.multi_step import multi_step_tasks  # noqa: E402
from tutelage.learners import policy, rollouts  # noqa: E402
from tutelage.learners.rollouts import Reading, read_experience  # noqa: E402
from tutelage.training import policy_batch, sft_trainer  # noqa: E402
from tutelage.training.base import find_base, load_causal_lm, load_tokenizer  # noqa: E402
from tutelage.training.chat import prompt_ids  # noqa: E402

TESTS = Path(__file__).parent
RUN = Path("runs/digits")
TASKS = multi_step_tasks(36, 1, **digits.OPTIONS)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As in the processes that are forked: sums are then added in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pupil(tmp_path_factory) -> Path:
    return digits.make_pupil(tmp_path_factory.mktemp("pupil"))


@pytest.fixture(scope="module")
def forked() -> Iterator[Callable[..., dict[str, Any]]]:
    """Runs a command in a folder, in a process of its own; gives its exit code and what happened."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]), "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, str(TESTS / "students" / "forked.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    )

    def run(folder: Path, *, stop_at: int | None = None, how: str = "kill") -> dict[str, Any]:
        job = {"folder": str(folder), "command": ["run", "study.yaml"], "stop_at": stop_at, "how": how}
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        return json.loads(server.stdout.readline())

    assert server.stdout.readline() == "ready\n"
    yield run
    server.stdin.close()
    server.wait()


@pytest.fixture(scope="module")
def finished(pupil, forked, tmp_path_factory) -> tuple[Path, list[str]]:
    """The folder of a study that was run once, and what happened in it."""
    folder = write_study(tmp_path_factory.mktemp("digits"), pupil)
    done = forked(folder)
    assert done["code"] == 0, (folder / "said.txt").read_text()
    return folder, done["events"]


@pytest.fixture
def folder(finished, tmp_path, monkeypatch) -> Path:
    """A copy of the finished study, in which the test works."""
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tutelage(monkeypatch, capsys):
    """Calls the command line as if in a process of its own: exit code, output, errors."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tutelage", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()
        model._load.cache_clear()
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, *capsys.readouterr()

    return call


def study(pupil: Path, out: Path | None = None, learners: dict[str, Learner] | None = None, **fields: Any) -> tt.Study:
    """The same in Python; quicker where one arm is enough."""
    agent = tt.Agent(model=f"hf:{pupil}", sampling=tt.Sampling(max_tokens=26))
    own = {
        "agent": agent,
        "train": TASKS[:N_TRAIN],
        "test": TASKS[N_TRAIN:],
        "grader": tt.Numeric(),
        "learners": learners or {},
        "out": out,
    }
    return tt.Study(**{**own, "name": "digits", **fields})


def adapter_of(arm: str, run: Path = RUN) -> tt.Adapter:
    found = read_any_learned(run / "agents" / f"{arm}.json").adapter
    assert found is not None
    return found


def timeless(value: Any) -> Any:
    """Without what another clock would change: times, memory, and the words made of them."""
    if isinstance(value, dict):
        changing = ("second", "memory", "resumed_at", "recommendation")
        return {name: timeless(item) for name, item in value.items() if not any(word in name for word in changing)}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def outcome(run: Path) -> tuple[Any, dict[str, str], set[str]]:
    """(the report, the adapter of each arm, all adapters that lie in the run)."""
    return timeless(report(run)), {arm: adapter_of(arm, run).id for arm in ARMS}, {path.name for path in (run / "adapters").glob("[!.]*")}


# -- one study with every way


def test_every_arm_runs_and_learns(finished):
    found = scores(finished[0] / RUN)
    assert list(found) == ["baseline", *ARMS]
    assert found["baseline"] < 0.6
    assert {arm for arm, score in found.items() if score > 0.9} >= {"sft", "dpo", "rlvr", "distil"}
    assert found["srl"] > found["baseline"]
    noted = facts(finished[0] / RUN)
    assert noted["exemplars"]["sft.loss_last"] < 0.7 * noted["exemplars"]["sft.loss_first"], "these prompts are new to the pupil"
    assert noted["dpo"]["dpo.loss_last"] < noted["dpo"]["dpo.loss_first"] == pytest.approx(0.6931, abs=1e-3)
    assert noted["rlvr"]["rlvr-grpo.updates"] == noted["srl"]["srl.updates"] == noted["srl"]["rlvr-grpo.updates"] == 2
    assert (noted["srl"]["srl.solutions"], noted["srl"]["srl.instances"]) == (N_TRAIN, N_TRAIN)
    assert noted["sft"]["rows"] == 19 and noted["sft"]["rows_validation"] == 5, "a fifth of 24 tasks"


def test_what_learning_cost_is_told(finished):
    arms = {arm["name"]: arm for arm in report(finished[0] / RUN)["arms"]}
    calls = {name: arm["learn"]["calls"] for name, arm in arms.items()}
    assert calls["sft"] == calls["exemplars"] == calls["distil"] == 0
    assert calls["dpo"] == N_TRAIN * 4
    for arm, learners in (("rlvr", ["rlvr-grpo"]), ("srl", ["srl", "rlvr-grpo"])):
        assert calls[arm] == sum(arms[arm]["facts"][f"{learner}.episodes"] for learner in learners) >= 48
    assert all(arms[arm]["learn"]["seconds"] > 0 and arms[arm]["learn"]["usd"] == 0 for arm in ARMS)
    said = (finished[0] / "said.txt").read_text()
    assert "trainable parameters" in said and "rows validation" in said
    for text in (said, *((finished[0] / RUN / f"report.{kind}").read_text() for kind in ("md", "html"))):
        assert "dpo" in text and "loss last" in text.replace("_", " ")


def test_what_stays_of_a_run(finished):
    run = finished[0] / RUN
    kept = {path.name for path in (run / "adapters").iterdir()}
    assert {adapter_of(arm, run).id for arm in ARMS} < kept, "those of the arms, and that of the part that only SRL has"
    assert len(kept) == 6, "sft's is that of distil"
    for arm in ARMS:
        said = json.loads((run / "agents" / f"{arm}.json").read_text())
        assert said["adapter"]["folder"] == f"../adapters/{said['adapter']['id']}"
        assert (run / "training" / arm / "history.jsonl").is_file() or arm in ("dpo", "rlvr", "distil"), "they found it on the shelf"
        assert not (run / "training" / arm / "checkpoints").exists() and not (run / "training" / arm / "adapters").exists()
    known = {arm: len(read_any_learned(run / "agents" / f"{arm}.json").knowledge.entries) for arm in ARMS}
    assert known == dict.fromkeys(ARMS, 0) | {"exemplars": N_TRAIN}, "distilled knowledge is in the weights"
    by = {arm: adapter_of(arm, run).facts["learner"] for arm in ARMS}
    assert by == {"sft": "sft", "dpo": "dpo", "rlvr": "rlvr", "srl": "rlvr", "exemplars": "sft", "distil": "sft"}


def test_running_again_learns_and_asks_nothing_and_says_the_same(folder, forked):
    before = report(RUN)
    again = forked(folder)
    assert (again["code"], set(again["events"])) == (0, {"replace"}), "only the report is written again"
    assert report(RUN) == before
    shutil.rmtree(RUN / "agents")  # the parts and the adapters are still there
    again = forked(folder)
    assert (again["code"], set(again["events"])) == (0, {"replace"})
    assert timeless(report(RUN)) == timeless(before)
    for name in ("agents", "parts", "adapters", "training"):
        shutil.rmtree(RUN / name)  # only the experience is
    again = forked(folder)
    assert again["code"] == 0 and "add" not in again["events"] and "step" in again["events"]
    assert timeless(report(RUN)) == timeless(before)


# -- interrupted


@pytest.mark.parametrize(("seed", "how"), [(1, "kill"), (2, "raise"), (4, "kill")])
def test_ended_at_any_moment_and_continued_it_is_the_same(finished, pupil, forked, tmp_path, seed, how):
    """Ended twice: somewhere in training or in writing a file, then anywhere in what is left."""
    write_study(tmp_path, pupil)
    moments = [number for number, event in enumerate(finished[1], 1) if event != "add"]
    first = random.Random(seed).choice(moments)
    assert forked(tmp_path, stop_at=first, how=how)["code"] == {"kill": -9, "raise": 70}[how]
    second = random.Random(-seed).randint(1, max(1, len(finished[1]) - first))
    forked(tmp_path, stop_at=second, how=how)
    assert forked(tmp_path)["code"] == 0, (tmp_path / "said.txt").read_text()
    assert outcome(tmp_path / RUN) == outcome(finished[0] / RUN)


@pytest.mark.parametrize("step", [3, 5])
def test_ctrl_c_after_a_step_is_no_step_more_and_none_less(finished, pupil, forked, tmp_path, step):
    """In the middle of SFT, and after the last of its five steps; SFT is the first arm, so a study without the others does until then."""
    write_study(tmp_path, pupil, {"sft": ARMS["sft"]})
    moment = [number for number, event in enumerate(finished[1], 1) if event == "step"][step - 1]
    assert forked(tmp_path, stop_at=moment, how="interrupt")["code"] == 130
    assert forked(tmp_path)["code"] == 0, (tmp_path / "said.txt").read_text()
    assert adapter_of("sft", tmp_path / RUN).id == adapter_of("sft", finished[0] / RUN).id
    arms, whole = (timeless(report(folder / RUN)["arms"][:2]) for folder in (tmp_path, finished[0]))
    for name in ("name", "agent_version", "score", "learn", "facts"):  # p values hang on how many arms there are
        assert [arm.get(name) for arm in arms] == [arm.get(name) for arm in whole]


# -- arms that begin alike


def test_a_beginning_that_arms_share_is_trained_once_and_its_cost_counts_in_each(finished):
    steps = finished[1].count("step")
    assert steps == 5 + 4 + 2 + (2 + 2) + 5 + 5, "sft's five steps once for sft, dpo and rlvr"
    run = finished[0] / RUN
    arms = {arm["name"]: arm for arm in report(run)["arms"]}
    for arm in ("dpo", "rlvr"):
        assert adapter_of(arm, run).facts["from_adapter"] == adapter_of("sft", run).id
        assert arms[arm]["learn"]["seconds"] > arms["sft"]["learn"]["seconds"]
        own = {name.removeprefix("sft."): value for name, value in arms[arm]["facts"].items() if name.startswith("sft.")}
        assert own == arms["sft"]["facts"]


async def test_calls_of_a_shared_beginning_count_in_each(pupil, tmp_path):
    def begun_with(*more: Learner) -> tt.Curriculum:
        own = tt.SFT("success", attempts=2, temperature=1.0, max_steps=2, lora=LORA, validation=0)
        return tt.Curriculum(own, *more)

    learners = {"alone": begun_with(), "on": begun_with(tt.SFT(max_steps=2, lora=LORA, validation=0))}
    arms = {arm.name: arm for arm in (await study(pupil, tmp_path, learners).arun()).arms}
    assert arms["alone"].learn.calls == arms["on"].learn.calls == 2 * N_TRAIN
    assert adapter_of("on", tmp_path).facts["from_adapter"] == adapter_of("alone", tmp_path).id
    with tt.Store(tmp_path / "experience.sqlite") as store:
        assert store.spent("digits")[0].calls == (3 * 12 + 2 * N_TRAIN), "and were made once"


# -- the trained agent


def test_a_moved_run_is_the_same_run(folder, forked, tutelage):
    before = outcome(RUN)
    Path("elsewhere").mkdir()
    shutil.move("runs", "elsewhere/runs")
    shutil.copy("study.yaml", "elsewhere")
    again = forked(folder / "elsewhere")
    assert (again["code"], set(again["events"])) == (0, {"replace"})
    assert outcome(Path("elsewhere") / RUN) == before
    assert Path(adapter_of("sft", Path("elsewhere") / RUN).folder).is_relative_to(folder / "elsewhere")


def test_agent_files_wear_what_was_learned(folder, pupil, tutelage):
    found = scores(RUN)
    which, tried = adapter_of("sft").id, {"model": f"hf:{pupil}", "sampling": {"max_tokens": 26}}
    arms = {
        "worn": {"adapter": f"runs/digits/adapters/{which}"},
        "both": {"knowledge": "runs/digits/agents/exemplars.json"},
        "knowledge alone": {"knowledge": "runs/digits/agents/exemplars.json", "adapter": None},
    }
    write_study(folder, pupil, {}, name="worn", agent=tried, agents=arms)
    code, _, err = tutelage("run", "study.yaml")
    assert code == 0, err
    assert scores("runs/worn")["worn"] == found["sft"] > scores("runs/worn")["baseline"]
    assert scores("runs/worn")["both"] == found["exemplars"]
    with tt.Store(folder / "runs/worn/experience.sqlite") as store:
        asked = {arm: next(store.experiences(arm=arm)).episode for arm in arms}
    assert asked["both"].usage.tokens_in == asked["knowledge alone"].usage.tokens_in > asked["worn"].usage.tokens_in
    assert len({episode.agent_version for episode in asked.values()}) == 3


def test_it_is_refused_on_another_base_and_under_another_template(folder, pupil, tmp_path, tutelage):
    which = adapter_of("sft").id
    shutil.copytree(pupil, "words")
    Path("words/chat_template.jinja").write_text("{% for message in messages %}{{ message['content'] + '\n' }}{% endfor %}")
    make_toy(tmp_path / "stranger", seed=5)
    for name, words in {
        "words": f"trained with another chat template ({adapter_of('sft').template})",
        "stranger": f"trained on {adapter_of('sft').base_name}",
    }.items():
        write_study(
            folder,
            folder / name,
            {"sft": {"sft": SFT}},
            name=name,
            agent={"model": f"hf:{folder / name}", "adapter": f"{RUN}/adapters/{which}"},
        )
        code, _, err = tutelage("run", "study.yaml")
        assert (code, words in err) == (2, True), err
        assert not list(Path(f"runs/{name}").glob("*.sqlite")), "before anything is spent"
        write_study(folder, folder / name, {}, name=name, agent={"model": f"hf:{folder / name}", "adapter": f"{RUN}/adapters/{which}"})
        code, _, err = tutelage("run", "study.yaml")
        assert (code, words in err) == (2, True), err


def test_show_and_fold(folder, pupil, tutelage):
    adapter = adapter_of("rlvr")
    code, out, err = tutelage("adapter", "show", adapter.folder)
    assert code == 0, err
    for words in (
        adapter.id,
        "LoRA of rank 8",
        f"trained on: {adapter.base_name}",
        "learner: rlvr",
        f"from_adapter: {adapter_of('sft').id}",
        "whole",
    ):
        assert words in out
    code, out, err = tutelage("adapter", "fold", adapter.folder, "--base", pupil, "--out", "merged", "--dtype", "float32")
    assert code == 0, err
    write_study(folder, "merged", {}, name="merged")
    assert tutelage("run", "study.yaml")[0] == 0
    assert scores("runs/merged")["baseline"] == scores(RUN)["rlvr"], "the weights alone"
    weights = Path(adapter.folder) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\1\0")
    code, _, err = tutelage("adapter", "show", adapter.folder)
    assert code == 2 and "not the one that was saved" in err


async def test_learning_goes_on_from_an_adapter(folder, pupil):
    worn = adapter_of("sft")
    agent = load_agent(agent_file(folder, f"model: hf:{pupil}\nadapter: {RUN}/adapters/{worn.id}\nsampling: {{max_tokens: 26}}"))
    learners = {"sft": tt.SFT(**SFT), "rlvr": tt.RLVR(**ROLLOUTS)}
    arms = {arm.name: arm.score for arm in (await study(pupil, folder / "on", learners, agent=agent).arun()).arms}
    assert arms["baseline"] == scores(RUN)["sft"]
    assert all(arms[arm] > 0.9 for arm in learners)
    for arm in learners:
        assert adapter_of(arm, folder / "on").facts["from_adapter"] == worn.id
    assert adapter_of("rlvr", folder / "on").id == adapter_of("rlvr").id, "as in the curriculum"


def agent_file(folder: Path, text: str) -> Path:
    (folder / "agent.yaml").write_text(text)
    return folder / "agent.yaml"


# -- wrong input: said in words, and nothing is lost


FILES = {
    "graders.py": """
from tutelage.graders.rules import Numeric
import itertools
calls = itertools.count()
def constant(task, episode): return 0.5
def nan(task, episode): return float("nan")
def fails(task, episode): raise RuntimeError("the database of answers is down")
async def sometimes(task, episode):
    if next(calls) % 3 == 0: raise RuntimeError("the database of answers is down")
    return await Numeric().grade(task, episode)
""",
    "empty.jsonl": "",
    "one.jsonl": '{"prompt": "85 1b 2b", "completion": "1. b86\\n2. b87\\n#### 87"}\n',
    "broken.jsonl": '{"prompt": "85 1b 2b", "completion": "1"}\n{"prompt": "85 1b 2b", "completio": "2"}\n',
    "cut.jsonl": '{"prompt": "85 1b 2b", "completion": "1"}\n{"prompt": "85 1b\n',
    "long.jsonl": json.dumps({"prompt": "85 1b 2b", "completion": "9" * 1200}) + "\n",
    "calls.jsonl": json.dumps(
        {
            "messages": [
                {"role": "user", "content": "85"},
                {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "bump", "arguments": {"number": 85}}}]},
                {"role": "tool", "name": "bump", "content": "86"},
                {"role": "assistant", "content": "86"},
            ],
            "tools": [{"type": "function", "function": {"name": "bump", "parameters": {"type": "object", "properties": {}}}}],
        }
    )
    + "\n",
}
FROM = {"max_steps": 2, "lora": LORA, "validation": 0}
FAST = {**ROLLOUTS, "steps": 4}

WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "no rows": ({"sft": {"source": "file", "file": "empty.jsonl", **FROM}}, "numeric", r"empty\.jsonl: there are no rows in it; each must"),
    "a mistyped column": (
        {"sft": {"source": "file", "file": "broken.jsonl", **FROM}},
        "numeric",
        r"broken\.jsonl:2: .*completio.*`completion`",
    ),
    "a cut line": ({"sft": {"source": "file", "file": "cut.jsonl", **FROM}}, "numeric", r"cut\.jsonl:2: "),
    "longer than max_length": (
        {"sft": {"source": "file", "file": "long.jsonl", **FROM}},
        "numeric",
        r"1 of 1 rows are longer than max_length = 1024 tokens: \S*long\.jsonl:1 \(1209\)\. Set max_length to 1209, or truncate",
    ),
    "longer than the context": (
        {"sft": {"source": "file", "file": "long.jsonl", "max_length": 2000, **FROM}},
        "numeric",
        r"the longest row has 1209 tokens, and the model reads 1024 at once; leave such rows out, or set max_length to 1024 and truncate",
    ),
    "calls that the template drops": (
        {"sft": {"source": "file", "file": "calls.jsonl", **FROM}},
        "numeric",
        r"calls\.jsonl:1: .*(call|tool)",
    ),
    "a reward that is no number": (
        {"rlvr": FAST},
        "graders.py:nan",
        r"the reward of the task from multi_step\?seed=1:\d+ is nan; a reward is a finite",
    ),
    "a grader that raises": ({"rlvr": FAST}, "graders.py:fails", r"are not graded.*the database of answers is down"),
    "preferences as demonstrations": (
        {"dpo": {"source": "file", "file": "one.jsonl", **FROM}},
        "numeric",
        r"preferences are needed.*demonstrations",
    ),
    "a learning rate that diverges at once": (
        {"sft": {**FROM, "max_steps": 20, "learning_rate": 1e6, "warmup_ratio": 0}},
        "numeric",
        r"training diverged .*lower learning_rate",
    ),
    "no teacher": ({"srl": {"source": "teacher"}}, "numeric", r"teacher`: name the teacher's model"),
    "a teacher that cannot be had": ({"srl": {"source": "teacher", "teacher": "gguf:nowhere.gguf"}}, "numeric", r"nowhere\.gguf"),
    "no solutions to take steps from": ({"srl": {"source": "file", "file": "one.jsonl"}}, "numeric", r"steps are needed.*demonstrations"),
    "a setting that is none": ({"rlvr": {"learning_rat": 1}}, "numeric", r"learning_rate"),
}


@pytest.fixture
def desk(pupil, tmp_path, monkeypatch) -> Path:
    """A folder with files to go wrong with."""
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_said_and_what_was_done_stays(name, desk, pupil, tutelage):
    learner, grader, words = WRONG[name]
    write_study(desk, pupil, {"cases": CASES, "wrong": learner}, grader=grader)
    code, _, err = tutelage("run", "study.yaml")
    told = " ".join(err.split())
    assert code == 2, err
    assert "Traceback" not in err
    assert re.search(words, told), told
    if (RUN / "experience.sqlite").exists():  # it began: what stood before the wrong arm stays
        write_study(desk, pupil, {"cases": CASES}, grader=grader)
        code, _, err = tutelage("run", "study.yaml")
        assert code == 0, err
        with tt.Store(RUN / "experience.sqlite") as store:
            assert store.spent("digits")[0].calls >= 24


def arms_of(learners: dict[str, Any], desk: Path, pupil: Path, tutelage: Any, **fields: Any) -> dict[str, Any]:
    """The arms of the report of a study that must succeed."""
    write_study(desk, pupil, learners, **fields)
    code, _, err = tutelage("run", "study.yaml")
    assert code == 0, err
    return {arm["name"]: arm for arm in report(RUN)["arms"]}


def test_what_teaches_nothing_is_a_finding(desk, pupil, tutelage):
    arms = arms_of({"rlvr": {"rlvr": FAST}}, desk, pupil, tutelage, grader="graders.py:constant")
    assert re.search(r"no group differs: the grader gives 0\.50 to all \d+ episodes", arms["rlvr"]["facts"]["nothing_learned"])
    assert (arms["rlvr"]["facts"]["updates"], arms["rlvr"]["agent_version"]) == (0, arms["baseline"]["agent_version"])
    arms = arms_of({"sft": {"sft": {"source": "success", "attempts": 1, "threshold": 2, **FROM}}}, desk, pupil, tutelage)
    assert arms["sft"]["facts"]["nothing_learned"].startswith("no episode that came to its end reached a score of 2")
    assert arms["sft"]["agent_version"] == arms["baseline"]["agent_version"]


def test_a_grader_that_fails_at_times_leaves_out_what_it_did_not_grade(desk, pupil, tutelage):
    arms = arms_of({"rlvr": {"rlvr": ROLLOUTS}}, desk, pupil, tutelage, grader="graders.py:sometimes")
    noted = arms["rlvr"]["facts"]
    assert noted["updates"] == 2
    assert noted["left_out"]["ungraded"] + noted["episodes"] == arms["rlvr"]["learn"]["calls"]
    assert arms["baseline"]["n"] < 12, "and no such task counts as failed"


def test_one_row_is_learned(desk, pupil, tutelage):
    own = {"source": "file", "file": "one.jsonl", "num_train_epochs": 1, "lora": LORA, "validation": 0, "learning_rate": 5e-3}
    arms = arms_of({"sft": {"sft": own}}, desk, pupil, tutelage)
    assert (arms["sft"]["facts"]["rows"], arms["sft"]["facts"]["steps"]) == (1, 1)
    weights = (Path(adapter_of("sft").folder) / "adapter_model.safetensors").read_bytes()
    assert b"lora_B" in weights and any(weights[-100:]), "the last tensor is no longer all zeros"


@pytest.mark.parametrize("rate", [1.0, 1e6])
def test_of_a_training_that_diverges_the_last_good_weights_are_kept(desk, pupil, tutelage, rate):
    arms = arms_of({"sft": {"sft": {**FROM, "max_steps": 20, "learning_rate": rate}}}, desk, pupil, tutelage)
    noted = arms["sft"]["facts"]
    assert (noted["stopped"], noted["kept_from_step"]) == ("diverged", 1)
    assert noted["steps"] < 20
    assert arms["sft"]["score"] == arms["baseline"]["score"], "the first step warms up, the second ruins all"


def safetensors_cannot_write(*args: Any, **more: Any) -> None:
    from safetensors import SafetensorError

    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def torch_cannot_write(*args: Any, **more: Any) -> None:
    raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")


FULL = {
    "safetensors.torch.save_file": (safetensors_cannot_write, r"adapter cannot be written to .*No space left.*Free some space"),
    "tutelage.training.keeper.save_file": (safetensors_cannot_write, r"no checkpoint can be written to .*No space left.*Free some space"),
    "tutelage.training.checkpoint.torch.save": (torch_cannot_write, r"no checkpoint can be written to .*inline_container.*Free some space"),
    "shutil.copytree": (OSError(28, "No space left on device"), r"adapters\S* cannot be written.*No space left.*Free some space"),
}


@pytest.mark.parametrize("place", FULL)
def test_a_disk_that_is_full_loses_nothing(pupil, finished, tmp_path, monkeypatch, place):
    """In the words of whoever writes: the adapter, a checkpoint of either engine, the copy that the run keeps."""
    change, words = FULL[place]

    def fails(*args: Any, **more: Any) -> None:
        raise change

    learners = {"rlvr": tt.Curriculum(tt.SFT(**SFT), tt.RLVR(**ROLLOUTS))}
    with monkeypatch.context() as broken:
        broken.setattr(place, fails if isinstance(change, OSError) else change)
        with pytest.raises(StoreError, match=words):
            study(pupil, tmp_path, learners).run()
    assert not [path for path in tmp_path.rglob(".*") if path.name.startswith(".saving") or path.name.endswith(".part")]
    study(pupil, tmp_path, learners).run()
    assert adapter_of("rlvr", tmp_path).id == adapter_of("rlvr", finished[0] / RUN).id


async def test_a_spent_budget_is_continued_with_a_larger_one(finished, pupil, tmp_path):
    learners = {"rlvr": tt.Curriculum(tt.SFT(**SFT), tt.RLVR(**ROLLOUTS))}
    history = (finished[0] / RUN / "training" / "rlvr" / "history.jsonl").read_text().splitlines()
    first, second = (json.loads(line)["episodes"] for line in history)
    for calls in (5, 12 + 7, 12 + first + 9):  # in the baseline's test, in the first step's rollouts, and in the second's
        with pytest.raises(BudgetExceeded, match=f"budget of {calls} calls is spent"):
            await study(pupil, tmp_path, learners, budget=tt.Budget(calls=calls)).arun()
    again = await study(pupil, tmp_path, learners, budget=tt.Budget(calls=10_000)).arun()
    assert adapter_of("rlvr", tmp_path).id == adapter_of("rlvr", finished[0] / RUN).id
    arms = {arm["name"]: arm for arm in report(finished[0] / RUN)["arms"]}
    assert again.arms[1].score == arms["rlvr"]["score"]
    assert again.arms[1].learn.calls == arms["rlvr"]["learn"]["calls"]
    with tt.Store(tmp_path / "experience.sqlite") as store:
        assert store.spent("digits")[0].calls == 12 + first + second + 12, "none was made twice"


def test_weights_that_are_not_here_are_refused(desk, tutelage):
    write_study(desk, "x", {"cases": CASES, "sft": {"sft": {}}}, agent={"model": "endpoint:gpt-x"})
    code, _, err = tutelage("run", "study.yaml")
    assert code == 2 and "learners.sft" in err
    assert "the weights of endpoint:gpt-x are not here to be trained; use an agent on hf:... or gguf:..." in " ".join(err.split())
    assert not RUN.exists()


WITHOUT = """
import sys
from importlib.machinery import PathFinder
EXTRA = {"torch", "transformers", "peft", "trl", "accelerate", "datasets", "safetensors"}
found = PathFinder.find_spec
PathFinder.find_spec = lambda name, path=None, target=None: None if name.partition(".")[0] in EXTRA else found(name, path, target)
sys.argv = ["tutelage", "run", "study.yaml"]
from tutelage.cli import main
main()
"""


@pytest.mark.parametrize(
    ("agent", "learner", "words"),
    [
        ("scripted:echo", CASES, None),
        ("hf:{pupil}", CASES, "an hf model needs the package `torch`"),
        ("hf:{pupil}", {"sft": SFT}, "needs the package `torch`"),
    ],
)
def test_without_torch_all_else_works(desk, pupil, agent, learner, words):
    write_study(desk, pupil, {"arm": learner}, agent={"model": agent.format(pupil=pupil)})
    done = subprocess.run([sys.executable, "-c", WITHOUT], cwd=desk, capture_output=True, text=True, check=False)
    if words is None:
        assert done.returncode == 0, done.stderr
        assert (desk / RUN / "report.html").is_file()
    else:
        assert done.returncode == 2, done.stderr
        told = " ".join(done.stderr.split())
        assert words in told and "pip install 'tutelage[train]'" in told, told
        assert "Traceback" not in done.stderr


# -- broken on purpose


def first_loss_is_that_of_the_answers(pupil: Path, folder: Path) -> None:
    """The first loss of SFT is the mean negative logprob of the answers' tokens, as the pupil itself gives them."""
    import torch

    alone = tt.SFT(max_steps=1, per_device_train_batch_size=N_TRAIN, lora=LORA, validation=0)
    told = study(pupil, folder, {"sft": alone}).run().arms[1].facts["loss_first"]
    base = find_base(str(pupil))
    network, tokenizer = load_causal_lm(base), load_tokenizer(base)
    found: list[float] = []
    for task in TASKS[:N_TRAIN]:
        asked = prompt_ids(tokenizer, task.messages)
        said = [*tokenizer.encode(str(task.reference), add_special_tokens=False), tokenizer.eos_token_id]
        with torch.no_grad():
            logprobs = network(torch.tensor([[*asked, *said]])).logits[0].log_softmax(-1)
        found += [float(logprobs[len(asked) + place - 1, token]) for place, token in enumerate(said)]
    assert told == pytest.approx(-sum(found) / len(found), rel=1e-4)


LONGER = {**ROLLOUTS, "steps": 6, "num_generations": 8}


def reward_rises(pupil: Path, folder: Path) -> None:
    arms = {arm.name: arm for arm in study(pupil, folder, {"rlvr": tt.RLVR(**LONGER)}).run().arms}
    assert arms["rlvr"].score >= arms["baseline"].score + 0.3
    assert arms["rlvr"].facts["reward_last"] > arms["rlvr"].facts["reward_first"]


def practised(folder: Path) -> list[tt.Experience]:
    with tt.Store(folder / "experience.sqlite") as store:
        return list(store.experiences(arm="rlvr (practice)"))


def each_step_is_tried_by_the_weights_of_the_step_before(pupil: Path, folder: Path) -> None:
    study(pupil, folder, {"rlvr": tt.RLVR(**ROLLOUTS)}).run()
    with tt.Store(folder / "experience.sqlite") as store:
        by_step = {
            step: {store.agent(one.episode.agent_version)["adapter"] for one in practised(folder) if one.episode.attempt // 6 == step}
            for step in (0, 1)
        }
    assert by_step[0] == {None}
    assert len(by_step[1]) == 1 and None not in by_step[1] | {adapter_of("rlvr", folder).id}


def groups_that_differ_are_learned_from(pupil: Path, folder: Path) -> None:
    report = study(pupil, folder, {"rlvr": tt.RLVR(**{**ROLLOUTS, "steps": 1})}).run()
    rewards: dict[str, set[float | None]] = {}
    for one in practised(folder):
        rewards.setdefault(one.episode.task_id, set()).add(one.grade.score)
    alike = sum(len(own) == 1 for own in rewards.values())
    assert report.arms[1].facts["dropped_groups"] == pytest.approx(alike / len(rewards), abs=1e-3)
    assert report.arms[1].facts["updates"] == 1


def what_is_learned_from_is_what_was_sampled(pupil: Path, folder: Path) -> None:
    """At each token that bears loss, the pupil gives the logprob that was recorded when it was sampled; the last of them ends the reply."""
    import torch

    study(pupil, folder, {"rlvr": tt.RLVR(**{**ROLLOUTS, "steps": 1})}).run()
    base = find_base(str(pupil))
    network, tokenizer = load_causal_lm(base), load_tokenizer(base)
    for one in practised(folder):
        (sample,) = read_experience(one, Reading(logprobs=True))
        with torch.no_grad():
            logprobs = network(torch.tensor([sample.ids])).logits[0].log_softmax(-1)
        chosen = [place for place, action in enumerate(sample.action) if action]
        again = [float(logprobs[place - 1, sample.ids[place]]) for place in chosen]
        assert [sample.sampled_logprobs[place] for place in chosen] == pytest.approx(again, abs=1e-3)
        said = tokenizer.decode([sample.ids[place] for place in chosen], skip_special_tokens=True)
        assert said == next(one.episode.steps).completion.message.text
        assert one.episode.stop is not StopReason.ANSWERED or sample.ids[chosen[-1]] == tokenizer.eos_token_id


def shifted(self: rollouts.Stretch, trace: Any) -> rollouts.Stretch:
    """`grown`, with its marks one place too early."""
    right = rollouts.Stretch((*self.ids, *trace.prompt_ids[len(self.ids) :], *trace.completion_ids), (), ())
    marks = [False] * len(self.ids) + [True] * (len(right.ids) - len(self.ids))
    begins = len(trace.prompt_ids) - 1
    marks = [begins <= place < len(right.ids) - 1 for place in range(len(right.ids))]
    logprobs = (*[float("nan")] * begins, *trace.logprobs, float("nan"))
    return rollouts.Stretch(right.ids, tuple(marks), logprobs)


def bare(self: Any) -> tt.Agent:
    """`_worn` without what was learned."""
    return self.agent.but(model=self.model)


BREAKS: dict[str, tuple[Any, str, Any, Callable[[Path, Path], None]]] = {
    "loss falls on the prompt": (sft_trainer, "labels_of", lambda ids, mask: list(ids), first_loss_is_that_of_the_answers),
    "advantages have the wrong sign": (
        policy_batch,
        "group_advantages",
        lambda samples, scale, own=policy_batch.group_advantages: -own(samples, scale),
        reward_rises,
    ),
    "rollouts do not wear the adapter": (policy._Run, "_worn", bare, each_step_is_tried_by_the_weights_of_the_step_before),
    "dynamic sampling is the wrong way round": (
        rollouts,
        "informative",
        lambda rewards, epsilon=0.0, own=rollouts.informative: not own(rewards, epsilon),
        groups_that_differ_are_learned_from,
    ),
    "samples are shifted by one": (rollouts.Stretch, "grown", shifted, what_is_learned_from_is_what_was_sampled),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_what_is_broken_is_noticed(broken, pupil, tmp_path, monkeypatch):
    holder, name, change, proof = BREAKS[broken]
    proof(pupil, tmp_path / "sound")
    monkeypatch.setattr(holder, name, change)
    with pytest.raises((AssertionError, InputError)):
        proof(pupil, tmp_path / "broken")
