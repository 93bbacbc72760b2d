"""Reading and writing files of rows, in the formats of TRL's datasets.

Demonstrations: `prompt` and `completion` (texts, or lists of messages), or `messages`, each with `tools` (a list, or JSON text). Texts are
taken as what the user and the assistant say. Of `messages` everything before the assistant's first message is the prompt; `"weight": 0` on
an assistant's message, as OpenAI's format has it, keeps it from being learned. Preferences: `prompt`, `chosen` and `rejected`; where there
is no `prompt`, it is what the two lists of messages begin with in common. Steps: as `write_rows` writes them, or expert solutions
(`question` or `prompt`, with `steps` or `solution`).

A file is JSON Lines, a JSON array, CSV, Parquet, or a dataset (`hf:NAME`). Columns that mean nothing here are left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any, Literal, cast

from tutelage.errors import InputError, MissingExtra
from tutelage.files import write_atomically
from tutelage.records import Message, Record, content_id
from tutelage.suggest import did_you_mean, missing_file
from tutelage.task_formats.datasets import dataset_rows
from tutelage.task_formats.lines import Row, Where, json_rows, strict_json, text_lines
from tutelage.task_formats.openai import tool_specs
from tutelage.task_formats.plain import csv_rows
from tutelage.training.row_messages import check_order, data_messages, read_messages
from tutelage.training.rows import PreferenceRow, SFTRow, StepRow
from tutelage.training.steps_text import split_steps, step_rows

Kind = Literal["sft", "dpo", "steps"]
AnyRow = SFTRow | PreferenceRow | StepRow

_KNOWN = (
    *("prompt", "completion", "messages", "tools", "chosen", "rejected", "weight"),
    *("question", "solution", "steps", "target", "task_id", "number", "id", "source"),
)
_MEANT = ("prompt", "completion", "messages", "tools", "chosen", "rejected", "weight", "solution", "steps")
_SHAPES = (
    "`prompt` and `completion`, or `messages` (demonstrations), `chosen` and `rejected` (preferences), `prompt` and `target`, or "
    "`question` and `steps` or `solution` (steps)"
)


def read_rows(path: str | Path) -> tuple[AnyRow, ...]:
    """All rows of a file; what they are is found from the first. Raises `InputError` naming file, line and field, also for no rows."""
    rows = raw_rows(path)
    first = next(rows, None)
    if first is None:
        raise InputError(f"there are no rows in it; each must hold {_SHAPES}", file=path)
    kind = kind_of(first[1], first[0])
    return tuple(row for where, raw in chain([first], rows) for row in _read_one(kind, raw, where))


def _read_one(kind: Kind, row: Row, where: Where) -> Iterator[AnyRow]:
    """A row of the file's kind. A mistyped name of a column would silently leave it out, so it is refused."""
    for key in row:
        near = [] if key in _KNOWN else get_close_matches(key, _MEANT, n=1, cutoff=0.85)
        if near and row.get(near[0]) is None:
            raise where.error(f"unknown column.{did_you_mean(key, _MEANT)} Rename it, or remove it", key)
    own = kind_of(row, where)
    if own != kind:
        raise where.error(f"this row is one of kind {own} and the first one of kind {kind}; a file holds rows of one kind")
    return _READERS[kind](row, where)


def read_sft_rows(path: str | Path) -> tuple[SFTRow, ...]:
    """The demonstrations of a file. Raises `InputError` as `read_rows` does, and for rows of another kind."""
    return cast(tuple[SFTRow, ...], _read(path, SFTRow, "demonstrations"))


def read_preference_rows(path: str | Path) -> tuple[PreferenceRow, ...]:
    """The preferences of a file. Raises `InputError` as `read_rows` does, and for rows of another kind."""
    return cast(tuple[PreferenceRow, ...], _read(path, PreferenceRow, "preferences"))


def read_step_rows(path: str | Path) -> tuple[StepRow, ...]:
    """The steps of a file. Raises `InputError` as `read_rows` does, and for rows of another kind."""
    return cast(tuple[StepRow, ...], _read(path, StepRow, "steps"))


def _read(path: str | Path, kind: type[Record], wanted: str) -> tuple[AnyRow, ...]:
    rows = read_rows(path)
    if rows and not isinstance(rows[0], kind):
        raise InputError(f"{wanted} are needed, and this file holds {_NAMES[type(rows[0])]}; a file holds {_SHAPES}", file=path)
    return rows


