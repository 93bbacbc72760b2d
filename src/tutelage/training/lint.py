"""Checking rows before they are learned from: does each survive the chat template and the tokenizer, and where does the loss fall?

A row that does not survive the round trip is refused: its text is parsed back and its calls, roles and words are compared with what was
meant. What is odd but possible (duplicates, calls that do not fit their tool's schema, references that show in the prompt) is a warning.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tutelage.records import Message, ToolCall, content_id
from tutelage.tool import validate_arguments
from tutelage.tool_protocol import parse_calls
from tutelage.training.chat import Rendering, RowError, render, turn_rows
from tutelage.training.chat_template import read_arguments, template_of
from tutelage.training.rows import PreferenceRow, SFTRow, StepRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = SFTRow | PreferenceRow | StepRow

LEAK_CHARACTERS = 40
"""An answer of so many characters or more that stands word for word in its own prompt is said to leak."""


@dataclass(frozen=True)
class Problem:
    """One finding. refused: the row cannot be learned from as it is; else it is a warning. row counts from 1."""

    row: int
    source: str
    what: str
    refused: bool


@dataclass(frozen=True)
class Checked:
    """A row, rendered (None: refused): a demonstration once, a preference twice (chosen, rejected)."""

    row: int
    source: str
    renderings: tuple[Rendering, ...]


@dataclass(frozen=True)
class Summary:
    """Counts over the rows that render. tokens: of all sequences; learned: those that bear loss; lengths: of each sequence, in tokens."""

    rows: int
    refused: int
    tokens: int
    learned: int
    lengths: tuple[int, ...]
    too_long: int

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence; 0 where there is none."""
        return max(self.lengths, default=0)


@dataclass(frozen=True)
class Lint:
    """What was found in a file of rows."""

    checked: tuple[Checked, ...]
    problems: tuple[Problem, ...]
    summary: Summary

    @property
    def refused(self) -> tuple[Problem, ...]:
        """Findings that keep a row from being learned."""
        return tuple(problem for problem in self.problems if problem.refused)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """Findings to look at."""
        return tuple(problem for problem in self.problems if not problem.refused)


def lint(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], *, max_length: int | None = None) -> Lint:
    """Render and check every row. max_length: in tokens; longer rows get a warning. Raises `InputError` without a chat template."""
    template_of(tokenizer)
    checked: list[Checked] = []
    problems: list[Problem] = []
    for number, row in enumerate(rows, 1):
        source = row.source or f"row {number}"
        try:
            renderings = tuple(rendering for part in _demonstrations(row) for rendering in _render(tokenizer, part))
            warnings = [*_warnings(row), *_render_warnings(tokenizer, renderings, max_length)]
        except RowError as broken:
            renderings, warnings = (), []
            problems.append(Problem(number, source, broken.message, refused=True))
        checked.append(Checked(number, source, renderings))
        problems += [Problem(number, source, what, refused=False) for what in dict.fromkeys(warnings)]
    problems += _duplicates(rows)
    problems.sort(key=lambda problem: problem.row)
    return Lint(tuple(checked), tuple(problems), _summary(checked, max_length))


def _demonstrations(row: Row) -> tuple[SFTRow, ...]:
    """What is rendered of a row: of a step the expert's words after its question."""
    if isinstance(row, SFTRow):
        return (row,)
    if isinstance(row, PreferenceRow):
        return tuple(SFTRow(prompt=row.prompt, completion=side, tools=row.tools) for side in (row.chosen, row.rejected))
    return (SFTRow(prompt=row.prompt, completion=(Message(role="assistant", content=row.target),)),)


def _render(tokenizer: PreTrainedTokenizerBase, row: SFTRow) -> list[Rendering]:
    """The row in one sequence, or turn by turn where the template allows only that; parsed back and compared."""
    try:
        parts, renderings = [row], [render(tokenizer, row)]
    except RowError:
        parts = list(turn_rows(row))
        if len(parts) < 2:
            raise
        renderings = [render(tokenizer, part) for part in parts]
    for part, rendering in zip(parts, renderings, strict=True):
        _read_back(tokenizer, part, rendering)
    return renderings


