"""The episode loop: one agent works on one task.

Ask the model, run the tools that it calls, show it what came back, until it answers or a limit is reached. What the model does wrong is
recorded and the loop goes on; what the user's environment or our own code does wrong raises.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from tutelage.agent import Agent
from tutelage.environment import Environment, EnvironmentFactory, environment_tools
from tutelage.errors import InputError, ModelFailed
from tutelage.grader import as_grade
from tutelage.knowledge import Entry
from tutelage.memory import Memory
from tutelage.model import Model
from tutelage.prices import cost_of
from tutelage.prompt import build_messages
from tutelage.records import (
    Completion,
    Episode,
    Grade,
    Message,
    Observation,
    Sampling,
    Segment,
    Step,
    StopReason,
    Task,
    ToolCall,
    ToolFailure,
    ToolSpec,
    Usage,
)
from tutelage.tool import Tool, call_tool, unknown_tool, validate_arguments
from tutelage.tool_protocol import CALL_END, parse_calls, render_message
from tutelage.workflow import run_workflow

_REFUSED = (ToolFailure.UNKNOWN_TOOL, ToolFailure.BAD_ARGUMENTS)


async def run_episode(
    agent: Agent,
    task: Task,
    *,
    environment: EnvironmentFactory | None = None,
    memory: Memory | None = None,
    model: Model | None = None,
    models: Callable[[Agent], Model] | None = None,
    seed: int = 0,
    attempt: int = 0,
) -> Episode:
    """Let the agent, or the agents of its workflow, work on the task, once.

    environment: made fresh for this episode, closed at its end. memory: chooses exemplars in place of the agent's own snapshot (a memory
    that grows). model: used in place of the agent's (a cached or metered one); models: the same for whichever agent (a workflow has
    several). seed, attempt: enter the seeds of sampling.

    Raises `ModelUnavailable` when the model cannot be reached at all, and whatever the environment's `reset` or `grade` raise. A model
    call that fails after its retries is not raised: the episode ends with `StopReason.MODEL_ERROR`.
    """
    world = environment() if environment else None
    try:
        opening = await _value(world.reset(task)) if world else None
        scene = _Scene(task, world, opening, models or (lambda any_agent: model or any_agent.load()), attempt)
        episode = await _work(agent, task, scene, memory, seed)
        return episode.model_copy(update={"environment_grade": await _own_grade(world, episode)}) if world else episode
    finally:
        if close := getattr(world, "close", None):
            await _value(close())


@dataclass(frozen=True)
class _Scene:
    """What all agents of one episode share: the whole's task, the world and its opening words, and where models come from."""

    task: Task
    world: Environment | None
    opening: str | None
    models: Callable[[Agent], Model]
    attempt: int


async def _work(agent: Agent, task: Task, scene: _Scene, memory: Memory | None, seed: int) -> Episode:
    if agent.workflow is None:
        return await _alone(agent, task, scene, memory, seed)
    own_memory = memory if memory is not None else agent.memory

    async def run_one(part: Agent, part_task: Task, place: int) -> Episode:
        return await _work(part, part_task, scene, None, derive_seed(seed, scene.attempt, "part", place))

    episode = await run_workflow(agent, agent.workflow, task, run_one, own_memory)
    return episode.model_copy(update={"seed": seed, "attempt": scene.attempt})


async def _alone(agent: Agent, task: Task, scene: _Scene, memory: Memory | None, seed: int) -> Episode:
    run = _Run(agent, task, scene.models(agent), _tools(agent, task, scene.world), seed=seed, attempt=scene.attempt)
    run.open(memory if memory is not None else agent.memory, scene.opening if task is scene.task else None)
    return run.episode(await _within_seconds(run, scene.world, agent.limits.seconds))


