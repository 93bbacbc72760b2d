"""Rows that weights learn from: plain frozen data, without torch."""

from __future__ import annotations

from tutelage.records import Message, Record, ToolSpec


class SFTRow(Record):
    """A demonstration. Loss falls on the assistant's messages in `completion`, and on nothing in `prompt` (whose examples may hold others).

    without_loss: places in `completion` of turns that stand there but are not to be learned from (a call that failed, say). tools: for
    models that take tools natively; where tools are described in the prompt, calls are text already. source: where the row came from
    (`train.jsonl:12`, or an episode), for errors.
    """

    prompt: tuple[Message, ...] = ()
    completion: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    without_loss: tuple[int, ...] = ()
    source: str | None = None

    @property
    def learned(self) -> tuple[int, ...]:
        """Places in `completion` of the turns that bear loss."""
        turns = (place for place, message in enumerate(self.completion) if message.role == "assistant")
        return tuple(place for place in turns if place not in self.without_loss)


class PreferenceRow(Record):
    """A better and a worse continuation of one prompt. weight: how sure the preference is, in (0, 1]."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    weight: float = 1.0
    source: str | None = None


class StepRow(Record):
    """One step of an expert's solution (SRL): from `prompt`, which holds the question and the steps before, `target` is to be found.

    task_id: the task that was solved; number: which step of it, from 1.
    """

    prompt: tuple[Message, ...]
    target: str
    task_id: str
    number: int
    source: str | None = None
