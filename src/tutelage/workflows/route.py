"""Routing: one agent, or a plain function, says what kind of task it is, and the agent for that kind does it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tutelage.agent import Agent, RunPart
from tutelage.errors import InputError
from tutelage.records import Task
from tutelage.workflows.parts import asked, check_agents, function_name, joined, text_task

Router = Agent | Callable[[Task], str]


@dataclass(frozen=True)
class Route:
    """The pattern itself; `route` makes an agent of it."""

    router: Router
    routes: Mapping[str, Agent]
    default: str
    name: str = "route"

    def described(self) -> dict[str, Any]:
        """All that decides its behaviour."""
        router = self.router.version if isinstance(self.router, Agent) else function_name(self.router)
        return {"route": {name: agent.version for name, agent in self.routes.items()}, "router": router, "default": self.default}

    async def run(self, task: Task, run_part: RunPart) -> str | None:
        """The answer of the agent that the task was sent to. A router that names no route, or several, sends it to the default."""
        chosen = await self._choose(task, run_part)
        return (await run_part(self.routes[chosen], task, chosen)).answer

    async def _choose(self, task: Task, run_part: RunPart) -> str:
        if not isinstance(self.router, Agent):
            said = self.router(task)
            return said if said in self.routes else self.default
        names = ", ".join(self.routes)
        question = text_task(f"Which of these should handle the request below: {names}? Answer with the name alone.\n\n{asked(task)}")
        return named(await _answer(self.router, question, run_part), self.routes) or self.default


async def _answer(router: Agent, question: Task, run_part: RunPart) -> str:
    return (await run_part(router, question, "router")).answer or ""


def named(text: str, names: Mapping[str, Any]) -> str | None:
    """The one name in a reply, as a whole word in any case; None for none or several (unless the reply is a name itself)."""
    exact = [name for name in names if text.strip().strip("`'\".").casefold() == name.casefold()]
    if exact:
        return exact[0]
    found = [name for name in names if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE)]
    return found[0] if len(found) == 1 else None


def route(router: Router, routes: Mapping[str, Agent], *, default: str | None = None) -> Agent:
    """An agent that sends each task to one of several.

    router: an agent that is asked for a name of `routes`, or a function of the task that gives one. default: where it gives none of them
    (the first, where left out). Raises `InputError`.
    """
    check_agents("route", routes, 1)
    default = default if default is not None else next(iter(routes))
    if default not in routes:
        raise InputError(f"the default `{default}` is none of the routes {', '.join(routes)}", field="workflow.route.default")
    pattern = Route(router, MappingProxyType(dict(routes)), default)
    return joined(pattern, router if isinstance(router, Agent) else routes[default])
