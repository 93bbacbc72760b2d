"""Reading the action in a reply, however it is written.

    [SeekAdvice]      seek_advice What is its IP rating?      Predict: yes      sql(SELECT 1)      {"name": "reflect", "arguments": {}}
    {"action": "submit_answer", "action_input": "yes"}      {"submit_answer": {"answer": "yes"}}

Names are read in any case, with or without underscores and brackets, and by their first word where no other action begins so. What
follows on the line is the first argument. The first action of a reply counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tutelage.executor.prompts import arguments_of
from tutelage.json_schema import sound, to_json
from tutelage.records import ToolCall, ToolSpec
from tutelage.tool_protocol import parse_calls

LONGEST = 20_000
"""So many characters of a reply are read."""

_LEAD = re.compile(r"[\s>*#\-\u2022`\"']*(?:\d{1,3}[.)]\s+)?(?:(?:next\s+)?(?:action|call)\s*\*{0,2}\s*:\s*)?[\s>*`\"']*", re.IGNORECASE)
_BETWEEN = re.compile(r"[`*\"']*\s*(?::|=>|->|=(?!=))?\s*\*{0,2}\s*")
_INPUT = re.compile(r"(?:action\s+)?(?:input|arguments?)\s*:\s*", re.IGNORECASE)
_CLOSES = {"[": "]", "(": ")", "<": ">", "{": "}", "\u3010": "\u3011"}
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W_A-Za-z]+")
_FENCE = re.compile(r"```[\w-]*[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL)
_END_TAG = re.compile(r"</[\w .-]{1,64}>\s*\Z")
_WORD = re.compile(r"\w+")
_SIGN = re.compile(r"\s*(?:[:(\[]|\Z)")
_MARK = re.compile(r"\[\s*(?=\w)|(?<![\w.])(?=\w+\()")
_QUOTES = "\"'`"
_NAMED = ("action", "name", "tool", "function", "tool_name")
_GIVEN = ("action_input", "arguments", "args", "input", "parameters", "params")
"""Where a JSON object says which action is meant, and what it is given."""


def parse_action(text: str, specs: Sequence[ToolSpec]) -> ToolCall | None:
    """The first action of a reply as a call of one of the specs; None where there is none. Never raises.

    Arguments that do not fit the schema are given as they stand: the action itself says what is wrong with them.
    """
    text = sound(text[:LONGEST])
    for call in parse_calls(text)[1][:1]:
        if (spec := resolve_name(call.name, specs)) and not _is_quoted(text, spec, specs):
            return ToolCall(id="call_1", name=spec.name, arguments=call.arguments)
    return _read_json(text, specs) or _read_lines(text, specs)


def resolve_name(name: str, specs: Sequence[ToolSpec]) -> ToolSpec | None:
    """The spec of that name, without regard to case and signs; else the only one that begins so, or that it begins with."""
    key = _key(name)
    for spec in specs:
        if spec.name == name:
            return spec
    ways = (lambda own: own == key, lambda own: len(key) > 2 and own.startswith(key), lambda own: len(own) > 3 and key.startswith(own))
    for fits in ways:
        found = [spec for spec in specs if fits(_key(spec.name))]
        if found:
            return found[0] if len(found) == 1 else None
    return None


@lru_cache(maxsize=4_096)
def _key(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


def _is_quoted(text: str, called: ToolSpec, specs: Sequence[ToolSpec]) -> bool:
    """Whether the call in tags stands behind another action's name on the first line: it is what that action is given, such as a note."""
    line = text.strip().partition("\n")[0]
    place = _LEAD.match(line).end()  # type: ignore[union-attr]  # it matches nothing too
    named = _names(tuple(spec.name for spec in specs)).match(line, place)
    return named is not None and "<tool_call>" in line[named.end() :].lower() and specs[int((named.lastgroup or "n0")[1:])] != called


def _read_json(text: str, specs: Sequence[ToolSpec]) -> ToolCall | None:
    """The action of a reply that begins with a JSON object, fenced or not; of a list its first."""
    inner = _fenced(text.strip())
    try:
        value = json.JSONDecoder(strict=False).raw_decode(inner)[0] if inner.startswith(("{", "[")) else None
    except (ValueError, RecursionError):
        return None
    return _call_in(value[0] if isinstance(value, list) and value else value, specs)


