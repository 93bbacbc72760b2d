"""An episode as text for a model that looks back on it, and the signs that it failed, beside the grader.

Long trajectories are shortened as Reflexion does it (Shinn et al. 2023, arXiv:2303.11366): the largest observations first, what the agent
did last. Different from it: every cut says how much is missing, and what tools, users and the environment said is quoted (`> `) within one
fence, so that a reader takes it as data and it cannot pass for something that the agent did.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tutelage.records import Episode, Experience, Observation, Segment, Step, StopReason, Task, ToolCall
from tutelage.screening import fence
from tutelage.tool_protocol import parse_calls

SHORTEST = 400
"""The least `max_chars`: below it there is no room for the fence and for notes on what was cut."""
NOTE_CHARS = 40
"""Room for the note on a cut; a text that a cut would hardly shorten stays whole."""

_ENDS = {
    StopReason.EMPTY: "The agent answered nothing.",
    StopReason.TRUNCATED: "The answer was cut off at the limit on its length.",
    StopReason.STEPS: "The attempt was cut off at the limit on steps.",
    StopReason.TOKENS: "The attempt was cut off at the limit on tokens.",
    StopReason.SECONDS: "The attempt was cut off at the limit on time.",
    StopReason.COST: "The attempt was cut off at the limit on money.",
    StopReason.MODEL_ERROR: "The attempt ended because the model could not be asked.",
}
_NOTHING = "The agent did nothing."
_LABEL = "an earlier attempt"


@dataclass(frozen=True)
class Verdict:
    """Whether an attempt solved its task (None: nobody can say), what was wrong with it, and whether it went round in circles."""

    solved: bool | None
    words: str = ""
    stuck: bool = False


def verdict(experience: Experience, threshold: float = 1.0) -> Verdict:
    """By the grade; an attempt without one that got stuck has failed. One whose model failed says nothing of the agent."""
    grade, reason = experience.grade, stuck(experience.episode)
    if experience.episode.stop is StopReason.MODEL_ERROR:
        return Verdict(None, experience.episode.error or "")
    solved = None if grade.score is None else grade.score >= threshold
    short_of = "" if grade.score is None or solved else f"The score is {grade.score:g}, and {threshold:g} is needed."
    words = grade.words or short_of
    if reason is None or solved:
        return Verdict(solved, words, stuck=reason is not None)
    return Verdict(False, "\n".join(part for part in (words, reason) if part), stuck=True)


def stuck(episode: Episode, repeats: int = 3, max_actions: int = 30) -> str | None:
    """Why the attempt went nowhere: one action gave one observation more than `repeats` times, or there were more than `max_actions`.

    The repetitions need not follow one another. Arguments are compared as data: neither blanks nor the order of keys matter.
    """
    pairs = episode.calls
    seen = Counter((_action_key(call), observation.text if observation else None) for call, observation in pairs)
    (most, times), *_ = seen.most_common(1) or [((("", ""), None), 0)]
    if times > repeats:
        call = next(call for call, _ in pairs if _action_key(call) == most[0])
        return f"the same action gave the same observation {times} times: {shorten(_action(call), 160)}"
    return f"the agent took {len(pairs)} actions, more than {max_actions}" if len(pairs) > max_actions else None


def write_trajectory(task: Task, episode: Episode, max_chars: int) -> str:
    """What the agent did and saw, in order, in at most `max_chars` (400 or more) characters; the task itself is not repeated.

    Where it does not fit, the largest observations are cut to one common length; only when all of them are gone, the actions and words of
    the agent too; and only then what stands in the middle is left out. Each cut says how much is missing.
    """
    pieces = list(_pieces(task, episode)) or [_Piece(_NOTHING)]
    if not any(piece.outside for piece in pieces):
        return "\n".join(_shortened(pieces, max_chars))
    text, room = fence("\n".join(_shortened(pieces, max_chars)), _LABEL), max_chars
    while len(text) > max_chars and room > 0:  # the fence takes room, and within it marks are written longer
        room -= len(text) - max_chars
        text = fence("\n".join(_shortened(pieces, room)), _LABEL)
    return text


def outside_texts(task: Task, episode: Episode) -> list[str]:
    """What tools, the environment and others said in the episode, beside the task."""
    return [piece.body for piece in _pieces(task, episode) if piece.outside]


def _shortened(pieces: Sequence[_Piece], max_chars: int) -> list[str]:
    longest = max(len(piece.body) for piece in pieces)

    def written(outside: int, own: int) -> list[str]:
        return [piece.written(outside if piece.outside else own) for piece in pieces]

    def fits(outside: int, own: int) -> bool:
        return _length(written(outside, own)) <= max_chars

    if fits(0, longest):
        return written(_largest(lambda level: fits(level, longest), longest), longest)
    if fits(0, 0):
        return written(0, _largest(lambda level: fits(0, level), longest))
    return _without_middle(written(0, 0), max_chars)


def shorten(text: str, chars: int) -> str:
    """About `chars` characters of the text, two thirds of them from its beginning, with a note of how much is missing between.

    A text at most 40 characters longer stays as it is: the note would take as much.
    """
    if len(text) <= chars + NOTE_CHARS:
        return text
    tail = chars // 3
    note = f"[... {len(text) - chars} characters cut ...]"
    return f"{text[: chars - tail]}{note}{text[len(text) - tail :]}"


@dataclass(frozen=True)
class _Piece:
    """One thing that happened. outside: the body came from a tool, a user or the environment."""

    head: str
    body: str = ""
    outside: bool = False

    def written(self, chars: int) -> str:
        body = shorten(self.body, chars)
        return "\n> ".join([self.head, *(body.splitlines() or [""])]) if self.outside else f"{self.head} {body}".rstrip()


def _pieces(task: Task, episode: Episode) -> Iterator[_Piece]:
    number, said = 0, ""
    for segment in episode.segments:
        if segment.part:
            yield _Piece("Part:", segment.part)
        yield from _given(task, segment)
        for step in segment.steps:
            for piece in _step_pieces(step, number):
                said = "" if piece.outside else piece.body
                yield piece
            number += len(step.calls)
    if episode.answer and episode.answer.strip() != said.strip() and len(episode.segments) > 1:
        yield _Piece("Answer of the whole:", episode.answer.strip())
    if episode.stop in _ENDS:
        yield _Piece(_ENDS[episode.stop])


def _given(task: Task, segment: Segment) -> Iterator[_Piece]:
    """What the agent was told beside the task: the environment's opening words, or what an earlier part of a workflow left for it."""
    users = [message.text for message in segment.context if message.role == "user"]
    asked = users[-1] if users else ""
    known = task.text and task.text in asked
    beside = asked.rpartition(task.text)[2] if known else asked if segment.part else ""
    if beside.strip():
        yield _Piece("Given:", beside.strip(), outside=True)


