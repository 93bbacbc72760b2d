"""The messages of a row file: OpenAI's shape, with what people and exporters make of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from pydantic import ValidationError

from tutelage.records import ImagePart, Message
from tutelage.task_formats.lines import Row, Where, strict_json
from tutelage.task_formats.openai import message

_ROLES = "system, user, assistant or tool"


def read_messages(value: Any, where: Where, field: str) -> tuple[tuple[Message, ...], tuple[int, ...]]:
    """Messages, and the places of those that are not to be learned (`"weight": 0`). Raises `InputError` naming the place.

    The list may be JSON text, arguments of calls may be objects or JSON text, and ids of calls may be missing.
    """
    if isinstance(value, str):
        value = strict_json(value, where, field)
    if not isinstance(value, list) or not value:
        raise where.error("a list of messages is needed, or a text", field)
    said: list[Message] = []
    for number, item in enumerate(value):
        said.append(_message(item, where, f"{field}.{number}", _open_calls(said)))
    skipped = tuple(number for number, item in enumerate(value) if item.get("weight") == 0)
    return tuple(said), skipped


def _message(item: Any, where: Where, field: str, waiting: list[str]) -> Message:
    if not isinstance(item, dict):
        raise where.error("a message must be an object with `role` and `content`", field)
    item = {key: value for key, value in item.items() if value is not None}
    if item.get("role") not in ("system", "developer", "user", "assistant", "tool"):
        raise where.error(f"the role must be {_ROLES}, and is {item.get('role')!r}", f"{field}.role")
    if "tool_calls" in item:
        item["tool_calls"] = _calls(item["tool_calls"], where, f"{field}.tool_calls", item["role"])
    if item["role"] == "tool":
        item["tool_call_id"] = _answered(item.get("tool_call_id"), waiting, where, field)
    try:
        return Message.model_validate(message(item, where, field))
    except ValidationError as invalid:
        first = invalid.errors()[0]
        raise where.error(first["msg"], ".".join([field, *map(str, first["loc"])])) from None


def _calls(value: Any, where: Where, field: str, role: str) -> list[Any]:
    if isinstance(value, str):
        value = strict_json(value, where, field)
    if value and role != "assistant":
        raise where.error(f"only the assistant calls tools, and this message is the {role}'s", field)
    if not isinstance(value, list):
        raise where.error("a list of tool calls is needed", field)
    return [_call(call, number, where, f"{field}.{number}") for number, call in enumerate(value)]


def _call(value: Any, number: int, where: Where, field: str) -> Row:
    """A call in OpenAI's shape, or bare as {"name", "arguments"}; arguments that are an object become JSON text."""
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise where.error('a tool call must be {"type": "function", "function": {"name": ..., "arguments": {...}}}', field)
    arguments = function.get("arguments")
    text = arguments if isinstance(arguments, str) else json.dumps({} if arguments is None else arguments, ensure_ascii=False)
    return {"id": str(value.get("id") or f"call_{number + 1}"), "function": {"name": function["name"], "arguments": text}}


def _open_calls(said: Sequence[Message]) -> list[str]:
    """The calls of the last assistant's message that no result has answered yet."""
    answered: list[str | None] = []
    for earlier in reversed(said):
        if earlier.role != "tool":
            return [call.id for call in earlier.tool_calls if call.id not in answered]
        answered.append(earlier.tool_call_id)
    return []


def _answered(given: Any, waiting: Sequence[str], where: Where, field: str) -> str:
    if not waiting:
        raise where.error("a tool's result must follow the assistant's call of it, and there is none open before it", field)
    if given is None:
        return waiting[0]
    if given not in waiting:
        raise where.error(f"the result answers the call {given!r}; open before it: {', '.join(waiting)}", f"{field}.tool_call_id")
    return str(given)


def check_order(prompt: Sequence[Message], completion: Sequence[Message], where: Where, field: str) -> None:
    """Raise `InputError` where the roles do not follow one another as a conversation does."""
    messages = [*prompt, *completion]
    if not completion or completion[0].role != "assistant":
        found = f"it begins with the {completion[0].role}" if completion else "there is none"
        raise where.error(f"what is learned must begin with what the assistant says, and {found}", field)
    if not prompt or all(message.role == "system" for message in prompt):
        raise where.error("there is no question before the assistant's first message", "prompt" if field != "messages" else field)
    for number, (one, other) in enumerate(pairwise(messages), 1):
        if other.role == "system" and one.role != "system":
            raise where.error(f"a system message must stand first, and message {number + 1} is one", field)
        if one.role == other.role == "assistant":
            raise where.error(f"messages {number} and {number + 1} are both the assistant's; join them", field)


def data_messages(messages: Sequence[Message], without_loss: Sequence[int] = ()) -> list[Row]:
    """Messages as JSON data; those not to be learned with weight 0."""
    return [{**_data(message), **({"weight": 0} if number in without_loss else {})} for number, message in enumerate(messages)]


def _data(message: Message) -> Row:
    content: Any = message.content
    if not isinstance(content, str):
        content = [
            {"type": "image", "url": part.url} if isinstance(part, ImagePart) else {"type": "text", "text": part.text} for part in content
        ]
    data: Row = {"role": message.role, "content": content}
    if message.tool_calls:
        data["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _arguments(call.arguments)}}
            for call in message.tool_calls
        ]
    return data if message.tool_call_id is None else {**data, "tool_call_id": message.tool_call_id}


def _arguments(text: str) -> Any:
    """An object where it is one, else the text as the model wrote it."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text
