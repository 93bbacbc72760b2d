"""What the model is told of its actions, and what they say back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tutelage.knowledge import Exemplar
from tutelage.records import ToolSpec
from tutelage.screening import fence
from tutelage.tool_protocol import render_message

SEEK_ADVICE = "seek_advice"
NOTHING_KNOWN = "Nothing in memory is about this."
NO_ADVICE = "No advice is to be had; go on without."
NOTHING_LEARNED = "no information"

_HOW = (
    "You work in actions. Write one action a turn, on a line of its own: its name, and behind it what it needs. What comes of it is shown "
    "to you before your next turn. The actions:"
)
_HOW_WITH_TOOLS = "You work in actions: call one of your tools each turn. What comes of it is shown to you before your next turn."


def list_actions(specs: Iterable[ToolSpec]) -> str:
    """The actions as the model reads them where it writes them as lines of text."""
    return "\n".join([_HOW, *(f"- {_usage(spec)}: {_one_line(spec.description)}" for spec in specs)])


def explain_tools() -> str:
    """What is said where actions are tool calls."""
    return _HOW_WITH_TOOLS


def _usage(spec: ToolSpec) -> str:
    """`name`, `name WORD`, `name [WORD]` where it may be left out, `name(one=..., two=...)` where there are several."""
    names, required = arguments_of(spec)
    if len(names) > 1:
        return f"{spec.name}({', '.join(f'{name}=...' for name in names)})"
    return " ".join([spec.name, *(name.upper() if name in required else f"[{name.upper()}]" for name in names)])


def arguments_of(spec: ToolSpec) -> tuple[tuple[str, ...], frozenset[str]]:
    """The names of an action's arguments in their order, and those that it needs."""
    properties, required = spec.parameters.get("properties"), spec.parameters.get("required")
    names = tuple(properties) if isinstance(properties, dict) else ()
    return names, frozenset(name for name in names if isinstance(required, list) and name in required)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def priced(spec: ToolSpec, price: float) -> ToolSpec:
    """The action with its price, where it has one."""
    if spec.name != SEEK_ADVICE or not price:
        return spec
    words = f"{spec.description.rstrip()} It costs {price:g}, where a right answer earns 1."
    return spec.model_copy(update={"description": words})


def retrieved(entries: Sequence[Exemplar]) -> str:
    """Entries of the memory as the model reads them."""
    return fence("\n\n".join(map(_entry, entries)), "memory") if entries else NOTHING_KNOWN


def _entry(entry: Exemplar) -> str:
    learned = "\n".join(render_message(message).text for message in entry.messages if message.role in ("assistant", "tool"))
    return f"Question: {entry.text}\nKnown: {learned}"


def said(name: str, words: str) -> str:
    """What an action gave, as the model reads it in a line of text."""
    return f"{name}: {words}"


def unreadable(names: Sequence[str], *, cut: bool) -> str:
    """What is said to a reply without an action."""
    what = "The reply was cut off before its action was complete." if cut else "That is no action."
    return f"{what} Write one of these on a line of its own: {', '.join(names)}"


def advised(words: str) -> str:
    """What is said where the executor asked for advice by itself, after a draft."""
    return f"{said(SEEK_ADVICE, words)}\nGive your answer once more, with this in mind."
