"""Conversations as token ids, with a mask of where the loss falls.

A row is written through the tokenizer's own chat template. Loss falls on what the model itself has to say: the assistant's turns of a
row's completion, each with the token that ends it, and on nothing that the template adds, nor on prompts, tools, results or examples.
Where a turn begins is found by writing the conversation up to it: that must be the beginning of the whole, as text and as token ids. Where
a token would stand across that border, the text is tokenised in two parts, as it is when the model is used.

Text that looks like a special token: llama.cpp (when it reads a whole prompt) and transformers (by default) take `<|im_end|>` in a
user's words for the token itself, so that anybody can forge a turn. Here a row with such a text is refused, and a prompt writes it in
plain tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tutelage.records import ImagePart, Message, TextPart, ToolSpec
from tutelage.training.chat_template import (
    RowError,
    Template,
    check_kept,
    has_images,
    holds_arguments,
    merge_system,
    read_arguments,
    template_of,
)
from tutelage.training.rows import PreferenceRow, SFTRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "Rendering",
    "RowError",
    "Span",
    "TokenRow",
    "ids_of",
    "prompt_ids",
    "prompt_pieces",
    "render",
    "render_preference",
    "render_row",
    "render_turns",
    "render_with",
    "turn_rows",
]

_THOUGHT_END = "</think>"


@dataclass(frozen=True)
class TokenRow:
    """`ids` (T,) of the whole conversation; `mask` (T,), True where the loss falls on predicting that token."""

    ids: tuple[int, ...]
    mask: tuple[bool, ...]


@dataclass(frozen=True)
class Span:
    """A stretch of the text that is learned: from `start` to before `end`, in characters. message: whose it is, by its number.

    earlier: where the stretch begins if no token begins at `start` (blanks that the template adds before the words).
    """

    start: int
    end: int
    message: int
    earlier: int


@dataclass(frozen=True)
class Rendering:
    """A row as text and tokens. spans: what is learned. notes: what the template changed without losing anything that is learned."""

    text: str
    row: TokenRow
    spans: tuple[Span, ...]
    notes: tuple[str, ...] = ()


def render_row(tokenizer: PreTrainedTokenizerBase, row: SFTRow) -> TokenRow:
    """The row's token ids and loss mask. Raises `RowError`, naming the row's source, where the template loses or changes something."""
    return render(tokenizer, row).row


def render_turns(tokenizer: PreTrainedTokenizerBase, row: SFTRow) -> tuple[TokenRow, ...]:
    """The row as one sequence or, where the template writes earlier turns differently (without their reasoning), as one for each turn."""
    try:
        return (render_row(tokenizer, row),)
    except RowError:
        parts = turn_rows(row)
        if len(parts) < 2:
            raise
        return tuple(render_row(tokenizer, part) for part in parts)


def turn_rows(row: SFTRow) -> tuple[SFTRow, ...]:
    """One row for each turn that is learned: what came before it, earlier turns included, becomes its prompt."""
    return tuple(
        row.model_copy(update={"prompt": row.prompt + row.completion[:place], "completion": (row.completion[place],), "without_loss": ()})
        for place in row.learned
    )


def render_preference(tokenizer: PreTrainedTokenizerBase, row: PreferenceRow) -> tuple[TokenRow, TokenRow]:
    """The chosen and the rejected continuation of one prompt, whose ids both begin with. Raises `RowError` as `render_row` does."""
    chosen, rejected = (
        render_row(tokenizer, SFTRow(prompt=row.prompt, completion=completion, tools=row.tools, source=row.source))
        for completion in (row.chosen, row.rejected)
    )
    return chosen, rejected


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> tuple[int, ...]:
    """The ids of a conversation up to where the assistant speaks. Special tokens in a message's text are written in plain tokens.

    Raises `RowError` where the template drops the system message, the tools, a call or a result.
    """
    template = template_of(tokenizer)
    return ids_of(template, prompt_pieces(template, messages, tools))


def prompt_pieces(template: Template, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> list[str]:
    """The text of a conversation up to where the assistant speaks, cut within the special tokens that stand in a message's text.

    Raises `RowError` as `prompt_ids` does.
    """
    check_kept(template, _merged(template, messages), tools)
    text = template.write(messages, tools, to_answer=True)
    if not any(template.control_pattern.search(text) for message in messages for text in _texts(message)):
        return [text]
    return template.write([_mark(template, message) for message in messages], tools, to_answer=True).split(_MARK)


def ids_of(template: Template, pieces: Sequence[str]) -> tuple[int, ...]:
    """The ids of pieces of a text, each by itself."""
    return tuple(id_ for piece in pieces for id_ in _ids(template, piece))


def render(tokenizer: PreTrainedTokenizerBase, row: SFTRow) -> Rendering:
    """The row as text, ids, mask and spans. Raises `RowError` naming the row's source and what broke."""
    return render_with(template_of(tokenizer), row)


