"""Conversations with images as token ids, with a mask of where the loss falls, and the images that belong to them.

As `chat.py` does for text, and by its means: the chat template writes a placeholder for each image, the same checks are made on what it
wrote, and then each placeholder becomes what the model's processor writes for that very image. So the ids hold an image's tokens as the
model sees them, in training and in use alike, and loss falls on the assistant's words alone. What the template drops or changes is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from tutelage.errors import InputError
from tutelage.records import Message, ToolSpec
from tutelage.training.chat import RowError, Span, TokenRow, ids_of, prompt_pieces, render_with, turn_rows
from tutelage.training.chat_template import Template, has_images, template_of
from tutelage.training.rows import SFTRow
from tutelage.training.vision import Eyes
from tutelage.training.vision_images import Loaded, Picture, load_image, pictures_of, shown


@dataclass(frozen=True)
class VisionRow(TokenRow):
    """A row with its images, in the order in which their tokens stand in `ids`. notes: what was done to the images."""

    pictures: tuple[Picture, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class VisionPrompt:
    """The ids of a conversation up to where the assistant speaks, and its images."""

    ids: tuple[int, ...]
    pictures: tuple[Picture, ...]


def render_vision_row(eyes: Eyes, row: SFTRow) -> VisionRow:
    """The row's ids, loss mask and images. Raises `RowError` naming the row, and where it is one the message, whose image is at fault."""
    template = template_of(eyes.tokenizer, parts=True)
    messages = [*row.prompt, *row.completion]
    try:
        _check_roles(messages)
        images = _load(messages)
        written = eyes.expansions(images)
    except InputError as broken:
        raise RowError(broken.message, file=row.source or broken.file, field=broken.field) from None

    def expand(text: str, spans: tuple[Span, ...]) -> tuple[str, tuple[Span, ...]]:
        return _expanded(eyes, template, messages, text, spans, written)

    made = render_with(template, row, expand).row
    if any(learned and token in eyes.image_ids for token, learned in zip(made.ids, made.mask, strict=True)):
        raise RowError("the loss would fall on an image; only what the assistant says can be learned", file=row.source)
    notes = tuple(note for one in images for note in one.notes)
    return VisionRow(made.ids, made.mask, tuple(one.picture for one in images), notes)


def render_vision_turns(eyes: Eyes, row: SFTRow) -> tuple[VisionRow, ...]:
    """The row as one sequence, or as one for each turn that is learned, as `chat.render_turns`."""
    try:
        return (render_vision_row(eyes, row),)
    except RowError:
        parts = turn_rows(row)
        if len(parts) < 2:
            raise
        return tuple(render_vision_row(eyes, part) for part in parts)


def vision_prompt(eyes: Eyes, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> VisionPrompt:
    """The ids of a conversation up to where the assistant speaks, and its images.

    Special tokens in a message's text, the one for images among them, are written in plain tokens. Raises `InputError` where the template
    drops something, or an image cannot be read.
    """
    template = template_of(eyes.tokenizer, parts=True)
    images = _load(messages)
    pieces = prompt_pieces(template, messages, tools)
    _check_count(eyes, template, messages, sum(piece.count(eyes.image_token) for piece in pieces))
    written = iter(eyes.expansions(images))
    filled = ["".join(_filled(piece.split(eyes.image_token), written)) for piece in pieces]
    return VisionPrompt(ids_of(template, filled), tuple(one.picture for one in images))


def _check_roles(messages: Sequence[Message]) -> None:
    for number, message in enumerate(messages):
        if message.role in ("assistant", "tool") and has_images(message):
            raise RowError(f"an image stands in what the {message.role} says, and only text can be learned", field=f"messages.{number}")


def _load(messages: Sequence[Message]) -> list[Loaded]:
    found: list[Loaded] = []
    for number, message in enumerate(messages):
        for place, url in enumerate(pictures_of([message])):
            try:
                found.append(load_image(url))
            except InputError as broken:
                where = f"messages.{number}.image {place + 1}"
                raise InputError(f"{broken.file or shown(url)}: {broken.message}", field=where) from None
    return found


def _expanded(
    eyes: Eyes, template: Template, messages: Sequence[Message], text: str, spans: tuple[Span, ...], written: Sequence[str]
) -> tuple[str, tuple[Span, ...]]:
    """The text with the images' tokens in it, and where what is learned stands then."""
    pieces = text.split(eyes.image_token)
    _check_count(eyes, template, messages, len(pieces) - 1)
    size = len(eyes.image_token)
    ends = accumulate(len(piece) + size for piece in pieces[:-1])
    grown = [(end, len(put) - size) for end, put in zip(ends, written, strict=True)]

    def moved(place: int) -> int:
        return place + sum(more for end, more in grown if place >= end)

    own = tuple(replace(span, start=moved(span.start), end=moved(span.end), earlier=moved(span.earlier)) for span in spans)
    return "".join(_filled(pieces, iter(written))), own


def _filled(pieces: Sequence[str], written: Iterator[str]) -> Iterator[str]:
    """The pieces with what is written for an image between each two."""
    for number, piece in enumerate(pieces):
        yield next(written) + piece if number else piece


def _check_count(eyes: Eyes, template: Template, messages: Sequence[Message], count: int) -> None:
    """Raise `RowError` where the template wrote fewer images, or more, than the conversation has, and say whose are lost."""
    wanted = len(pictures_of(messages))
    if count == wanted:
        return
    if count > wanted:
        raise RowError(f"{eyes.image_token!r} stands in the text of a message, and there is no image for it; take it out")
    for number, message in enumerate(messages):
        if has_images(message) and not _writes_images(eyes, template, message):
            raise RowError(
                f"the chat template drops the image in message {number + 1} ({message.role}); move it to a message of the user",
                field=f"messages.{number}",
            )
    raise RowError(f"the chat template writes {count} of {wanted} images; this model's conversations hold fewer")


def _writes_images(eyes: Eyes, template: Template, message: Message) -> bool:
    own = [message] if message.role == "user" else [message, Message(role="user", content="?")]
    try:
        return template.write(own).count(eyes.image_token) == len(pictures_of([message]))
    except RowError:
        return False
