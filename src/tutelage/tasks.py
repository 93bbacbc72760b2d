"""Reading, writing and splitting tasks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path

from tutelage.errors import InputError, SealedError
from tutelage.files import write_atomically
from tutelage.records import Task, content_id
from tutelage.suggest import unknown
from tutelage.task_formats import bfcl, image_label, multiple_choice, openai, own, plain
from tutelage.task_formats.datasets import dataset_rows
from tutelage.task_formats.lines import Row, Where, json_rows
from tutelage.task_formats.references import reference_messages

__all__ = ["FORMATS", "check_splits", "read_tasks", "reference_messages", "split_tasks", "write_tasks"]

FORMATS = ("openai", "plain", "bfcl", "multiple_choice", "image_label", "task")
"""OpenAI chat rows; `input`/`reference` rows; the Berkeley leaderboard's files; questions with options; images with a
label; what `write_tasks` writes."""


def read_tasks(
    path: str | Path, *, format: str | None = None, limit: int | None = None, columns: Mapping[str, str] | None = None
) -> tuple[Task, ...]:
    """The tasks of a JSON Lines or CSV file, or of a Hugging Face dataset (`hf:NAME[:SPLIT]`).

    format: one of `FORMATS`; found from the first row where None (`multiple_choice:0` and `:1` say how numbered answers count). limit: read
    only the first n. columns: how a plain file calls `input`, `reference` and so on. Raises `InputError` naming file, line and field.
    """
    if limit is not None and limit < 1:
        raise InputError(f"the limit on tasks must be at least 1, and is {limit}", field="limit")
    if columns is not None:
        plain.check_columns(columns)
    rows = _rows(path)
    first = next(rows, None)
    if first is None:
        raise InputError("there are no tasks in it", file=path)
    name = format or ("plain" if columns else _detect(first[1]))
    return tuple(islice(_tasks(chain([first], rows), name, path, columns), limit))


def _rows(path: str | Path) -> Iterator[tuple[Where, Row]]:
    if str(path).startswith("hf:"):
        return dataset_rows(str(path))
    path = Path(path)
    return plain.csv_rows(path) if path.suffix.lower() in (".csv", ".tsv") else json_rows(path)


def _detect(row: Row) -> str:
    if str(row.get("format", "")).startswith("tutelage.task"):
        return "task"
    if "messages" in row:
        return "openai"
    if {"question", "function"} <= row.keys():
        return "bfcl"
    if image_label.recognised(row):
        return "image_label"
    return multiple_choice.NAME if multiple_choice.recognised(row) else "plain"


def _tasks(rows: Iterable[tuple[Where, Row]], format: str, path: str | Path, columns: Mapping[str, str] | None) -> Iterator[Task]:
    """The tasks of all rows, each when it is asked for."""
    kind, _, _ = format.partition(":")
    if kind not in FORMATS or kind not in (format, multiple_choice.NAME):
        raise InputError(unknown("a format of tasks", format, FORMATS), field="format")
    if columns and kind != "plain":
        raise InputError(f"`columns` belongs to plain files; the format is {format}", field="columns")
    if kind == multiple_choice.NAME:
        return multiple_choice.read(rows, format)
    to_task = _reader(kind, path, columns)
    return (to_task(row, where) for where, row in rows)


def _reader(kind: str, path: str | Path, columns: Mapping[str, str] | None) -> Callable[[Row, Where], Task]:
    if kind == "bfcl":
        answers = bfcl.read_answers(Path(path))
        return lambda row, where: bfcl.to_task(row, where, answers)
    if kind == "image_label":
        return image_label.to_task
    if kind == "plain":
        return lambda row, where: plain.to_task(row, where, columns)
    return openai.to_task if kind == "openai" else own.to_task


def write_tasks(path: str | Path, tasks: Iterable[Task]) -> None:
    """Write tasks as JSON Lines that `read_tasks` reads back with equal ids. Raises `StoreError` where the file cannot be written."""
    write_atomically(Path(path), "".join(own.to_line(task) + "\n" for task in tasks))


def split_tasks(tasks: Sequence[Task], train: int, test: int, seed: int) -> tuple[tuple[Task, ...], tuple[Task, ...]]:
    """Draw `train` and `test` tasks at random; tasks that share their question (`input_id`) stay on one side.

    The order of the draw is a hash of seed and question, so it does not depend on the order of the file, a task that is added moves
    few others, and the test split does not depend on `train`. Raises `InputError` where there are too few tasks.
    """
    for name, count in (("train", train), ("test", test)):
        if count < 1:
            raise InputError(f"each split needs at least one task, and `{name}` is {count}", field=f"tasks.{name}")
    groups: defaultdict[str, list[Task]] = defaultdict(list)
    for task in tasks:
        groups[task.input_id].append(task)
    order = sorted(groups, key=lambda question: content_id([seed, question]))
    left = [groups[question] for question in order]
    tested, left = _fill(left, test)
    trained, _ = _fill(left, train)
    if len(tested) < test or len(trained) < train:
        raise InputError(_too_few(tasks, len(groups), train, test), file=_file(tasks), field="tasks")
    return tuple(trained), tuple(tested)


def _fill(groups: Iterable[list[Task]], count: int) -> tuple[list[Task], list[list[Task]]]:
    """`count` tasks from whole groups, in order, and the groups that were not taken."""
    taken: list[Task] = []
    left: list[list[Task]] = []
    for group in groups:
        if len(taken) + len(group) <= count:
            taken += group
        else:
            left.append(group)
    return taken, left


def _too_few(tasks: Sequence[Task], questions: int, train: int, test: int) -> str:
    repeated = f" with {questions} different questions (equal ones must stay together)" if questions < len(tasks) else ""
    return f"{train} training and {test} test tasks are asked for, and there are {len(tasks)}{repeated}. Ask for fewer"


def _file(tasks: Sequence[Task]) -> str | None:
    source = tasks[0].source if tasks else None
    return source.rpartition(":")[0] if source else None


def check_splits(train: Sequence[Task], test: Sequence[Task]) -> None:
    """Raise `SealedError` where a question of the test split stands in the training split too, `InputError` where a split is empty."""
    for name, tasks in (("train", train), ("test", test)):
        if not tasks:
            raise InputError(f"the {name} split holds no task", field=f"tasks.{name}")
    trained = {task.input_id: task for task in train}
    leaks = [(trained[task.input_id], task) for task in test if task.input_id in trained]
    if leaks:
        raise SealedError(_leak(leaks), field="tasks")


def _leak(leaks: Sequence[tuple[Task, Task]]) -> str:
    shown = [
        f"{one.source or 'a training task'} and {other.source or 'a test task'}"
        + ("" if one.id == other.id else " (the same question with another reference)")
        for one, other in leaks[:3]
    ]
    count = "1 test question stands" if len(leaks) == 1 else f"{len(leaks)} test questions stand"
    more = f", and {len(leaks) - 3} more" if len(leaks) > 3 else ""
    return (
        f"{count} in the training split too: {'; '.join(shown)}{more}. Remove them from one of the two, "
        "or let one file be split: {file: all.jsonl, train: 300, test: 100}"
    )
