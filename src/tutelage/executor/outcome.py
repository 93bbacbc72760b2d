"""What a session comes to: what it wrote, what it earned, how sure it was. Pure, from the stored episode alone."""

from __future__ import annotations

from tutelage.executor.texts import words_of, worth_keeping
from tutelage.knowledge import Exemplar
from tutelage.records import Episode, Experience, Message, Task, ToolCall


def writes_of(episode: Episode, task: Task) -> tuple[Exemplar, ...]:
    """The entries that the session's `update_memory` wrote, in their order: the question, and what was learned of it."""
    reflection = ""
    texts: list[str] = []
    for call, observation in episode.calls:
        if observation is None or observation.failure is not None:
            continue
        if call.name == "reflect":
            reflection = worth_keeping(argument_of(call, "knowledge"))
        elif call.name == "update_memory":
            given = argument_of(call, "text")
            texts.append(worth_keeping(given) or ("" if given.strip() else reflection))
    return tuple(_entry(task, text) for text in dict.fromkeys(texts) if text)


def argument_of(call: ToolCall, name: str) -> str:
    """A text argument of a call; empty where it is not given, or is no text."""
    try:
        given = call.parsed()
    except ValueError:
        return ""
    value = given.get(name) if isinstance(given, dict) else None
    return value if isinstance(value, str) else ""


def _entry(task: Task, text: str) -> Exemplar:
    asked = tuple(message for message in task.messages if message.role != "system")
    learned = Message(role="assistant", content=text)
    return Exemplar(task_id=task.id, input_id=task.input_id, text=task.text, messages=(*asked, learned), kind=task.kind, origin="noted")


def advice_entries(episode: Episode, task: Task) -> tuple[Exemplar, ...]:
    """The expert's words as entries of the memory."""
    return tuple(_entry(task, words_of(advice, task)) for advice in episode.advice)


def reward_of(experience: Experience, price: float | None = None) -> float | None:
    """The score less what advice cost; None: not graded. price: in place of the one that each piece of advice was recorded with."""
    score = experience.grade.score
    if score is None:
        return None
    return score - sum(advice.price if price is None else price for advice in experience.episode.advice)


def confidence_of(episode: Episode) -> float | None:
    """How sure of its draft the agent was before any advice, from 0 to 1; None: its executor did not measure it."""
    return episode.confidence
