"""VisionSFT: supervised fine-tuning of an agent that sees. Its weights learn to answer questions on images.

Rows are the tasks' references, the agent's own episodes that were graded a success, or a file of images with labels or conversations
(`training/vision_rows.py`). Loss falls on the answers; LoRA adapts the language model, and with `vision_tower` what reads the images too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from tutelage.agent import Agent
from tutelage.errors import InputError
from tutelage.learner import Need
from tutelage.learners.demonstrations import Keyed, from_references, from_successes, no_success
from tutelage.learners.supervised import (
    Form,
    Gathering,
    check_file,
    described,
    learn_weights,
    prompt_key,
    render,
    trainable_base,
)
from tutelage.practice import Practice
from tutelage.records import ImagePart, Message, content_id
from tutelage.task_formats.image_label import QUESTION
from tutelage.training.base import Base, reads_images
from tutelage.training.rows import SFTRow
from tutelage.training.settings import read_settings
from tutelage.training.supervised_job import Job, Trained
from tutelage.training.vision_images import picture
from tutelage.training.vision_rows import read_vision_rows
from tutelage.training.vision_settings import VisionSettings

if TYPE_CHECKING:
    from tutelage.training.chat import TokenRow
    from tutelage.training.vision_chat import VisionRow

Source = Literal["reference", "success", "file"]


class Options(Gathering, VisionSettings):
    """`VisionSettings`, and where the rows come from: see `Gathering`.

    source: `reference` answers, `success` (own episodes), `file`. question: what is asked of the images of a file that have a label alone.
    """

    source: Source = "reference"
    question: str = QUESTION


class VisionSFT:
    """Learn from images with their answers. The options are those of `Options`; a wrong one raises `InputError`."""

    name = "vision_sft"

    def __init__(self, source: Source = "reference", **options: Any) -> None:
        self.options = read_settings(Options, {"source": source, **options}, self.name)
        check_file(self.options.source, self.options.file)
        own = {"reference": {Need.REFERENCES}, "success": {Need.GRADES}, "file": set[Need]()}[self.options.source]
        self.needs = frozenset({Need.WEIGHTS, *own})

    @property
    def label(self) -> str:
        """The name of the arm where nobody gives one."""
        return self.name

    def described(self) -> dict[str, Any]:
        """The settings that decide what is learned; a file by its content, and the images that it names by theirs."""
        own = described(self.options, self.options.file)
        return {self.name: own if self.options.file is None else {**own, "rows": self._file_content}}

    @cached_property
    def _file_content(self) -> str:
        rows = read_vision_rows(str(self.options.file), self.options.question)
        return content_id([_by_content(row) for row in rows])

    def forecast_calls(self, n_tasks: int) -> int:
        """Episodes that learning will run."""
        return n_tasks * self.options.attempts if self.options.source == "success" else 0

    async def learn(self, agent: Agent, practice: Practice) -> Agent:
        """The agent with the weights that it learned; where it wears an adapter, that one learned on.

        Where no episode was a success the agent is given back as it was, and the report says so. Raises what `train_vision` raises, and
        `InputError` for a model that reads text only, an image that is missing or damaged, tasks without references, and rows that the
        chat template loses or changes.
        """
        base = await trainable_base(agent)
        _check_sees(base)
        keyed = await self._rows(agent, practice)
        if not keyed:
            practice.note(nothing_learned=no_success(self.options))
            return agent
        data = content_id(await asyncio.to_thread(lambda: [_by_content(row) for _, row in keyed]))
        return await learn_weights(agent, practice, base, self, self.options, data, lambda job: self._train(job, practice, keyed))

    async def _rows(self, agent: Agent, practice: Practice) -> Keyed:
        options = self.options
        if options.source == "file":
            rows = await asyncio.to_thread(read_vision_rows, str(options.file), options.question)
            return [(prompt_key(_hashed(row.prompt, row.source)), row) for row in rows]
        if options.source == "reference":
            return await from_references(agent, practice)
        return await from_successes(agent, practice, options)

    def _train(self, job: Job, practice: Practice, keyed: Keyed) -> Trained:
        """References and files are checked strictly: a row of theirs that cannot be learned from is a mistake to mend."""
        from tutelage.training.vision import load_eyes
        from tutelage.training.vision_chat import render_vision_turns
        from tutelage.training.vision_training import train_vision

        eyes = load_eyes(job.base, job.tokenizer)

        def turns(tokenizer: Any, row: SFTRow) -> Sequence[VisionRow]:
            return render_vision_turns(eyes, row)

        form: Form[SFTRow, VisionRow] = Form("rows", turns, _alone)
        items, validation = render(form, job, practice, keyed, self.options, forgiving=self.options.source == "success")
        return train_vision(job, eyes, items, self.options, validation=validation)


def _alone(row: TokenRow) -> tuple[TokenRow]:
    return (row,)


def _check_sees(base: Base) -> None:
    if not reads_images(base):
        raise InputError(
            f"{base.name} reads text only; give the agent a vision-language model (hf:FOLDER with a processor), or learn with SFT",
            field="model",
        )


def _by_content(row: SFTRow) -> Any:
    """The row as JSON, its images by what is in them."""
    prompt, completion = (_hashed(messages, row.source) for messages in (row.prompt, row.completion))
    return row.model_copy(update={"prompt": prompt, "completion": completion}).model_dump(mode="json", exclude={"source"})


def _hashed(messages: Sequence[Message], source: str | None) -> tuple[Message, ...]:
    try:
        return tuple(_by_hash(message) for message in messages)
    except InputError as broken:
        raise InputError(f"{broken.file}: {broken.message}" if source else broken.message, file=source or broken.file) from None


def _by_hash(message: Message) -> Message:
    if isinstance(message.content, str):
        return message
    parts = tuple(ImagePart(url=picture(part.url).id) if isinstance(part, ImagePart) else part for part in message.content)
    return message.model_copy(update={"content": parts})
