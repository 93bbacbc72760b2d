"""A whole study, offline: arms, sealing, cheap baselines, resume to the digit, learned agents on disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tutelage as tt
from tutelage.errors import InputError, SealedError
from tutelage.files import remove_leftovers
from tutelage.study.cheap import cheap_answers

COLOURS = ["red", "green", "blue", "black"]
KEYS = ["name", "learner", "agent_version", "n", "score", "ci", "delta", "delta_ci", "p", "p_holm", "learn", "use"]


def tasks(first: int, last: int) -> list[tt.Task]:
    texts = {n: f"Car {n} of the {'ABCD'[n % 4] * 4} family: which colour?" for n in range(first, last)}
    return [
        tt.Task(messages=(tt.Message(role="user", content=text),), reference=COLOURS[n % 4], kind="car", source=f"cars:{n}")
        for n, text in texts.items()
    ]


def imitate(messages, tools, sampling):
    """Answers as the exemplar next to the question was answered."""
    said = [message.text for message in messages if message.role == "assistant"]
    return said[-1] if said else "no idea"


def study(**changes) -> tt.Study:
    fields = {
        "name": "cars",
        "agent": tt.Agent(model=tt.Scripted(imitate)),
        "train": tasks(0, 40),
        "test": tasks(40, 80),
        "grader": tt.Exact(),
        "learners": {"fixed": tt.Exemplars(k=4), "text": tt.Exemplars(choose="text", k=2)},
    }
    return tt.Study(**{**fields, **changes})


async def test_learning_is_shown_and_compared_with_cheap_answers(tmp_path):
    report = await study(out=tmp_path / "run").arun()
    data = json.loads((tmp_path / "run" / "report.json").read_text())
    assert list(data) == ["study", "seed", "tasks", "test_looks", "arms", "cheap", "recommendation"]
    assert data["tasks"] == {"train": 40, "test": 40}
    assert [list(arm) for arm in data["arms"]] == [KEYS] * 3
    baseline, fixed, text = data["arms"]
    assert (baseline["name"], baseline["learner"], baseline["score"], baseline["delta"]) == ("baseline", None, 0.0, None)
    assert fixed["score"] == 0.25  # one answer for all: it shows the same case next to every question
    assert text["score"] == 1.0
    assert text["delta"] == 1.0
    assert text["p_holm"] < 1e-6
    assert text["learn"]["calls"] == 0
    assert text["use"]["usd"] == 0.0
    cheap = {entry["name"]: entry["score"] for entry in data["cheap"]}
    assert cheap["constant"] == 0.25
    assert cheap["nearest"] > 0.5
    assert "text" in data["recommendation"]
    assert report.model_dump(mode="json")["arms"] == data["arms"]
    for name in ("report.md", "report.html", "run.json", "agents/text.json"):
        assert (tmp_path / "run" / name).stat().st_size > 100


async def test_running_again_asks_nothing_and_reports_the_same(tmp_path):
    first = await study(out=tmp_path).arun()
    agent = tt.Agent(model=tt.Scripted(imitate))
    again = await study(out=tmp_path, agent=agent).arun()
    assert agent.model.calls == 0
    assert again == first


async def test_looks_at_the_test_split_are_counted(tmp_path):
    looks = [(await study(out=tmp_path, **changes).arun()).test_looks for changes in ({}, {}, {"seeds": (1,)}, {"train": tasks(0, 20)}, {})]
    assert looks == [1, 1, 2, 3, 3]


async def test_a_saved_agent_is_used_only_if_it_was_learned_from_the_same(tmp_path):
    await study(out=tmp_path).arun()
    before = (tmp_path / "agents" / "text.json").read_text()
    await study(out=tmp_path).arun()
    assert (tmp_path / "agents" / "text.json").read_text() == before
    await study(out=tmp_path, train=tasks(0, 20)).arun()
    assert len(json.loads((tmp_path / "agents" / "text.json").read_text())["knowledge"]["exemplars"]) == 20


async def test_further_agents_and_seeds_and_the_curve(tmp_path):
    other = tt.Agent(model=tt.Scripted("red", name="scripted:red"))
    report = await study(out=tmp_path, agents={"always red": other}, seeds=(0, 1), curve=(4, 400)).arun()
    arms = {arm.name: arm for arm in report.arms}
    assert list(arms) == ["baseline", "always red", "fixed", "text"]
    assert (arms["always red"].score, arms["always red"].learner) == (0.25, None)
    assert arms["text"].n == 40  # tasks, not tasks times seeds
    assert {path.name for path in (tmp_path / "agents").iterdir()} >= {"text-seed0.json", "text-seed1.json"}


async def test_a_learner_gets_no_test_task():
    seen = []

    class Spy:
        name, needs = "spy", frozenset()

        def described(self):
            return {"spy": 1}

        def forecast_calls(self, n_tasks):
            return 0

        async def learn(self, agent, practice):
            seen.extend(practice.tasks)
            with pytest.raises(SealedError):
                await practice.collect(agent, tasks(40, 41))
            return agent

    await study(learners={"spy": Spy()}).arun()
    assert {task.id for task in seen} == {task.id for task in tasks(0, 40)}


async def test_what_cannot_work_is_refused_before_anything_is_spent():
    for changes, says in [
        ({"test": tasks(39, 50)}, "cars:39"),
        ({"train": []}, "train split holds no task"),
        ({"test": []}, "test split holds no task"),
        ({"seeds": ()}, "seed"),
        ({"agents": {"text": tt.Agent(model="scripted:echo")}}, "two arms are called `text`"),
        ({"train": [task.model_copy(update={"reference": None}) for task in tasks(0, 5)]}, "reference"),
    ]:
        one = study(**changes)
        with pytest.raises(InputError, match=says):
            await one.arun()
        assert one.agent.model.calls == 0


async def test_ungraded_episodes_are_not_zero(tmp_path):
    def moody(task, episode):
        return None if task.text.startswith("Car 4") else float(episode.answer == task.reference)

    report = await study(grader=tt.FunctionGrader(moody)).arun()
    assert {arm.n for arm in report.arms} == {30}


async def test_cheap_answers_are_graded_like_the_agents():
    constant, nearest = await cheap_answers(tasks(0, 8), tasks(8, 12), tt.Exact())
    assert sorted(constant.scores) == [0.0, 0.0, 0.0, 1.0]
    assert len(nearest.scores) == 4
    sorted_by_kind = [
        tt.Task(messages=(tt.Message(role="user", content=f"q{n}"),), reference=f"only {n}" if n < 300 else "same") for n in range(700)
    ]
    constant, _ = await cheap_answers(sorted_by_kind, tasks(0, 1), tt.Exact())
    assert constant.note == "same"
    assert await cheap_answers([tasks(0, 1)[0].model_copy(update={"reference": None})], tasks(8, 9), tt.Exact()) == []


SCRIPT = """
import sys, time
import tutelage as tt
sys.path.insert(0, {tests!r})
from test_study import study, imitate
def slow(messages, tools, sampling):
    time.sleep(0.004)
    return imitate(messages, tools, sampling)
