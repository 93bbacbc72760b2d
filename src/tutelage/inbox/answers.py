"""What people answered, as tasks with a reference: for memory (exemplars) and for training rows."""

from __future__ import annotations

from collections.abc import Iterable

from tutelage.advice import Question
from tutelage.inbox.box import Inbox
from tutelage.records import Task


def answered_tasks(inbox: Inbox, tasks: Iterable[Task]) -> tuple[Task, ...]:
    """The tasks that people were asked for advice about, in the order of the answers, each with the latest answer as its reference.

    `experience.views.reference_rows` makes training rows of them, and the learner `Exemplars` memory. Questions in other words than the
    task's own are left out: their answers are none to the task. Late answers count, since what is right stays right.
    """
    by_id = {task.id: task for task in tasks}
    found: dict[str, Task] = {}
    for entry in inbox.answered(kind="advice"):
        task = by_id.get(entry.question.task_id)
        if task is None or entry.answer is None or entry.question.text != Question(text=task.text).text:
            continue
        found.pop(task.id, None)
        found[task.id] = task.model_copy(update={"reference": entry.answer.answer})
    return tuple(found.values())
