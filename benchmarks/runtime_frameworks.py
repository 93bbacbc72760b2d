"""The frameworks that `runtime.py` puts side by side: one agent each, its model's double, and how a batch of episodes is run.

Every one does the same job: the model calls `lookup(order)`, sees the result and answers with it. The doubles are written against each
framework's own extension point; agents are built outside the timing; every answer is checked.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import os
import re
import tempfile
import time
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

os.environ.update(OPENAI_AGENTS_DISABLE_TRACING="1", LANGSMITH_TRACING="false")  # read when those packages are imported

Lookup = Callable[[str], Any]
Episode = Callable[[str], Any]
"""Runs one episode about an order; gives the final answer, or an awaitable of it."""
Batch = Callable[[list[str], int], Awaitable[list[float]]]
"""Runs episodes about these orders, so many at once; gives the seconds of each."""

INSTRUCTIONS = "Answer questions about orders."
BLOCKED = 0.05
"""Seconds that the blocking tool takes."""


def lookup(order: str) -> str:
    """Find an order.

    Args:
        order: The order's number.
    """
    return f"order {order} is on its way"


def awaited_lookup() -> Lookup:
    """The same tool as a coroutine function."""

    async def lookup(order: str) -> str:
        """Find an order.

        Args:
            order: The order's number.
        """
        return f"order {order} is on its way"

    return lookup


def blocking_lookup() -> Lookup:
    """The same tool, waiting as a database or a web service makes one wait: 50 ms during which its thread does nothing else."""

    def lookup(order: str) -> str:
        """Find an order.

        Args:
            order: The order's number.
        """
        time.sleep(BLOCKED)
        return f"order {order} is on its way"

    return lookup


def question(order: str) -> str:
    return f"Where is order {order}"


def order_in(text: str) -> str:
    return text.rsplit(maxsplit=1)[-1]


def check(order: str, answer: object) -> None:
    assert isinstance(answer, str) and lookup(order) in answer, f"wrong answer for order {order}: {answer!r}"


@dataclass(frozen=True)
class Candidate:
    """One framework. `imports`: what a user imports for this agent. `kinds`: the tools that it takes, plain or awaited."""

    name: str
    package: str
    imports: str
    build: Callable[[Lookup, float], Batch]
    kinds: tuple[str, ...] = ("plain", "awaited")
    concurrent: bool = True

    @property
    def module(self) -> str:
        return self.imports.split()[1].split(".")[0]

    @property
    def version(self) -> str | None:
        """None: not installed."""
        try:
            return version(self.package) if importlib.util.find_spec(self.module) else None
        except PackageNotFoundError:
            return None


def batch_of(episode: Episode) -> Batch:
    """Workers that share a queue of orders; answers are checked outside the timing."""

    async def run(orders: list[str], at_once: int) -> list[float]:
        queue, answers, seconds = iter(orders), {}, []

        async def worker() -> None:
            for order in queue:
                begun = time.perf_counter()
                answer = episode(order)
                answers[order] = await answer if inspect.isawaitable(answer) else answer
                seconds.append(time.perf_counter() - begun)

        await asyncio.gather(*[worker() for _ in range(at_once)])
        for order in orders:
            check(order, answers[order])
        return seconds

    return run


# --- tutelage -----------------------------------------------------------------------------------------------------------------------


def tutelage_agent(function: Lookup, delay: float) -> Any:
    import tutelage as tt

    def reply(messages: Any, tools: Any, sampling: Any) -> Any:
        last = messages[-1]
        if last.role == "tool":
            return f"Answer: {last.text}"
        return tt.ToolCall(id="call_1", name="lookup", arguments=json.dumps({"order": order_in(last.text)}))

    model = tt.Scripted(reply, delay=delay, record=False)
    return tt.Agent(model=model, instructions=INSTRUCTIONS, tools=[tt.tool(function)])


def tutelage_task(order: str) -> Any:
    import tutelage as tt

    return tt.Task(messages=(tt.Message(role="user", content=question(order)),), reference=lookup(order))


def build_tutelage(function: Lookup, delay: float) -> Batch:
    import tutelage as tt

    agent = tutelage_agent(function, delay)

    async def episode(order: str) -> str | None:
        return (await tt.run_episode(agent, tutelage_task(order))).answer

    return batch_of(episode)


def build_tutelage_stored(function: Lookup, delay: float) -> Batch:
    """Through `Collector`: metered, replies cached, graded, and kept in a store on disk."""
    import tutelage as tt
    from tutelage.collector import Job

    agent, folder = tutelage_agent(function, delay), tempfile.TemporaryDirectory(prefix="tutelage-runtime-")
    store = tt.Store(Path(folder.name) / "experience.db")

    async def run(orders: list[str], at_once: int) -> list[float]:
        clock = Clock()
        collector = tt.Collector(tt.Contains(), store=store, concurrency=at_once, progress=clock)
        experiences = await collector.run(agent, [Job(tutelage_task(order)) for order in orders])
        for order, experience in zip(orders, experiences, strict=True):
            check(order, experience.episode.answer)
            assert experience.grade.score == 1.0
        return clock.seconds

    weakref.finalize(run, clean_up, store, folder)
    return run


def clean_up(store: Any, folder: Any) -> None:
    store.close()
    folder.cleanup()


class Clock:
    """A progress bar that only notes the seconds from one piece to the next."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def stage(self, label: str, total: int) -> Clock:
        self.last = time.perf_counter()
        return self

    def advance(self, note: str = "") -> None:
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.last = now

    def __enter__(self) -> Clock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