study(out={out!r}, concurrency=3, agent=tt.Agent(model=tt.Scripted(slow))).run()
print("done")
"""


def start(out: Path) -> subprocess.Popen:
    code = SCRIPT.format(tests=str(Path(__file__).parent), out=str(out))
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_kill_at_any_moment_and_run_again(tmp_path):
    """Killed several times at different moments, then finished: the report is that of an uninterrupted run, to the digit."""
    whole = tmp_path / "whole"
    assert start(whole).communicate(timeout=120)[0] == "done\n"
    killed = tmp_path / "killed"
    finished = 0
    for moment in (0.05, 0.3, 0.5, 0.7, 0.9):
        process = start(killed)
        deadline = time.monotonic() + 60
        while not (killed / "experience.sqlite").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(moment * 0.4)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        now = episodes_in(killed)
        assert now >= finished
        finished = now
    assert start(killed).communicate(timeout=120)[0] == "done\n"
    assert episodes_in(killed) == 120  # three arms of 40: none was repeated
    assert timeless(killed) == timeless(whole)


def episodes_in(folder: Path) -> int:
    try:
        store = tt.Store(folder / "experience.sqlite")
    except tt.InputError:
        return 0
    count = sum(1 for _ in store.experiences())
    store.close()
    return count


def timeless(folder: Path) -> dict:
    """The report without the seconds, which are a clock's and not the study's."""
    report = json.loads((folder / "report.json").read_text())
    for arm in report["arms"]:
        for part in ("learn", "use"):
            arm[part].pop("seconds")
    report["recommendation"] = ""  # it mentions seconds where money is unknown or zero
    return report


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    folder = tmp_path / "run" / "adapters" / ".abc.1.part"
    folder.mkdir(parents=True)
    (folder / "weights").write_text("half")
    file = tmp_path / "run" / ".report.json.1.part"
    file.write_text("half")
    remove_leftovers(tmp_path / "run")
    assert not folder.exists()
    assert not file.exists()
    assert (tmp_path / "run" / "adapters").is_dir()