Expand = Callable[[str, tuple[Span, ...]], tuple[str, tuple[Span, ...]]]
"""A text with what is learned in it -> the text that is tokenised, and where the same stretches stand there."""


def render_with(template: Template, row: SFTRow, expand: Expand | None = None) -> Rendering:
    """As `render`, by a template that was tried out. expand: puts in what stands for images."""
    try:
        return _render(template, row, expand)
    except RowError as broken:
        raise RowError(broken.message, file=row.source, field=broken.field) from None


def _render(template: Template, row: SFTRow, expand: Expand | None = None) -> Rendering:
    messages = [*row.prompt, *row.completion]
    learned = [len(row.prompt) + place for place in row.learned]
    _check_row(template, messages, learned)
    kept = _merged(template, messages)
    shift = len(messages) - len(kept)  # system messages stand before everything that is learned
    check_kept(template, kept, row.tools, frozenset(number - shift for number in learned))
    text = template.write(messages, row.tools)
    notes = [*(["the system message is merged into the first user message"] if shift else []), *_changed(template, kept, text)]
    spans = tuple(_span(template, messages, row.tools, number, text) for number in learned)
    if expand is not None:
        text, spans = expand(text, spans)
    tokens, cut = _tokens(template, text, spans)
    if cut:
        notes.append("a token would stand across the beginning of a turn: the text is tokenised in parts, as in use")
    return Rendering(text, tokens, spans, tuple(notes))


def _merged(template: Template, messages: Sequence[Message]) -> Sequence[Message]:
    return merge_system(messages) if template.merges_system else messages


def _check_row(template: Template, messages: Sequence[Message], learned: Sequence[int]) -> None:
    """What no template can put right."""
    if not learned:
        raise RowError("no turn of the assistant is learned; the completion needs a message of the assistant")
    if learned[0] == 0 or all(message.role == "system" for message in messages[: learned[0]]):
        raise RowError("the assistant speaks first; put what it answers before it")
    for number, message in enumerate(messages):
        forged = next(filter(None, map(template.control_pattern.search, _texts(message))), None)
        if forged:
            raise RowError(f"the text of message {number + 1} holds {forged.group()!r}, which would become the special token; take it out")
    for number in learned:
        _check_calls(messages[number], number)


def _texts(message: Message) -> list[str]:
    return [message.text, *(call.arguments for call in message.tool_calls)]


def _check_calls(message: Message, number: int) -> None:
    for call in message.tool_calls:
        if not call.name:
            raise RowError(f"a call of message {number + 1} names no tool")
        if read_arguments(call) is None:
            raise RowError(f"the arguments of `{call.name}` (message {number + 1}) are no JSON object: {call.arguments[:80]!r}")


def _changed(template: Template, messages: Sequence[Message], text: str) -> Iterator[str]:
    """Notes on texts that the template writes differently; raises `RowError` for one that it does not write at all."""
    place = 0
    for number, message, words in _words(template, messages):
        if not words.strip() or (message.role == "assistant" and message.tool_calls):
            continue
        found, end, note = _find(text, message, words, 0 if message.role == "system" else place)
        if found < 0:
            raise RowError(f"the chat template changes the words of message {number} ({message.role}): {words[:80]!r}")
        place = max(place, end) if message.role != "system" else place
        if note:
            yield f"message {number} ({message.role}): {note}"


