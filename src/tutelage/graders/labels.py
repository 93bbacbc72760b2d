"""Items that people labelled: records, reading and writing files of human preferences, splitting into calibration and test.

Three kinds: one answer that is right or wrong (`right_wrong`), one answer with a score (`score`), and two answers of which one is better
(`pairwise`: a, b or tie). Read are JSON Lines, CSV and TSV with one mapping from our names to the file's:

    read_labelled("votes.csv", {"id": "question_id", "a": "answer_1", "b": "answer_2", "label": "winner", "annotator": "judge"})

A name with dots looks inside JSON objects (`answers.first`). Where each person has a column of their own, `label` lists these columns,
and their names are the annotators. An empty label is no label, and is left out.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import ValidationError, model_validator

from tutelage.errors import InputError, StoreError
from tutelage.files import write_atomically
from tutelage.graders.agreement import Label, Vote, contradictions, majority
from tutelage.records import Record, content_id
from tutelage.suggest import unknown
from tutelage.task_formats.lines import Row, Where, json_rows, refuse_unknown
from tutelage.task_formats.plain import csv_rows

Kind = Literal["right_wrong", "score", "pairwise"]
Columns = Mapping[str, str | Sequence[str]]
"""Our name -> the file's name; for `label` also a list of names, one for each annotator."""

MARK = "tutelage.label/1"
KNOWN = ("id", "task", "answer", "a", "b", "reference", "label", "annotator", "when")
WAY_OUT = "Remove it, or say which columns to read with `columns` (label=..., a=..., b=...), which leaves the others out"
RIGHT = frozenset({"right", "correct", "true", "yes", "1"})
WRONG = frozenset({"wrong", "incorrect", "false", "no", "0"})
PAIR: dict[str, str] = {
    **dict.fromkeys(("a", "model_a", "answer_a", "response_a", "assistant_a"), "a"),
    **dict.fromkeys(("b", "model_b", "answer_b", "response_b", "assistant_b"), "b"),
    **dict.fromkeys(("tie", "draw", "both", "equal", "same", "neither", "tie (bothbad)", "both bad"), "tie"),
}
I = TypeVar("I", bound="Item")  # noqa: E741 -- an item


class Item(Record):
    """What a person is asked to label. task: the question; answers: one, or for `pairwise` two, a and b; texts may be missing.

    reference: a right answer to compare with, where there is one. `source` says where it came from ("votes.csv:12").
    """

    id: str
    kind: Kind
    task: str = ""
    answers: tuple[str, ...] = ()
    reference: str = ""
    source: str | None = None

    @cached_property
    def content(self) -> str:
        """A hash of task and answers in any order: two items that share it are one question; without texts, of the id."""
        return content_id([self.task, *sorted(self.answers)] if self.task or self.answers else ["id", self.id])

    @model_validator(mode="after")
    def _count_answers(self) -> Item:
        if len(self.answers) not in ((0, 2) if self.kind == "pairwise" else (0, 1)):
            raise ValueError(f"an item of kind {self.kind} has not {len(self.answers)} answers")
        return self


class Labelled(Item):
    """An item with one person's label: `right` or `wrong`; a score; `a`, `b` or `tie`. annotator "": unknown, and taken as one person."""

    label: Label
    annotator: str = ""
    when: datetime | None = None

    @model_validator(mode="after")
    def _fits_kind(self) -> Labelled:
        allowed = {"right_wrong": ("right", "wrong"), "pairwise": ("a", "b", "tie")}.get(self.kind)
        fits = self.label in allowed if allowed else isinstance(self.label, float) and math.isfinite(self.label)
        if not fits:
            raise ValueError(f"`{self.label}` is no label of kind {self.kind}: {' or '.join(allowed) if allowed else 'a number'} is")
        return self


class Split(NamedTuple):
    """The two sides of a split."""

    calibration: tuple[Labelled, ...]
    test: tuple[Labelled, ...]


def read_labelled(
    path: str | Path, columns: Columns | None = None, *, kind: Kind | None = None, values: Mapping[str, str] | None = None
) -> tuple[Labelled, ...]:
    """The labels of a file, in its order; see the module for `columns` (None: the file uses our names, or was written by us).

    kind None: pairwise where there are columns a and b, else right or wrong where every label reads so, else scores. values: how the file
    writes labels ({"left": "a"}). Without a column for `id` items are named by their content. Raises `InputError` naming file, line and
    field: unreadable rows and labels, one id for two different items, no label at all.
    """
    found = _read(Path(path), columns, kind, values or {})
    labelled = tuple(one for one in found if isinstance(one, Labelled))
    if not labelled:
        message = "there is no label in it; say which column it is with `columns` (label=...)" if found else "there is nothing in it"
        raise InputError(message, file=path, field="label" if found else None)
    return labelled


def read_items(path: str | Path, columns: Columns | None = None, *, kind: Kind | None = None) -> tuple[Item, ...]:
    """The different items of such a file, labelled or not, in their order. Raises as `read_labelled` does."""
    found = _read(Path(path), columns, kind, {}, labels=False)
    if not found:
        raise InputError("there is nothing in it", file=path)
    firsts = {one.id: one for one in reversed(found)}
    return tuple(Item(**{name: getattr(one, name) for name in Item.model_fields}) for one in reversed(firsts.values()))


