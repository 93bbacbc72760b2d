"""When the executor asks for advice by itself: where the agent is less sure of its draft than a threshold.

The policy learns nothing here; only the threshold is chosen, for the price of advice (`tutelage.learners.ask_threshold`). An executor that
has an `AskWhen` does this where the model wants to end the session with an answer:

    sure = await confidence(ask_when, task, draft=draft, completion=completion, memory=memory, again=again)
    if ask_when.asks(sure):  seek advice once, show it to the model, and let it go on to its final answer

and keeps `sure` in the episode (`Episode.confidence`), whether it asked or not: with threshold 0 it never asks and still measures.
"""

from __future__ import annotations

import asyncio
import math
import unicodedata
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

from pydantic import Field

from tutelage.memory import Memory
from tutelage.records import Completion, Record, Task
from tutelage.task_formats.choices import choices_of, read_choices

Signal = Literal["probability", "agreement", "similarity"]

NEVER = 0.0
"""The threshold that never asks."""
ALWAYS = 2.0
"""A threshold above every confidence: it always asks."""

Again = Callable[[int], Awaitable[str | None]]
"""The answer that another sample from the same context gives, at `AskWhen.temperature`; the number (from 1) goes into its seed. None: the
sample gave no answer."""


class AskWhen(Record):
    """Ask for advice where the confidence in the draft is below `threshold`. Confidence lies from 0 to 1; what cannot be measured counts 0.

    signal: `probability` is the geometric mean of the probabilities of the tokens that the draft was written with (the model has to give
    them: `Sampling.logprobs`); `agreement` is the share of `samples` further samples, at `temperature`, that give the same answer (any
    model); `similarity` is how alike the task is to the nearest entry of the memory that it may see (no call of a model).
    """

    signal: Signal = "probability"
    threshold: float = Field(default=0.5, ge=0)
    samples: int = Field(default=5, ge=1)
    temperature: float = Field(default=0.7, gt=0)

    def asks(self, confidence: float | None) -> bool:
        """Whether so little confidence is reason to ask."""
        return (confidence or 0.0) < self.threshold


async def confidence(
    ask_when: AskWhen, task: Task, *, draft: str, completion: Completion | None, memory: Memory, again: Again
) -> float | None:
    """How sure the agent is of its draft, from 0 to 1; None: it cannot be said.

    completion: the reply that the draft stands in. memory: what the session retrieves from. Raises what `again` and `Memory.choose` raise.
    """
    if ask_when.signal == "probability":
        return token_probability(completion)
    if ask_when.signal == "similarity":
        return similarity(memory, task)
    numbers = range(1, ask_when.samples + 1)
    return agreement(task, draft, await asyncio.gather(*(again(number) for number in numbers)))


def token_probability(completion: Completion | None) -> float | None:
    """exp(mean logprob) of the reply's tokens; None where the model gives none. The length of the reply does not lower it."""
    if completion is None:
        return None
    logprobs = completion.tokens.logprobs if completion.tokens else tuple(token.logprob for token in completion.choices)
    if not logprobs or any(math.isnan(value) for value in logprobs):
        return None
    return min(1.0, math.exp(math.fsum(logprobs) / len(logprobs)))


def agreement(task: Task, draft: str, samples: Sequence[str | None]) -> float | None:
    """The share of samples that answer as the draft does; a sample without an answer does not. None without a draft or samples."""
    said = spelling(task, draft)
    if not said or not samples:
        return None
    return sum(sample is not None and spelling(task, sample) == said for sample in samples) / len(samples)


def spelling(task: Task, answer: str) -> str:
    """The answer in a form that two spellings of it share: the option where one can be read, else without case, blanks and a full stop."""
    read = read_choices(answer, choices_of(task))
    if len(read) == 1:
        return read[0]
    return " ".join(unicodedata.normalize("NFKC", answer).casefold().split()).rstrip(".!")


def similarity(memory: Memory, task: Task) -> float | None:
    """How alike the task is to the most similar entry that memory shows it: cosine of meanings, or overlap of words (Jaccard) where the
    memory compares texts. None where it shows nothing; the task's own case never counts.
    """
    entries = memory.choose(task)
    if not entries:
        return None
    from tutelage.retrieval.index import Index  # numpy: only where it is needed

    index = Index(memory.retrieval.embedder)
    index.add("task", task.text)
    for entry in entries:
        index.add(entry.id, entry.text)
    by: Literal["text", "meaning"] = "text" if memory.retrieval.choose in ("fixed", "text") else "meaning"
    return min(1.0, max(0.0, *(index.similarity("task", entry.id, by) for entry in entries)))