def _call_in(value: Any, specs: Sequence[ToolSpec], depth: int = 3) -> ToolCall | None:
    """The call that an object stands for: its name below one of the usual keys, or as its only key. depth: of objects in it."""
    if not isinstance(value, dict) or depth == 0:
        return None
    for key in (key for key in _NAMED if key in value):
        if isinstance(value[key], dict):
            return _call_in(value[key], specs, depth - 1)
        if isinstance(value[key], str) and (spec := resolve_name(value[key], specs)):
            beside = {name: given for name, given in value.items() if name in arguments_of(spec)[0] and name != key}
            return _given(spec, next((value[name] for name in _GIVEN if value.get(name) is not None), beside))
    only = next(iter(value)) if len(value) == 1 else ""
    found = [spec for spec in specs if only and _key(spec.name) == _key(only)]
    return _given(found[0], value[only]) if len(found) == 1 else None


def _given(spec: ToolSpec, value: Any) -> ToolCall:
    """A call with arguments that were given as an object, or as the first one alone."""
    first = next(iter(arguments_of(spec)[0]), None)
    arguments = value if isinstance(value, dict) else {} if first is None or value is None else {first: value}
    return ToolCall(id="call_1", name=spec.name, arguments=to_json(arguments))


def _read_lines(text: str, specs: Sequence[ToolSpec]) -> ToolCall | None:
    """The action of the first line that has one. The first word of a name alone counts on the first line only."""
    names = _names(tuple(spec.name for spec in specs))
    place, first = 0, True
    for line in text.splitlines(keepends=True):
        place += len(line)
        if line.strip():
            here = _Line(line.rstrip(), text[place:], specs, names, first)
            if (call := here.at_start() or here.within()) is not None:
                return call
            first = False
    return None


@lru_cache(maxsize=256)
def _names(names: tuple[str, ...]) -> re.Pattern[str]:
    """The names as people write them, the longest first; the group `nK` is the one at place K."""
    order = sorted(range(len(names)), key=lambda place: -len(names[place]))
    forms = [f"(?P<n{place}>{_as_written(names[place])})" for place in order]
    return re.compile(rf"(?:{'|'.join(forms)})(?!\w)" if forms else r"(?!)", re.IGNORECASE)


def _as_written(name: str) -> str:
    """Its words with a sign between them, or none."""
    return r"[\W_]?".join(map(re.escape, _WORDS.findall(name) or [name]))


@dataclass(frozen=True)
class _Line:
    """A line of a reply, what stands below it, and the actions that it may name. first: no line with words stands above it."""

    text: str
    below: str
    specs: Sequence[ToolSpec]
    names: re.Pattern[str]
    first: bool

    def at_start(self) -> ToolCall | None:
        """The action that the line begins with."""
        lead = _LEAD.match(self.text)
        place = lead.end() if lead else 0
        closes = _CLOSES.get(self.text[place : place + 1], "")
        body = self.text[place + 1 :].lstrip() if closes else self.text[place:]
        if named := self.names.match(body):
            return self._call(self._meant(named), body[named.end() :], closes)
        word = _WORD.match(body)
        spec = resolve_name(word[0], self.specs) if word else None
        if word is None or spec is None:
            return None
        on_purpose = bool(closes) or _SIGN.match(body, word.end()) is not None
        if on_purpose or (self.first and _first_word(spec.name) == word[0].casefold()):
            return self._call(spec, body[word.end() :], closes)
        return None

    def within(self) -> ToolCall | None:
        """An action in brackets, or written as a call, anywhere in the line: `I will use [SeekAdvice]`."""
        for mark in _MARK.finditer(self.text):
            named = self.names.match(self.text, mark.end())
            if named and self.text[named.end() : named.end() + 1] in ("]", ":", "("):
                return self._call(self._meant(named), self.text[named.end() :], "]" if mark[0] else "")
        return None

    def _meant(self, named: re.Match[str]) -> ToolSpec:
        return self.specs[int((named.lastgroup or "n0")[1:])]

    def _call(self, spec: ToolSpec, rest: str, closes: str) -> ToolCall:
        """The call of an action whose name has just been read. closes: the sign that closes the bracket before the name."""
        if closes and rest.lstrip().startswith(closes):
            rest, closes = rest.lstrip()[1:], ""
        if closes:
            inner = _balanced(rest, closes)
            rest = rest if inner is None else inner
        if rest.lstrip().startswith("("):
            opened = rest.lstrip()[1:]
            whole = _balanced(f"{opened}\n{self.below}", ")")
            rest = opened.rstrip(" )") if whole is None else whole
        else:
            rest = rest[_BETWEEN.match(rest).end() :]  # type: ignore[union-attr]  # it matches nothing too
        return ToolCall(id="call_1", name=spec.name, arguments=to_json(_arguments(spec, _END_TAG.sub("", rest).strip(), self.below)))


