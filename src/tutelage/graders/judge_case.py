"""What a judge looks at: the task, one answer or the two of a pair, and the reference, as text of bounded length.

An agent that worked in several turns is shown by what it said, called and got back. Where that is too long, what came back is shortened
first, then the middle of the whole is left out; each cut says how much is missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from pydantic import JsonValue

from tutelage.graders.text import answer_of
from tutelage.records import Episode, ImagePart, Message, Observation, Record, Step, Task, content_id
from tutelage.tool_protocol import parse_calls

NOT_SHOWN = "[an image that is not shown here]"
SHORTEST = 400
"""The least length to which a text is shortened."""
_RESULT_CHARS = (4_000, 1_000, 300, 100)
"""To these lengths results of tools are shortened, one after another, until the whole fits."""
_CUT = "\n[... {} characters left out ...]\n"


class Case(Record):
    """What was asked, the answer (or the two of a pair), and the reference where there is one.

    images: of the task, by their addresses, in the order in which `question` mentions them. A judge is shown them where it is told to
    (`images: true`), since only its model's own server knows whether it takes any; else the question says that they are not shown.
    """

    question: str
    answers: tuple[str, ...]
    reference: str = ""
    images: tuple[str, ...] = ()

    @cached_property
    def content(self) -> str:
        """A hash of question, answers in any order, as that of `labels.Item`, and images."""
        return content_id([self.question, *sorted(self.answers), *([list(self.images)] if self.images else [])])


def case_of(task: Task, *episodes: Episode, max_chars: int) -> Case:
    """The case of one episode, or of two to compare. max_chars: of each answer."""
    answers = tuple(work_text(episode, max_chars) for episode in episodes)
    return Case(question=task_text(task), answers=answers, reference=reference_text(task.reference), images=_images(task))


def _images(task: Task) -> tuple[str, ...]:
    parts = (part for message in task.messages if not isinstance(message.content, str) for part in message.content)
    return tuple(part.url for part in parts if isinstance(part, ImagePart))


def task_text(task: Task) -> str:
    """All messages of the task; with their roles where there are several. An image is only mentioned."""
    if len(task.messages) == 1:
        return _message_text(task.messages[0])
    return "\n\n".join(f"{message.role}: {_message_text(message)}" for message in task.messages)


def _message_text(message: Message) -> str:
    images = 0 if isinstance(message.content, str) else sum(isinstance(part, ImagePart) for part in message.content)
    return "\n".join([message.text, *[NOT_SHOWN] * images]).strip()


def reference_text(reference: JsonValue) -> str:
    """A text as it is, anything else as JSON; empty where there is no reference."""
    if reference is None:
        return ""
    return reference if isinstance(reference, str) else json.dumps(reference, ensure_ascii=False)


def work_text(episode: Episode, max_chars: int) -> str:
    """What the agent did, in at most about `max_chars` characters: its answer alone where it gave nothing else; empty where it did nothing.

    max_chars: `SHORTEST` or more.
    """
    pieces = list(_pieces(episode))
    if all(piece.head == "Said" for piece in pieces) and len(pieces) <= 1:
        return shorten(answer_of(episode) or "".join(piece.body for piece in pieces), max_chars)
    written = [_written(pieces, chars) for chars in (max_chars, *_RESULT_CHARS)]
    return next((text for text in written if len(text) <= max_chars), shorten(written[-1], max_chars))


def shorten(text: str, chars: int) -> str:
    """At most `chars` (100 or more) characters: the beginning, the end, and between a note of how many are missing."""
    if len(text) <= chars:
        return text
    room = chars - len(_CUT.format(len(text)))
    tail = room // 3
    return text[: room - tail] + _CUT.format(len(text) - room) + text[len(text) - tail :]


@dataclass(frozen=True)
class _Piece:
    head: str
    body: str
    result: bool = False


def _pieces(episode: Episode) -> Iterator[_Piece]:
    said = ""
    for step in episode.steps:
        for piece in _step_pieces(step):
            said = piece.body if piece.head == "Said" else ""
            yield piece
    answer = answer_of(episode)
    if answer and answer != said:
        yield _Piece("Said" if not said else "Final answer", answer)


def _step_pieces(step: Step) -> Iterator[_Piece]:
    message = step.completion.message
    words = parse_calls(message.text)[0] if step.calls and not message.tool_calls else message.text
    if words.strip():
        yield _Piece("Said", words.strip())
    results = {seen.call_id: seen for seen in step.observations}
    for call in step.calls:
        yield _Piece("Called", f"{call.name}({call.arguments})")
        if call.id in results:
            yield _result(results[call.id])
    yield from (_result(seen) for seen in step.observations if seen.call_id is None)


def _result(seen: Observation) -> _Piece:
    return _Piece("Got an error" if seen.failure else "Got", seen.text, result=True)


def _written(pieces: list[_Piece], result_chars: int) -> str:
    return "\n".join(f"{piece.head}: {shorten(piece.body, result_chars) if piece.result else piece.body}" for piece in pieces)