def _step_pieces(step: Step, number: int) -> Iterator[_Piece]:
    words = _words(step)
    if not step.calls:
        yield from [_Piece("Answer:", words)] if words else []
    elif words:
        yield _Piece("Said:", words)
    by_id = {observation.call_id: observation for observation in step.observations if observation.call_id is not None}
    nameless = next((observation for observation in step.observations if observation.call_id is None), None)
    only = nameless if len(step.calls) == 1 and not by_id else None  # an executor's actions have no ids
    for place, call in enumerate(step.calls, number + 1):
        observation = by_id.get(call.id, only)
        yield _Piece(f"Action {place}:", _action(call) + ("" if observation else " (handed over as the answer)"))
        yield from _seen(observation)
    for observation in step.observations:
        if observation.call_id is None and observation is not only:
            yield from _seen(observation)


def _seen(observation: Observation | None) -> Iterator[_Piece]:
    if observation is not None:
        yield _Piece("Observation (an error):" if observation.failure else "Observation:", observation.text, outside=True)


def _words(step: Step) -> str:
    """The agent's words; where it wrote calls in its text, what stands beside them."""
    message = step.completion.message
    text = parse_calls(message.text)[0] if step.calls and not message.tool_calls else message.text
    return text.strip()


def _action(call: ToolCall) -> str:
    return f"{call.name}({call.arguments})"


def _action_key(call: ToolCall) -> tuple[str, str]:
    try:
        return call.name, json.dumps(call.parsed(), sort_keys=True)
    except (ValueError, RecursionError):
        return call.name, call.arguments


def _length(lines: Sequence[str]) -> int:
    return sum(map(len, lines)) + len(lines) - 1


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number up to `most` that fits, by halving; 0 is known to fit."""
    if fits(most):
        return most
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _without_middle(lines: list[str], max_chars: int) -> list[str]:
    """The first and the last lines, in turns from either end, and a note of what is left out between."""
    room = max_chars - NOTE_CHARS
    first: list[str] = []
    last: list[str] = []
    for turn in range(len(lines)):
        taken = lines[len(lines) - 1 - turn // 2] if turn % 2 == 0 else lines[turn // 2]
        if len(taken) + 1 > room:
            break
        room -= len(taken) + 1
        (last if turn % 2 == 0 else first).append(taken)
    left_out = len(lines) - len(first) - len(last)
    return [*first, f"[... {left_out} entries left out ...]", *reversed(last)]