def _words(template: Template, messages: Sequence[Message]) -> Iterator[tuple[int, Message, str]]:
    """Number, message, and what it says: of several texts with images between each by itself."""
    for number, message in enumerate(messages, 1):
        if template.parts and not isinstance(message.content, str):
            yield from ((number, message, part.text) for part in message.content if isinstance(part, TextPart))
        else:
            yield number, message, message.text


def _find(text: str, message: Message, words: str, start: int) -> tuple[int, int, str]:
    """Where a message's words stand from `start` on (-1: nowhere), where they end, and what was done to them."""
    forms = [(words, ""), (words.strip(), "blanks around it are stripped"), (_inner_json(words), "it is written as JSON")]
    if message.role == "assistant" and _THOUGHT_END in words:
        forms.append((words.rpartition(_THOUGHT_END)[2].strip(), "its reasoning is left out"))
    for form, note in forms:
        if (found := text.find(form, start)) >= 0:
            return found, found + len(form), note
    return -1, -1, ""


def _inner_json(words: str) -> str:
    return json.dumps(words, ensure_ascii=False)[1:-1]


def _span(template: Template, messages: Sequence[Message], tools: Sequence[ToolSpec], number: int, text: str) -> Span:
    """The stretch that the assistant itself says in its turn, with the token that ends it."""
    before = template.write(messages[:number], tools, to_answer=True)
    if not text.startswith(before):
        raise RowError(
            f"the chat template writes what stands before message {number + 1} differently once the conversation goes on "
            "(earlier reasoning left out, say); give each turn a row of its own"
        )
    message, begin = messages[number], len(before)
    if message.tool_calls:
        start, end = _call_span(template, messages, tools, number, text, begin)
    else:
        start, end = _word_span(template, message, text[begin:])
    blanks = not text[begin : begin + start].strip()
    return Span(begin + start, begin + end, number, earlier=begin if blanks else begin + start)


def _word_span(template: Template, message: Message, turn: str) -> tuple[int, int]:
    for lead in (template.preface, ""):
        for words in (message.text, message.text.strip()):
            if turn.startswith(lead + words):
                said = len(lead) + len(words)
                closing = re.compile(r"\s*(?:" + template.special_pattern.pattern + ")").match(turn, said)
                if closing is None:
                    raise RowError("the chat template closes the assistant's turn with no special token, so the model would never stop")
                return len(lead), closing.end()
    way_out = "write its reasoning as the template does, or give each turn a row of its own" if _THOUGHT_END in message.text else ""
    raise RowError(f"the chat template changes the words of the assistant: {message.text[:80]!r}" + (way_out and f"; {way_out}"))


def _call_span(
    template: Template, messages: Sequence[Message], tools: Sequence[ToolSpec], number: int, text: str, begin: int
) -> tuple[int, int]:
    """As `_word_span` for a turn with calls, whose text only the template knows: it goes to the token that ends the turn."""
    alone = template.write(messages[: number + 1], tools)
    turn = alone[begin:]
    start = len(template.preface) if template.preface.strip() and turn.startswith(template.preface) else 0
    body, end = _closed(template, turn)
    message = messages[number]
    if not text.startswith(alone[: begin + end]):
        raise RowError(f"the chat template writes message {number + 1} differently once the conversation goes on; give it a row of its own")
    for call in message.tool_calls:
        if call.name not in body or not holds_arguments(body, read_arguments(call) or {}):
            raise RowError(f"the chat template does not write the call of `{call.name}` (message {number + 1}) so that it can be read back")
    if message.text.strip() not in body:
        raise RowError(f"the chat template changes what is said beside the calls of message {number + 1}")
    return start, end


