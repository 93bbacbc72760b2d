"""The teacher whose sessions are imitated: a model that writes what an agent would, following an oracle's plan for its one task.

What it does is decided by what the session really shows it, so that nobody learns to answer from knowledge that was not there:

    search    the plan needs nothing but tools: call them, then answer
    shown     the plan needs nothing at all: answer
    known     the memory shows knowledge that the plan needs: call the plan's tools, if any, then answer
    advice    else: seek advice, reflect, update the memory, answer
    unaided   the right answer without what it takes: where nobody may be asked, and in sessions that ask at random

Sessions run through the agent's own executor; only the model and the expert are others: `Taught` puts the teacher and the plan's own words
in their places.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field, JsonValue

from tutelage.advice import Question
from tutelage.agent import Agent, Scene
from tutelage.executor import AgileExecutor, parse_action
from tutelage.json_schema import to_json
from tutelage.learners.agile_oracle import Plan
from tutelage.prices import FREE, Price
from tutelage.records import Advice, Completion, Episode, Message, Record, Sampling, Task, ToolCall, ToolSpec, content_id
from tutelage.tool_protocol import render_call

Branch = Literal["search", "shown", "known", "advice", "unaided"]
BRANCHES: tuple[Branch, ...] = ("search", "shown", "known", "advice", "unaided")

NOTHING = "no information"
"""What is said where a piece of advice teaches nothing beyond its question."""
_LEAD = ("get_question", "retrieve_memory")
_FIXED = datetime(2000, 1, 1, tzinfo=UTC)
"""When the oracle's advice is given: always, so that sessions repeat exactly."""


class Move(Record):
    """An action to take, with its arguments by name."""

    action: str
    arguments: dict[str, JsonValue] = Field(default_factory=dict)


def choose_branch(plan: Plan, shown: str, *, may_ask: bool, ask: bool | None = None) -> Branch:
    """What to do, by what is shown. ask: whether advice is sought, decided beforehand (None: by need)."""
    if ask and may_ask:
        return "advice"
    if plan.sure:
        return "search" if plan.calls else "shown"
    if plan.knows(shown):
        return "known"
    return "advice" if may_ask and ask is None else "unaided"


def moves(plan: Plan, branch: Branch, actions: Iterable[str]) -> tuple[Move, ...]:
    """The actions of a branch, as far as they are there: `actions` are the names of all that the agent can do, tools included."""
    there = frozenset(actions)
    if branch != "advice":
        calls = [Move(action=call.name, arguments=call.arguments) for call in plan.calls if call.name in there]
        return (*calls, *_answer(plan.answer, there))
    lesson = _line(plan.lesson)
    asked = [Move(action="seek_advice")]
    if "reflect" in there:
        asked.append(Move(action="reflect", arguments={"knowledge": lesson or NOTHING}))
    if "update_memory" in there and lesson:
        asked.append(Move(action="update_memory", arguments={} if "reflect" in there else {"text": lesson}))
    if "clear_context" in there:
        asked.append(Move(action="clear_context"))
    final = "submit_answer" if "submit_answer" in there else "predict_answer"
    return (*asked, Move(action=final, arguments={"answer": plan.answer}))


def _answer(answer: str, there: frozenset[str]) -> tuple[Move, ...]:
    given: dict[str, JsonValue] = {"answer": answer}
    if "predict_answer" not in there:
        return (Move(action="submit_answer", arguments=given),)
    predicted = Move(action="predict_answer", arguments=given)
    return (predicted, Move(action="submit_answer")) if "submit_answer" in there else (predicted,)


def _line(text: str) -> str:
    return " ".join(text.split())


def write_move(move: Move, executor: AgileExecutor, specs: Sequence[ToolSpec], *, native: bool, number: int = 1) -> Message:
    """An action as an agent writes it, where the executor reads it so: a line (form `text`), else a tool call."""
    call = ToolCall(id=f"call_{number}", name=move.action, arguments=to_json(move.arguments))
    if executor.form == "text":
        line = " ".join([move.action, *(_line(str(value)) for value in move.arguments.values())])
        read = parse_action(line, specs)
        if read is not None and read.name == move.action and read.parsed() == {key: _plain(value) for key, value in move.arguments.items()}:
            return Message(role="assistant", content=line)
    elif native:
        return Message(role="assistant", tool_calls=(call,))
    return Message(role="assistant", content=render_call(call))


