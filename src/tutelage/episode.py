"""The episode loop: one agent works on one task.

Ask the model, run the tools that it calls, show it what came back, until it answers or a limit is reached. What the model does wrong is
recorded and the loop goes on; what the user's environment or our own code does wrong raises.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from tutelage.agent import Agent, Scene
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

if TYPE_CHECKING:
    from tutelage.advice import Advisor  # screens texts, which no agent needs

__all__ = ["Run", "Scene", "derive_seed", "observe", "run_episode", "stop_after_calls", "stop_without_calls", "tools_of", "within_seconds"]

_NOTHING = Usage()
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
    advisor: Advisor | None = None,
) -> Episode:
    """Let the agent, or the agents of its workflow, work on the task, once.

    environment: made fresh for this episode, closed at its end. memory: chooses exemplars in place of the agent's own snapshot (a memory
    that grows). model: used in place of the agent's (a cached or metered one); models: the same for whichever agent (a workflow has
    several). seed, attempt: enter the seeds of sampling. advisor: who may be asked, where the agent has an executor that asks.

    Raises `ModelUnavailable` when the model cannot be reached at all, and whatever the environment's `reset` or `grade` raise. A model
    call that fails after its retries is not raised: the episode ends with `StopReason.MODEL_ERROR`.
    """
    world = environment() if environment else None
    try:
        opening = await _value(world.reset(task)) if world else None
        scene = Scene(task, world, opening, models or (lambda any_agent: model or any_agent.load()), attempt, seed, advisor, memory)
        episode = await _work(agent, task, scene)
        return episode.model_copy(update={"environment_grade": await _own_grade(world, episode)}) if world else episode
    finally:
        if close := getattr(world, "close", None):
            await _value(close())


async def _work(agent: Agent, task: Task, scene: Scene) -> Episode:
    if agent.workflow is None:
        return await _alone(agent, task, scene)
    own_memory = scene.memory if scene.memory is not None else agent.memory

    async def run_one(part: Agent, part_task: Task, place: int) -> Episode:
        return await _work(part, part_task, replace(scene, memory=None, seed=derive_seed(scene.seed, scene.attempt, "part", place)))

    episode = await run_workflow(agent, agent.workflow, task, run_one, own_memory)
    return episode.model_copy(update={"seed": scene.seed, "attempt": scene.attempt})


async def _alone(agent: Agent, task: Task, scene: Scene) -> Episode:
    own = scene if task is scene.task else replace(scene, opening=None)
    if agent.executor is not None:
        return await agent.executor.run(agent, task, own)
    run = Run(agent, task, scene.models(agent), tools_of(agent, task, scene.world), seed=scene.seed, attempt=scene.attempt)
    run.open(scene.memory if scene.memory is not None else agent.memory, own.opening)
    return run.episode(await within_seconds(_loop(run, scene.world), agent.limits.seconds))


@dataclass
class Run:
    """One agent at work on one task: the conversation so far, what it has cost, and how far its limits reach.

    steps: of the context that is open; segments: what was closed by `begin`. tools: by name. specs: what a model with tools of its own is
    given. sampling: in place of the agent's.
    """

    agent: Agent
    task: Task
    model: Model
    tools: Mapping[str, Tool]
    seed: int
    attempt: int
    sampling: Sampling | None = None
    started: float = field(default_factory=perf_counter)
    specs: tuple[ToolSpec, ...] = ()
    context: tuple[Message, ...] = ()
    messages: list[Message] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    usage: Usage = _NOTHING
    cost_usd: float | None = 0.0
    calls_made: int = 0
    shown: tuple[str, ...] = ()
    answer: str | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        if self.agent.limits.cost_usd is not None and self.model.price is None:
            raise InputError(
                f"the price of {self.model.name} is unknown, so a limit on cost cannot be kept; give its price", field="limits.cost_usd"
            )

    def open(self, memory: Memory, opening: str | None) -> None:
        """Choose exemplars and write the first messages."""
        exemplars, reflections = memory.choose(self.task), memory.recall(self.task)
        chosen: tuple[Entry, ...] = (*exemplars, *memory.insights, *reflections)
        self.shown = tuple(entry.id for entry in chosen)
        specs = tuple(item.spec for item in self.tools.values())
        native = self.model.native_tools
        self.specs = specs if native else ()
        self.begin(
            build_messages(
                self.agent.instructions,
                self.task,
                specs,
                exemplars,
                insights=memory.insights,
                reflections=reflections,
                native_tools=native,
                opening=opening,
            )
        )

    def begin(self, context: tuple[Message, ...]) -> None:
        """Go on in a context of its own; what was said before stays in a segment of its own."""
        if self.steps:
            self.segments.append(Segment(context=self.context, steps=tuple(self.steps)))
        self.context, self.messages, self.steps = context, list(context), []

    @property
    def turns(self) -> int:
        """The model's turns, over all segments."""
        return len(self.steps) + sum(len(segment.steps) for segment in self.segments)

    def next_sampling(self) -> Sampling:
        """How the next reply is drawn: with this turn's seed and what is left of the tokens."""
        own = self.sampling or self.agent.sampling
        changes: dict[str, Any] = {}
        if own.temperature > 0 and own.seed is None:
            changes["seed"] = derive_seed(self.seed, self.attempt, self.task.id, self.turns)
        limit = self.agent.limits.tokens
        if limit is not None and limit - self.usage.tokens < own.max_tokens:
            changes["max_tokens"] = max(1, limit - self.usage.tokens)
        return own.model_copy(update=changes) if changes else own

    async def ask(self, sampling: Sampling | None = None) -> Completion:
        """The model's reply to the conversation, its cost counted. Raises as `Model.complete` does."""
        completion = await self.model.complete(self.messages, tools=self.specs, sampling=sampling or self.next_sampling())
        self.usage = completion.usage if self.usage is _NOTHING else self.usage + completion.usage
        cost = cost_of(completion, self.model.price)
        self.cost_usd = None if cost is None or self.cost_usd is None else self.cost_usd + cost
        return completion

    def limit_reached(self) -> StopReason | None:
        """The limit that forbids another turn."""
        limits = self.agent.limits
        if self.turns >= limits.steps:
            return StopReason.STEPS
        if limits.tokens is not None and self.usage.tokens >= limits.tokens:
            return StopReason.TOKENS
        if limits.cost_usd is not None and self.cost_usd is not None and self.cost_usd >= limits.cost_usd:
            return StopReason.COST
        return None

    def named_apart(self, calls: Sequence[ToolCall], *, native: bool) -> tuple[ToolCall, ...]:
        """The calls with ids that are unique within the episode; those that the model gave are kept where they are."""
        used = {call.id for step in self._all_steps() for call in step.calls}
        renamed: list[ToolCall] = []
        for call in calls:
            self.calls_made += 1
            keep = native and call.id and call.id not in used
            renamed.append(call if keep else ToolCall(id=f"call_{self.calls_made}", name=call.name, arguments=call.arguments))
            used.add(renamed[-1].id)
        return tuple(renamed)

    def _all_steps(self) -> Iterator[Step]:
        yield from (step for segment in self.segments for step in segment.steps)
        yield from self.steps

    def extend(self, said: Message, calls: tuple[ToolCall, ...], observations: tuple[Observation, ...]) -> None:
        """Add what the model said and what it is shown of what followed."""
        replies = [observation.message for observation in observations]
        if self.model.native_tools and said.tool_calls:
            self.messages.append(said if calls == said.tool_calls else said.model_copy(update={"tool_calls": calls}))
            self.messages.extend(replies)
        else:  # calls stand in the text: the model sees its own words again, and results as text
            self.messages.append(said)  # and several results in one message, since some templates refuse two of a role in a row
            self.messages.append(Message(role="user", content="\n".join(render_message(reply).text for reply in replies)))

    def episode(self, stop: StopReason) -> Episode:
        """What has happened so far, frozen."""
        last = (Segment(context=self.context, steps=tuple(self.steps)),) if self.steps or not self.segments else ()
        return Episode(
            task_id=self.task.id,
            agent_version=self.agent.version,
            segments=(*self.segments, *last),
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


async def within_seconds(work: Awaitable[StopReason], seconds: float | None) -> StopReason:
    """How the work ended; `SECONDS` where it was stopped after so many."""
    if seconds is None:
        return await work
    try:
        async with asyncio.timeout(seconds) as clock:
            return await work
    except TimeoutError:
        if not clock.expired():
            raise
        return StopReason.SECONDS


async def _loop(run: Run, world: Environment | None) -> StopReason:
    while True:
        if reached := run.limit_reached():
            return reached
        begun = perf_counter()
        try:
            completion = await run.ask()
        except ModelFailed as error:
            run.error = str(error)
            return StopReason.MODEL_ERROR
        calls = _understood_calls(run, completion)
        observations = [await observe(run, call) for call in calls]
        run.steps.append(Step(completion=completion, calls=calls, observations=_seen(observations), seconds=perf_counter() - begun))
        run.answer = _answer_text(completion, calls) or run.answer
        if not calls:
            return stop_without_calls(completion)
        if stop := stop_after_calls(run, world, observations):
            return stop
        run.extend(completion.message, calls, _seen(observations))


def _understood_calls(run: Run, completion: Completion) -> tuple[ToolCall, ...]:
    """The model's own calls, or those written in its text."""
    calls = completion.message.tool_calls
    if not calls and run.tools:
        calls = _written_calls(completion)
    return run.named_apart(calls, native=bool(completion.message.tool_calls)) if calls else ()


def _written_calls(completion: Completion) -> tuple[ToolCall, ...]:
    """Calls in the text. Of a reply that was cut off, only those that are closed: lenient reading would complete half a call."""
    text = completion.message.text
    if completion.finish == "length":
        text = text[: text.rfind(CALL_END) + len(CALL_END)] if CALL_END in text else ""
    return parse_calls(text)[1]


async def observe(run: Run, call: ToolCall) -> Observation | None:
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


def stop_without_calls(completion: Completion) -> StopReason:
    """How a session ends whose last reply is taken as the answer."""
    if completion.finish == "length":
        return StopReason.TRUNCATED
    return StopReason.ANSWERED if completion.message.text.strip() else StopReason.EMPTY


def stop_after_calls(run: Run, world: Environment | None, observations: Sequence[Observation | None]) -> StopReason | None:
    """Whether calls end the episode: the world is done, or a call is handed over. observations: None for what was handed over."""
    if getattr(world, "done", False):
        return StopReason.ENVIRONMENT
    handed_over = any(observation is None for observation in observations)
    accepted = any(observation is None or observation.failure not in _REFUSED for observation in observations)
    if handed_over or (run.agent.stop_on_tool and accepted):
        return StopReason.TOOL_CALL
    return None


def tools_of(agent: Agent, task: Task, world: Environment | None, own: Sequence[Tool] = ()) -> dict[str, Tool]:
    """All tools by name: `own`, the agent's, the environment's, the task's. Raises `InputError` where two share a name."""
    declared = [Tool(spec=spec) for spec in task.tools]
    offered = [*own, *agent.tools, *(environment_tools(world) if world else ()), *declared]
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