def _first_word(name: str) -> str:
    words = _WORDS.findall(name)
    return words[0].casefold() if words else ""


def _balanced(text: str, closes: str) -> str | None:
    """What stands before the sign that closes a bracket opened before the text, quoted ones passed over; None where none closes it."""
    opens = next(sign for sign, other in _CLOSES.items() if other == closes)
    for quotes in (True, False):
        depth, quoted = 1, ""
        for place, sign in enumerate(text):
            if quotes and sign in "\"'":
                quoted = "" if quoted == sign else quoted or sign
            elif not quoted and sign in (opens, closes):
                depth += 1 if sign == opens else -1
                if depth == 0:
                    return text[:place]
    return None


# -- arguments


def _arguments(spec: ToolSpec, text: str, below: str) -> dict[str, Any]:
    """The arguments in what stands behind an action's name; where nothing does and the action needs something, in what stands below."""
    schemas = spec.parameters.get("properties")
    if not isinstance(schemas, dict) or not schemas:
        return {}
    if spec.parameters.get("required"):
        text = text or _next_piece(below)
    elif not _WORD.search(text):  # a full stop behind the name
        return {}
    if text.startswith("```"):
        text = _fenced(f"{text}\n{below}")
    if not text:
        return {}
    given = _as_object(text, schemas) or _as_pairs(text, schemas) or {next(iter(schemas)): _unquoted(text)}
    return {name: _typed(schemas.get(name), value) for name, value in given.items()}


def _next_piece(below: str) -> str:
    """The next line with words, or the block that is fenced; an `Action Input:` before it is passed over."""
    piece = below.lstrip()
    piece = piece[found.end() :] if (found := _INPUT.match(piece)) else piece
    return piece if piece.startswith("```") else piece.partition("\n")[0].strip()


def _fenced(text: str) -> str:
    found = _FENCE.match(text)
    return found[1].strip() if found else text


def _as_object(text: str, schemas: Mapping[str, Any]) -> dict[str, Any] | None:
    """Arguments that are written as JSON."""
    if not text.startswith("{"):
        return None
    try:
        value = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and value and value.keys() <= schemas.keys() else None


def _as_pairs(text: str, schemas: Mapping[str, Any]) -> dict[str, Any] | None:
    """Arguments that are written as `name=value, name=value`."""
    names = "|".join(map(re.escape, schemas))
    marks = list(re.finditer(rf"(?:\A|,)\s*({names})\s*=(?!=)\s*", text))
    if not marks or marks[0].start() > 0:
        return None
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    return {mark[1]: _unquoted(text[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=True)}


def _unquoted(text: str) -> str:
    """Without the quotes around it, and without one that was opened before the action's name."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in _QUOTES:
        return text[1:-1].strip()
    for mark in ("**", *_QUOTES):
        if text.endswith(mark) and text.count(mark) == 1:
            return text[: -len(mark)].strip()
    return text


def _typed(schema: Any, value: Any) -> Any:
    """A text as the number, truth or list that the schema wants, where it is one."""
    kinds = str(schema.get("type", schema.get("anyOf", "string"))) if isinstance(schema, dict) else "string"
    if not isinstance(value, str) or "string" in kinds:
        return value
    try:
        return json.loads({"True": "true", "False": "false", "None": "null"}.get(value, value))
    except (ValueError, RecursionError):
        return value
