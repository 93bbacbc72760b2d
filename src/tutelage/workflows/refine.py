"""Evaluator and optimiser: one agent answers, another says whether it is good and what is wrong, until it is or the rounds are over."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from tutelage.agent import Agent, RunPart
from tutelage.errors import InputError
from tutelage.records import Message, Task
from tutelage.workflows.parts import asked, check_agents, joined, text_task

JUDGE = """A task and an answer to it are below. Is the answer right and complete?
If it is, write PASS on the first line. If not, write FAIL on the first line, and below it what must be changed.

The task:
{task}

The answer:
{answer}"""


@dataclass(frozen=True)
class Refine:
    """The pattern itself; `refine` makes an agent of it."""

    worker: Agent
    evaluator: Agent
    rounds: int
    name: str = "refine"

    def described(self) -> dict[str, Any]:
        """All that decides its behaviour."""
        return {"refine": {"worker": self.worker.version, "evaluator": self.evaluator.version}, "rounds": self.rounds}

    async def run(self, task: Task, run_part: RunPart) -> str | None:
        """The first answer that passes, else the last one. A verdict that cannot be read passes: there is nothing to improve by."""
        answer: str | None = None
        given = task
        for _ in range(self.rounds):
            answer = (await run_part(self.worker, given, "worker")).answer or answer
            if answer is None:
                continue
            verdict = (await run_part(self.evaluator, text_task(JUDGE.format(task=asked(task), answer=answer)), "evaluator")).answer or ""
            if not is_fail(verdict):
                return answer
            given = revised(task, answer, verdict)
        return answer


def is_fail(verdict: str) -> bool:
    """Whether a verdict says FAIL: the first of PASS and FAIL that stands in it as a word of its own."""
    found = re.search(r"\b(PASS|FAIL)(?:ED|S)?\b", verdict, re.IGNORECASE)
    return bool(found) and found[1].upper() == "FAIL"  # type: ignore[index]


def revised(task: Task, answer: str, verdict: str) -> Task:
    """The task once more, as a conversation: the answer that was given, and what is wrong with it."""
    said = Message(role="assistant", content=answer)
    asks = Message(role="user", content=f"That is not right yet:\n{verdict}\n\nGive the whole answer again, better.")
    return task.model_copy(update={"messages": (*task.messages, said, asks)})


def refine(worker: Agent, evaluator: Agent, *, rounds: int = 3) -> Agent:
    """An agent that answers, is evaluated, and answers again, at most `rounds` times (Self-Refine, Madaan et al. 2023, arXiv:2303.17651,
    with an evaluator of its own). Raises `InputError`.
    """
    check_agents("refine", (worker, evaluator), 2)
    if rounds < 1:
        raise InputError(f"there must be at least one round, and rounds is {rounds}", field="workflow.refine.rounds")
    return joined(Refine(worker, evaluator, rounds), worker)