# --- peers --------------------------------------------------------------------------------------------------------------------------


def build_openai_agents(function: Lookup, delay: float) -> Batch:
    from agents import Agent, Model, ModelResponse, RunConfig, Runner, Usage, function_tool, set_tracing_disabled
    from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

    set_tracing_disabled(True)

    class Double(Model):
        async def get_response(self, system_instructions: Any, input: Any, *args: Any, **options: Any) -> ModelResponse:
            if delay:
                await asyncio.sleep(delay)
            last = input[-1]
            if last.get("type") == "function_call_output":
                text = ResponseOutputText(text=f"Answer: {last['output']}", type="output_text", annotations=[])
                said: Any = ResponseOutputMessage(id="message", content=[text], role="assistant", status="completed", type="message")
            else:
                arguments = json.dumps({"order": order_in(last["content"])})
                said = ResponseFunctionToolCall(call_id="call_1", name="lookup", arguments=arguments, type="function_call")
            return ModelResponse(output=[said], usage=Usage(), response_id=None)

        def stream_response(self, *args: Any, **options: Any) -> Any:
            raise NotImplementedError

    agent = Agent(name="desk", instructions=INSTRUCTIONS, model=Double(), tools=[function_tool(function)])
    untraced = RunConfig(tracing_disabled=True)

    async def episode(order: str) -> str:
        return (await Runner.run(agent, question(order), run_config=untraced)).final_output

    return batch_of(episode)


def build_langgraph(function: Lookup, delay: float) -> Batch:
    from langchain.agents import create_agent
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage
    from langchain_core.outputs import ChatGeneration, ChatResult
    from langchain_core.tools import tool

    class Double(BaseChatModel):
        @property
        def _llm_type(self) -> str:
            return "double"

        def bind_tools(self, tools: Any, **options: Any) -> Any:
            return self

        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **options: Any) -> ChatResult:
            last = messages[-1]
            if last.type == "tool":
                said = AIMessage(f"Answer: {last.content}")
            else:
                said = AIMessage("", tool_calls=[{"name": "lookup", "args": {"order": order_in(last.content)}, "id": "call_1"}])
            return ChatResult(generations=[ChatGeneration(message=said)])

        async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **options: Any) -> ChatResult:
            if delay:
                await asyncio.sleep(delay)
            return self._generate(messages)

    graph = create_agent(Double(), [tool(function)], system_prompt=INSTRUCTIONS)

    async def episode(order: str) -> str:
        state = await graph.ainvoke({"messages": [("user", question(order))]})
        return state["messages"][-1].content

    return batch_of(episode)


