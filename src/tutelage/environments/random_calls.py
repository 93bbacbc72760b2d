"""Tool calls made up from JSON Schemas: valid ones at random, and ones that try to break the tool."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from tutelage.records import ToolCall, ToolSpec

Schema = Mapping[str, Any]

NASTY_TEXTS = (
    "",
    " ",
    "\n",
    "\t\r\n",
    "'; DROP TABLE x; --",
    "../../../etc/passwd",
    "{}",
    "%s %d {0} {x}",
    "\u202e\u0301\U0001f600",
    "\x1b[31m",
    "\x00",
    "a" * 5000,
)
NASTY_NUMBERS = (0, -1, 1, 2**31, -(2**63), 10**30)

_DEPTH = 4


def valid_arguments(spec: ToolSpec, random: Random, words: Sequence[str]) -> dict[str, Any]:
    """Arguments that fit the tool's schema, drawn at random. words: what texts are drawn from."""
    value = _value(spec.parameters, random, words, spec.parameters, 0)
    return value if isinstance(value, dict) else {}


def malformed_calls(spec: ToolSpec, random: Random, words: Sequence[str]) -> list[ToolCall]:
    """Calls that no schema forgives, and calls that fit it with values at its edges."""
    valid = valid_arguments(spec, random, words)
    raw = ["", "not json", "[]", "null", '{"', json.dumps({**valid, "no_such_argument": 1})]
    for name in valid:
        raw += [json.dumps({key: value for key, value in valid.items() if key != name}), json.dumps({**valid, name: {"deep": [[[None]]]}})]
        edges: Sequence[Any] = NASTY_TEXTS if isinstance(valid[name], str) else NASTY_NUMBERS
        raw += [json.dumps({**valid, name: edge}) for edge in edges if not isinstance(valid[name], bool)]
    return [ToolCall(id=f"bad_{number}", name=spec.name, arguments=text) for number, text in enumerate(raw)]


def _value(schema: Any, random: Random, words: Sequence[str], root: Schema, depth: int) -> Any:
    schema = _resolved(schema, root)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return random.choice(schema["enum"])
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return _value(random.choice(options), random, words, root, depth)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = random.choice(kind) if isinstance(kind, list) else kind
    if kind == "object":
        return _object(schema, random, words, root, depth)
    if kind == "array":
        return _array(schema, random, words, root, depth)
    return _scalar(kind, schema, random, words)


def _resolved(schema: Any, root: Schema) -> Schema:
    """The schema behind a `$ref` into the root's definitions; anything goes where there is none."""
    if not isinstance(schema, Mapping):
        return {}
    for part in str(schema.get("$ref", "")).removeprefix("#").strip("/").split("/"):
        if part:
            root = root.get(part, {})
    return root if "$ref" in schema else schema


def _object(schema: Schema, random: Random, words: Sequence[str], root: Schema, depth: int) -> dict[str, Any]:
    required = schema.get("required", ())
    properties = schema.get("properties", {})
    chosen = {name: part for name, part in properties.items() if name in required or (depth < _DEPTH and random.random() < 0.5)}
    return {name: _value(part, random, words, root, depth + 1) for name, part in chosen.items()}


def _array(schema: Schema, random: Random, words: Sequence[str], root: Schema, depth: int) -> list[Any]:
    if prefix := schema.get("prefixItems"):
        return [_value(part, random, words, root, depth + 1) for part in prefix]
    least = int(schema.get("minItems", 0))
    count = random.randint(least, max(least, min(int(schema.get("maxItems", 3)), 3 if depth < _DEPTH else 0)))
    return [_value(schema.get("items", {}), random, words, root, depth + 1) for _ in range(count)]


def _scalar(kind: str, schema: Schema, random: Random, words: Sequence[str]) -> Any:
    if kind == "boolean":
        return random.random() < 0.5
    if kind == "null":
        return None
    if kind in ("integer", "number"):
        low, high = _bounds(schema)
        step = schema.get("multipleOf")
        whole = kind == "integer" or isinstance(step, int)
        drawn = random.randint(-(-low // 1), high // 1) if whole else random.uniform(low, high)
        return drawn // step * step if step else drawn
    text = " ".join(random.choices(words or ["x"], k=random.randint(1, 3)))
    least, most = int(schema.get("minLength", 0)), int(schema.get("maxLength", 10**6))
    return text.ljust(least, "x")[:most]


def _bounds(schema: Schema) -> tuple[Any, Any]:
    low = schema.get("minimum", schema.get("exclusiveMinimum", -1) + (1 if "exclusiveMinimum" in schema else 0))
    high = schema.get("maximum", schema.get("exclusiveMaximum", max(low, 0) + 10) - (1 if "exclusiveMaximum" in schema else 0))
    return (low, high) if low <= high else (high, high)
