"""Files of rows with images.

Image and label: `image` (or `images`), `label`, and `question` where it is not the same for all. Image and conversation, as TRL's datasets
have it: `messages`, or `prompt` and `completion`, with `images`, a list that the placeholders {"type": "image"} of the messages take in
turn; without placeholders the images stand before what the user says first. A message may also name its image itself ({"type": "image",
"path": ...}).

An image is a path, which is looked for beside the file, a `data:` address, or what datasets make of it ({"bytes": ..., "path": ...}). A
file is JSON Lines, a JSON array, CSV, Parquet, or a dataset (`hf:NAME`).
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from difflib import get_close_matches
from io import BytesIO
from pathlib import Path
from typing import Any

from tutelage.errors import InputError
from tutelage.records import Message
from tutelage.suggest import did_you_mean
from tutelage.task_formats import openai
from tutelage.task_formats.image_label import QUESTION
from tutelage.task_formats.lines import Row, Where, strict_json
from tutelage.training.row_files import raw_rows, read_demonstration
from tutelage.training.rows import SFTRow

_MEANT = ("image", "images", "label", "question", "messages", "prompt", "completion")
_SHAPES = "`image` and `label`, or `messages` (or `prompt` and `completion`) with `images`"


def read_vision_rows(path: str | Path, question: str = QUESTION) -> tuple[SFTRow, ...]:
    """The rows of a file. question: asked of images with a label, where the row asks none. Raises `InputError` naming the place."""
    rows = tuple(row for where, raw in raw_rows(path) for row in _rows(raw, where, question))
    if not rows:
        raise InputError(f"there are no rows in it; each must hold {_SHAPES}", file=path)
    return rows


def _rows(row: Row, where: Where, question: str) -> Iterator[SFTRow]:
    given = {key: value for key, value in row.items() if value is not None and value != ""}
    for key in given:
        near = [] if key in _MEANT else get_close_matches(key, _MEANT, n=1, cutoff=0.85)
        if near and near[0] not in given:
            raise where.error(f"unknown column.{did_you_mean(key, _MEANT)} Rename it, or remove it", key)
    images = _images(given, where)
    if "messages" in given or {"prompt", "completion"} <= given.keys():
        yield from read_demonstration(_filled(given, images, where), where)
    elif "label" in given:
        yield _labelled(given, images, question, where)
    else:
        raise where.error(f"a row must hold {_SHAPES}; this one holds {', '.join(sorted(given)) or 'nothing'}")


def _labelled(row: Row, images: list[Row], question: str, where: Where) -> SFTRow:
    if not images:
        raise where.error("there is no image beside the label", "image")
    label, asked = row["label"], row.get("question", question)
    if not isinstance(label, str | int | float) or not str(label).strip():
        raise where.error(f"the label must be a text or a number, and is {label!r}", "label")
    if not isinstance(asked, str):
        raise where.error("the question must be a text", "question")
    content = openai.content([*images, {"type": "text", "text": asked}], where, "image")
    prompt = Message.model_validate({"role": "user", "content": content})
    return SFTRow(prompt=(prompt,), completion=(Message(role="assistant", content=str(label).strip()),), source=str(where))


def _images(row: Row, where: Where) -> list[Row]:
    """The parts of a message that the row's images make."""
    if "image" in row and "images" in row:
        raise where.error("give `image` or `images`, not both", "images")
    field = "image" if "image" in row else "images"
    given = row.get(field, [])
    if field == "images" and isinstance(given, str):
        given = strict_json(given, where, field) if given.lstrip().startswith("[") else [given]
    listed = [given] if field == "image" else given
    if not isinstance(listed, list):
        raise where.error("a list of images is needed", field)
    return [_part(value, where, field if field == "image" else f"images.{number}") for number, value in enumerate(listed)]


def _part(value: Any, where: Where, field: str) -> Row:
    """As a part of a message; a path is checked where the message is read."""
    if isinstance(value, dict):
        raw, value = value.get("bytes"), value.get("path") or value.get("url")
        value = _data_url(raw) if isinstance(raw, bytes) else value
    elif hasattr(value, "save"):  # an image of Pillow, as `datasets` decodes them
        raw = BytesIO()
        value.save(raw, format="PNG")
        value = _data_url(raw.getvalue())
    if not isinstance(value, str):
        raise where.error(f"an image must be a path or a `data:` address, and is {value!r}", field)
    if value.startswith(("http://", "https://")):
        raise where.error("images are not fetched from the web; save it first (`curl -O ADDRESS`) and give the path of the file", field)
    return {"type": "image", "path": value}


def _data_url(raw: bytes) -> str:
    return "data:application/octet-stream;base64," + base64.b64encode(raw).decode()


def _filled(row: Row, images: list[Row], where: Where) -> Row:
    """The row with its images put into its messages."""
    field = "messages" if "messages" in row else "prompt"
    asked = row[field]
    if isinstance(asked, str):
        asked = strict_json(asked, where, field) if asked.lstrip().startswith("[{") else [{"role": "user", "content": asked}]
    places = sum(map(_is_place, _parts(asked)))
    waiting = iter(images)
    if places == 0 and images:
        return {**row, field: _before_first_question(asked, images, where, field)}
    if places != len(images):
        raise where.error(f"the messages have places for {places} images, and there are {len(images)}", "images")
    return {**row, field: [_with_images(message, waiting) for message in asked]} if places else row


def _parts(messages: Any) -> Iterator[Any]:
    for message in messages if isinstance(messages, list) else []:
        content = message.get("content") if isinstance(message, dict) else None
        yield from content if isinstance(content, list) else []


def _is_place(part: Any) -> bool:
    """Whether the part stands for the next of the row's images."""
    return isinstance(part, dict) and part.get("type") == "image" and not any(part.get(key) for key in ("url", "path", "image"))


def _with_images(message: Any, waiting: Iterator[Row]) -> Any:
    if not isinstance(message, dict) or not isinstance(message.get("content"), list):
        return message
    return {**message, "content": [next(waiting) if _is_place(part) else part for part in message["content"]]}


def _before_first_question(messages: Any, images: list[Row], where: Where, field: str) -> list[Any]:
    first = next((place for place, item in enumerate(messages) if isinstance(item, dict) and item.get("role") == "user"), None)
    if first is None:
        raise where.error("there is no message of the user that the images could stand in", field)
    content = messages[first].get("content") or ""
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    return [*messages[:first], {**messages[first], "content": [*images, *parts]}, *messages[first + 1 :]]