@dataclass
class _Run:
    """The state of one episode while it runs."""

    agent: Agent
    task: Task
    model: Model
    tools: Mapping[str, Tool]
    seed: int
    attempt: int
    started: float = field(default_factory=perf_counter)
    specs: tuple[ToolSpec, ...] = ()
    context: tuple[Message, ...] = ()
    messages: list[Message] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = 0.0
    calls_made: int = 0
    shown: tuple[str, ...] = ()
    answer: str | None = None
    error: str | None = None

    def open(self, memory: Memory, opening: str | None) -> None:
        """Choose exemplars and write the first messages."""
        if self.agent.limits.cost_usd is not None and self.model.price is None:
            raise InputError(
                f"the price of {self.model.name} is unknown, so a limit on cost cannot be kept; give its price", field="limits.cost_usd"
            )
        exemplars, reflections = memory.choose(self.task), memory.recall(self.task)
        chosen: tuple[Entry, ...] = (*exemplars, *memory.insights, *reflections)
        self.shown = tuple(entry.id for entry in chosen)
        specs = tuple(item.spec for item in self.tools.values())
        native = self.model.native_tools
        self.specs = specs if native else ()
        self.context = build_messages(
            self.agent.instructions,
            self.task,
            specs,
            exemplars,
            insights=memory.insights,
            reflections=reflections,
            native_tools=native,
            opening=opening,
        )
        self.messages = list(self.context)

    def sampling(self) -> Sampling:
        """The agent's sampling with this turn's seed and what is left of the tokens."""
        own = self.agent.sampling
        changes: dict[str, Any] = {}
        if own.temperature > 0 and own.seed is None:
            changes["seed"] = derive_seed(self.seed, self.attempt, self.task.id, len(self.steps))
        limit = self.agent.limits.tokens
        if limit is not None and limit - self.usage.tokens < own.max_tokens:
            changes["max_tokens"] = max(1, limit - self.usage.tokens)
        return own.model_copy(update=changes) if changes else own

    def episode(self, stop: StopReason) -> Episode:
        """What has happened so far, frozen."""
        return Episode(
            task_id=self.task.id,
            agent_version=self.agent.version,
            segments=(Segment(context=self.context, steps=tuple(self.steps)),),
            answer=self.answer,
            stop=stop,
            usage=self.usage,
            cost_usd=self.cost_usd,
            seconds=perf_counter() - self.started,
            error=self.error,
            seed=self.seed,
            attempt=self.attempt,
            shown=self.shown,
        )


