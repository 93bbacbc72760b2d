"""Multiple choice: where a task's options stand, and which of them an answer names.

The options stand in `task.environment["choices"]`, in one of two shapes:

    {"A": "aspirin", "B": "ibuprofen"}      labels that the question shows: the reference is a label, and so is an answer in its short form
    ["yes", "no"]                           no labels: the reference is one of the texts

In both, `tuple(choices)` are the answers there are, each spelt as the reference spells it: what a `Question` offers as its `choices`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from functools import lru_cache

from tutelage.records import Task

FIELD = "choices"
"""The key of `Task.environment` that holds the options."""

_AROUND = " \t\r\n.,:;!?()[]{}<>*_`'\""
_OPTION = 0xE000
"""Stands, plus the option's place, for an option's text where it was found: a character for private use, which no answer holds."""


def choices_of(task: Task) -> dict[str, str]:
    """The options by label, in their order (a text without a label is its own); empty where the task has none, or not in this shape."""
    given = task.environment.get(FIELD)
    pairs = list(given.items()) if isinstance(given, dict) else [(item, item) for item in given] if isinstance(given, list) else []
    options = {label: text for label, text in pairs if isinstance(label, str) and isinstance(text, str)}
    return options if len(options) == len(pairs) else {}


def read_choices(answer: str, choices: Mapping[str, str]) -> tuple[str, ...]:
    """The labels of the options that an answer names: none, one, or several where it contradicts itself.

    Understood are a label ("B", "b.", "(b)", "**B**"), the text of an option, both ("B) ibuprofen"), and either of them within a sentence
    ("the answer is B", "I would give ibuprofen"). An answer's labels count before texts that it mentions as well ("B, since aspirin
    ..."), but a label with the text of another option right behind it names both. Of options with the same text the first stands for all.
    """
    said = _clean(answer)
    options = tuple((label, _clean(text)) for label, text in choices.items())
    first = {label: next(one for one, other in options if _same(text, other)) for label, text in options}
    bare = said.strip(_AROUND)
    whole = [label for label, _ in options if bare and _same(bare, label)] or [label for label, text in options if _same(said, text)]
    if whole:
        return (first[whole[0]],)
    masked, mentioned = _mask(said, options)
    named = list(_labels(masked, tuple(label for label, _ in options)))
    return tuple(dict.fromkeys(first[label] for label in named or mentioned))


def _clean(text: str) -> str:
    return "".join(" " if _OPTION <= ord(sign) < 0xF900 else sign for sign in unicodedata.normalize("NFKC", text)).strip()


def _same(one: str, other: str) -> bool:
    """Equal without case, extra blanks, and signs around."""
    return one == other or (bool(_bare(one)) and _bare(one) == _bare(other))


@lru_cache(maxsize=4_096)
def _bare(text: str) -> str:
    return " ".join(text.casefold().split()).strip(_AROUND)


def _mask(said: str, options: tuple[tuple[str, str], ...]) -> tuple[str, list[str]]:
    """The answer with each option's text replaced by a sign of its own, and the labels of those found. Longer texts are looked for first.

    So the C of "vitamin C" is not taken for a label. Texts that look like a label are left for the labels.
    """
    labels = {label.casefold() for label, text in options if label != text}
    found: dict[int, str] = {}
    for place, (label, text) in sorted(enumerate(options), key=lambda item: -len(item[1][1])):
        core = text.strip(_AROUND)
        if not core or core.casefold() in labels:
            continue
        pattern = r"\s+".join(map(re.escape, core.split()))
        said, times = re.subn(rf"(?<!\w){pattern}(?!\w)", chr(_OPTION + place), said, flags=re.IGNORECASE)
        if times:
            found[place] = label
    return said, [found[place] for place in sorted(found)]


def _labels(masked: str, labels: tuple[str, ...]) -> Iterator[str]:
    """The labels that the answer names, and the options whose text stands right behind another one's label."""
    short = tuple(label for label in labels if len(label) == 1 and label.isalnum())
    if not short:
        return
    known = {label.casefold(): label for label in short}
    for pattern in _patterns(short):
        for match in pattern.finditer(masked):
            yield from (known[letter.casefold()] for letter in _letters(match, known))
            behind = re.match(r"[\s.,:;)\]}*_\"'-]*([\ue000-\uf8ff])", masked[match.end() :])
            if behind:
                yield labels[ord(behind[1]) - _OPTION]


def _letters(match: re.Match[str], known: Mapping[str, str]) -> list[str]:
    """The letters of one match: its group, or all of a list ("B or C")."""
    if match.lastindex:
        return [group for group in match.groups() if group]
    return [letter for letter in re.findall(r"(?<!\w)\w(?!\w)", match[0]) if letter.casefold() in known]


@lru_cache(maxsize=64)
def _patterns(labels: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    """The forms in which an answer names a label. `a` and `i` are words too: in running text they need a sign behind them."""
    any_ = "|".join(map(re.escape, labels))
    sure = "|".join(re.escape(label) for label in labels if label.isupper() and label not in "AI") or r"(?!)"
    ended = r"(?=\s*(?:[^\w\s\ue000-\uf8ff]|$))"
    letter = rf"(?:(?-i:({sure}))(?!\w)|({any_}){ended})"
    forms = (
        rf"[(\[{{]\s*({any_})\s*[)\]}}]",  # (b), \boxed{b}
        rf"(?<!\w)({any_})\s*[)\]]",  # b)
        rf"\b(?:option|choice|letter)\s+[\"'*(]*({any_})(?!\w)",
        rf"\b(?:answers?|is|be|pick|choose|select|say|think|guess|with)\b[\s:=*_>\"'`-]*{letter}",  # the answer is b
        rf"(?<!\w)({any_})\s+(?:is|was|must|seems)\s+(?:be\s+|to\s+be\s+|the\s+)*(?:right|correct|true|best|answer|wrong|false)\b",
        rf"\A[\s*_\"'`]*(?:(?-i:({sure}))(?![\w'])|({any_})(?=\s*(?:[.:,;]|\s-|$)))",  # B because ...
        rf"^[^\w\n]*({any_})[^\w\n]*$",  # on a line of its own
        rf"(?<!\w)(?:{any_})(?:\s*(?:,\s*(?:and|or)|,|/|&|\+|and|or)\s*(?:{any_}))+(?!\w)",  # B or C
    )
    return tuple(re.compile(form, re.IGNORECASE | re.MULTILINE) for form in forms)
