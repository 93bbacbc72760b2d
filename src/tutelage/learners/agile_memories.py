"""What taught sessions start from: memories built at random from what other training tasks teach."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from pydantic import Field, field_validator

from tutelage.history import add
from tutelage.knowledge import Exemplar, Knowledge
from tutelage.learners.agile_oracle import Plan, folded
from tutelage.records import Message, Record, Task

_SPARE = 64
"""So many entries more than needed are drawn, since some teach what the memory must not hold."""


class Memories(Record):
    """What the sessions start from. size: from so many to so many entries, drawn evenly. known: in so many of the sessions whose task needs
    knowledge that another training task teaches, the memory holds an entry with it; in the others none.
    """

    size: tuple[int, int] = (0, 8)
    known: float = Field(0.5, ge=0, le=1)

    @field_validator("size")
    @classmethod
    def _in_order(cls, size: tuple[int, int]) -> tuple[int, int]:
        if not 0 <= size[0] <= size[1]:
            raise ValueError("two numbers, the least and the most, not below 0")
        return size


class Lessons:
    """What the training tasks teach, as entries of a memory."""

    def __init__(self, plans: Iterable[tuple[Task, Plan]]) -> None:
        self._entries: list[tuple[str, Exemplar]] = []
        self._by_lesson: dict[str, list[Exemplar]] = {}
        for task, plan in plans:
            if plan.lesson:
                entry = memory_entry(task, plan.lesson)
                self._entries.append((folded(plan.lesson), entry))
                self._by_lesson.setdefault(folded(plan.lesson), []).append(entry)

    def memory(self, task: Task, plan: Plan, memories: Memories, random: Random, start: Knowledge = Knowledge()) -> Knowledge:
        """A memory drawn at random for a session on the task, without entries of the task's own question. start: all else that is known."""
        needs = frozenset(map(folded, plan.needs))
        useful = [entry for need in sorted(needs) for entry in self._by_lesson.get(need, ()) if entry.input_id != task.input_id]
        count = random.randint(*memories.size)
        held = [random.choice(useful)] if useful and count and random.random() < memories.known else []
        others = self._others(count - len(held), task, needs, random)
        chosen = [*held, *others]
        random.shuffle(chosen)
        return add(start.model_copy(update={"exemplars": ()}), chosen, by="imitation")

    def _others(self, count: int, task: Task, needs: frozenset[str], random: Random) -> list[Exemplar]:
        """Entries that do not teach what is needed, in random order; fewer where there are fewer."""
        drawn = random.sample(self._entries, min(len(self._entries), 4 * count + _SPARE))
        return [entry for lesson, entry in drawn if lesson not in needs and entry.input_id != task.input_id][:count]


def memory_entry(task: Task, lesson: str) -> Exemplar:
    """What a session on the task would have written."""
    asked = (message for message in task.messages if message.role != "system")
    said = (*asked, Message(role="assistant", content=" ".join(lesson.split())))
    return Exemplar(task_id=task.id, input_id=task.input_id, text=task.text, messages=said, kind=task.kind, origin="noted")