def derive_seed(seed: int, attempt: int, task_id: str, turn: int) -> int:
    """A seed in [0, 2^31) that differs by task, attempt and turn and is the same on every machine."""
    digest = hashlib.sha256(f"{seed}/{attempt}/{task_id}/{turn}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


async def _within_seconds(run: _Run, world: Environment | None, seconds: float | None) -> StopReason:
    if seconds is None:
        return await _loop(run, world)
    try:
        async with asyncio.timeout(seconds) as clock:
            return await _loop(run, world)
    except TimeoutError:
        if not clock.expired():
            raise
        return StopReason.SECONDS


async def _loop(run: _Run, world: Environment | None) -> StopReason:
    while True:
        if reached := _limit_reached(run):
            return reached
        begun = perf_counter()
        try:
            completion = await _ask(run)
        except ModelFailed as error:
            run.error = str(error)
            return StopReason.MODEL_ERROR
        calls = _understood_calls(run, completion)
        observations = [await _observe(run, call) for call in calls]
        run.steps.append(Step(completion=completion, calls=calls, observations=_seen(observations), seconds=perf_counter() - begun))
        run.answer = _answer_text(completion, calls) or run.answer
        if not calls:
            return _stop_without_calls(completion)
        if stop := _stop_after_calls(run, world, observations):
            return stop
        _extend_conversation(run, completion.message, calls, _seen(observations))


async def _ask(run: _Run) -> Completion:
    completion = await run.model.complete(run.messages, tools=run.specs, sampling=run.sampling())
    run.usage = run.usage + completion.usage if run.steps else completion.usage
    cost = cost_of(completion, run.model.price)
    run.cost_usd = None if cost is None or run.cost_usd is None else run.cost_usd + cost
    return completion


def _limit_reached(run: _Run) -> StopReason | None:
    limits = run.agent.limits
    if len(run.steps) >= limits.steps:
        return StopReason.STEPS
    if limits.tokens is not None and run.usage.tokens >= limits.tokens:
        return StopReason.TOKENS
    if limits.cost_usd is not None and run.cost_usd is not None and run.cost_usd >= limits.cost_usd:
        return StopReason.COST
    return None


def _understood_calls(run: _Run, completion: Completion) -> tuple[ToolCall, ...]:
    """The model's own calls, or those written in its text; ids are made unique within the episode."""
    calls = completion.message.tool_calls
    if not calls and run.tools:
        calls = _written_calls(completion)
    if not calls:
        return ()
    used = {call.id for step in run.steps for call in step.calls}
    native = bool(completion.message.tool_calls)
    renamed: list[ToolCall] = []
    for call in calls:
        run.calls_made += 1
        keep = native and call.id and call.id not in used
        renamed.append(call if keep else ToolCall(id=f"call_{run.calls_made}", name=call.name, arguments=call.arguments))
        used.add(renamed[-1].id)
    return tuple(renamed)


def _written_calls(completion: Completion) -> tuple[ToolCall, ...]:
    """Calls in the text. Of a reply that was cut off, only those that are closed: lenient reading would complete half a call."""
    text = completion.message.text
    if completion.finish == "length":
        text = text[: text.rfind(CALL_END) + len(CALL_END)] if CALL_END in text else ""
    return parse_calls(text)[1]


async def _observe(run: _Run, call: ToolCall) -> Observation | None:
    """Run one call; None where the tool is only declared and the call is handed over."""
    chosen = run.tools.get(call.name)
    if chosen is None:
        return unknown_tool(call, list(run.tools))
    if chosen.function is not None:
        return await call_tool(chosen, call)
    problem = validate_arguments(chosen.spec, call)
    return Observation(text=problem, call_id=call.id, failure=ToolFailure.BAD_ARGUMENTS) if problem else None


def _seen(observations: Sequence[Observation | None]) -> tuple[Observation, ...]:
    return tuple(observation for observation in observations if observation is not None)


def _answer_text(completion: Completion, calls: tuple[ToolCall, ...]) -> str | None:
    """The model's words; where it only wrote calls in its text, what stands beside them."""
    text = completion.message.text
    if calls and not completion.message.tool_calls:
        text = parse_calls(text)[0]
    return text.strip() or None


def _stop_without_calls(completion: Completion) -> StopReason:
    if completion.finish == "length":
        return StopReason.TRUNCATED
    return StopReason.ANSWERED if completion.message.text.strip() else StopReason.EMPTY


def _stop_after_calls(run: _Run, world: Environment | None, observations: Sequence[Observation | None]) -> StopReason | None:
    if getattr(world, "done", False):
        return StopReason.ENVIRONMENT
    handed_over = any(observation is None for observation in observations)
    accepted = any(observation is None or observation.failure not in _REFUSED for observation in observations)
    if handed_over or (run.agent.stop_on_tool and accepted):
        return StopReason.TOOL_CALL
    return None


def _extend_conversation(run: _Run, said: Message, calls: tuple[ToolCall, ...], observations: tuple[Observation, ...]) -> None:
    replies = [observation.message for observation in observations]
    if run.model.native_tools and said.tool_calls:
        run.messages.append(said if calls == said.tool_calls else said.model_copy(update={"tool_calls": calls}))
        run.messages.extend(replies)
    else:  # calls stand in the text: the model sees its own words again, and results as text
        run.messages.append(said)  # and several results in one message, since some templates refuse two of a role in a row
        run.messages.append(Message(role="user", content="\n".join(render_message(reply).text for reply in replies)))


def _tools(agent: Agent, task: Task, world: Environment | None) -> dict[str, Tool]:
    declared = [Tool(spec=spec) for spec in task.tools]
    offered = [*agent.tools, *(environment_tools(world) if world else ()), *declared]
    named = {item.spec.name: item for item in offered}
    if len(named) < len(offered):
        names = [item.spec.name for item in offered]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise InputError(f"two tools are called {', '.join(twice)}; rename one", field="tools")
    return named


async def _own_grade(world: Environment, episode: Episode) -> Grade | None:
    grade = getattr(world, "grade", None)
    if grade is None or episode.stop is StopReason.MODEL_ERROR:
        return None
    value = await _value(grade(episode))
    return None if value is None else as_grade(value)


async def _value(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result
