"""Rows of an image and its label: {"image": "cat.png", "label": "a cat", "question": "What is it?", "kind": ...}.

The label is the reference. The image is a path, which is looked for beside the task file, or a `data:` address; `question` is what is asked
of it, by default what it shows.
"""

from __future__ import annotations

from tutelage.records import Task
from tutelage.task_formats.lines import Row, Where, make_task, refuse_unknown
from tutelage.task_formats.openai import content

QUESTION = "What is in the image?"
KNOWN = ("image", "label", "question", "kind")
WAY_OUT = "Remove it, or write the row as `messages`"


def recognised(row: Row) -> bool:
    """Whether it is such a row."""
    return {"image", "label"} <= row.keys()


def to_task(row: Row, where: Where) -> Task:
    """A task from one row. Raises `InputError` naming the place and the field."""
    refuse_unknown(row, KNOWN, where, WAY_OUT)
    if row.get("label") in (None, ""):
        raise where.error("there is no label", "label")
    asked = row.get("question") or QUESTION
    if not isinstance(asked, str):
        raise where.error("the question must be a text", "question")
    parts = content([{"type": "image", "path": row.get("image")}, {"type": "text", "text": asked}], where, "image")
    label = row["label"].strip() if isinstance(row["label"], str) else row["label"]
    kind = {"kind": row["kind"]} if row.get("kind") else {}
    return make_task({"messages": [{"role": "user", "content": parts}], "reference": label, **kind}, where)
