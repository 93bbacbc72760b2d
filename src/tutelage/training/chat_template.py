"""A tokenizer's chat template, tried out: what it keeps, what it loses, and how it wants to be given things.

Templates lose things silently: some know no tools, some merge or refuse system messages, some cut the reasoning out of earlier turns, some
write the arguments of a call twice encoded. So each is tried with marked words before it is trusted, once per tokenizer and once per shape
of conversation.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal

from tutelage.errors import InputError
from tutelage.records import ImagePart, Message, Role, TextPart, ToolCall, ToolSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONTENT_TOKENS = frozenset({"<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"})
"""Tokens that stand in a message's own text by right, special or not."""
_ANSWER, _ASKED = "answer7Qx", "asked7Qx"
_ALPHABET = "0123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

Data = dict[str, Any]
Shape = tuple[tuple[tuple[Role, bool, int], ...], bool]
"""Of each message its role, whether it says anything and the number of its calls; and whether there are tools."""


class RowError(InputError):
    """A row cannot be rendered without losing something; the message says what, and where."""


@dataclass(frozen=True)
class Form:
    """How tool calls are handed to a template. arguments: as JSON objects or as JSON text. short_ids: ids of nine letters and digits."""

    arguments: Literal["object", "text"] = "object"
    short_ids: bool = False


FORMS = (Form(), Form(short_ids=True), Form("text"), Form("text", short_ids=True))


@dataclass(frozen=True)
class Template:
    """A chat template with what was found out about it.

    merges_system: it has no place for a system message, so it joins the first user message. preface: what it writes between the prompt
    for the assistant and the assistant's words. end: the token that closes the assistant's turn. form: how it takes calls (None: not at
    all). parts: it wants what is said as a list of parts, texts and images (those of vision-language models).
    """

    tokenizer: PreTrainedTokenizerBase
    merges_system: bool = False
    preface: str = ""
    end: str | None = None
    form: Form | None = None
    parts: bool = False

    def write(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), *, to_answer: bool = False) -> str:
        """The conversation as text; to_answer: with the words after which the assistant speaks. Raises `RowError` where it refuses."""
        data = as_data(merge_system(messages) if self.merges_system else messages, self.form or Form(), parts=self.parts)
        return self._apply(data, tools, to_answer)

    def _apply(self, data: list[Data], tools: Sequence[ToolSpec], to_answer: bool) -> str:
        from jinja2 import TemplateError  # comes with transformers

        listed: list[Any] | None = [{"type": "function", "function": _tool_data(spec)} for spec in tools] or None
        try:
            return str(self.tokenizer.apply_chat_template(data, tools=listed, tokenize=False, add_generation_prompt=to_answer))
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as refused:
            raise RowError(f"the chat template refuses this conversation: {refused}") from None

    @cached_property
    def special(self) -> frozenset[str]:
        """All tokens that stand for themselves wherever their text occurs, save those that belong in a message."""
        added = self.tokenizer.added_tokens_decoder.values()
        return frozenset({*self.tokenizer.all_special_tokens, *(token.content for token in added if token.special)} - CONTENT_TOKENS)

    @cached_property
    def control(self) -> frozenset[str]:
        """The special tokens that conversations are built with: in a message's text they would forge a turn."""
        probe = self.write(_plain_probe(), to_answer=True)
        named = {str(value) for value in self.tokenizer.special_tokens_map.values() if isinstance(value, str)}
        source = str(self.tokenizer.get_chat_template())
        return frozenset(token for token in self.special if token in named or token in probe or token in source)

    @cached_property
    def special_pattern(self) -> re.Pattern[str]:
        """Matches any special token."""
        return _any_of(self.special)

    @cached_property
    def control_pattern(self) -> re.Pattern[str]:
        """Matches any control token."""
        return _any_of(self.control)


