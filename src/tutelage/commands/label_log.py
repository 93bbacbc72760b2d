"""What people did while labelling, act by act, and the file of labels that follows from it.

The log beside the labels (LABELS.log) is only ever added to: who labelled, skipped or took back which item, when, and in which order two
answers were shown. It comes first, so that a process that is killed loses nothing: the next session brings the labels up to it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from tutelage.errors import InputError, StoreError
from tutelage.graders.labels import MARK, Item, Labelled, append_labelled, read_labelled, write_labelled
from tutelage.records import Record, content_id
from tutelage.task_formats.lines import json_rows

Order = Literal["ab", "ba", ""]


class Act(Record):
    """One thing that a person did. order: which answer stood first ("" where there is one). label: of the item as it is, not as shown."""

    item: str
    annotator: str
    did: Literal["label", "skip", "undo"]
    label: str | float | None = None
    order: Order = ""
    when: datetime


def order_of(item: Item, annotator: str, seed: int) -> Order:
    """Which of two answers is shown first: a coin for each item and annotator, the same whenever it is tossed."""
    if len(item.answers) != 2:
        return ""
    return "ba" if int(content_id([seed, item.id, annotator]), 16) & 1 else "ab"


class LabelLog:
    """The labels of some items by one annotator, in a file that other annotators share.

    Raises `InputError` where the files are something else, `StoreError` where they cannot be written. mended: whether half a line was cut
    off the end of a file, as a full disk or a power cut leaves behind.
    """

    def __init__(self, path: Path, items: Sequence[Item], annotator: str) -> None:
        _check_name(path)
        self.path, self.annotator = path, annotator
        self._log = path.with_name(path.name + ".log")
        self._items = {item.id: item for item in items}
        self.mended = any([_mend(path), _mend(self._log)])
        _check_ours(path)
        self._acts: list[Act] = []
        self.bring_up_to_date()
        own = {one.id for one in self._labels() if one.annotator == annotator}
        self._before = own - {act.item for act in self._own()}  # labelled without this log

    @property
    def labelled(self) -> set[str]:
        """The items that this annotator has labelled."""
        return self._before | {item for item, act in self._standing(self.annotator).items() if act.did == "label"}

    @property
    def skipped(self) -> set[str]:
        """The items that this annotator has skipped."""
        return {item for item, act in self._standing(self.annotator).items() if act.did == "skip"}

    def label(self, item: Item, label: str | float, order: Order) -> None:
        """Keep a label: it survives the death of the process when this has returned."""
        act = Act(item=item.id, annotator=self.annotator, did="label", label=label, order=order, when=datetime.now(UTC))
        self._add(act)
        append_labelled(self.path, _labelled(item, act))

    def skip(self, item: Item) -> None:
        """Note that the item is not labelled now."""
        self._add(Act(item=item.id, annotator=self.annotator, did="skip", when=datetime.now(UTC)))

    def undo(self) -> str | None:
        """Take back this annotator's last label or skip, of this session or an earlier one; its item's id, None where there is none."""
        standing = self._standing(self.annotator)
        last = next((act.item for act in reversed(self._own()) if act.item in self._items and standing.get(act.item) is act), None)
        if last is not None:
            self._add(Act(item=last, annotator=self.annotator, did="undo", when=datetime.now(UTC)))
            self.bring_up_to_date()
        return last

    def _own(self) -> list[Act]:
        return [act for act in self._acts if act.annotator == self.annotator]

    def _standing(self, annotator: str) -> dict[str, Act]:
        """The label or skip that stands for each item."""
        standing: dict[str, Act] = {}
        for act in self._acts:
            if act.annotator == annotator:
                standing[act.item] = act
        return {item: act for item, act in standing.items() if act.did != "undo"}

    def _add(self, act: Act) -> None:
        line = json.dumps(act.canonical(), ensure_ascii=False) + "\n"
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("ab") as file:
                file.write(line.encode("utf-8", "replace"))
                file.flush()
                os.fsync(file.fileno())
        except OSError as failed:
            raise StoreError(f"{self._log} cannot be written: {failed.strerror}. Free some space or choose another --out") from None
        self._acts.append(act)

    def _labels(self) -> tuple[Labelled, ...]:
        return read_labelled(self.path) if _size(self.path) else ()

    def bring_up_to_date(self) -> None:
        """Make the labels say what the log says, about those items and annotators that it knows; all others stay.

        Others may be labelling meanwhile, and log before they write: what they logged while this wrote is brought up to date as well.
        """
        size = -1
        while size != (size := _size(self._log)):
            self._acts = list(_read_acts(self._log))
            self._write_what_stands()

    def _write_what_stands(self) -> None:
        people = {act.annotator for act in self._acts}
        standing = {(name, item): act for name in people for item, act in self._standing(name).items() if act.did == "label"}
        touched = {(act.annotator, act.item) for act in self._acts}
        there = self._labels()
        kept: list[Labelled] = []
        have: set[tuple[str, str]] = set()
        for one in there:
            key = one.annotator, one.id
            if key not in touched or (key not in have and _same(one, standing.get(key))):
                kept.append(one)
                have.add(key)
        missing = [act for key, act in standing.items() if key not in have and act.item in self._items]
        added = [_labelled(self._items[act.item], act) for act in missing]
        if len(kept) < len(there):
            write_labelled(self.path, [*kept, *added])
        else:
            for one in added:
                append_labelled(self.path, one)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _same(one: Labelled, act: Act | None) -> bool:
    return act is not None and one.label == act.label


def _labelled(item: Item, act: Act) -> Labelled:
    fields = {name: getattr(item, name) for name in Item.model_fields}
    return Labelled(**fields, label=act.label, annotator=act.annotator, when=act.when)


def _read_acts(path: Path) -> Iterator[Act]:
    if not path.is_file():
        return
    for where, row in json_rows(path):
        try:
            yield Act.model_validate(row)
        except ValidationError as invalid:
            problem = invalid.errors()[0]
            field = ".".join(map(str, problem["loc"])) or None
            raise where.error(f"this is no log of labels: {problem['msg']}. Choose another --out", field) from None


def _check_name(path: Path) -> None:
    if path.suffix.lower() in (".csv", ".tsv"):
        raise InputError("labels are written as JSON Lines; name a .jsonl file", file=path, field="--out")
    if path.is_dir():
        raise InputError("this is a folder; name a file in it", file=path, field="--out")


def _check_ours(path: Path) -> None:
    if not path.is_file():
        return
    first = next(json_rows(path), None)
    if first is not None and first[1].get("format") != MARK:
        raise InputError("this file was not written by `tutelage label`; choose another", file=path, field="--out")


def _mend(path: Path) -> bool:
    """Cut off half a line at the end; a whole one that only lacks its ending gets it."""
    if not path.is_file():
        return False
    content = path.read_bytes()
    if not content or content.endswith(b"\n"):
        return False
    start = content.rfind(b"\n") + 1
    try:
        whole = isinstance(json.loads(content[start:]), dict)
    except ValueError:
        whole = False
    try:
        with path.open("r+b") as file:
            if whole:
                file.seek(0, os.SEEK_END)
                file.write(b"\n")
            else:
                file.truncate(start)
    except OSError as failed:
        raise StoreError(f"{path} cannot be written: {failed.strerror}. Choose another --out") from None
    return not whole
