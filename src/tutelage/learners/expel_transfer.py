"""Transfer: insights that were learned at one kind of task, put into words for another kind by one question to a model.

Source: ExpeL (Zhao et al. 2023, arXiv:2308.10144), section on transfer learning: the list of the source domain and a few examples of the
target. Different from it: what comes of it is a list of insights that people and later learning can edit on.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tutelage.agent import Agent
from tutelage.errors import InputError, ModelFailed
from tutelage.knowledge import Insight, Knowledge
from tutelage.learner import Need
from tutelage.learners.expel_extraction import Source, edit, said
from tutelage.learners.expel_operations import MAX_CHARS, Operation, Reading, plain
from tutelage.learners.expel_prompts import transfer_messages
from tutelage.model import Model, load_model
from tutelage.practice import Practice
from tutelage.records import Sampling, Task
from tutelage.screening import words
from tutelage.tasks import reference_messages


class Transfer:
    """Begin with the insights of another kind of task, adapted to this one.

    transfer_from: a learned agent's JSON file (RUN/agents/ARM.json), a file of knowledge, or a `Knowledge`. examples: so many training
    tasks, with their reference answers where they have them, show what the new tasks are like. adapt_with: the model that adapts (None:
    the agent's own). cap: at most so many insights, the most important ones. reply_tokens: of the reply.
    """

    name = "transfer"
    needs: frozenset[Need] = frozenset()

    def __init__(
        self,
        transfer_from: str | Path | Knowledge,
        *,
        examples: int = 3,
        adapt_with: str | Model | None = None,
        cap: int = 20,
        reply_tokens: int = 1_024,
    ) -> None:
        for option, value, least in (("examples", examples, 0), ("cap", cap, 1), ("reply_tokens", reply_tokens, 1)):
            if not isinstance(value, int) or value < least:
                raise InputError(f"{option} must be a whole number of at least {least}, not {value!r}", field=f"learners.transfer.{option}")
        self.insights = source_insights(transfer_from)[:cap]
        self.examples, self.adapt_with, self.cap, self.reply_tokens = examples, adapt_with, cap, reply_tokens

    def described(self) -> dict[str, Any]:
        """The settings that decide what is learned."""
        model = None if self.adapt_with is None else load_model(self.adapt_with).name
        texts = [insight.text for insight in self.insights]
        return {
            self.name: {
                "insights": texts,
                "examples": self.examples,
                "adapt_with": model,
                "cap": self.cap,
                "reply_tokens": self.reply_tokens,
            }
        }

    def forecast_calls(self, n_tasks: int) -> int:
        """One question."""
        return 1

    async def learn(self, agent: Agent, practice: Practice) -> Agent:
        """The agent with the adapted insights beside its own. Raises `BudgetExceeded` and `ModelUnavailable`.

        Notes how many were adapted; where the call fails after its retries, the agent is given back as it was.
        """
        messages = transfer_messages(self.insights, agent.instructions, _examples(practice, self.examples))
        try:
            completion = await practice.ask(self.adapt_with or agent, messages, sampling=Sampling(max_tokens=self.reply_tokens))
        except ModelFailed as failed:
            practice.note(transfer_failed=str(failed))
            return agent
        knowledge, counts = agent.knowledge, Counter[str]()
        for old, text in read_adapted(said(completion), self.insights):
            source = Source(by=self.name, note=f"adapted from {old.id}: {old.text}")
            knowledge = edit(knowledge, Reading((Operation("add", None, text),)), self.cap, source, counts)
        practice.note(
            transfer_offered=len(self.insights),
            transfer_adapted=counts["add"],
            transfer_held=counts["held"],
            transfer_skipped=counts["skipped"],
        )
        return agent.but(knowledge=knowledge)


_LINE = re.compile(r"[^\w\n]{0,9}(?:(?:rule|insight|no|number)\b[^\w\n]{0,3})?(\d{1,4})[^\w\n]{0,3}?[:\uff1a.)]\s+(\S.*)", re.IGNORECASE)


def read_adapted(reply: str, insights: Sequence[Insight]) -> list[tuple[Insight, str]]:
    """The insight and its adapted words, for each line `n: words` of the reply; of several on one number the first."""
    found: dict[int, str] = {}
    for line in reply.rpartition("</think>")[2].splitlines():
        match = _LINE.match(line)
        text = plain(match[2]) if match else ""
        if match and 1 <= int(match[1]) <= len(insights) and words(text) and len(text) <= MAX_CHARS:
            found.setdefault(int(match[1]), text)
    return [(insights[number - 1], text) for number, text in sorted(found.items())]


def source_insights(source: str | Path | Knowledge) -> tuple[Insight, ...]:
    """The insights of some knowledge, or in a JSON file of it or of a learned agent. Raises `InputError`, also where there are none."""
    if not isinstance(source, str | Path | Knowledge):
        raise InputError(f"name a learned agent's JSON file, and here is {source!r}", field="transfer_from")
    knowledge = source if isinstance(source, Knowledge) else _read(Path(source))
    if not knowledge.insights:
        file = None if isinstance(source, Knowledge) else source
        raise InputError("holds no insights to transfer; learn some with expel", file=file, field="transfer_from")
    return knowledge.insights


def _read(path: Path) -> Knowledge:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        held = content.get("knowledge", content) if isinstance(content, dict) else content
        return Knowledge.model_validate_json(json.dumps(held))
    except OSError as error:
        why = f"cannot be read ({error.strerror}); a run writes its learned agents to RUN/agents/"
        raise InputError(why, file=path, field="transfer_from") from None
    except ValidationError as invalid:
        raise InputError(f"not a learned agent: {invalid.errors()[0]['msg']}", file=path, field="transfer_from") from None
    except (ValueError, RecursionError):
        raise InputError("is not JSON", file=path, field="transfer_from") from None


def _examples(practice: Practice, n: int) -> Iterable[tuple[Task, str | None]]:
    """So many training tasks, drawn by the seed, with their reference answers as text."""
    drawn = random.Random(f"{practice.seed}/transfer").sample(practice.tasks, min(n, len(practice.tasks)))
    return [(task, _answer(task)) for task in drawn]


def _answer(task: Task) -> str | None:
    said = reference_messages(task)
    if said is None:
        return None
    calls = (f"{call.name}({call.arguments})" for message in said for call in message.tool_calls)
    return "\n".join([*(message.text for message in said if message.text), *calls])