def _any_of(tokens: frozenset[str]) -> re.Pattern[str]:
    longest_first = sorted(tokens, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def template_of(tokenizer: PreTrainedTokenizerBase, *, parts: bool = False) -> Template:
    """The tokenizer's template, tried out once. parts: for messages with images. Raises `InputError` where it has none."""
    try:
        source = str(tokenizer.get_chat_template())
    except ValueError:
        name = getattr(tokenizer, "name_or_path", "") or "the model"
        raise InputError(f"the tokenizer of {name} has no chat template; use an instruct model, or give its tokenizer one") from None
    return _tried(tokenizer, source, len(tokenizer), parts)


@lru_cache(maxsize=8)
def _tried(tokenizer: PreTrainedTokenizerBase, source: str, size: int, parts: bool) -> Template:
    template = Template(tokenizer, parts=parts)
    template = replace(template, merges_system=_loses_system(template))
    before = template.write([Message(role="user", content=_ASKED)], to_answer=True)
    whole = template.write(_plain_probe())
    turn = whole[len(before) :] if whole.startswith(before) else whole
    preface, found, closing = turn.partition(_ANSWER)
    if not found:
        raise InputError("the chat template does not write what the assistant says; give the tokenizer another one")
    end = template.special_pattern.search(closing)
    return replace(
        template,
        preface=preface if whole.startswith(before) else "",
        end=end.group() if end else None,
        form=next((form for form in FORMS if _takes_calls(replace(template, form=form))), None),
    )


def _plain_probe() -> list[Message]:
    return [Message(role="user", content=_ASKED), Message(role="assistant", content=_ANSWER)]


def _loses_system(template: Template) -> bool:
    ruled = "ruled7Qx"
    try:
        return ruled not in template.write([Message(role="system", content=ruled), *_plain_probe()])
    except RowError:
        return True


def _takes_calls(template: Template) -> bool:
    call = ToolCall(id="call_1", name="tool7Qx", arguments='{"key7Qx": true}')
    messages = [
        Message(role="user", content=_ASKED),
        Message(role="assistant", tool_calls=(call,)),
        Message(role="tool", content="seen7Qx", tool_call_id=call.id),
        Message(role="assistant", content=_ANSWER),
    ]
    tool = ToolSpec(name=call.name, parameters={"type": "object", "properties": {"key7Qx": {"type": "boolean"}}})
    try:
        text = template.write(messages, [tool])
    except RowError:
        return False
    turn = text.rpartition(_ASKED)[2]
    return call.name in turn and "seen7Qx" in turn and holds_arguments(turn, {"key7Qx": True})


def check_kept(template: Template, messages: Sequence[Message], tools: Sequence[ToolSpec], learned: frozenset[int] = frozenset()) -> None:
    """Raise `RowError` where a conversation of this shape loses a message, a call, a result or the tools in the template.

    learned: which messages are to be learned from. What others say beside a call may be lost: that is how the model sees it in use too.
    """
    shape = tuple((message.role, bool(message.text), len(message.tool_calls)) for message in messages)
    if any(calls for _, _, calls in shape) and template.form is None:
        raise RowError("the chat template drops tool calls; describe the tools in the prompt and write calls as text instead")
    for number, what in _lost(template, (shape, bool(tools))):
        if what != _BESIDE or number in learned:
            raise RowError(f"the chat template drops {what}" + (f" (message {number + 1})" if number >= 0 else ""))


_BESIDE = "what the assistant says beside its calls"
_KINDS = {"system": "the system message", "user": "a user's message", "assistant": "what the assistant says", "tool": "a tool's result"}


@lru_cache(maxsize=1024)
def _lost(template: Template, shape: Shape) -> tuple[tuple[int, str], ...]:
    """Number and name of everything that a conversation of this shape loses; -1 for the list of tools."""
    roles, with_tools = shape
    messages = list(_marked(roles))
    tools = [ToolSpec(name="listed7Qx", parameters={"type": "object", "properties": {}})] if with_tools else []
    text = template.write(messages, tools)
    dropped = [(-1, "the list of tools")] if with_tools and "listed7Qx" not in text else []
    return (*dropped, *_missing(messages, text))


def _marked(roles: Sequence[tuple[Role, bool, int]]) -> Iterator[Message]:
    """A conversation of that shape in which every piece is a word of its own."""
    waiting: list[str] = []
    for number, (role, says, calls) in enumerate(roles):
        made = tuple(ToolCall(id=f"call_{number}_{i}", name=f"tool{number}x{i}q", arguments="{}") for i in range(calls))
        waiting += [call.id for call in made]
        answered = waiting.pop(0) if role == "tool" and waiting else None
        content = f"said{number}q" if says else ""
        yield Message(role=role, content=content, tool_calls=made, tool_call_id=answered)


def _missing(messages: Sequence[Message], text: str) -> Iterator[tuple[int, str]]:
    for number, message in enumerate(messages):
        if message.text not in text:
            yield number, _BESIDE if message.tool_calls else _KINDS[message.role]
        if any(call.name not in text for call in message.tool_calls):
            yield number, "a tool call"


def merge_system(messages: Sequence[Message]) -> list[Message]:
    """The conversation without system messages: their words stand before those of the first user message."""
    words = [message.text for message in messages if message.role == "system" and message.text]
    rest = [message for message in messages if message.role != "system"]
    first = next((place for place, message in enumerate(rest) if message.role == "user"), None)
    if not words:
        return rest
    if first is None:
        return [Message(role="user", content="\n\n".join(words)), *rest]
    return [*rest[:first], _opened_with("\n\n".join(words), rest[first]), *rest[first + 1 :]]


def _opened_with(words: str, message: Message) -> Message:
    """The message with words before its own; images stay where they are."""
    if isinstance(message.content, str) or not has_images(message):
        return message.model_copy(update={"content": f"{words}\n\n{message.text}"})
    return message.model_copy(update={"content": (TextPart(text=f"{words}\n\n"), *message.content)})


def has_images(message: Message) -> bool:
    """Whether an image stands in the message."""
    return not isinstance(message.content, str) and any(isinstance(part, ImagePart) for part in message.content)


def as_data(messages: Sequence[Message], form: Form, *, parts: bool = False) -> list[Data]:
    """The messages as templates read them: OpenAI's shape, with the name of the tool beside its result.

    parts: what is said as a list of texts and images; else `RowError` for an image.
    """
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    return [_message_data(message, names, form, parts) for message in messages]


def _message_data(message: Message, names: dict[str, str], form: Form, parts: bool) -> Data:
    data: Data = {"role": message.role, "content": _parts(message) if parts else _plain(message)}
    if message.tool_calls:
        data["tool_calls"] = [_call_data(call, form) for call in message.tool_calls]
    if message.tool_call_id is not None:
        data["tool_call_id"] = _short(message.tool_call_id) if form.short_ids else message.tool_call_id
        if name := names.get(message.tool_call_id):
            data["name"] = name
    return data


def _plain(message: Message) -> str:
    if has_images(message):
        raise RowError("an image stands in a message, and this model reads text only; learn from images with VisionSFT")
    return message.text


def _parts(message: Message) -> list[Data]:
    """Images as places only: what they hold is the processor's."""
    if isinstance(message.content, str):
        return [{"type": "text", "text": message.content}] if message.content else []
    return [{"type": "image"} if isinstance(part, ImagePart) else {"type": "text", "text": part.text} for part in message.content]


def _call_data(call: ToolCall, form: Form) -> Data:
    arguments: Any = call.arguments
    if form.arguments == "object":
        read = read_arguments(call)
        arguments = call.arguments if read is None else read
    id_ = _short(call.id) if form.short_ids else call.id
    return {"id": id_, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def read_arguments(call: ToolCall) -> dict[str, Any] | None:
    """The arguments as an object; None where they are not one."""
    try:
        value = call.parsed()
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _short(id_: str) -> str:
    """Nine letters and digits that stand for an id, as some templates insist on."""
    if len(id_) == 9 and id_.isascii() and id_.isalnum():
        return id_
    number = int.from_bytes(hashlib.sha256(id_.encode()).digest()[:8], "big")
    return "".join(_ALPHABET[number // len(_ALPHABET) ** place % len(_ALPHABET)] for place in range(9))


def _tool_data(spec: ToolSpec) -> Data:
    return {"name": spec.name, "description": spec.description, "parameters": spec.parameters}


def holds_arguments(text: str, arguments: dict[str, Any]) -> bool:
    """Whether the text holds these arguments: as strict JSON, or each name and value between marks of its own."""
    if any(_is_or_holds(value, arguments) for value in json_objects(text)):
        return True
    return "{" not in text and all(name in text and _leaf(value) in text for name, value in arguments.items())


def _is_or_holds(value: Any, arguments: dict[str, Any]) -> bool:
    if isinstance(value, list):
        return any(_is_or_holds(item, arguments) for item in value)
    return isinstance(value, dict) and (value == arguments or any(_is_or_holds(item, arguments) for item in value.values()))


def _leaf(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def json_objects(text: str) -> Iterator[Any]:
    """Every JSON object that stands in the text, outermost only."""
    decoder, place = json.JSONDecoder(), text.find("{")
    while place >= 0:
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            end = place + 1
        else:
            yield value
        place = text.find("{", end)