_NAMES = {SFTRow: "demonstrations", PreferenceRow: "preferences", StepRow: "steps"}


def kind_of(row: Row, where: Where) -> Kind:
    """What a row is. Raises `InputError` where it is none, with the near names of its columns."""
    keys = {key for key, value in row.items() if value is not None}
    if {"chosen", "rejected"} <= keys:
        return "dpo"
    if "messages" in keys or {"prompt", "completion"} <= keys:
        return "sft"
    if {"prompt", "target"} <= keys or (keys & {"question", "prompt"} and keys & {"steps", "solution"}):
        return "steps"
    near = "".join(did_you_mean(key, _KNOWN) for key in keys if key not in _KNOWN)
    if keys == {"text"}:
        near = " A `text` does not say which part of it is learned."
    raise where.error(f"a row must hold {_SHAPES}; this one holds {', '.join(sorted(keys)) or 'nothing'}.{near}")


def read_demonstration(row: Row, where: Where) -> Iterator[SFTRow]:
    """The demonstration of a row with `messages`, or with `prompt` and `completion`. Raises `InputError` naming the place."""
    if row.get("messages") is not None:
        said, skipped = read_messages(row["messages"], where, "messages")
        first = next((place for place, message in enumerate(said) if message.role == "assistant"), len(said))
        prompt, completion = said[:first], said[first:]
        without_loss = tuple(place - first for place in skipped)
    else:
        prompt, _ = _side(row, "prompt", "user", where)
        completion, without_loss = _side(row, "completion", "assistant", where)
    check_order(prompt, completion, where, "messages" if "messages" in row else "completion")
    yield SFTRow(prompt=prompt, completion=completion, tools=_tools(row, where), without_loss=without_loss, source=str(where))


def _preference(row: Row, where: Where) -> Iterator[PreferenceRow]:
    if row.get("prompt") is None:
        prompt, chosen, rejected = _implicit(row, where)
    else:
        prompt, _ = _side(row, "prompt", "user", where)
        chosen, rejected = (_side(row, name, "assistant", where)[0] for name in ("chosen", "rejected"))
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        check_order(prompt, side, where, name)
    if chosen == rejected:
        raise where.error("the chosen and the rejected answer are the same; remove the row", "rejected")
    weight = row.get("weight")
    if weight is not None and not (isinstance(weight, int | float) and 0 < weight <= 1):
        raise where.error(f"the weight of a preference must be in (0, 1], and is {weight!r}", "weight")
    yield PreferenceRow(
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        tools=_tools(row, where),
        weight=1.0 if weight is None else float(weight),
        source=str(where),
    )


def _implicit(row: Row, where: Where) -> tuple[tuple[Message, ...], ...]:
    """The messages that both sides begin with, and what follows in each."""
    if isinstance(row["chosen"], str) or isinstance(row["rejected"], str):
        raise where.error("two texts do not say where their common prompt ends; give it as `prompt`", "prompt")
    chosen, rejected = (read_messages(row[name], where, name)[0] for name in ("chosen", "rejected"))
    shorter = min(len(chosen), len(rejected))
    common = next((place for place in range(shorter) if chosen[place] != rejected[place]), shorter)
    return chosen[:common], chosen[common:], rejected[common:]


def _steps(row: Row, where: Where) -> Iterator[StepRow]:
    prompt, _ = _side(row, "prompt" if row.get("prompt") is not None else "question", "user", where)
    if not prompt or prompt[-1].role == "assistant":
        raise where.error("the question must end with what the user says", "prompt" if "prompt" in row else "question")
    task_id = str(row.get("task_id") or row.get("id") or content_id([message.canonical() for message in prompt]))
    if row.get("target") is not None:
        yield StepRow(prompt=prompt, target=_text(row, "target", where), task_id=task_id, number=_number(row, where), source=str(where))
        return
    steps = _given_steps(row, where)
    if len(steps) < 2:
        raise where.error("a solution needs two steps or more: the last one is not learned", "steps" if "steps" in row else "solution")
    yield from step_rows(prompt, steps, task_id, source=str(where))


