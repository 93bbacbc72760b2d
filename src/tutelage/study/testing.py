"""Testing an arm: every test task once, or one after another as a stream where the agent's memory grows while it works."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tutelage.agent import Agent
from tutelage.collector import Collector, Job
from tutelage.executor import AgileExecutor
from tutelage.records import Experience, Task
from tutelage.streams import knowing, paid, run_stream, save_stream, shuffled
from tutelage.study.executors import names_of
from tutelage.study.results import CaseAnswer, TestRow
from tutelage.tasks import reference_messages

ASKS = "seek_advice"
REMEMBERS = frozenset({"retrieve_memory", "update_memory"})


def price_of(agent: Agent) -> float | None:
    """What advice costs the agent, in units of reward; None where it cannot ask for any."""
    executor = agent.executor
    if not isinstance(executor, AgileExecutor) or (ASKS not in names_of(executor) and executor.ask_when is None):
        return None
    return executor.price


def works_in_stream(agent: Agent) -> bool:
    """Whether what a session does depends on those before it."""
    executor = agent.executor
    return isinstance(executor, AgileExecutor) and (bool(REMEMBERS & names_of(executor)) or executor.keep_advice)


async def run_arm(
    collector: Collector, agent: Agent, tasks: Sequence[Task], *, seed: int, arm: str, stream: Path | None
) -> list[Experience]:
    """The agent's experiences on the tasks, in their order. stream: the file to note a stream in (None: nowhere)."""
    if agent.executor is None:
        return await collector.run(agent, [Job(task, seed) for task in tasks], arm=arm)
    order = shuffled(tasks, seed)
    if not works_in_stream(agent):
        placed = [(knowing(agent, agent.knowledge, place), Job(task, seed)) for place, task in enumerate(order)]
        done = await collector.run_each(placed, arm=arm)
    else:
        run = await run_stream(collector, agent, order, seed=seed, arm=arm)
        done = [session.experience for session in run.sessions]
        if stream is not None:
            save_stream(run, stream)
    found = {experience.episode.task_id: experience for experience in done}
    return [found[task.id] for task in tasks]


def rows_of(experiences: Sequence[Experience], tasks: Sequence[Task], seed: int) -> list[TestRow]:
    """A row an experience, in their order."""
    places = {task.id: place for place, task in enumerate(shuffled(tasks, seed))}
    return [_row(experience, places) for experience in experiences]


def _row(experience: Experience, places: Mapping[str, int]) -> TestRow:
    episode, grade = experience.episode, experience.grade
    return TestRow(
        task_id=episode.task_id,
        seed=episode.seed,
        score=grade.score,
        tokens_in=episode.usage.tokens_in,
        tokens_out=episode.usage.tokens_out,
        usd=_usd(experience),
        seconds=episode.seconds,
        stop=episode.stop,
        words=grade.words,
        abstained=grade.abstained,
        asked=bool(episode.advice),
        paid=paid(experience),
        place=places[episode.task_id],
    )


def _usd(experience: Experience) -> float | None:
    """US dollars for models and for advice; None where one price is unknown."""
    prices = [experience.episode.cost_usd, *(advice.price_usd for advice in experience.episode.advice)]
    known = [price for price in prices if price is not None]
    return sum(known) if len(known) == len(prices) else None


def answer_to_read(experience: Experience) -> CaseAnswer:
    """What was answered, as a person reads it."""
    episode = experience.episode
    calls = "\n".join(f"{call.name}({call.arguments})" for call, _ in episode.calls)
    said = "\n".join(part for part in (calls, episode.answer) if part)
    return CaseAnswer(said or episode.error, experience.grade.score, experience.grade.words)


def expected_to_read(task: Task) -> str | None:
    """The reference, as a person reads it."""
    said = reference_messages(task)
    if not said:
        return None if task.reference is None else json.dumps(task.reference, ensure_ascii=False)
    calls = [f"{call.name}({call.arguments})" for message in said for call in message.tool_calls]
    return "\n".join([*calls, *(message.text for message in said if message.text)])
