"""The one place where an agent, its exemplars and a task become messages.

The order is from the stable to the changing, so that a prefix cache serves as much as it can: instructions, insights and tools, then
exemplars, then the task with the reflections on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tutelage.knowledge import Exemplar, Insight, Reflection
from tutelage.records import Message, Task, TextPart, ToolSpec
from tutelage.tool_protocol import describe_tools, render_message

SHOWN_RESULT = "done"
"""What stands for a tool's result in an exemplar that ends with the call: servers refuse a call without a result."""

INSIGHTS_HEADING = "Rules learned from earlier work:"
OWN_HEADING = "You have tried this task before and failed. Your notes from then:"
CARRIED_HEADING = "Notes from failed attempts at similar tasks:"
TASK_HEADING = "Now the task:"


def build_messages(
    instructions: str,
    task: Task,
    tools: Sequence[ToolSpec],
    exemplars: Iterable[Exemplar] = (),
    *,
    insights: Sequence[Insight] = (),
    reflections: Sequence[Reflection] = (),
    native_tools: bool,
    opening: str | None = None,
) -> tuple[Message, ...]:
    """The conversation that the model sees first. `opening` are the environment's words, shown after the task's last message."""
    own_system = [message.text for message in task.messages if message.role == "system"]
    listing = describe_tools(tools) if tools and not native_tools else ""
    system = "\n\n".join(part for part in (instructions.strip(), *own_system, list_insights(insights), listing) if part)
    shown = [message for exemplar in exemplars for message in _exemplar_messages(exemplar, native_tools)]
    asked = _with_reflections(_with_opening([message for message in task.messages if message.role != "system"], opening), task, reflections)
    conversation = [*shown, *asked] if native_tools else [*shown, *map(render_message, asked)]
    return (*([Message(role="system", content=system)] if system else []), *conversation)


def _exemplar_messages(exemplar: Exemplar, native_tools: bool) -> list[Message]:
    if not native_tools:
        return [render_message(message) for message in exemplar.messages]
    answered = {message.tool_call_id for message in exemplar.messages if message.role == "tool"}
    messages: list[Message] = []
    for message in exemplar.messages:
        messages.append(message)
        missing = [call.id for call in message.tool_calls if call.id not in answered]
        messages += [Message(role="tool", content=SHOWN_RESULT, tool_call_id=id_) for id_ in missing]
    return messages


def list_insights(insights: Sequence[Insight]) -> str:
    """The insights as the model reads them: a numbered list under a heading; empty where there are none."""
    lines = [f"{number}. {insight.text}" for number, insight in enumerate(insights, 1)]
    return "\n".join([INSIGHTS_HEADING, *lines]) if lines else ""


def _with_reflections(messages: list[Message], task: Task, reflections: Sequence[Reflection]) -> list[Message]:
    """Reflections stand at the head of the last user message: a message of their own would be a second one of its role in a row."""
    if not reflections:
        return messages
    notes = write_reflections(task, reflections)
    last = next((place for place in reversed(range(len(messages))) if messages[place].role == "user"), None)
    if last is None:
        return messages
    said = messages[last]
    content = f"{notes}\n\n{said.content}" if isinstance(said.content, str) else (TextPart(text=notes), *said.content)
    return [*messages[:last], said.model_copy(update={"content": content}), *messages[last + 1 :]]


def write_reflections(task: Task, reflections: Sequence[Reflection]) -> str:
    """Reflections as the model reads them, those on this task apart from those on similar ones; empty where there are none."""
    own = [item for item in reflections if item.input_id == task.input_id]
    carried = [item for item in reflections if item.input_id != task.input_id]
    parts: list[str] = []
    if own:
        parts += [OWN_HEADING, *(_reflection_text(item) for item in own)]
    if carried:
        parts += [CARRIED_HEADING, *(f"Task: {item.task_text}\n{_reflection_text(item)}" for item in carried)]
    return "\n\n".join([*parts, TASK_HEADING]) if parts else ""


def _reflection_text(reflection: Reflection) -> str:
    tried = f"The attempt:\n{reflection.trajectory}" if reflection.trajectory else ""
    learned = f"What to do differently: {reflection.text}" if reflection.text else ""
    return "\n".join(part for part in (tried, learned) if part)


def _with_opening(messages: list[Message], opening: str | None) -> list[Message]:
    """The environment's words join the last user message: several templates refuse two user messages in a row."""
    if not opening:
        return messages
    if messages and messages[-1].role == "user" and isinstance(messages[-1].content, str):
        return [*messages[:-1], Message(role="user", content=f"{messages[-1].content}\n\n{opening}".strip())]
    return [*messages, Message(role="user", content=opening)]