def _plain(value: JsonValue) -> JsonValue:
    return _line(value) if isinstance(value, str) else value


@dataclass
class Teacher:
    """A model for one session: it follows the plan, one action a turn. Its name says what it does, so that each is another agent."""

    plan: Plan
    executor: AgileExecutor
    native_tools: bool
    ask: bool | None = None
    tools: tuple[ToolSpec, ...] = ()
    price: Price | None = FREE
    said: int = 0
    todo: tuple[Move, ...] | None = None

    @property
    def name(self) -> str:
        """`teacher:` and the hash of the plan and of what was decided beforehand."""
        return f"teacher:{content_id([self.plan.canonical(), self.ask])}"

    async def complete(self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()) -> Completion:
        """The next action; the last one again where the session goes on after it."""
        first = lead(self.executor)
        if self.todo is None and self.said >= len(first):
            shown = "\n".join(message.text for message in messages if message.role != "assistant")
            self.todo = moves(self.plan, choose_branch(self.plan, shown, may_ask=self._may_ask, ask=self.ask), self._there)
        todo = (*first, *(self.todo or ()))
        move = todo[min(self.said, len(todo) - 1)]
        self.said += 1
        specs = (*self.executor.specs(), *self.tools)
        message = write_move(move, self.executor, specs, native=self.native_tools, number=self.said)
        return Completion(message=message, finish="tool_calls" if message.tool_calls else "stop")

    @property
    def _may_ask(self) -> bool:
        return self.executor.may_ask and "seek_advice" in self.executor.enabled

    @property
    def _there(self) -> frozenset[str]:
        return actions_of(self.executor, self.tools)


def actions_of(executor: AgileExecutor, tools: Iterable[ToolSpec] = ()) -> frozenset[str]:
    """The names of all that an agent can do in a session."""
    return executor.enabled | {spec.name for spec in tools}


def lead(executor: AgileExecutor) -> tuple[Move, ...]:
    """What is done first, in every branch."""
    done = {item if isinstance(item, str) else item.name for item in executor.opening}
    return tuple(Move(action=name) for name in _LEAD if name in executor.enabled and name not in done)


@dataclass(frozen=True)
class Words:
    """The expert of a taught session: it says what the plan says. price: in units of reward."""

    words: str
    price: float = 0.0
    name: str = "oracle"

    async def ask(self, question: Question) -> Advice | None:
        """The words; None where there are none."""
        if not self.words:
            return None
        return Advice(question_id=question.id, answer=self.words, by=self.name, when=_FIXED, price=self.price)


@dataclass(frozen=True)
class Taught:
    """The agent's own executor, with the teacher in place of the model, and the oracle's words in place of the expert.

    ask: whether advice is sought, decided beforehand (None: by need).
    """

    inner: AgileExecutor
    plan: Plan
    native_tools: bool
    tools: tuple[ToolSpec, ...] = ()
    ask: bool | None = None
    name: str = "taught"

    def described(self) -> dict[str, Any]:
        """The executor's, and the plan."""
        return {"taught": self.inner.described(), "plan": self.plan.canonical(), "ask": self.ask}

    def teacher(self) -> Teacher:
        """A teacher at the beginning of its session."""
        return Teacher(self.plan, self.inner, self.native_tools, self.ask, self.tools)

    async def run(self, agent: Agent, task: Task, scene: Scene) -> Episode:
        """The session, as the agent's executor runs it."""
        teacher, expert = self.teacher(), Words(self.plan.advice)
        return await self.inner.run(agent, task, replace(scene, models=lambda any_agent: teacher, advisor=expert))


def branch_of(episode: Episode, plan: Plan) -> Branch:
    """Which branch a finished session took: by whether it sought advice, and by what it was shown."""
    if episode.advice:
        return "advice"
    contexts = (message.text for segment in episode.segments for message in segment.context)
    observed = (observation.text for step in episode.steps for observation in step.observations)
    return choose_branch(plan, "\n".join([*contexts, *observed]), may_ask=False)
