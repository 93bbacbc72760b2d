"""Insights out of experience: a model edits the list, item after item, and each change goes on the record.

Source: ExpeL (Zhao et al. 2023, arXiv:2308.10144). `extract` depends on nothing but the experiences, what was known before, and the
replies: with replies that are kept (`Practice.ask`) an extraction is replayed from stored experience without asking anyone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from tutelage.errors import ModelFailed
from tutelage.history import add, protected, remove, replace
from tutelage.knowledge import EMPTY, Action, Knowledge
from tutelage.learners.expel_operations import ORDER, Done, Outcome, Reading, read_operations, work_out
from tutelage.learners.expel_prompts import Item, extraction_messages, make_items
from tutelage.progress import Silent, Stage
from tutelage.records import Completion, Experience, Message, Task

BY = "expel"
"""Who changes insights, as the history says it."""

Ask = Callable[[Sequence[Message]], Awaitable[Completion]]
"""Whom to ask: messages to a reply."""

_ACTIONS: dict[Done, Action] = {"agreed": "agree", "demoted": "demote", "edited": "edit"}


@dataclass(frozen=True)
class Extraction:
    """What is known after it, and facts for the report: numbers of pairs and chunks, of operations by kind, of what was passed over."""

    knowledge: Knowledge
    facts: Mapping[str, JsonValue]


@dataclass(frozen=True)
class Source:
    """What a change was drawn from. episodes: their refs. untrusted: what tools and users wrote in it. note: for the history."""

    by: str = BY
    episodes: tuple[str, ...] = ()
    untrusted: tuple[str, ...] = ()
    note: str = ""


_UNSEEN = Silent().stage


async def extract(  # noqa: PLR0913 (the options of the method, each by its name)
    pool: Iterable[Experience],
    tasks: Iterable[Task],
    ask: Ask,
    *,
    start: Knowledge = EMPTY,
    cap: int = 20,
    chunk: int = 8,
    max_chars: int = 8_000,
    threshold: float = 1.0,
    seed: int = 0,
    stage: Callable[[str, int], Stage] = _UNSEEN,
) -> Extraction:
    """Draw insights from the pool, each question showing the list as the reply before it left it.

    start: what is known before; its insights are edited on, those of people only agreed with. Experiences of tasks that are not among
    `tasks` are left out. A call that fails after its retries and operations that cannot be carried out are counted and passed over; a
    line that was cut off at the limit of tokens is not read. stage: shows the progress. Raises what else `ask` raises.
    """
    by_id = {task.id: task for task in tasks}
    items = make_items(pool, by_id, chunk=chunk, max_chars=max_chars, threshold=threshold, seed=seed)
    knowledge, counts = start, Counter[str]()
    with stage("insights", len(items)) as progress:
        for item in items:
            kept = protected(knowledge)
            messages = extraction_messages(item, knowledge.insights, by_id, cap=cap, max_chars=max_chars, kept=kept)
            try:
                completion = await ask(messages)
            except ModelFailed:
                counts["failed"] += 1
            else:
                source = Source(episodes=item.refs, untrusted=item.written_by_others(by_id))
                knowledge = edit(knowledge, read_operations(said(completion)), cap, source, counts)
            progress.advance(f"{len(knowledge.insights)} insights")
    return Extraction(knowledge, _facts(items, knowledge, counts))


def edit(knowledge: Knowledge, reading: Reading, cap: int, source: Source, counts: Counter[str]) -> Knowledge:
    """The knowledge after the operations of one reply, each on the record; `counts` takes what became of them."""
    counts["malformed"] += len(reading.malformed)
    counts["dropped"] += len(reading.dropped)
    for outcome in work_out(knowledge.insights, reading.operations, cap, kept=protected(knowledge)).outcomes:
        changed = _recorded(knowledge, outcome, source)
        counts[_became(knowledge, changed, outcome)] += 1
        knowledge = changed
    return knowledge


def _became(before: Knowledge, after: Knowledge, outcome: Outcome) -> str:
    """What to count an operation as: its kind, `held`, or `skipped` where nothing came of it."""
    if len(after.history) == len(before.history):
        return "skipped"
    return "held" if after.history[-1].action == "hold" else outcome.operation.kind


def said(completion: Completion) -> str:
    """The words of a reply; where it was cut off, without the line that broke off."""
    text = completion.message.text
    return text.rpartition("\n")[0] if completion.finish == "length" else text


def _recorded(knowledge: Knowledge, outcome: Outcome, source: Source) -> Knowledge:
    """One outcome, through the doors that screen it and keep the history."""
    by, episodes, note = source.by, source.episodes, source.note
    if outcome.done == "added" and outcome.after:
        return add(knowledge, [outcome.after], by=by, episodes=episodes, note=note, untrusted=source.untrusted)
    if outcome.done == "removed" and outcome.before:
        return remove(knowledge, outcome.before.id, by=by, episodes=episodes, note=note)
    if outcome.done and outcome.before and outcome.after:
        action = _ACTIONS[outcome.done]
        return replace(
            knowledge,
            outcome.before.id,
            outcome.after,
            by=by,
            action=action,
            episodes=episodes,
            note=note,
            untrusted=source.untrusted,
        )
    return knowledge


def _facts(items: Sequence[Item], knowledge: Knowledge, counts: Counter[str]) -> dict[str, JsonValue]:
    return {
        "pairs": sum(1 for item in items if item.failed),
        "success_chunks": sum(1 for item in items if not item.failed),
        "operations": {kind: counts[kind] for kind in ORDER},
        "operations_malformed": counts["malformed"],
        "operations_dropped": counts["dropped"],
        "operations_skipped": counts["skipped"],
        "insights_held": counts["held"],
        "extraction_failed": counts["failed"],
        "insights": len(knowledge.insights),
    }