def write_labelled(path: str | Path, labelled: Iterable[Item]) -> None:
    """Write JSON Lines that `read_labelled` reads back. Raises `StoreError` where the file cannot be written."""
    write_atomically(Path(path), "".join(_line(one) for one in labelled))


def append_labelled(path: str | Path, one: Labelled) -> None:
    """Add one label to the end of such a file, which is made where it is absent. Raises `StoreError`."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with Path(path).open("a+b") as file:
            whole = file.seek(0, os.SEEK_END) == 0 or (file.seek(-1, os.SEEK_END), file.read(1))[1] == b"\n"
            file.write(b"" if whole else b"\n")  # a line cut off by a crash stays by itself
            file.write(_line(one).encode("utf-8", "replace"))
    except OSError as failed:
        raise StoreError(f"{path} cannot be written: {failed.strerror}. Free some space or choose another folder, then run again") from None


def split_labelled(labelled: Sequence[Labelled], calibration: float = 0.5, seed: int = 0) -> Split:
    """A share of the items at random for calibration, the rest for test; all labels of an item, and all items of equal content, together.

    The order of the draw is a hash of seed and content, so it does not depend on the order of the file. Raises `InputError` where a side
    would be empty.
    """
    if not 0 < calibration < 1:
        raise InputError(f"a share between 0 and 1 is needed, and this is {calibration}", field="calibration")
    group = {one.id: one.content for one in labelled}
    sizes = Counter(group.values())
    order = sorted(sizes, key=lambda content: content_id([seed, content]))
    wanted, taken, chosen = round(calibration * len(group)), 0, set()
    for content in order:
        if taken + sizes[content] <= wanted:
            chosen.add(content)
            taken += sizes[content]
    if not 0 < taken < len(group):
        raise InputError(f"{len(group)} items ({len(sizes)} different ones) leave one side empty at a share of {calibration}")
    sides: tuple[list[Labelled], list[Labelled]] = ([], [])
    for one in labelled:
        sides[one.content not in chosen].append(one)
    return Split(tuple(sides[0]), tuple(sides[1]))


def votes(labelled: Iterable[Labelled]) -> tuple[Vote, ...]:
    """What `agreement` and `majority` work on."""
    return tuple(Vote(one.id, one.annotator, one.label) for one in labelled)


def label_warnings(labelled: Sequence[Labelled]) -> tuple[str, ...]:
    """What a person should know before calibrating on these labels: one class only, ties, people who contradict themselves."""
    cast = votes(labelled)
    settled = majority(cast)
    classes = set(settled.labels.values())
    found = []
    if len(classes) == 1:
        found.append(f"labels of one class: every item is `{classes.pop()}`, so a judge that always says so would agree with people")
    if settled.tied:
        found.append(f"{len(settled.tied)} of {len({vote.item for vote in cast})} items have no majority and are left out")
    by_annotator = Counter(one.annotator for one in contradictions(cast))
    for annotator, count in by_annotator.most_common():
        named = f"`{annotator}`" if annotator else "the unnamed annotator"
        found.append(f"{named} labelled {count} item{'s' if count > 1 else ''} in two ways; these votes do not count")
    return tuple(found)


def _line(one: Item) -> str:
    content = {key: value for key, value in one.canonical().items() if key != "source"}
    return json.dumps({"format": MARK, **content}, ensure_ascii=False) + "\n"


def _read(path: Path, columns: Columns | None, kind: Kind | None, values: Mapping[str, str], *, labels: bool = True) -> list[Item]:
    rows = list(csv_rows(path) if path.suffix.lower() in (".csv", ".tsv") else json_rows(path))
    if columns is None and rows and "format" in rows[0][1]:
        return _consistent([_own(row, where) for where, row in rows])
    if columns is not None:
        _check_columns(columns)
        _check_seen(rows, columns, path)
    cells = list(_cells(rows, columns, labels=labels))
    chosen = kind or _kind([given for _, given in cells], values)
    return _consistent([_item(where, given, chosen, values) for where, given in cells])


def _own(row: Row, where: Where) -> Item:
    if row.get("format") != MARK:
        raise where.error(f"written as {row.get('format')!r}, and this version reads {MARK!r}", "format")
    fields = {key: value for key, value in row.items() if key not in ("format", "source")}
    return _make(Labelled if fields.get("label") is not None else Item, fields, where)


def _check_columns(columns: Columns) -> None:
    for key, theirs in columns.items():
        if key not in KNOWN:
            raise InputError(unknown("a field of a labelled item", key, KNOWN), field="columns")
        if not isinstance(theirs, str) and key != "label":
            raise InputError("name one column; only `label` may list several", field=f"columns.{key}")
    if not {"id", "task", "answer", "a", "b"} & set(columns):
        raise InputError(
            "`columns` must say which column is the `id`, or where the texts are (`task`, `answer`, `a`, `b`)", field="columns"
        )
    if ("a" in columns) != ("b" in columns) or {"a", "answer"} <= set(columns):
        raise InputError("a pair needs both `a` and `b`, and no `answer`", field="columns")


def _cells(rows: Iterable[tuple[Where, Row]], columns: Columns | None, *, labels: bool) -> Iterator[tuple[Where, Row]]:
    """What each label says, by our names: one for each row, or for each annotator's column of a row that holds one."""
    for where, row in rows:
        if columns is None:
            refuse_unknown(row, KNOWN, where, WAY_OUT)
        mapping = columns if columns is not None else {key: key for key in row}
        given = {key: _cell(row, theirs) for key, theirs in mapping.items() if isinstance(theirs, str)}
        listed = mapping.get("label")
        if not labels or listed is None:
            given.pop("label", None)
            yield where, given
        elif isinstance(listed, str):
            yield where, given
        else:
            filled = [(name, value) for name in listed if not _empty(value := _cell(row, name))]
            yield from ((where, {**given, "label": value, "annotator": name}) for name, value in filled)
            if not filled:
                yield where, {**given, "label": None}


