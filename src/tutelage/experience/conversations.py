"""A segment of an episode as the conversation that the model saw, and its prompt without what the agent had learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tutelage.agent import Agent
from tutelage.errors import InputError
from tutelage.prompt import INSIGHTS_HEADING, TASK_HEADING, list_insights
from tutelage.records import Message, Segment, Step, Task, TextPart, ToolSpec
from tutelage.tool_protocol import render_message


@dataclass(frozen=True)
class Turns:
    """The model's turns of a segment with what came back between them. failed: places of turns with a call that failed."""

    messages: tuple[Message, ...]
    failed: tuple[int, ...] = ()


def segment_turns(segment: Segment) -> Turns:
    """The conversation after the context, up to the model's last turn, message by message as the model saw it."""
    messages: list[Message] = []
    failed: list[int] = []
    for number, step in enumerate(segment.steps, 1):
        if any(observation.failure for observation in step.observations):
            failed.append(len(messages))
        messages.append(said(step))
        if number < len(segment.steps):
            messages += seen(step)
    return Turns(tuple(messages), tuple(failed))


def said(step: Step) -> Message:
    """What the model said, its own calls under the ids that their results have."""
    message = step.completion.message
    return message.model_copy(update={"tool_calls": step.calls}) if message.tool_calls and step.calls else message


def seen(step: Step) -> list[Message]:
    """What came back: as tool messages after calls that the model made itself, else as text in one user message."""
    replies = [observation.message for observation in step.observations]
    if step.completion.message.tool_calls or not replies:
        return replies
    return [Message(role="user", content="\n".join(render_message(reply).text for reply in replies))]


def native_specs(tools: Sequence[ToolSpec], task: Task) -> tuple[ToolSpec, ...]:
    """The tools of a task's episode: the agent's and the environment's, then the task's own."""
    return (*tools, *task.tools)


def bare_context(segment: Segment, task: Task, agent: Agent) -> tuple[Message, ...]:
    """The segment's context without exemplars, insights and reflections; the environment's opening words stay.

    Raises `InputError` for a part of a workflow, whose own task is not known, and for a context that is not the task's, or holds insights
    that are not the agent's.
    """
    if segment.part:
        raise InputError("the prompts of a workflow's parts cannot be had without what was learned; learn with it, or from another agent")
    systems = [_without_insights(message, agent) for message in segment.context if message.role == "system"]
    return (*(message for message in systems if message.text), *_asked(segment, task))


def _without_insights(system: Message, agent: Agent) -> Message:
    text, listed = system.text, list_insights(agent.memory.insights)
    for piece in (f"{listed}\n\n", f"\n\n{listed}", listed) if listed else ():
        text = text.replace(piece, "", 1) if listed in text else text
    if INSIGHTS_HEADING in text:
        raise InputError("the prompt of an episode holds insights that the agent does not; give the agent that made the episodes")
    return system if text == system.text else system.model_copy(update={"content": text})


def _asked(segment: Segment, task: Task) -> list[Message]:
    """The task's own messages as they stand at the end of the context, reflections cut off the last one of the user."""
    own = [message for message in task.messages if message.role != "system"]
    shown = [message for message in segment.context if message.role != "system"]
    for extra in (0, 1):  # an opening stands in a message of its own where the task does not end with a user's
        tail = shown[len(shown) - len(own) - extra :]
        if len(tail) == len(own) + extra and all(_says(here, there) for here, there in zip(tail, own, strict=False)):
            return [_from(here, there) for here, there in zip(tail, own, strict=False)] + tail[len(own) :]
    raise InputError(f"the context of an episode does not end with task {task.id}; give the tasks that the episodes are of", field="tasks")


def _says(shown: Message, own: Message) -> bool:
    return render_message(own).text in shown.text or own.text in shown.text


def _from(shown: Message, own: Message) -> Message:
    """The message without the notes that stand before the task's own words."""
    if isinstance(shown.content, str):
        notes, heading, rest = shown.content.partition(f"{TASK_HEADING}\n\n{own.text}")
        return shown.model_copy(update={"content": own.text + rest}) if heading and not own.text.startswith(notes + heading) else shown
    first = shown.content[0] if shown.content else None
    noted = isinstance(first, TextPart) and first.text.endswith(TASK_HEADING) and shown.content != own.content
    return shown.model_copy(update={"content": shown.content[1:]}) if noted else shown
