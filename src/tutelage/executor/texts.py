"""Reading what was written: what is worth keeping, and the expert's words."""

from __future__ import annotations

from tutelage.executor.prompts import NOTHING_LEARNED
from tutelage.json_schema import sound
from tutelage.records import Advice, Task
from tutelage.task_formats.choices import choices_of

LONGEST_ADVICE = 10_000
"""Characters of an answer, and of the note beside it; what an expert says beyond them is cut."""


def worth_keeping(text: str) -> str:
    """The text without blanks around it; empty where it says that nothing was learned."""
    kept = text.strip().strip("\"'`")
    return "" if kept.casefold().rstrip(".! ") in ("", NOTHING_LEARNED, "none", "nothing") else kept


def words_of(advice: Advice, task: Task) -> str:
    """The advice as the model reads it: a choice with its text, a note beside it."""
    text = choices_of(task).get(advice.answer, advice.answer)
    said = advice.answer if text == advice.answer else f"{advice.answer}: {text}"
    return f"{said} ({advice.note})" if advice.note else said


def readable(advice: Advice | None) -> Advice | None:
    """The advice as a prompt and a store can hold it; None where it says nothing."""
    if advice is None or not (answer := _readable(advice.answer)):
        return None
    return advice.model_copy(update={"answer": answer, "note": _readable(advice.note)})


def _readable(text: str) -> str:
    text = sound(text).replace("\x00", "").strip()
    return text if len(text) <= LONGEST_ADVICE else f"{text[:LONGEST_ADVICE]}\n[... {len(text) - LONGEST_ADVICE} characters cut]"
