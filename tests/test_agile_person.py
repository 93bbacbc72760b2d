"""A person as the expert of an agent that works in sessions, through the commands of `tutelage inbox` alone: from the question to what was
learned from its answer, to the same question answered without anybody.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import tutelage as tt
from tutelage.collector import Collector
from tutelage.executor import AgileExecutor
from tutelage.executor.prompts import NO_ADVICE
from tutelage.grader import as_grader
from tutelage.inbox import Inbox, Person, Terms
from tutelage.models.scripted import Scripted
from tutelage.records import Message, Task
from tutelage.streams import StreamRun, replay, run_stream

TUTELAGE = (sys.executable, "-c", "from tutelage.cli import main; main()")
QUESTION = "Which battery fits the X200?"
AGAIN = f"A customer asks once more: {QUESTION}"
ANSWER = "The B7."
PRICE = 0.3


def ask(text: str) -> Task:
    return Task(messages=(Message(role="user", content=text),), reference=ANSWER)


def policy(messages: Sequence[Message], tools: object, sampling: object) -> str:
    """Answers from memory where that shows something, from advice where it was given, and else asks; keeps what it is told."""
    told = [message.text for message in messages if message.role == "user"]
    advice = next((text.partition("seek_advice: ")[2] for text in told if text.startswith("seek_advice: ")), None)
    if advice is None:
        known = next((line.removeprefix("Known: ") for line in told[0].splitlines() if line.startswith("Known: ")), None)
        return f"predict_answer {known}" if known else "seek_advice"
    if advice == NO_ADVICE:
        return "predict_answer I do not know."
    if any(text.startswith("update_memory: ") for text in told):
        return f"predict_answer {advice}"
    return "update_memory" if any(text.startswith("reflect: ") for text in told) else f"reflect {advice}"


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run, seen from where the person's terminal stands."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    folder = tmp_path / "runs" / "shop"
    folder.mkdir(parents=True)
    return folder


async def inbox_command(*words: str, stdin: str | None = None) -> str:
    """What `tutelage inbox ...` prints in a terminal of its own; it must end well."""
    process = await asyncio.create_subprocess_exec(
        *TUTELAGE, "inbox", *words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ}
    )
    printed, _ = await process.communicate(None if stdin is None else stdin.encode())
    assert process.returncode == 0, printed.decode()
    return printed.decode()


async def first_waiting() -> dict:
    """The question that waits, as soon as one does."""
    for _ in range(20):
        if rows := (await inbox_command("list", "runs/shop", "--json")).splitlines():
            return json.loads(rows[0])
    raise AssertionError("nobody asked")


class Desk:
    """An agent at its desk: a store, an inbox in it, and a person to ask."""

    def __init__(self, folder: Path, seconds: float = 60) -> None:
        self.store = tt.Store(folder / "experience.sqlite")
        self.inbox = Inbox(folder / "experience.sqlite")
        self.model = Scripted(policy, native_tools=False)
        actions = ("seek_advice", "reflect", "update_memory", "predict_answer")
        self.agent = tt.Agent(model=self.model, executor=AgileExecutor(actions=actions, price=PRICE))
        person = Person(self.inbox, Terms(price=PRICE, seconds=seconds))
        grader = as_grader(lambda task, episode: float(episode.answer == task.reference))
        self.collector = Collector(grader, store=self.store, study="shop", advisor=person)

    async def serve(self, *texts: str) -> StreamRun:
        return await run_stream(self.collector, self.agent, [ask(text) for text in texts])

    def close(self) -> None:
        self.inbox.close()
        self.store.close()


@pytest.fixture
def desk(run_folder: Path):
    opened = Desk(run_folder)
    yield opened
    opened.close()


async def test_from_a_question_to_what_was_learned_to_the_same_question_answered_alone(desk: Desk, run_folder: Path):
    serving = asyncio.create_task(desk.serve(QUESTION, AGAIN))
    waiting = await first_waiting()
    assert waiting["question"]["text"] == QUESTION
    assert waiting["question"]["agent_version"] == desk.agent.version
    shown = await inbox_command("show", waiting["id"][:8])
    assert QUESTION in shown
    assert f"price {PRICE}" in shown
    printed = await inbox_command("answer", waiting["id"][:8], ANSWER, "--by", "anna")
    assert printed == f"answered {waiting['id'][:8]}: {ANSWER}\n"

    asked, alone = (await asyncio.wait_for(serving, 20)).sessions
    assert [advice.by for advice in asked.experience.episode.advice] == ["person:anna"]
    assert [entry.messages[-1].text for entry in asked.writes] == [ANSWER]
    assert (asked.score, asked.reward) == (1.0, 0.7)
    assert alone.experience.episode.advice == ()
    assert (alone.score, alone.reward) == (1.0, 1.0)
    assert asked.writes[0].id in alone.experience.episode.shown

    rows = [json.loads(row) for row in (await inbox_command("list", "runs/shop", "--all", "--json")).splitlines()]
    assert [row["state"] for row in rows] == ["answered"]
    assert desk.inbox.charged() == (PRICE, 0.0)


async def test_a_run_that_begins_again_asks_nobody_and_no_question_is_answered_from_its_own_entry(desk: Desk):
    serving = asyncio.create_task(desk.serve(QUESTION, AGAIN))
    await first_waiting()
    await inbox_command("watch", "runs/shop", "--by", "anna", "--until-empty", stdin=f"{ANSWER}\n")
    first = await asyncio.wait_for(serving, 20)
    calls = desk.model.calls
    assert await desk.serve(QUESTION, AGAIN) == first
    assert desk.model.calls == calls
    assert desk.inbox.charged() == (PRICE, 0.0)
    assert (await replay(first, 1, desk.collector)).episode.answer == ANSWER

    alone = Collector(desk.collector.grader)
    (session,) = (await run_stream(alone, desk.agent, [ask(QUESTION)], memory=first.memory, first=2)).sessions
    assert session.experience.episode.shown == ()  # else an agent that is tested on what it was told would look better than it is
    assert session.score == 0


async def test_where_the_person_declines_the_agent_goes_on_alone_and_keeps_nothing(desk: Desk):
    serving = asyncio.create_task(desk.serve(QUESTION))
    await inbox_command("decline", (await first_waiting())["id"], "--by", "anna", "--note", "ask the supplier")
    (session,) = (await asyncio.wait_for(serving, 20)).sessions
    assert session.experience.episode.advice == ()
    assert (session.reward, session.writes) == (0.0, ())
    assert desk.inbox.charged() == (0.0, 0.0)
