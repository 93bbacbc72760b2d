"""Oracles: what a good agent would do with a task, known beforehand, so that sessions to imitate can be made without a stronger model.

AGILE (Feng et al. 2024, arXiv:2405.14751) had its sessions to imitate written by GPT-4. Here an oracle says of each task which tool calls
find what stands in a table, which knowledge the question needs, how an expert would put it, what is to be remembered of that, and the
right answer. What is done then is decided by what the memory really shows (see `agile_teacher`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Any, Protocol, runtime_checkable

from pydantic import JsonValue

from tutelage.advice import reference_text
from tutelage.environments.shop import expert_answer
from tutelage.environments.shop_catalogue import GROUPS, Column, Group, Value
from tutelage.errors import InputError
from tutelage.records import Record, Task
from tutelage.task_formats.choices import choices_of

Sure = float | Callable[[Task], bool]
"""Which questions are answered without help: a share of them, drawn by the question's id, or a function that says so of each."""


class Call(Record):
    """A call of a tool, as a good agent would write it."""

    name: str
    arguments: dict[str, JsonValue]


class Plan(Record):
    """What a good agent does with one task.

    answer: what it submits. calls: tools that find what stands in a table. sure: nothing else is needed (no knowledge, no advice). needs:
    knowledge of which any one is enough; where none of it is shown the agent has to ask. advice: what an expert says to the question.
    lesson: what that teaches beyond this one question ("": nothing).
    """

    answer: str
    calls: tuple[Call, ...] = ()
    sure: bool = False
    needs: tuple[str, ...] = ()
    advice: str = ""
    lesson: str = ""

    def knows(self, shown: str) -> bool:
        """Whether a text that the agent is shown states knowledge that the task needs."""
        text = folded(shown)
        return any(folded(need) in text for need in self.needs)


@runtime_checkable
class Oracle(Protocol):
    """Knows what a good agent does with each task of a kind. name: for reports. `described()`: all that decides its plans, as JSON."""

    @property
    def name(self) -> str:
        """Which oracle it is."""
        ...

    def described(self) -> dict[str, Any]:
        """All that decides its plans."""
        ...

    def plan(self, task: Task) -> Plan:
        """The plan for a task. Raises `InputError`, naming the task's source, for a task that it knows nothing of."""
        ...


