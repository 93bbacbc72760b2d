"""Prompt chaining: each agent works on what the one before made; a gate after a step may stop the chain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tutelage.agent import Agent, RunPart
from tutelage.errors import InputError
from tutelage.records import Task
from tutelage.workflows.parts import asked, check_agents, function_name, joined, text_task

Gate = Callable[[str], bool]
"""Whether a step's answer may be passed on."""


@dataclass(frozen=True)
class Chain:
    """The pattern itself; `chain` makes an agent of it."""

    agents: tuple[Agent, ...]
    gates: tuple[Gate | None, ...]
    retries: int
    name: str = "chain"

    def described(self) -> dict[str, Any]:
        """All that decides its behaviour."""
        gates = [function_name(gate) for gate in self.gates]
        return {"chain": [agent.version for agent in self.agents], "gates": gates, "retries": self.retries}

    async def run(self, task: Task, run_part: RunPart) -> str | None:
        """The last step's answer; None where a gate stayed shut or a step gave nothing."""
        given, answer = task, None
        for number, (agent, gate) in enumerate(zip(self.agents, self.gates, strict=True), 1):
            answer = await self._step(agent, gate, given, f"step {number}", run_part)
            if answer is None:
                return None
            given = text_task(f"{asked(task)}\n\nWhat has been done so far:\n{answer}")
        return answer

    async def _step(self, agent: Agent, gate: Gate | None, given: Task, name: str, run_part: RunPart) -> str | None:
        for _ in range(1 + self.retries):
            answer = (await run_part(agent, given, name)).answer
            if answer and (gate is None or gate(answer)):
                return answer
        return None


def chain(*agents: Agent, gates: tuple[Gate | None, ...] | None = None, retries: int = 0) -> Agent:
    """An agent that lets several work one after the other, each on the task and the answer of the one before.

    gates: one for each step (None: no gate): a function of the step's answer that says whether to go on. retries: how often a step is
    tried again whose gate stayed shut or that gave nothing; after that the chain ends without an answer. Raises `InputError`.
    """
    check_agents("chain", agents, 1)
    gates = gates if gates is not None else (None,) * len(agents)
    if len(gates) != len(agents):
        raise InputError(f"{len(agents)} steps need {len(agents)} gates (None: no gate), not {len(gates)}", field="workflow.chain.gates")
    if retries < 0:
        raise InputError(f"retries must be 0 or more, and is {retries}", field="workflow.chain.retries")
    return joined(Chain(agents, tuple(gates), retries), agents[0])