def _read_back(tokenizer: PreTrainedTokenizerBase, row: SFTRow, rendering: Rendering) -> None:
    """Raise `RowError` where a learned turn with calls, read as a reply of the model, holds other calls."""
    messages = [*row.prompt, *row.completion]
    for span in rendering.spans:
        said = messages[span.message]
        if said.tool_calls:
            body = _without_special(tokenizer, rendering.text[span.start : span.end])
            found = parse_calls(body)[1]
            if found and list(map(_meant, found)) != list(map(_meant, said.tool_calls)):
                names = ", ".join(call.name for call in found)
                raise RowError(f"read back, the calls of message {span.message + 1} are others than those meant ({names}): {body[:120]!r}")


def _without_special(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    return template_of(tokenizer).special_pattern.sub("", text).strip()


def _meant(call: ToolCall) -> tuple[str, object]:
    arguments = read_arguments(call)
    return call.name, call.arguments if arguments is None else arguments


def _warnings(row: Row) -> Iterator[str]:
    if isinstance(row, StepRow):
        sides: tuple[tuple[Message, ...], ...] = ((Message(role="assistant", content=row.target),),)
    else:
        sides = (row.completion,) if isinstance(row, SFTRow) else (row.chosen, row.rejected)
        yield from _call_warnings(row, sides)
    prompt = "\n".join(message.text for message in row.prompt)
    for message in (message for side in sides for message in side if message.role == "assistant"):
        words = message.text.strip()
        if not words and not message.tool_calls:
            yield "a turn of the assistant says nothing"
        if len(words) >= LEAK_CHARACTERS and words in prompt:
            yield f"the answer stands in its own prompt: {words[:60]!r}"


def _call_warnings(row: SFTRow | PreferenceRow, sides: Sequence[Sequence[Message]]) -> Iterator[str]:
    specs = {spec.name: spec for spec in row.tools}
    skipped = row.without_loss if isinstance(row, SFTRow) else ()
    for side in sides:
        for call in (call for place, message in enumerate(side) if place not in skipped for call in message.tool_calls):
            if call.name not in specs:
                yield f"`{call.name}` is called and is none of the row's tools" + (
                    f" ({', '.join(specs)})" if specs else ", which has none"
                )
            elif problem := validate_arguments(specs[call.name], call):
                yield f"a call does not fit its tool: {problem}"


def _render_warnings(tokenizer: PreTrainedTokenizerBase, renderings: Sequence[Rendering], max_length: int | None) -> Iterator[str]:
    template = template_of(tokenizer)
    unusual = template.special - template.control
    for rendering in renderings:
        yield from rendering.notes
        length = len(rendering.row.ids)
        if max_length is not None and length > max_length:
            lost, learned = sum(rendering.row.mask[max_length:]), sum(rendering.row.mask)
            yield f"it has {length} tokens, more than {max_length}; cut off there, {lost} of {learned} learned tokens are lost"
        if named := sorted(token for token in unusual if token in rendering.text):
            yield f"the text {named[0]!r} is a special token of this tokenizer and is taken for it"


def _duplicates(rows: Sequence[Row]) -> Iterator[Problem]:
    """Rows that are the same, and demonstrations that answer one prompt in two ways."""
    seen: dict[str, int] = {}
    answers: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for number, row in enumerate(rows, 1):
        content = row.canonical()
        content.pop("source", None)
        key = content_id(content)
        first = seen.setdefault(key, number)
        source = row.source or f"row {number}"
        if first != number:
            yield Problem(number, source, f"it is the same as row {first} ({rows[first - 1].source or first})", refused=False)
            continue
        if isinstance(row, SFTRow):
            known = answers[content_id([content.get("prompt"), content.get("tools")])]
            if known:
                yield Problem(number, source, f"it answers the prompt of row {min(known.values())} in another way", refused=False)
            known[key] = number


def _summary(checked: Sequence[Checked], max_length: int | None) -> Summary:
    sequences = [rendering.row for one in checked for rendering in one.renderings]
    lengths = tuple(len(row.ids) for row in sequences)
    return Summary(
        rows=len(checked),
        refused=sum(not one.renderings for one in checked),
        tokens=sum(lengths),
        learned=sum(sum(row.mask) for row in sequences),
        lengths=lengths,
        too_long=sum(max_length is not None and length > max_length for length in lengths),
    )