def is_sure(sure: Sure, task: Task, seed: int = 0) -> bool:
    """Whether this question is one of those that are answered without help; a share is drawn by the seed and the question alone."""
    if callable(sure):
        return sure(task)
    digest = sha256(f"sure/{seed}/{task.input_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < sure


def check_share(share: object, field: str) -> None:
    """Raise `InputError` where a number is no share."""
    if isinstance(share, int | float) and not 0 <= share <= 1:
        raise InputError(f"is a share from 0 to 1, and this is {share}", field=field)


def folded(text: str) -> str:
    """Without regard to case and white space."""
    return " ".join(text.casefold().split())


# -- the shop

_RULE = re.compile(r"In this shop .+(?=; the [^;]+$)", re.DOTALL)
_ENDS = re.compile(r" and (?:that|whose) |\.(?:\s|$)|$")
"""What follows upon a condition."""


class ShopOracle:
    """Knows the shop of `shop_tasks`: facts and searches are found by SQL; a reasoning question needs its hidden rule, and by SQL the one
    value of the product that the rule is about. What is learned from an expert is the rule, without the product.
    """

    name = "shop"

    def described(self) -> dict[str, Any]:
        """It has no settings."""
        return {"name": self.name}

    def plan(self, task: Task) -> Plan:
        """The plan for a task of `shop_tasks`; raises `InputError` for any other."""
        group, answer, advice = _shop_group(task), reference_text(task) or "", expert_answer(task)
        if task.kind == "search":
            return Plan(answer=answer, calls=(_sql(_search_query(group, task)),), sure=True, advice=advice)
        column = _column_asked(group, task)
        calls = (_sql(f"SELECT {column} FROM {group.name} WHERE title = '{_title(group, task)}'"),)  # noqa: S608 -- names of the catalogue
        if task.kind == "fact":
            return Plan(answer=answer, calls=calls, sure=True, advice=advice)
        rule = _RULE.search(advice)
        if rule is None:
            raise InputError("its long answer states no rule, as that of a reasoning question of shop_tasks does", file=task.source)
        lesson = f"{rule[0]}."
        return Plan(answer=answer, calls=calls, needs=(lesson,), advice=advice, lesson=lesson)


def _sql(query: str) -> Call:
    return Call(name="sql", arguments={"query": query})


def _shop_group(task: Task) -> Group:
    group = GROUPS.get(str(task.environment.get("group")))
    if group is None or task.kind not in ("fact", "search", "reasoning"):
        raise InputError("is no task of shop_tasks, so the oracle of the shop knows nothing of it", file=task.source or task.id)
    return group


def _column_asked(group: Group, task: Task) -> str:
    """The column that a fact is, or that a rule is about."""
    if task.kind == "fact":
        return str(task.environment["column"])
    return next(rule.column for rule in group.rules if rule.name == task.environment["rule"])


def _title(group: Group, task: Task) -> str:
    """The product's title as the question names it, with quotes doubled for SQL."""
    named = re.search(rf"\b[A-Z]\w+ (?:{'|'.join(map(re.escape, group.models))}) \d+", task.text)
    if named is None:
        raise InputError("its question names no product of the catalogue", file=task.source or task.id)
    return named[0].replace("'", "''")


def _search_query(group: Group, task: Task) -> str:
    """The conditions of a search as SQL, in the order in which the question has them."""
    places = ((task.text.find(words), words, sql) for column in group.columns for words, sql in _conditions(column))
    found = [(place, sql) for place, words, sql in places if place >= 0 and _ENDS.match(task.text, place + len(words))]
    if not found:
        raise InputError("its question names no condition of the catalogue", file=task.source or task.id)
    conditions = " AND ".join(sql for _, sql in sorted(found))
    return f"SELECT product_id FROM {group.name} WHERE {conditions}"  # noqa: S608 -- names and values of the catalogue


def _conditions(column: Column) -> Iterable[tuple[str, str]]:
    """All conditions that a search may set on a column: (how the question words it, its SQL)."""
    for value in column.values:
        shown = column.shown(value)
        if column.flag:
            yield f"that comes {'with' if value == 'yes' else 'without'} {column.label}", f"{column.name} = {_literal(value)}"
        elif not column.numeric:
            yield f"whose {column.label} is {shown}", f"{column.name} = {_literal(value)}"
        else:
            yield f"whose {column.label} is at least {shown}", f"{column.name} >= {_literal(value)}"
            yield f"whose {column.label} is at most {shown}", f"{column.name} <= {_literal(value)}"


def _literal(value: Value) -> str:
    return f"'{value}'" if isinstance(value, str) else f"{value:g}"


# -- multiple choice

_CHOICES = re.compile(r"^\s*\(?[A-Ha-h][.):]\s", re.MULTILINE)
"""Where the choices begin."""


class MultipleChoiceOracle:
    """Knows the right choice. Some questions are answered at once (`sure`), others by a similar question with the same right answer, if
    the memory shows one; else advice is sought, and the question with its answer is remembered.

    tasks: the training tasks, among which similar questions are looked for. similarity: so many of the words of two questions are
    common to both, at least (Jaccard index of their words of more than three letters). seed: draws who is answered at once.
    """

    name = "multiple_choice"

    def __init__(self, tasks: Iterable[Task], *, sure: Sure = 0.5, similarity: float = 0.3, seed: int = 0) -> None:
        check_share(sure, "sure")
        check_share(similarity, "similarity")
        self.sure, self.similarity, self.seed = sure, similarity, seed
        self._lessons: dict[str, dict[str, str]] = {}
        self._words: dict[str, frozenset[str]] = {}
        for task in tasks:
            if content := choice_said(task):
                self._words[task.input_id] = _words(_asked(task))
                self._lessons.setdefault(folded(content), {})[task.input_id] = _choice_lesson(task, content)

    def described(self) -> dict[str, Any]:
        """A function says nothing but its name."""
        sure = getattr(self.sure, "__qualname__", "function") if callable(self.sure) else self.sure
        return {"name": self.name, "sure": sure, "similarity": self.similarity, "seed": self.seed}

    def plan(self, task: Task) -> Plan:
        """The plan for a task with a reference; raises `InputError` for one without."""
        answer, content = reference_text(task), choice_said(task)
        if answer is None or content is None:
            raise InputError("has no reference answer, so the oracle knows nothing of it", file=task.source or task.id, field="reference")
        return Plan(
            answer=answer,
            sure=is_sure(self.sure, task, self.seed),
            needs=tuple(self._similar(task, content)),
            advice=answer,
            lesson=_choice_lesson(task, content),
        )

    def _similar(self, task: Task, content: str) -> Iterable[str]:
        """What is remembered of other questions like this one."""
        own = _words(_asked(task))
        for input_id, lesson in self._lessons.get(folded(content), {}).items():
            other = self._words[input_id]
            if input_id != task.input_id and len(own & other) >= self.similarity * len(own | other):
                yield lesson


def choice_said(task: Task) -> str | None:
    """What the right option says, where the reference is its label; else the reference itself. None without one."""
    answer = reference_text(task)
    return None if answer is None else choices_of(task).get(answer, answer)


def _asked(task: Task) -> str:
    """The question without its choices, in one line."""
    return " ".join(_CHOICES.split(task.text, maxsplit=1)[0].split())


def _choice_lesson(task: Task, content: str) -> str:
    return f"To the question `{_asked(task)}` the right answer is: {content}"


def _words(text: str) -> frozenset[str]:
    return frozenset(word for word in re.findall(r"\w+", text.casefold()) if len(word) > 3)