def _closed(template: Template, turn: str) -> tuple[str, int]:
    """What stands before the token that ends the turn, and where that token ends."""
    ends = list(template.special_pattern.finditer(turn))
    known = [found for found in ends if found.group() in (template.end, template.tokenizer.eos_token)]
    tail = [found for found in ends if not template.special_pattern.sub("", turn[found.start() :]).strip()]
    chosen = next((found for found in tail if found in known), tail[-1] if tail else None)
    if chosen is None:
        raise RowError("the chat template closes a turn with calls with no special token, so the model would never stop")
    return turn[: chosen.start()], chosen.end()


def _common(one: str, other: str) -> str:
    """The longest text that both begin with."""
    shorter = min(len(one), len(other))
    return one[: next((place for place in range(shorter) if one[place] != other[place]), shorter)]


def _tokens(template: Template, text: str, spans: Sequence[Span]) -> tuple[TokenRow, bool]:
    """Ids and mask; and whether the text had to be cut at the borders of spans to be tokenised."""
    ids = _ids(template, text)
    borders: list[tuple[int, int]] = []
    for span in spans:
        begin = next((n for place in (span.start, span.earlier) if (n := _prefix(template, ids, text, place)) is not None), None)
        end = _prefix(template, ids, text, span.end)
        if begin is None or end is None:
            ids, borders = _cut(template, text, spans)
            return _masked(ids, borders), True
        borders.append((begin, end))
    _check_ids(template, ids, text)
    return _masked(ids, borders), False


def _prefix(template: Template, ids: Sequence[int], text: str, place: int) -> int | None:
    """How many ids the text before `place` has, where they are the first of the whole's."""
    first = _ids(template, text[:place])
    return len(first) if tuple(ids[: len(first)]) == first else None


def _cut(template: Template, text: str, spans: Sequence[Span]) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
    ids: tuple[int, ...] = ()
    borders: list[tuple[int, int]] = []
    place = 0
    for span in spans:
        ids += _ids(template, text[place : span.start])
        begin = len(ids)
        ids += _ids(template, text[span.start : span.end])
        borders.append((begin, len(ids)))
        place = span.end
    ids += _ids(template, text[place:])
    _check_ids(template, ids, text)
    return ids, borders


def _masked(ids: Sequence[int], borders: Sequence[tuple[int, int]]) -> TokenRow:
    mask = [False] * len(ids)
    for begin, end in borders:
        mask[begin:end] = [True] * (end - begin)
    return TokenRow(tuple(ids), tuple(mask))


def _check_ids(template: Template, ids: Sequence[int], text: str) -> None:
    """Blanks may differ (many tokenizers put one after a special token); anything else is lost for good."""
    read_back = decode(template.tokenizer, ids)
    if read_back != text and "".join(read_back.split()) != "".join(text.split()):
        place = len(_common(read_back, text))
        raise RowError(f"the tokenizer cannot write this text: {text[place : place + 40]!r} becomes {read_back[place : place + 40]!r}")


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of ids, special tokens included."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _ids(template: Template, text: str) -> tuple[int, ...]:
    """The template writes the special tokens itself, the first one too."""
    return tuple(template.tokenizer.encode(text, add_special_tokens=False)) if text else ()


_MARK = "\ue0f1"
"""A private character; it stands within the text of a special token while a prompt is written, and the ids are made of what is between."""


def _mark(template: Template, message: Message) -> Message:
    def broken(text: str) -> str:
        return template.control_pattern.sub(lambda token: token.group()[0] + _MARK + token.group()[1:], text.replace(_MARK, ""))

    calls = tuple(call.model_copy(update={"arguments": broken(call.arguments)}) for call in message.tool_calls)
    content: str | tuple[TextPart | ImagePart, ...] = broken(message.text)
    if has_images(message) and not isinstance(message.content, str):
        content = tuple(part if isinstance(part, ImagePart) else TextPart(text=broken(part.text)) for part in message.content)
    return message.model_copy(update={"content": content, "tool_calls": calls})