def _given_steps(row: Row, where: Where) -> list[str]:
    given = row.get("steps")
    if given is None:
        return split_steps(_text(row, "solution", where))
    if isinstance(given, str):
        given = strict_json(given, where, "steps")
    if not isinstance(given, list) or not all(isinstance(step, str) and step.strip() for step in given):
        raise where.error("a list of texts is needed, none of them empty", "steps")
    return given


def _number(row: Row, where: Where) -> int:
    number = row.get("number", 1)
    if not isinstance(number, int) or number < 1:
        raise where.error(f"the number of a step counts from 1, and here is {number!r}", "number")
    return number


def _text(row: Row, name: str, where: Where) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise where.error("a text is needed, and not an empty one", name)
    return value


def _side(row: Row, name: str, role: Literal["user", "assistant"], where: Where) -> tuple[tuple[Message, ...], tuple[int, ...]]:
    """One side of a row as messages, and the places that are not learned; a text is what `role` says."""
    value = row.get(name)
    if isinstance(value, str) and not _is_messages(value):
        if not value.strip():
            raise where.error("it is empty", name)
        return (Message(role=role, content=value),), ()
    return read_messages(value, where, name)


def _is_messages(text: str) -> bool:
    """Whether a cell of a table holds messages as JSON text; an answer may be JSON too."""
    if not text.lstrip().startswith("[{"):
        return False
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return all(isinstance(item, dict) and "role" in item for item in value)


def _tools(row: Row, where: Where) -> Any:
    given = row.get("tools")
    if isinstance(given, str):
        given = strict_json(given, where, "tools") if given.strip() else None
    return tuple(tool_specs(given, where))


_READERS: dict[Kind, Callable[[Row, Where], Iterator[AnyRow]]] = {"sft": read_demonstration, "dpo": _preference, "steps": _steps}


def raw_rows(path: str | Path) -> Iterator[tuple[Where, Row]]:
    """The rows of a file as data, of whatever kind. Raises `InputError`."""
    if str(path).startswith("hf:"):
        return ((where, _without_nulls(row)) for where, row in dataset_rows(str(path)))
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet_rows(path)
    if suffix in (".csv", ".tsv"):
        return csv_rows(path)
    return _array_rows(path) if suffix == ".json" and _is_array(path) else json_rows(path)


def _is_array(path: Path) -> bool:
    return next((text.lstrip()[0] for _, text in text_lines(path) if text.strip()), "") == "["


def _array_rows(path: Path) -> Iterator[tuple[Where, Row]]:
    """The objects of a JSON array; their number stands for the line."""
    text = "".join(line for _, line in text_lines(path))
    for number, row in enumerate(strict_json(text, Where(str(path), 1)), start=1):
        where = Where(str(path), number)
        if not isinstance(row, dict):
            raise where.error(f"each row must be a JSON object, and row {number} is none")
        yield where, row


def _parquet_rows(path: Path) -> Iterator[tuple[Where, Row]]:
    if not path.is_file():
        raise missing_file(path)
    try:
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("pyarrow", "pip install 'tutelage[datasets]'", why=f"reading {path}") from None
    try:
        rows: list[Row] = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"this is no Parquet file that can be read: {error}", file=path) from None
    for number, row in enumerate(rows, start=1):
        yield Where(str(path), number), _without_nulls(row)


def _without_nulls(value: Any) -> Any:
    """Columns give every object the keys of all others, as null; what was never there is taken out again."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def write_rows(path: str | Path, rows: Iterable[AnyRow]) -> None:
    """Write rows as JSON Lines that `read_rows` and TRL read. Raises `StoreError` where the file cannot be written.

    Tools are written as JSON text, as TRL takes them too, and arguments as objects, as templates want them.
    """
    write_atomically(Path(path), "".join(json.dumps(_row_data(row), ensure_ascii=False) + "\n" for row in rows))


def _row_data(row: AnyRow) -> Row:
    if isinstance(row, StepRow):
        return {"prompt": data_messages(row.prompt), "target": row.target, "task_id": row.task_id, "number": row.number}
    data: Row = {"prompt": data_messages(row.prompt)}
    if isinstance(row, SFTRow):
        data["completion"] = data_messages(row.completion, row.without_loss)
    else:
        data |= {"chosen": data_messages(row.chosen), "rejected": data_messages(row.rejected), "weight": row.weight}
    tools = [{"type": "function", "function": spec.model_dump(mode="json")} for spec in row.tools]
    return {**data, "tools": json.dumps(tools, ensure_ascii=False)} if tools else data
