"""Records to and from the JSON of the OpenAI chat format, which most model servers speak."""

from __future__ import annotations

import base64
import json
import math
import mimetypes
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tutelage.errors import InputError
from tutelage.records import Finish, ImagePart, Message, TextPart, TokenChoice, TokenTrace, ToolCall, ToolSpec, Usage

_NEVER = -9999.0
"""What servers write as the logprob of a token that cannot be: JSON has no infinity."""
_FINISHES: dict[str, Finish] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


def message_to_wire(message: Message) -> dict[str, Any]:
    """One message as JSON data. Raises `InputError` for an image file that cannot be read."""
    content = message.content if isinstance(message.content, str) else [_part_to_wire(part) for part in message.content]
    data: dict[str, Any] = {"role": message.role, "content": content}
    if message.tool_calls:
        data["content"] = content or None
        data["tool_calls"] = [_call_to_wire(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        data["tool_call_id"] = message.tool_call_id
    return data


def tool_to_wire(tool: ToolSpec) -> dict[str, Any]:
    """One tool as JSON data."""
    return {"type": "function", "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters}}


def schema_to_wire(schema: dict[str, Any]) -> dict[str, Any]:
    """The `response_format` that constrains the output to a JSON Schema."""
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def read_choice(body: Any) -> dict[str, Any]:
    """The first choice of a reply. Raises ValueError, with the server's words where there are any, when it has none."""
    if not isinstance(body, dict):
        raise ValueError("the reply is not a JSON object")
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(choice, dict) and isinstance(choice.get("message"), dict):
        return choice
    error = body.get("error")
    words = error.get("message") if isinstance(error, dict) else error
    raise ValueError(f"the reply has no choices: {words}" if words else "the reply has no choices")


def read_message(choice: dict[str, Any]) -> Message:
    """The message of a choice. A null content is an empty text; arguments of tool calls are kept raw, even where they are broken."""
    said = choice["message"]
    calls = said.get("tool_calls")
    return Message(
        role="assistant",
        content=_sound(_text(said.get("content")) or _text(said.get("refusal"))),
        tool_calls=tuple(_read_calls(calls if isinstance(calls, list) else [])),
    )


def read_finish(choice: dict[str, Any], message: Message) -> Finish:
    """Why the model ended. Some servers say `stop` after a tool call; that counts as `tool_calls`."""
    finish = _FINISHES.get(str(choice.get("finish_reason")), "stop")
    return "tool_calls" if finish == "stop" and message.tool_calls else finish


def read_usage(body: dict[str, Any]) -> Usage | None:
    """Tokens of one call; None where the server does not say."""
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details")
    return Usage(
        calls=1,
        tokens_in=_count(usage.get("prompt_tokens")),
        tokens_out=_count(usage.get("completion_tokens")),
        tokens_reused=_count(details.get("cached_tokens")) if isinstance(details, dict) else 0,
    )


def read_trace(choice: dict[str, Any], prompt_ids: Any, completion_ids: Any) -> TokenTrace | None:
    """Token ids with their log probabilities; None unless ids of prompt and completion and one logprob per token are all there."""
    logprobs = read_logprobs(choice)
    if logprobs is None or not isinstance(prompt_ids, list) or not isinstance(completion_ids, list) or len(logprobs) != len(completion_ids):
        return None
    return TokenTrace(prompt_ids=tuple(prompt_ids), completion_ids=tuple(completion_ids), logprobs=tuple(logprobs))


def read_logprobs(choice: dict[str, Any]) -> list[float] | None:
    """The natural log of each generated token's probability; None where they are not given."""
    content = _logprob_entries(choice)
    values = [_logprob(token) for token in content or ()]
    return None if content is None or None in values else [value for value in values if value is not None]


def read_choices(choice: dict[str, Any]) -> tuple[TokenChoice, ...]:
    """The generated tokens by their text, each with the likeliest in its place; empty unless all of them have a logprob."""
    found = []
    for entry in _logprob_entries(choice) or ():
        if (logprob := _logprob(entry)) is None:
            return ()
        listed = entry.get("top_logprobs")
        found.append(TokenChoice(text=_token(entry), logprob=logprob, likeliest=_likeliest(listed if isinstance(listed, list) else [])))
    return tuple(found)


def _logprob_entries(choice: dict[str, Any]) -> list[Any] | None:
    given = choice.get("logprobs")
    content = given.get("content") if isinstance(given, dict) else None
    return content if isinstance(content, list) else None


def _likeliest(listed: Sequence[Any]) -> dict[str, float]:
    """Of tokens that show as one text (pieces of a character) the likeliest."""
    found: dict[str, float] = {}
    for entry in listed:
        if (logprob := _logprob(entry)) is not None:
            found[_token(entry)] = max(logprob, found.get(_token(entry), _NEVER))
    return found


def _token(entry: dict[str, Any]) -> str:
    return _sound(str(entry.get("token") or ""))


def _logprob(entry: Any) -> float | None:
    """The number; None where there is none."""
    value = entry.get("logprob") if isinstance(entry, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return None
    return max(float(value), _NEVER)


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _part_to_wire(part: TextPart | ImagePart) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    return {"type": "image_url", "image_url": {"url": _image_url(part.url)}}


def _image_url(url: str) -> str:
    """Web and data addresses as they are; a file as a data address."""
    if url.startswith(("data:", "http://", "https://")):
        return url
    path = Path(url.removeprefix("file://"))
    kind = mimetypes.guess_type(path.name)[0] or "image/png"
    try:
        return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    except OSError as error:
        raise InputError(f"the image cannot be read: {error.strerror}", file=path) from None


def _call_to_wire(call: ToolCall) -> dict[str, Any]:
    """Many servers refuse a conversation whose earlier calls are not JSON objects, so what is broken is wrapped into one."""
    try:
        readable = isinstance(call.parsed(), dict)
    except ValueError:
        readable = False
    arguments = (call.arguments or "{}") if readable else json.dumps({"unreadable": call.arguments})
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _read_calls(calls: Sequence[Any]) -> Iterable[ToolCall]:
    for number, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            arguments = function.get("arguments")
            text = arguments if isinstance(arguments, str) else json.dumps({} if arguments is None else arguments)
            yield ToolCall(
                id=_sound(str(call.get("id") or f"call_{number}")), name=_sound(str(function.get("name") or "")), arguments=_sound(text)
            )


def _text(content: Any) -> str:
    if isinstance(content, list):  # some servers answer in parts
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _sound(text: str) -> str:
    """Half an emoji (a lone surrogate) is legal in JSON and in no encoding; it becomes a question mark."""
    return text.encode("utf-8", "replace").decode()