def _cell(row: Row, name: str) -> Any:
    """The value of a column, or inside objects by a name with dots; None where there is none."""
    if name in row or "." not in name:
        return row.get(name)
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _check_seen(rows: Sequence[tuple[Where, Row]], columns: Columns, path: Path) -> None:
    """Raise where a column that was named is nowhere in the file: most likely a typing mistake."""
    for key, theirs in columns.items():
        for name in [theirs] if isinstance(theirs, str) else theirs:
            if rows and not any(name in row or _cell(row, name) is not None for _, row in rows):
                raise InputError(unknown("a column of this file", name, rows[0][1]), file=path, field=f"columns.{key}")


def _kind(cells: Sequence[Row], values: Mapping[str, str]) -> Kind:
    if cells and "a" in cells[0]:
        return "pairwise"
    labels = [_written(given["label"], values) for given in cells if not _empty(given.get("label"))]
    if labels and all(label in PAIR for label in labels) and not any("answer" in given for given in cells):
        return "pairwise"
    return "score" if any(_number(label) not in (None, 0.0, 1.0) for label in labels) else "right_wrong"


def _written(value: Any, values: Mapping[str, str]) -> str:
    """A label as text, in lower case."""
    text = str(value).strip()
    return values.get(text, text).strip().lower()


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _label(value: Any, kind: Kind, values: Mapping[str, str], where: Where) -> Label:
    text = _written(value, values)
    number = _number(text)
    if kind == "score":
        if number is None or not math.isfinite(number) or isinstance(value, bool):
            raise where.error(f"a score must be a number, and this is {value!r}", "label")
        return number
    if kind == "pairwise":
        if (found := PAIR.get(text)) is not None:
            return found
        raise where.error(f"{value!r} says neither a, b nor tie; say with `values` what it means ({value}=a)", "label")
    if text in RIGHT or number == 1:
        return "right"
    if text in WRONG or number == 0:
        return "wrong"
    raise where.error(
        f"{value!r} says neither right nor wrong; say with `values` what it means ({value}=right), or that the `kind` is score", "label"
    )


def _item(where: Where, given: Row, kind: Kind, values: Mapping[str, str]) -> Item:
    task, answers = _text(given.get("task")), []
    for key in ("a", "b") if kind == "pairwise" else ("answer",):
        if key in given:
            if _empty(given[key]):
                raise where.error("the answer is empty", key)
            answers.append(_text(given[key]))
    fields: Row = {"kind": kind, "task": task, "answers": tuple(answers), "reference": _text(given.get("reference"))}
    if "id" in given and _empty(given["id"]):
        raise where.error("every item needs an id, or leave `id` out of the columns: items are then named by their content", "id")
    if "id" not in given and not (task or answers):
        raise where.error("neither an id nor a text says which item this is", "id")
    fields["id"] = str(given["id"]).strip() if "id" in given else content_id([kind, task, *answers])
    if _empty(given.get("label")):
        return _make(Item, fields, where)
    fields |= {"label": _label(given["label"], kind, values, where), "annotator": _text(given.get("annotator")).strip()}
    return _make(Labelled, fields | {"when": given.get("when")}, where)


def _text(value: Any) -> str:
    """A text as it is, nothing as empty, anything else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _make(record: type[I], fields: Row, where: Where) -> I:
    try:
        return record(**fields, source=str(where))
    except ValidationError as error:
        first = error.errors()[0]
        raise where.error(first["msg"], ".".join(str(part) for part in first["loc"]) or None) from error


def _consistent(found: list[Item]) -> list[Item]:
    """The same, or an error where one id stands for two different items."""
    by_id: defaultdict[str, list[Item]] = defaultdict(list)
    for one in found:
        by_id[one.id].append(one)
    for same in by_id.values():
        for other in same:
            if _shown(other) != _shown(same[0]):
                file, _, line = (other.source or "").rpartition(":")
                raise InputError(f"the id `{other.id}` stands for another item at {same[0].source}", file=file, line=int(line), field="id")
    return found


def _shown(item: Item) -> tuple[Any, ...]:
    return item.task, item.answers, item.kind, item.reference
