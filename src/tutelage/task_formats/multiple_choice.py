"""Questions with options, in the shape of MedMCQA (Pal et al. 2022) or as {question, options, answer}.

    {"question": ..., "opa": ..., "opb": ..., "opc": ..., "opd": ..., "cop": 2, "subject_name": "Pharmacology"}
    {"question": ..., "options": ["aspirin", "ibuprofen"], "answer": "B", "kind": "pharmacology"}
    {"question": ..., "options": {"A": "aspirin", "B": "ibuprofen"}, "answer": "ibuprofen"}

The task shows the question with its options behind letters; the options stand in `environment.choices` by letter, the reference is the
letter, and the subject is the kind. Grade it with `choice`. `options` may be called `choices`, `kind` may be called `subject`.

An answer is a letter, or (not in `cop`) the text of an option, or a number. Numbers count from 0 or from 1: MedMCQA's own files are taken
to count `cop` from 1 to 4, and its copy as a Hugging Face dataset from 0 to 3; neither is assumed here. The file itself says which, by the
first answer that is 0 or is the number of options; where none is, the format has to: `multiple_choice:0` or `multiple_choice:1`.
An answer of -1, as hidden test splits have it, is none. MedMCQA's explanations (`exp`) and topics are left out.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from tutelage.errors import InputError
from tutelage.records import Task
from tutelage.task_formats.choices import FIELD, read_choices
from tutelage.task_formats.lines import Row, Where, make_task, refuse_unknown, strict_json

NAME = "multiple_choice"
GENERIC = ("question", "options", "choices", "answer", "kind", "subject", "id")
MEDMCQA = ("question", "opa", "opb", "opc", "opd", "cop", "subject_name", "id", "choice_type", "exp", "topic_name")
WAY_OUT = "Remove it"
_OPTIONS = ("opa", "opb", "opc", "opd")
_KINDS = ("subject_name", "kind", "subject")


def recognised(row: Row) -> bool:
    """Whether a row has the fields of a question with options."""
    return "question" in row and (_is_medmcqa(row) or "options" in row or "choices" in row)


def _is_medmcqa(row: Row) -> bool:
    return {"opa", "opb"} <= row.keys()


def _answer_field(row: Row) -> str:
    return "cop" if _is_medmcqa(row) else "answer"


def read(rows: Iterable[tuple[Where, Row]], format: str = NAME) -> Iterator[Task]:
    """The tasks of all rows. format: `multiple_choice`, with `:0` or `:1` behind it where the file does not say how its answers count.

    Raises `InputError` naming the place and the field.
    """
    _, colon, written = format.partition(":")
    if colon and written not in ("0", "1"):
        raise InputError(f"answers count from 0 or from 1: write {NAME}:0 or {NAME}:1, not {format}", field="format")
    rows = iter(rows)
    seen: list[tuple[Where, Row]] = []
    first = int(written) if colon else _find_first(rows, seen)
    for where, row in chain(seen, rows):
        yield to_task(row, where, first)


def _find_first(rows: Iterator[tuple[Where, Row]], seen: list[tuple[Where, Row]]) -> int | None:
    """The number of the first option, from the rows up to the one that says it, which are put into `seen`; None: no row does."""
    for where, row in rows:
        seen.append((where, row))
        options, answer = _options(row, where), row.get(_answer_field(row))
        number = None if _by_words(answer, _filled(options), _answer_field(row)) else _number(answer)
        if number == 0 or number == len(options):
            return 0 if number == 0 else 1
    return None


def to_task(row: Row, where: Where, first: int | None = None) -> Task:
    """A task from one row. first: the number of the first option (0 or 1); None: answers that are numbers are refused."""
    refuse_unknown(row, MEDMCQA if _is_medmcqa(row) else GENERIC, where, WAY_OUT)
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        raise where.error("the question must be a text, and is empty or something else", "question")
    options = _options(row, where)
    choices = _filled(options)
    listed = "\n".join(f"{label}) {text}" for label, text in choices.items())
    fields: Row = {"messages": [{"role": "user", "content": f"{question.strip()}\n\n{listed}"}], "environment": {FIELD: choices}}
    kind = next((str(row[key]) for key in _KINDS if row.get(key) not in (None, "")), None)
    return make_task({**fields, "reference": _answer(row, options, first, where), "kind": kind}, where)


def _options(row: Row, where: Where) -> dict[str, Any]:
    """All options by label, in their order, those that are empty too: numbers count them, and the others keep their letters."""
    field = "opa" if _is_medmcqa(row) else "options" if row.get("options") is not None else "choices"
    written: Any = [row.get(key) for key in _OPTIONS] if _is_medmcqa(row) else row.get(field)
    given = strict_json(written, where, field) if isinstance(written, str) else written
    if not isinstance(given, list | dict):
        raise where.error('a list of options is needed, or an object such as {"A": ..., "B": ...}', field)
    if isinstance(given, list) and len(given) > len(string.ascii_uppercase):
        raise where.error(f"there are {len(given)} options and only {len(string.ascii_uppercase)} letters", field)
    named = given.items() if isinstance(given, dict) else zip(string.ascii_uppercase, given, strict=False)
    options = {str(label).strip(): text for label, text in named}
    for text in options.values():
        if isinstance(text, bool) or not isinstance(text, str | int | float | None):
            raise where.error(f"an option is a text or a number, and one is {text!r}", field)
    if len(_filled(options)) < 2:
        raise where.error(f"a question needs two options or more, and has {len(_filled(options))}", field)
    return options


def _filled(options: Mapping[str, Any]) -> dict[str, str]:
    """The options that are not empty, as texts."""
    return {label: str(text).strip() for label, text in options.items() if text is not None and str(text).strip()}


def _answer(row: Row, options: Mapping[str, Any], first: int | None, where: Where) -> str | None:
    """The label of the right option; None where the row does not say."""
    field, choices = _answer_field(row), _filled(options)
    value = row.get(field)
    if value is None or value == "" or _number(value) == -1:
        return None
    label = _by_words(value, choices, field) or _by_number(value, list(options), first, where, field)
    if label not in choices:
        raise where.error(f"{value!r} is none of the options: {', '.join(choices)}", field)
    return label


def _by_number(value: Any, labels: Sequence[str], first: int | None, where: Where, field: str) -> str | None:
    """The label of the option with that number."""
    number = _number(value)
    if number is None:
        return None
    if first is None:
        choose = f"write the format {NAME}:0 or {NAME}:1"
        raise where.error(f"the answers are numbers, and no row shows whether they count from 0 or from 1: {choose}", field)
    if not first <= number < first + len(labels):
        other = f"the format {NAME}:{1 - first} lets them count from {1 - first}"
        raise where.error(f"{number} is no option: the answers of this file count from {first}; {other}", field)
    return labels[number - first]


def _by_words(value: Any, choices: Mapping[str, str], field: str) -> str | None:
    """The label of the option that a text names: by its label or, but in `cop`, by its text."""
    if not isinstance(value, str):
        return None
    labels = {label.casefold(): label for label in choices}
    if label := labels.get(value.strip().casefold()):
        return label
    named = () if field == "cop" else read_choices(value, choices)
    return named[0] if len(named) == 1 else None


def _number(value: Any) -> int | None:
    """A whole number, or the text of one."""
    if isinstance(value, str) and value.strip().removeprefix("-").isdecimal():
        return int(value)
    whole = isinstance(value, int | float) and not isinstance(value, bool) and float(value).is_integer()
    return int(value) if whole else None
