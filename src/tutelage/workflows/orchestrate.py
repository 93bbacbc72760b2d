"""Orchestrator and workers: one agent decides at run time what the subtasks are, workers do them, and it writes the answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from tutelage.agent import Agent, RunPart
from tutelage.errors import InputError
from tutelage.records import Task
from tutelage.workflows.parallel import at_once
from tutelage.workflows.parts import asked, check_agents, joined, json_in, text_task

PLAN = """{task}

Do not solve this yet. Split it into at most {cap} subtasks that can be done independently by somebody who sees only the subtask.
Answer with a JSON list of texts."""

JOIN = """{task}

The subtasks and what was found:

{found}

Now write the answer to the whole task."""


@dataclass(frozen=True)
class Orchestrate:
    """The pattern itself; `orchestrate` makes an agent of it."""

    planner: Agent
    worker: Agent
    cap: int
    name: str = "orchestrate"

    def described(self) -> dict[str, Any]:
        """All that decides its behaviour."""
        return {"orchestrate": {"planner": self.planner.version, "worker": self.worker.version}, "cap": self.cap}

    async def run(self, task: Task, run_part: RunPart) -> str | None:
        """The planner's last answer. A plan that cannot be read leaves the whole task to the worker."""
        question = text_task(PLAN.format(task=asked(task), cap=self.cap))
        subtasks = read_plan((await run_part(self.planner, question, "plan")).answer or "")[: self.cap]
        if not subtasks:
            return (await run_part(self.worker, task, "worker")).answer
        done = await at_once([run_part(self.worker, text_task(subtask), f"worker {n}") for n, subtask in enumerate(subtasks, 1)])
        found = "\n\n".join(f"{subtask}\n-> {episode.answer or '(nothing)'}" for subtask, episode in zip(subtasks, done, strict=True))
        return (await run_part(self.planner, text_task(JOIN.format(task=asked(task), found=found)), "join")).answer


def read_plan(text: str) -> list[str]:
    """The subtasks in a planner's reply: a JSON list of texts (or of objects with one text), else the lines of a list."""
    data = json_in(text)
    if isinstance(data, dict):
        data = next((value for value in data.values() if isinstance(value, list)), None)
    if isinstance(data, list):
        texts = [
            next((str(value) for value in item.values() if isinstance(value, str)), "") if isinstance(item, dict) else item for item in data
        ]
        return [item.strip() for item in texts if isinstance(item, str) and item.strip()]
    return [match[1].strip() for match in re.finditer(r"^\s*(?:\d+[.)]|[-*])\s+(.+)$", text, re.MULTILINE)]


def orchestrate(planner: Agent, worker: Agent, *, cap: int = 5) -> Agent:
    """An agent that plans subtasks, lets a worker do each (all at once), and writes the answer from what they found.

    cap: the most subtasks; more are dropped. Raises `InputError`.
    """
    check_agents("orchestrate", (planner, worker), 2)
    if cap < 1:
        raise InputError(f"there must be room for a subtask, and cap is {cap}", field="workflow.orchestrate.cap")
    return joined(Orchestrate(planner, worker, cap), planner)
