"""Why a text must be held for a person, if it must."""

from __future__ import annotations

import re
from typing import Literal

from tutelage.screening.rules import OVERRIDE, RULES, Topic
from tutelage.screening.secrets import stated_secret
from tutelage.screening.text import LOOK_ALIKE, contains_any, undisguised, visible

Origin = Literal["entry", "user", "tool", "assistant", "trajectory"]
"""Where a text came from: an entry's own words, or a part of a recorded conversation."""

_LEGITIMATE: dict[Origin, frozenset[Topic]] = {
    "entry": frozenset(),
    "tool": frozenset(),
    "user": frozenset({"sending"}),
    "assistant": frozenset({"sending", "call", "hiding"}),
    "trajectory": frozenset({"sending", "call", "roles", "fence"}),
}
"""What a text may do by its nature: a user may ask that something be sent, an assistant's message may call tools, and the record of an
attempt holds calls, roles and fences."""

EXCERPT = 60
"""Characters of the text that a reason quotes."""


_RUN_TOGETHER = re.compile(
    r"(?:ignore|disregard|forget|override|bypass)(?:all|any|the|of|your|my|these|previous|prior|above|earlier|original|system|safety){1,6}"
    r"(?:instruction|prompt|rule|guideline|polic)"
)
_VERBS = ("ignore", "disregard", "forget", "override", "bypass")
_LETTERS = LOOK_ALIKE | str.maketrans("013457@$!|", "oieastasil", " \n\t.-_*/,:;'\"`~+()")


def screen(text: str, origin: Origin = "entry") -> tuple[str, ...]:
    """Why this text must be held for a person; empty where nothing was found.

    origin: a part of a recorded conversation may do what is in its nature (an assistant's message may call tools); see `Origin`. Looked
    for: words that set the reader's instructions aside (the usual ones of some fifteen languages), false authority, marks of chat
    templates and of our own fence, tool calls, secrets and requests for them, sending to an address, hiding from the user.
    """
    reasons: list[str] = []
    legitimate = _LEGITIMATE[origin]
    shape = undisguised(text)
    forms = [shape] if shape.isascii() else [shape, shape.translate(LOOK_ALIKE)]
    for form in forms:
        for rule in RULES:
            if rule.topic not in legitimate and rule.hinted(form) and (found := rule.pattern.search(form)):
                reasons.append(f"{rule.reason}: `{_excerpt(found[0])}`")
    if not any(reason.startswith(OVERRIDE.reason) for reason in reasons) and _hides_override(shape):
        reasons.append(f"{OVERRIDE.reason}, in disguise")
    if named := stated_secret(visible(text)):
        reasons.append(named)
    return tuple(dict.fromkeys(reasons))


def _hides_override(shape: str) -> bool:
    """Words with their letters apart, run together, or written with digits for letters."""
    letters = shape.translate(_LETTERS)
    return contains_any(letters, _VERBS) and _RUN_TOGETHER.search(letters) is not None


def _excerpt(found: str) -> str:
    words = " ".join(found.split()).replace(";", ",").replace("`", "'")
    return words if len(words) <= EXCERPT else f"{words[: EXCERPT - 3]}..."