def build_smolagents(function: Lookup, delay: float) -> Batch:
    from smolagents import ChatMessage, LogLevel, MessageRole, Model, ToolCallingAgent, tool
    from smolagents.models import ChatMessageToolCall, ChatMessageToolCallFunction

    class Double(Model):
        def generate(self, messages: Any, *args: Any, **options: Any) -> ChatMessage:
            last, text = messages[-1], messages[-1].content[0]["text"]
            if last.role == MessageRole.TOOL_RESPONSE:
                name, arguments = "final_answer", {"answer": f"Answer: {text}"}  # how an answer is given there
            else:
                name, arguments = "lookup", {"order": order_in(text)}
            wanted = ChatMessageToolCallFunction(name=name, arguments=arguments)
            call = ChatMessageToolCall(id="call_1", type="function", function=wanted)
            return ChatMessage(role=MessageRole.ASSISTANT, content=None, tool_calls=[call])

    agent = ToolCallingAgent(tools=[tool(function)], model=Double(), verbosity_level=LogLevel.OFF, instructions=INSTRUCTIONS)
    return batch_of(lambda order: agent.run(question(order)))


def build_pydantic_ai(function: Lookup, delay: float) -> Batch:
    from pydantic_ai import Agent
    from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart, ToolReturnPart
    from pydantic_ai.models.function import FunctionModel

    async def reply(messages: Any, info: Any) -> ModelResponse:
        if delay:
            await asyncio.sleep(delay)
        last = messages[-1].parts[-1]
        if isinstance(last, ToolReturnPart):
            return ModelResponse(parts=[TextPart(f"Answer: {last.content}")])
        return ModelResponse(parts=[ToolCallPart("lookup", {"order": order_in(last.content)})])

    agent = Agent(FunctionModel(reply), instructions=INSTRUCTIONS, tools=[function])

    async def episode(order: str) -> str:
        return (await agent.run(question(order))).output

    return batch_of(episode)


def build_dspy(function: Lookup, delay: float) -> Batch:
    """One iteration, then the extraction of the answer: two model calls. (Left to itself, ReAct asks a third time, for `finish`.)"""
    import dspy

    sync, awaited = dspy_engines(delay)
    dspy.configure(lm=dspy.LM("double/double", engine=sync, async_engine=awaited, cache=False), disable_history=True)
    react = dspy.ReAct(dspy.Signature("question -> answer", INSTRUCTIONS), tools=[function], max_iters=1)
    if delay or inspect.iscoroutinefunction(function):

        async def episode(order: str) -> str:
            return (await react.acall(question=question(order))).answer

        return batch_of(episode)
    return batch_of(lambda order: react(question=question(order)).answer)


def dspy_engines(delay: float) -> tuple[Any, Any]:
    from dspy.lm15 import Message, Response, TextPart, Usage

    def fields(**values: str) -> str:
        return "\n\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in {**values, "completed": ""}.items())

    class Double:
        def complete(self, request: Any) -> Response:
            text = request.messages[-1].text
            if seen := re.search(r"\[\[ ## observation_0 ## \]\]\n(.*)", text):
                said = fields(reasoning="It was looked up.", answer=f"Answer: {seen[1]}")
            else:
                order = re.search(r"Where is order (\S+)", text)[1]
                said = fields(next_thought="Look.", next_tool_name="lookup", next_tool_args=json.dumps({"order": order}))
            usage = Usage(input_tokens=1, output_tokens=1, total_tokens=2)
            return Response(id=None, model="double", message=Message.assistant([TextPart(said)]), finish_reason="stop", usage=usage)

    class AwaitedDouble:
        async def complete(self, request: Any) -> Response:
            if delay:
                await asyncio.sleep(delay)
            return Double().complete(request)

    return Double(), AwaitedDouble()


TUTELAGE = "from tutelage import Agent, Message, Scripted, Task, ToolCall, run_episode, tool"
STORED = f"{TUTELAGE}, Collector, Contains, Store"

CANDIDATES = (
    Candidate("tutelage", "tutelage", TUTELAGE, build_tutelage),
    Candidate("tutelage + grade + store", "tutelage", STORED, build_tutelage_stored),
    Candidate("openai-agents", "openai-agents", "from agents import Agent, Model, Runner, function_tool", build_openai_agents),
    Candidate("LangGraph (create_agent)", "langgraph", "from langchain.agents import create_agent", build_langgraph),
    Candidate(
        "smolagents (ToolCallingAgent)",
        "smolagents",
        "from smolagents import Model, ToolCallingAgent, tool",
        build_smolagents,
        kinds=("plain",),
        concurrent=False,
    ),
    Candidate("pydantic-ai", "pydantic-ai-slim", "from pydantic_ai import Agent", build_pydantic_ai),
    Candidate("DSPy ReAct", "dspy", "import dspy", build_dspy),
)
